package handlers

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"time"

	"parley/store"
)

const (
	// maxUnread is where counting ends: it means that many or more.
	maxUnread = 100
	// maxMarkScan bounds the messages that are looked at for one mark, and maxRosterScan those for one roster, beyond
	// those that it has. What was counted by then is the answer.
	maxMarkScan   = 1000
	maxRosterScan = 10000
	// firstScan is how many are looked at first. Mostly the answer is among the newest few; each further look is twice
	// as far.
	firstScan = 8
)

// talk is a conversation of a user as the one looks at it who wants to know what the peer has sent.
type talk struct {
	chat         *Chat
	user, peer   string
	theirs, ours []byte // how the messages of either end
	budget       *int   // messages that may still be read
}

func (c *Chat) talk(user, peer string, budget *int) *talk {
	return &talk{c, user, peer, ending(peer, user), ending(user, peer), budget}
}

// ending is how a stored message ends, since its content comes first.
func ending(from, to string) []byte { return appendEnding(nil, from, to) }

// fromPeer tells whether the peer has sent an entry. Of a note to oneself nobody else has.
func (t *talk) fromPeer(e store.Entry) bool {
	switch {
	case t.user == t.peer:
		return false
	case bytes.HasSuffix(e.Data, t.theirs):
		return true
	case bytes.HasSuffix(e.Data, t.ours):
		return false
	}
	// Somebody else has written it, who puts its members in another order.
	var m struct{ From string }
	return json.Unmarshal(e.Data, &m) == nil && m.From == t.peer
}

// back calls f with the entries below before (0: all), the newest first, until it returns false, there are no more, or
// the budget is used up.
func (t *talk) back(ctx context.Context, before uint64, f func(store.Entry) bool) error {
	for size := firstScan; *t.budget > 0; size = min(2*size, maxPage) {
		page, err := t.chat.store.Conversation(ctx, box(t.user), t.peer, before, size)
		if err != nil {
			return fmt.Errorf("read conversation: %w", err)
		}
		*t.budget -= size
		for i := len(page) - 1; i >= 0; i-- {
			if !f(page[i]) {
				return nil
			}
		}
		if len(page) < size {
			return nil
		}
		before = page[0].Seq
	}
	return nil
}

// unread counts what the peer has sent below before (0: all) that the mark does not say was read, up to maxUnread.
// newest is what an Overview has given of that, ascending, or nil; more is read only if it is not enough.
func (t *talk) unread(ctx context.Context, mark store.Mark, before uint64, newest []store.Entry) (n int, err error) {
	if t.user == t.peer || mark.Newest.IsZero() || mark.Newest == mark.Read {
		return 0, nil
	}
	count := func(e store.Entry) bool {
		if e.Epoch == mark.Read.Epoch && e.Seq <= mark.Read.Seq {
			return false
		}
		if t.fromPeer(e) {
			n++
		}
		return n < maxUnread
	}
	for i := len(newest) - 1; i >= 0; i-- {
		if !count(newest[i]) {
			return n, nil
		}
		before = newest[i].Seq
	}
	if before == 1 || len(newest) > 0 && len(newest) < t.chat.options.HistoryLimit {
		return n, nil // that was all
	}
	err = t.back(ctx, before, count)
	return n, err
}

// upTo returns the entry with that number, and until when the peer's messages up to it are: zero if there is none near.
// It is an error if the conversation has no such entry.
func (t *talk) upTo(ctx context.Context, seq uint64) (last store.Entry, until time.Time, err error) {
	if seq+1 == 0 {
		return last, until, errNoMessage
	}
	found := false // a message of the peer
	looked := 0
	err = t.back(ctx, seq+1, func(e store.Entry) bool {
		if looked++; looked == 1 {
			if e.Seq != seq {
				return false
			}
			last = e
		}
		if t.fromPeer(e) {
			found = true
			if e.At.After(until) {
				until = e.At
			}
		}
		// Clocks differ: of two messages the older may have the later time. Those of one look are compared.
		return t.user != t.peer && (!found || looked%firstScan != 0)
	})
	if err == nil && last.Seq == 0 {
		err = errNoMessage
	}
	return last, until, err
}

package redisstore

import (
	"context"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"parley/store"
)

// addition is an entry on its way into a mailbox.
type addition struct {
	mailbox
	key, at string
	head    string // of what the list holds of it; see itemHead
	whole   bool
	rest    string // see restOfFacts
	done    string // what the script said, if it was one for many
}

// fill makes a call of the script of one addition.
func (a *addition) fill(c *command) {
	written := "1"
	if a.whole {
		written = "0"
	}
	c.script, c.keys = scriptAppend, a.keys()
	c.args = append(a.args(), a.key, a.at, a.head, written, a.rest)
}

func (a *addition) size() int {
	return len(a.list) + len(a.info) + len(a.key) + len(a.at) + len(a.head) + len(a.rest)
}

// posting is what an append sends. Nearly all go into two mailboxes, and what they need is in one piece.
type posting struct {
	commands []*command // one for each mailbox
	places   []int      // of each delivery in commands

	two struct {
		additions [2]addition
		commands  [2]command
		sent      [2]*command
		places    [2]int
	}
}

func (s *Store) posting(post *store.Post, at int64) *posting {
	p := &posting{}
	two := &p.two
	additions, commands := two.additions[:0], two.commands[:0]
	p.commands, p.places = two.sent[:0], two.places[:0]
	var index map[store.Box]int
	if n := len(post.To); n > len(two.commands) {
		additions, commands = make([]addition, 0, n), make([]command, 0, n)
		p.commands, p.places = make([]*command, 0, n), make([]int, 0, n)
		index = make(map[store.Box]int, n)
	}
	key, when := messageKey(post.Sender, post.ID), strconv.FormatInt(at, 10)
	for i, to := range post.To {
		place, ok := index[to.Box]
		if index == nil && i > 0 && to.Box == post.To[0].Box {
			place, ok = 0, true
		}
		if ok {
			p.places = append(p.places, place)
			continue
		}
		place = len(commands)
		if index != nil {
			index[to.Box] = place
		}
		a := addition{mailbox: s.mailbox(to.Box), key: key, at: when, rest: restOfFacts(key, to, post.Origin)}
		if place > 0 && additions[0].shared == a.shared {
			a.head, a.whole = additions[0].head, additions[0].whole
		} else {
			a.head, a.whole = itemHead(post.Data, post.ID, a.shared)
		}
		additions = append(additions, a) // neither is ever moved
		commands = append(commands, command{add: &additions[place]})
		p.commands, p.places = append(p.commands, &commands[place]), append(p.places, place)
	}
	return p
}

// Append implements [store.Mailboxes]. All mailboxes are done in one round trip, which is shared with other calls.
//
// If it finds that a part of them had the message, with an earlier time, it gives that time to the others too: for a
// moment they have had the later one.
func (s *Store) Append(ctx context.Context, post store.Post) (store.Receipt, error) {
	if err := post.Validate(); err != nil {
		return store.Receipt{}, err
	}
	if err := s.usable(ctx); err != nil {
		return store.Receipt{}, err
	}
	if post.At.IsZero() {
		post.At = s.opts.Now()
	}
	at := max(post.At.UnixMilli(), 0)
	p := s.posting(&post, at)
	if err := s.writes.do(ctx, p.commands[0].add.list, p.commands...); err != nil {
		return store.Receipt{}, fmt.Errorf("append: %w", err)
	}

	receipt := store.Receipt{ID: post.ID, Offsets: make([]store.Offset, len(post.To)), Duplicate: true}
	var few struct {
		offsets [2]store.Offset
		times   [2]int64
	}
	offsets, times, first := few.offsets[:0], few.times[:0], int64(math.MaxInt64)
	for _, c := range p.commands {
		offset, when, known, ok := parseAppended(c.appended())
		if !ok {
			return store.Receipt{}, errReply
		}
		if !known {
			when = at
		}
		offsets, times, first = append(offsets, offset), append(times, when), min(first, when)
		receipt.Duplicate = receipt.Duplicate && known
	}
	for i, place := range p.places {
		receipt.Offsets[i] = offsets[place]
	}
	receipt.At = time.UnixMilli(first).UTC()
	var late []*command
	for i, c := range p.commands {
		if times[i] != first {
			late = append(late, c.add.run(scriptSettle, c.add.key, first))
		}
	}
	if len(late) > 0 {
		if err := s.writes.do(ctx, p.commands[0].add.list, late...); err != nil {
			return store.Receipt{}, fmt.Errorf("append: %w", err)
		}
	}
	return receipt, nil
}

// appended returns what the script said of an addition.
func (c *command) appended() string {
	if c.add.done != "" {
		return c.add.done
	}
	reply, _ := c.Val().(string)
	return reply
}

// parseAppended reads the reply of the script: epoch and number, and, of an entry that was there, its time.
func parseAppended(reply string) (offset store.Offset, at int64, known, ok bool) {
	epoch, rest, _ := strings.Cut(reply, " ")
	seq, when, known := strings.Cut(rest, " ")
	var errs [3]error
	offset.Epoch, errs[0] = strconv.ParseUint(epoch, 10, 64)
	offset.Seq, errs[1] = strconv.ParseUint(seq, 10, 64)
	if known {
		at, errs[2] = strconv.ParseInt(when, 10, 64)
	}
	return offset, at, known, errs == [3]error{}
}

package store

import (
	"context"
	"time"
)

// Mark is how far a conversation has come, as one mailbox has it: what its owner has read, and what of the owner's has
// reached the other side. The zero Mark is that of a conversation that the mailbox does not have.
type Mark struct {
	Newest   Offset    // of the conversation's newest entry; the store sets it
	Unread   int       // entries beyond Read that the owner has not sent, up to MaxUnread; the store counts them
	Read     Offset    // of the newest entry that the owner has read; zero for none
	Received time.Time // the peer has received the owner's messages up to this time; zero for none
	Seen     time.Time // the peer has read the owner's messages up to this time; zero for none
}

// MaxUnread is where counting ends: it means that many or more.
const MaxUnread = 100

// MarkSpan bounds the entries whose times Reach compares.
const MarkSpan = 8

// Merge returns m with what next has further on. Newest and Unread stay.
func (m Mark) Merge(next Mark) Mark {
	if r := next.Read; r.Epoch > m.Read.Epoch || r.Epoch == m.Read.Epoch && r.Seq > m.Read.Seq {
		m.Read = r
	}
	m.Received, m.Seen = later(m.Received, next.Received), later(m.Seen, next.Seen)
	return m
}

// later returns the later of two times, to the millisecond.
func later(a, b time.Time) time.Time {
	if b.Truncate(time.Millisecond).After(a) {
		return b.Truncate(time.Millisecond).UTC()
	}
	return a
}

// Marks are a part of the mailboxes: a mark lives as long as its mailbox has an entry of the conversation, and goes with
// the last one. So there are never more of them than entries.
type Marks interface {
	// Advance moves a mark forward: each of Read, Received and Seen only if what is given is further on; a zero one
	// stays. It returns the mark as it is now, and whether it moved. It is atomic.
	//
	// Others see the change when it returns, and it is durable about a second later: a crash may take it back.
	// It returns [ErrNotFound] if the mailbox has no entry of the peer, or if Read is of another incarnation of the
	// mailbox. Whether there is an entry with the number of Read is for the caller to know.
	Advance(ctx context.Context, box Box, peer string, to Mark) (now Mark, moved bool, err error)

	// Marks returns the marks of the conversations with peers, parallel to peers. Entries with the number before, or
	// a larger one, do not count as unread; 0: all do. Its cost does not depend on what is in the entries.
	Marks(ctx context.Context, box Box, peers []string, before uint64) ([]Mark, error)

	// Reach tells what a mark says that comes as far as the entry with that number: the entry's offset, and the time
	// of the newest entry up to there that the owner has not sent; zero if there is none. Clocks differ, so that an
	// older one may have a later time: it is the latest of that one and its neighbors below, MarkSpan at most. It
	// returns [ErrNotFound] if the number is not that of an entry of the conversation.
	Reach(ctx context.Context, box Box, peer string, seq uint64) (at Offset, until time.Time, err error)
}

// CheckMarks returns [ErrInvalid], wrapped with the reason, if there can be no such conversations.
func CheckMarks(box Box, peers ...string) error {
	if err := box.Validate(); err != nil {
		return err
	}
	for _, peer := range peers {
		if err := checkText("peer", peer); err != nil {
			return err
		}
	}
	return nil
}

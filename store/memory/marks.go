package memory

import (
	"context"
	"fmt"
	"slices"
	"time"

	"parley/store"
)

// Advance implements [store.Marks].
func (m *mailboxes) Advance(ctx context.Context, box store.Box, peer string, to store.Mark) (now store.Mark, moved bool, err error) {
	if err := store.CheckMarks(box, peer); err != nil {
		return store.Mark{}, false, err
	}
	err = m.read(ctx, box, func(b *mailbox) error {
		c := b.with(peer)
		if c == nil || to.Read.Epoch != 0 && to.Read.Epoch != b.epoch {
			return fmt.Errorf("mark: no such conversation: %w", store.ErrNotFound)
		}
		before := c.mark
		c.mark = before.Merge(to)
		now, moved = b.mark(c, 0), c.mark != before
		return nil
	})
	return now, moved, err
}

// Marks implements [store.Marks].
func (m *mailboxes) Marks(ctx context.Context, box store.Box, peers []string, before uint64) ([]store.Mark, error) {
	if err := store.CheckMarks(box, peers...); err != nil {
		return nil, err
	}
	marks := make([]store.Mark, len(peers))
	err := m.read(ctx, box, func(b *mailbox) error {
		for i, peer := range peers {
			if c := b.with(peer); c != nil {
				marks[i] = b.mark(c, before)
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return marks, nil
}

// Reach implements [store.Marks].
func (m *mailboxes) Reach(ctx context.Context, box store.Box, peer string, seq uint64) (at store.Offset, until time.Time, err error) {
	if err := store.CheckMarks(box, peer); err != nil {
		return store.Offset{}, time.Time{}, err
	}
	err = m.read(ctx, box, func(b *mailbox) error {
		c := b.with(peer)
		if c == nil {
			return fmt.Errorf("mark: no such conversation: %w", store.ErrNotFound)
		}
		if _, found := slices.BinarySearch(c.seqs, seq); !found {
			return fmt.Errorf("mark: the conversation has no number %d: %w", seq, store.ErrNotFound)
		}
		at = store.Offset{Epoch: b.epoch, Seq: seq}
		n := c.receivedUpTo(seq)
		for _, near := range c.received[max(0, n-store.MarkSpan):n] {
			if t := time.UnixMilli(b.message(near).at()).UTC(); t.After(until) {
				until = t
			}
		}
		return nil
	})
	return at, until, err
}

// with returns the conversation with a peer, or nil. The mailbox may be nil.
func (b *mailbox) with(peer string) *conversation {
	if b == nil {
		return nil
	}
	return b.conversations[peer]
}

// receivedUpTo counts the entries up to a number that the owner has not sent.
func (c *conversation) receivedUpTo(seq uint64) int {
	n, found := slices.BinarySearch(c.received, seq)
	if found {
		n++
	}
	return n
}

// mark returns the mark of c as others see it. Entries from the number before on are not counted; 0, which
// is one more than the largest: all are.
func (b *mailbox) mark(c *conversation, before uint64) store.Mark {
	mark := c.mark
	mark.Newest = store.Offset{Epoch: b.epoch, Seq: c.last()}
	mark.Unread = min(max(c.receivedUpTo(before-1)-c.receivedUpTo(mark.Read.Seq), 0), store.MaxUnread)
	return mark
}

package memory

import (
	"context"
	"fmt"

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
		now, moved = b.mark(c), c.mark != before
		return nil
	})
	return now, moved, err
}

// Marks implements [store.Marks].
func (m *mailboxes) Marks(ctx context.Context, box store.Box, peers []string) ([]store.Mark, error) {
	if err := store.CheckMarks(box, peers...); err != nil {
		return nil, err
	}
	marks := make([]store.Mark, len(peers))
	err := m.read(ctx, box, func(b *mailbox) error {
		for i, peer := range peers {
			if c := b.with(peer); c != nil {
				marks[i] = b.mark(c)
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return marks, nil
}

// with returns the conversation with a peer, or nil. The mailbox may be nil.
func (b *mailbox) with(peer string) *conversation {
	if b == nil {
		return nil
	}
	return b.conversations[peer]
}

// mark returns the mark of c as others see it.
func (b *mailbox) mark(c *conversation) store.Mark {
	mark := c.mark
	mark.Newest = store.Offset{Epoch: b.epoch, Seq: c.last()}
	return mark
}

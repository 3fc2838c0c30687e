package handlers

import (
	"context"
	"errors"
	"time"

	"parley/socketio"
	"parley/store"
)

// deliver wakes the devices of the first mailboxes of a stored post, so many. A retry is delivered again: the shard knows
// by its number whether the first was.
func deliver(ctx context.Context, n *socketio.Namespace, boxes store.Mailboxes, post store.Post, stored store.Receipt, many int) error {
	if stored.Duplicate || !stored.At.Equal(post.At.Truncate(time.Millisecond)) {
		var errs error
		for i, to := range post.To[:many] {
			errs = errors.Join(errs, redeliver(ctx, n, boxes, to.Box, stored.Offsets[i]))
		}
		return errs
	}
	all := make([]socketio.Delivery, 0, 2) // of which there are no more: on the stack
	for i, to := range post.To[:many] {
		all = append(all, socketio.Delivery{Box: to.Box, Entry: store.Entry{
			Offset: stored.Offsets[i], ID: post.ID, At: stored.At, Peer: to.Peer, Origin: post.Origin, Data: post.Data,
		}})
	}
	return n.DeliverAll(ctx, all...)
}

// redeliver delivers an entry as the mailbox has it. A retry may differ from what was stored first, in its
// text as in the socket that it comes from.
func redeliver(ctx context.Context, n *socketio.Namespace, boxes store.Mailboxes, b store.Box, at store.Offset) error {
	entries, err := boxes.After(ctx, b, store.Offset{Epoch: at.Epoch, Seq: at.Seq - 1}, 1)
	if errors.Is(err, store.ErrUnknownOffset) || err == nil && len(entries) == 0 {
		return nil // it was trimmed meanwhile
	}
	if err != nil {
		return err
	}
	return n.Deliver(ctx, b, entries[0])
}

package handlers

import (
	"context"
	"errors"
	"time"

	"parley/socketio"
	"parley/store"
)

// announce has the store tell other processes of the first deliveries of a post, so many, when it adds them.
func announce(n *socketio.Namespace, post *store.Post, many int) {
	for i, to := range post.To[:many] {
		post.To[i].Announcement = n.Announcement(to.Box, entryOf(post, i))
	}
}

// entryOf returns what the mailbox of a delivery gets, without its offset.
func entryOf(post *store.Post, i int) store.Entry {
	return store.Entry{ID: post.ID, At: post.At.Truncate(time.Millisecond), Peer: post.To[i].Peer, Origin: post.Origin, Data: post.Data}
}

// deliver wakes the devices of the first mailboxes of a stored post, so many. A retry is delivered again: the shard knows
// by its number whether the first was.
func deliver(ctx context.Context, n *socketio.Namespace, boxes store.Mailboxes, post *store.Post, stored store.Receipt, many int) error {
	if stored.Duplicate || !stored.At.Equal(post.At.Truncate(time.Millisecond)) {
		var errs error
		for i, to := range post.To[:many] {
			errs = errors.Join(errs, redeliver(ctx, n, boxes, to.Box, &stored, i))
		}
		return errs
	}
	all := make([]socketio.Delivery, many)
	for i, to := range post.To[:many] {
		all[i] = socketio.Delivery{Box: to.Box, Entry: entryOf(post, i), Announced: stored.WasAnnounced(i)}
		all[i].Entry.Offset, all[i].Entry.At = stored.Offsets[i], stored.At
	}
	return n.Deliver(ctx, all...)
}

// redeliver delivers an entry as the mailbox has it. A retry may differ from what was stored first, in its
// text as in the socket that it comes from.
func redeliver(ctx context.Context, n *socketio.Namespace, boxes store.Mailboxes, b store.Box, stored *store.Receipt, i int) error {
	at := stored.Offsets[i]
	entries, err := boxes.After(ctx, b, store.Offset{Epoch: at.Epoch, Seq: at.Seq - 1}, 1)
	if errors.Is(err, store.ErrUnknownOffset) || err == nil && len(entries) == 0 {
		return nil // it was trimmed meanwhile
	}
	if err != nil {
		return err
	}
	return n.Deliver(ctx, socketio.Delivery{Box: b, Entry: entries[0], Announced: stored.WasAnnounced(i)})
}

package fanout

import (
	"context"
	"errors"

	"parley/registry"
	"parley/shard"
)

// App is what a fan-out asks of the socket behind a registry entry.
type App interface {
	// Describe returns what others may know of the socket.
	Describe() Socket
	// Disconnect ends the socket soon, and with closing its connection too.
	Disconnect(closing bool)
}

// Local is the Fanout of a single process.
type Local struct {
	pool     *shard.Pool
	maxRooms int
}

// NewLocal returns a fan-out over the shards of pool. A socket is put into no more than maxRooms rooms (0: no limit).
func NewLocal(pool *shard.Pool, maxRooms int) *Local { return &Local{pool, maxRooms} }

// Emit implements Fanout.
func (l *Local) Emit(ctx context.Context, e *shard.Envelope) error { return l.pool.Emit(ctx, e) }

// Deliver implements Fanout.
func (l *Local) Deliver(ctx context.Context, mails ...shard.Mail) error {
	var errs error
	for _, m := range mails {
		if err := l.pool.Deliver(ctx, m); err != nil {
			errs = errors.Join(errs, err)
		}
	}
	return errs
}

// Join implements Fanout. It returns when the sockets have joined.
func (l *Local) Join(ctx context.Context, sel shard.Selector, rooms []string) error {
	var refused error
	err := l.each(ctx, sel, func(v *shard.View, t *registry.Socket) {
		for _, room := range rooms {
			if err := v.Join(t, room, l.maxRooms); err != nil {
				refused = err
			}
		}
	})
	return errors.Join(err, refused)
}

// Leave implements Fanout. It returns when the sockets have left.
func (l *Local) Leave(ctx context.Context, sel shard.Selector, rooms []string) error {
	return l.each(ctx, sel, func(v *shard.View, t *registry.Socket) {
		for _, room := range rooms {
			v.Leave(t, room)
		}
	})
}

// Disconnect implements Fanout.
func (l *Local) Disconnect(ctx context.Context, sel shard.Selector, closing bool) error {
	var found []App
	err := l.each(ctx, sel, func(_ *shard.View, t *registry.Socket) { found = append(found, t.App.(App)) })
	for _, app := range found {
		app.Disconnect(closing)
	}
	return err
}

// Fetch implements Fanout.
func (l *Local) Fetch(ctx context.Context, sel shard.Selector) ([]Socket, error) {
	var apps []App
	var rooms [][]string
	err := l.each(ctx, sel, func(_ *shard.View, t *registry.Socket) {
		apps, rooms = append(apps, t.App.(App)), append(rooms, t.Rooms())
	})
	found := make([]Socket, len(apps))
	for i, app := range apps { // not in the shards' goroutines: this encodes JSON
		found[i] = app.Describe()
		found[i].Rooms = rooms[i]
	}
	return found, err
}

// ServerSideEmit implements Fanout: there is no other server.
func (l *Local) ServerSideEmit(context.Context, string, []byte, [][]byte) error { return nil }

// ServerSideEmitWithAck implements Fanout: there is no other server.
func (l *Local) ServerSideEmitWithAck(context.Context, string, []byte, [][]byte) ([]Answer, error) {
	return nil, nil
}

// Open implements Fanout.
func (l *Local) Open(string) {}

// Shut implements Fanout.
func (l *Local) Shut(string) {}

// Wait implements Fanout.
func (l *Local) Wait(context.Context, string, ...string) error { return nil }

// Close implements Fanout.
func (l *Local) Close() error { return nil }

// each calls f for the selected sockets, in their shards' goroutines, one shard after the other.
func (l *Local) each(ctx context.Context, sel shard.Selector, f func(*shard.View, *registry.Socket)) error {
	return l.pool.Query(ctx, sel, func(v *shard.View) {
		var selected []*registry.Socket // f may change the rooms that a selection walks
		v.Select(sel, func(t *registry.Socket) { selected = append(selected, t) })
		for _, t := range selected {
			f(v, t)
		}
	})
}

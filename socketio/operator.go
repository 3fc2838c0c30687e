package socketio

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"time"

	"parley/engineio"
	"parley/fanout"
	"parley/shard"
)

// Operator chooses sockets of a namespace and how to reach them. Its methods return changed copies, so an
// Operator may be kept and used again; all are safe for concurrent use. With rooms it means the sockets that
// are in any of them, without rooms all; never those in the excepted rooms (socketio.md section 7).
type Operator struct {
	namespace *Namespace
	rooms     []string
	except    []string
	flags     engineio.Flags
	timeout   time.Duration
	local     bool
	later     bool
}

func (o *Operator) with(f func(*Operator)) *Operator {
	c := *o
	f(&c)
	return &c
}

// To adds rooms.
func (o *Operator) To(rooms ...string) *Operator {
	return o.with(func(c *Operator) { c.rooms = slices.Concat(o.rooms, rooms) })
}

// In is another name for To.
func (o *Operator) In(rooms ...string) *Operator { return o.To(rooms...) }

// Except leaves out the sockets that are in any of rooms.
func (o *Operator) Except(rooms ...string) *Operator {
	return o.with(func(c *Operator) { c.except = slices.Concat(o.except, rooms) })
}

// Local stays within this process.
func (o *Operator) Local() *Operator { return o.with(func(c *Operator) { c.local = true }) }

// Later lets the event wait a few milliseconds, where many like it come at once, so that one write carries them. It keeps its
// place among what each socket is sent. Other processes send it at once.
func (o *Operator) Later() *Operator { return o.with(func(c *Operator) { c.later = true }) }

// Volatile lets an event be dropped for clients that are not ready for it right now.
func (o *Operator) Volatile() *Operator {
	return o.with(func(c *Operator) { c.flags |= engineio.Volatile })
}

// Compress says whether the event may be compressed, where the transport compresses at all.
func (o *Operator) Compress(yes bool) *Operator {
	return o.with(func(c *Operator) {
		c.flags &^= engineio.NoCompress
		if !yes {
			c.flags |= engineio.NoCompress
		}
	})
}

// Timeout bounds the wait of EmitWithAck.
func (o *Operator) Timeout(d time.Duration) *Operator {
	return o.with(func(c *Operator) { c.timeout = d })
}

func (o *Operator) selector() shard.Selector {
	return shard.Selector{Namespace: o.namespace.name, Rooms: o.rooms, Except: o.except}
}

// each calls f for the namespaces that o speaks to: one, or all children of a dynamic parent.
func (o *Operator) each(f func(*Operator) error) error {
	if o.namespace.match == nil {
		return f(o)
	}
	var errs error
	for _, child := range o.namespace.server.children(o.namespace) {
		errs = errors.Join(errs, f(o.with(func(c *Operator) { c.namespace = child })))
	}
	return errs
}

// Emit sends an event. Arguments are anything encoding/json takes; []byte and packet.Binary travel as binary
// attachments. It returns when the event is on its way, not when it has arrived; what one goroutine emits
// reaches each socket in order.
func (o *Operator) Emit(event string, args ...any) error {
	return o.each(func(o *Operator) error {
		m, err := o.namespace.encodeEvent(event, args)
		if err != nil {
			return err
		}
		o.namespace.sent(event, args)
		e := envelope(m, o.selector())
		e.Flags, e.Local, e.Later, e.Offset = o.flags, o.local, o.later, o.namespace.offsetMode(e.Text, o.flags)
		return o.namespace.server.fanout.Emit(o.namespace.server.ctx, e)
	})
}

// EmitWithAck sends an event and waits for the answers of all sockets that it reaches: for each, the
// arguments of its acknowledgement. When the Timeout (or ctx) runs out or a socket goes away it returns the
// answers that came, with ErrTimeout or ErrDisconnected. Without a Timeout, ctx must have a deadline. In a
// handler, leave out the client whose event it handles: its answer can't be read before the handler returns.
func (o *Operator) EmitWithAck(ctx context.Context, event string, args ...any) ([]Args, error) {
	if o.namespace.match != nil {
		return nil, errors.New("emit with acknowledgement: not for a parent namespace, use its children")
	}
	n := o.namespace
	ctx, cancel, err := ackContext(ctx, o.timeout)
	if err != nil {
		return nil, err
	}
	defer cancel()
	id, m, err := n.encodeAsk(event, args)
	if err != nil {
		return nil, err
	}
	n.sent(event, args)
	acks := newAckCollector()
	e := envelope(m, o.selector())
	// No offset: the client takes none from an event that it acknowledges.
	e.Flags, e.Local, e.AckID, e.Acks = o.flags, o.local, id, acks
	var replies []Args
	if err = n.server.fanout.Emit(ctx, e); err == nil {
		replies, err = acks.wait(ctx)
	}
	if err != nil {
		n.forgetAck(id)
	}
	return replies, err
}

// reach returns the fan-out that reaches the sockets o speaks to.
func (o *Operator) reach() fanout.Fanout {
	if o.local {
		return o.namespace.server.local
	}
	return o.namespace.server.fanout
}

// SocketsJoin puts the sockets into rooms, on all processes.
func (o *Operator) SocketsJoin(rooms ...string) error {
	return o.each(func(o *Operator) error {
		return o.reach().Join(o.namespace.server.ctx, o.selector(), rooms)
	})
}

// SocketsLeave takes the sockets out of rooms, on all processes.
func (o *Operator) SocketsLeave(rooms ...string) error {
	return o.each(func(o *Operator) error {
		return o.reach().Leave(o.namespace.server.ctx, o.selector(), rooms)
	})
}

// DisconnectSockets disconnects the sockets, on all processes; closing also closes their connections.
func (o *Operator) DisconnectSockets(closing bool) error {
	return o.each(func(o *Operator) error {
		return o.reach().Disconnect(o.namespace.server.ctx, o.selector(), closing)
	})
}

// RemoteSocket is a socket of any process.
type RemoteSocket struct {
	*Operator // emits to this socket

	ID        string
	Handshake json.RawMessage // headers, time, address, xdomain, secure, issued, url, query, auth
	Rooms     []string
	Data      json.RawMessage // what SetData was given; {} if nothing
}

// FetchSockets returns the sockets, of all processes.
func (o *Operator) FetchSockets(ctx context.Context) ([]RemoteSocket, error) {
	if o.namespace.match != nil {
		return nil, errors.New("fetch sockets: not for a parent namespace, use its children")
	}
	var found []fanout.Socket
	found, err := o.reach().Fetch(ctx, o.selector())
	sockets := make([]RemoteSocket, len(found))
	for i, s := range found {
		sockets[i] = RemoteSocket{
			Operator: &Operator{namespace: o.namespace, rooms: []string{s.ID}},
			ID:       s.ID, Handshake: s.Handshake, Rooms: s.Rooms, Data: s.Data,
		}
	}
	return sockets, err
}

package socketio

import (
	"context"
	"errors"
	"time"

	"parley/engineio"
	"parley/shard"
)

// Direct emits to one socket, whatever its rooms, with options. Its methods return changed copies; all are
// safe for concurrent use.
type Direct struct {
	socket  *Socket
	flags   engineio.Flags
	timeout time.Duration
}

// Volatile lets an event be dropped if the client is not ready for it right now.
func (d Direct) Volatile() Direct {
	d.flags |= engineio.Volatile
	return d
}

// Compress says whether an event may be compressed, where the transport compresses at all.
func (d Direct) Compress(yes bool) Direct {
	d.flags &^= engineio.NoCompress
	if !yes {
		d.flags |= engineio.NoCompress
	}
	return d
}

// Timeout bounds the wait of EmitWithAck.
func (d Direct) Timeout(t time.Duration) Direct {
	d.timeout = t
	return d
}

// Emit sends an event to the socket.
func (d Direct) Emit(event string, args ...any) error {
	s, n := d.socket, d.socket.namespace
	m, err := n.encodeEvent(event, args)
	if err != nil {
		return err
	}
	n.sent(event, args)
	e := envelope(m, shard.Selector{Namespace: n.name, Rooms: []string{s.id}})
	e.Flags, e.Offset = d.flags, n.offsetMode(e.Text, d.flags)
	return s.send(e)
}

// EmitWithAck sends an event to the socket and waits for the client's acknowledgement, until the Timeout or ctx
// runs out (one of them must be set). In a handler of the same client it fails with ErrDeadlock.
func (d Direct) EmitWithAck(ctx context.Context, event string, args ...any) (Args, error) {
	s, n := d.socket, d.socket.namespace
	if ctx.Value(handlerOf{}) == s.client {
		return Args{}, ErrDeadlock
	}
	if s.state.Load() == connecting {
		return Args{}, errors.New("emit with acknowledgement: the socket has not joined yet")
	}
	ctx, cancel, err := ackContext(ctx, d.timeout)
	if err != nil {
		return Args{}, err
	}
	defer cancel()
	id, m, err := n.encodeAsk(event, args)
	if err != nil {
		return Args{}, err
	}
	n.sent(event, args)
	acks := newAckCollector()
	e := envelope(m, shard.Selector{})
	e.Flags, e.AckID, e.Acks = d.flags, id, acks
	if err := s.send(e); err != nil {
		return Args{}, err
	}
	replies, err := acks.wait(ctx)
	if err == nil {
		return replies[0], nil
	}
	if forget := s.query(func(v *shard.View) error { v.ForgetAck(s.entry, id); return nil }); forget != nil && !errors.Is(forget, shard.ErrStopped) {
		s.log().Warn().Err(forget).Msg("forgetting an unanswered acknowledgement failed")
	}
	return Args{}, err
}

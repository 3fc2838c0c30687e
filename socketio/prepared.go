package socketio

import (
	"context"

	"parley/shard"
)

// Prepared is an event that is encoded once, to be emitted any number of times. It does not change and is safe for concurrent
// use.
type Prepared struct {
	namespace *Namespace
	event     string
	args      []any
	envelope  *shard.Envelope // to nobody yet
}

// Prepare encodes an event. Its arguments must not change any more. n must not be a parent of dynamic namespaces.
func (n *Namespace) Prepare(event string, args ...any) (*Prepared, error) {
	m, err := n.encodeEvent(event, args)
	if err != nil {
		return nil, err
	}
	e := envelope(m, shard.Selector{Namespace: n.name})
	e.Offset = n.offsetMode(e.Text, 0)
	return &Prepared{n, event, args, e}, nil
}

// EmitPrepared is Emit for an event of the operator's own namespace. It ignores the operator's Compress and Volatile.
func (o *Operator) EmitPrepared(p *Prepared) error {
	n := p.namespace
	n.sent(p.event, p.args)
	e := *p.envelope
	e.Selector, e.Local, e.Later = o.selector(), o.local, o.later
	return n.server.fanout.Emit(n.server.ctx, &e)
}

// EmitPrepared sends events of the socket's own namespace to it, in their order, which costs little more than one.
func (s *Socket) EmitPrepared(ctx context.Context, all ...*Prepared) error {
	if !s.Connected() {
		return ErrDisconnected
	}
	envelopes := make([]*shard.Envelope, len(all))
	for i, p := range all {
		s.namespace.sent(p.event, p.args)
		e := *p.envelope
		e.Rooms = []string{s.id} // whom it is for, should it be kept for clients that come back
		envelopes[i] = &e
	}
	return s.shard.SendAll(ctx, s.entry, envelopes)
}

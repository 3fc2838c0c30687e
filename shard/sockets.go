package shard

import (
	"context"
	"fmt"

	"parley/engineio"
	"parley/metrics"
	"parley/registry"
)

// Register puts t under the shard's care: it joins rooms, and first goes out ahead of anything else that the
// socket is sent from now on. It fails if a socket of that id is there, and with ErrGone if the connection is
// closed already.
func (s *Shard) Register(ctx context.Context, t *registry.Socket, rooms []string, first ...*engineio.Message) error {
	c := &register{newOutcome(), t, rooms, first}
	if err := s.post(ctx, c); err != nil {
		return err
	}
	return c.wait(s)
}

type register struct {
	outcome
	socket *registry.Socket
	rooms  []string
	first  []*engineio.Message
}

func (c *register) run(s *Shard) {
	if err := s.registry.Add(c.socket); err != nil {
		c.reply <- err
		return
	}
	for _, room := range c.rooms {
		s.join(c.socket, room)
	}
	for _, m := range c.first {
		if !s.offer(c.socket, m, 0) {
			s.remove(c.socket)
			c.reply <- ErrGone
			return
		}
	}
	c.reply <- nil
}

// Unregister takes t out, after last has been queued for it. Acknowledgements that it owes are lost. It is
// harmless if t is not there (any more). It waits for room in a full inbox as long as ctx lasts.
func (s *Shard) Unregister(ctx context.Context, t *registry.Socket, last ...*engineio.Message) error {
	c := &unregister{newOutcome(), t, last}
	if err := s.postSurely(ctx, c); err != nil {
		return err
	}
	return c.wait(s)
}

type unregister struct {
	outcome
	socket *registry.Socket
	last   []*engineio.Message
}

func (c *unregister) run(s *Shard) {
	for _, m := range c.last {
		s.offer(c.socket, m, 0)
	}
	s.remove(c.socket)
	c.reply <- nil
}

// remove ends the shard's care for t.
func (s *Shard) remove(t *registry.Socket) {
	s.loseAcks(t)
	s.unfollow(t)
	for _, room := range s.registry.Remove(t) {
		s.pool.directory.remove(t.Namespace, room, s.index)
	}
	if s.registry.Count(t.Namespace) == 0 {
		delete(s.logs, t.Namespace) // nobody is left who could come back for it
	}
}

// loseAcks tells those who wait for t to answer that it won't.
func (s *Shard) loseAcks(t *registry.Socket) {
	acks := t.Acks
	t.Acks = nil
	for _, ack := range acks {
		ack.Lost()
	}
}

func (s *Shard) join(t *registry.Socket, room string) {
	if s.registry.Join(t, room) {
		s.pool.directory.add(t.Namespace, room, s.index)
	}
}

func (s *Shard) leave(t *registry.Socket, room string) {
	if s.registry.Leave(t, room) {
		s.pool.directory.remove(t.Namespace, room, s.index)
	}
}

// Send gives one socket an event, whatever its rooms. Selector is not looked at. Unless Offset is NoOffset
// it behaves like an event for the socket's own room.
func (s *Shard) Send(ctx context.Context, t *registry.Socket, e *Envelope) error {
	e.seal()
	if e.Acks != nil {
		e.Acks.Visit(1)
	}
	return s.post(ctx, &send{socket: t, envelope: e})
}

// SendAll is Send for events without acknowledgement, in their order. They have their Message.
func (s *Shard) SendAll(ctx context.Context, t *registry.Socket, all []*Envelope) error {
	return s.post(ctx, &sendAll{t, all})
}

type sendAll struct {
	socket    *registry.Socket
	envelopes []*Envelope
}

func (c *sendAll) run(s *Shard) {
	if t := c.socket; s.registry.Has(t) {
		for _, e := range c.envelopes {
			s.give(t, e, s.encode(e))
		}
	}
}

// SendMessage gives one socket a message that is encoded already.
func (s *Shard) SendMessage(ctx context.Context, t *registry.Socket, m *engineio.Message) error {
	return s.post(ctx, &sendMessage{t, m})
}

type sendMessage struct {
	socket  *registry.Socket
	message *engineio.Message
}

func (c *sendMessage) run(s *Shard) {
	if t := c.socket; s.registry.Has(t) {
		s.offer(t, c.message, 0)
	}
}

type send struct {
	socket   *registry.Socket
	envelope *Envelope
}

func (c *send) run(s *Shard) {
	t := c.socket
	if c.envelope.Acks != nil {
		c.envelope.Acks.Expect(1)
	}
	if s.registry.Has(t) {
		s.give(t, c.envelope, s.encode(c.envelope))
	} else if c.envelope.Acks != nil {
		c.envelope.Acks.Lost()
	}
}

type emit struct {
	envelope *Envelope
	reached  int // sockets that will answer or be lost
}

// fail tells the collector whom it can expect: the sockets of a shard that dies are lost.
func (c *emit) fail(error) {
	if c.envelope.Acks != nil {
		c.envelope.Acks.Expect(c.reached)
	}
}

func (c *emit) run(s *Shard) {
	e := c.envelope
	if s.registry.Count(e.Namespace) > 0 { // or else nobody could come back for what is logged
		m := s.encode(e)
		s.registry.Select(e.Namespace, e.Rooms, e.Except, func(t *registry.Socket) {
			if t.Out != nil { // or else it is given m when it comes back
				c.reached++
				s.give(t, e, m)
			}
		})
	}
	if e.Acks != nil {
		e.Acks.Expect(c.reached)
	}
}

// encode returns the wire form of e on this shard, and logs it if clients can come back for it.
func (s *Shard) encode(e *Envelope) *engineio.Message {
	if e.Offset == LogOffset {
		return s.logFor(e.Namespace).append(e)
	}
	return e.Message
}

// give offers e, encoded as m, to t.
func (s *Shard) give(t *registry.Socket, e *Envelope, m *engineio.Message) {
	if e.Acks != nil {
		if t.Out == nil || len(t.Acks) >= s.pool.maxAcks {
			if t.Out != nil {
				s.pool.metrics.Count(metrics.Limited, "pending acks")
			}
			e.Acks.Lost()
			return
		}
		if t.Acks == nil {
			t.Acks = make(map[uint64]registry.Ack)
		}
		t.Acks[e.AckID] = e.Acks
	}
	if e.Offset == CurrentOffset || e.Offset == MailOffset {
		m = s.withCurrent(e, t)
	}
	if e.Later {
		s.offerLater(t, m, e.Flags)
		return
	}
	s.offer(t, m, e.Flags)
}

// Acknowledge hands a client's answer to whoever waits for it; an id that nobody waits for is ignored
// (socketio.md section 6). The bytes belong to the shard from now on.
func (s *Shard) Acknowledge(ctx context.Context, t *registry.Socket, id uint64, data []byte, attachments [][]byte) error {
	return s.post(ctx, &acknowledge{t, id, data, attachments})
}

type acknowledge struct {
	socket      *registry.Socket
	id          uint64
	data        []byte
	attachments [][]byte
}

func (c *acknowledge) run(*Shard) {
	if ack := c.socket.Acks[c.id]; ack != nil {
		delete(c.socket.Acks, c.id)
		ack.Acknowledge(c.data, c.attachments)
	}
}

// ForgetAck stops waiting for the answers to one event of the namespace.
func (v *View) ForgetAck(t *registry.Socket, id uint64) { delete(t.Acks, id) }

// View is what a query sees of a shard. It is valid during the query only.
type View struct{ shard *Shard }

// Select calls yield for each live socket that sel names.
func (v *View) Select(sel Selector, yield func(*registry.Socket)) {
	v.shard.registry.Select(sel.Namespace, sel.Rooms, sel.Except, func(t *registry.Socket) {
		if t.Out != nil {
			yield(t)
		}
	})
}

// Get returns the socket with that id, or nil.
func (v *View) Get(namespace, id string) *registry.Socket { return v.shard.registry.Get(namespace, id) }

// Join puts t into room, unless t is gone or would be in more than limit rooms (0: no limit).
func (v *View) Join(t *registry.Socket, room string, limit int) error {
	if !v.shard.registry.Has(t) {
		return nil
	}
	if limit > 0 && t.RoomCount() >= limit && !t.In([]string{room}) {
		return fmt.Errorf("socket is in %d rooms already, the limit", limit)
	}
	v.shard.join(t, room)
	return nil
}

// Leave takes t out of room.
func (v *View) Leave(t *registry.Socket, room string) {
	if v.shard.registry.Has(t) {
		v.shard.leave(t, room)
	}
}

// Query runs f in the shard's goroutine and waits for it. f must not block. ctx bounds the wait for room in
// the inbox: once f is in, Query returns only when f has run or never will. If f panics, so dies the shard.
func (s *Shard) Query(ctx context.Context, f func(*View)) error {
	c := &query{newOutcome(), f}
	if err := s.post(ctx, c); err != nil {
		return err
	}
	return c.wait(s)
}

type query struct {
	outcome
	f func(*View)
}

func (c *query) run(s *Shard) {
	c.f(&View{s})
	c.reply <- nil
}

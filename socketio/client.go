package socketio

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"parley/engineio"
	"parley/metrics"
	"parley/shard"
	"parley/socketio/packet"
)

// client is one connection and the sockets that it has in namespaces. It implements engineio.Receiver.
type client struct {
	// Fixed after construction.

	server *Server
	conn   outbound

	// Guarded by turn, which is held while packets are handled and sockets end: one thing at a time for each
	// connection. It is never asked for while a shard or mu is held.

	turn     sync.Mutex
	joining  *time.Timer // closes the connection if no namespace is joined; nil once one is
	decoder  packet.Decoder
	waiting  *time.Timer   // closes the connection if an attachment does not come; nil if none is due
	limiter  *rate.Limiter // nil until it is needed
	connects int           // CONNECTs so far

	mu      sync.Mutex
	sockets []*Socket // in the order they joined; one that the server disconnected stays until the client joins again
	broken  bool      // the client broke the protocol: nothing it sends counts any more
}

// noAuth is the payload of a CONNECT that has none.
var noAuth = json.RawMessage("{}")

// maxAuthBytes bounds the payload of a CONNECT, which is kept as long as the socket lives.
const maxAuthBytes = 64 << 10

// handlerContext is the context of a client's handlers: the server's lifetime, marked as this client's for
// EmitWithAck.
type handlerContext client

// handlerOf is the context key under which a handler's context holds its client.
type handlerOf struct{}

func (c *client) context() context.Context { return (*handlerContext)(c) }

// Deadline implements context.Context.
func (h *handlerContext) Deadline() (time.Time, bool) { return h.server.ctx.Deadline() }

// Done implements context.Context.
func (h *handlerContext) Done() <-chan struct{} { return h.server.ctx.Done() }

// Err implements context.Context.
func (h *handlerContext) Err() error { return h.server.ctx.Err() }

// Value implements context.Context.
func (h *handlerContext) Value(key any) any {
	if key == (handlerOf{}) {
		return (*client)(h)
	}
	return h.server.ctx.Value(key)
}

// Receive implements engineio.Receiver.
func (c *client) Receive(data []byte, binary bool) {
	c.turn.Lock()
	defer c.turn.Unlock()
	if c.isBroken() {
		return
	}
	decode := c.decoder.Text
	if binary {
		decode = c.decoder.Binary
	}
	p, complete, err := decode(data)
	c.stopWaiting()
	if err != nil {
		reason := "malformed"
		if e, ok := errors.AsType[*packet.Error](err); ok {
			reason = e.Reason
		}
		c.violate(reason)
		return
	}
	if !complete {
		c.awaitAttachment()
		return
	}
	c.handle(p)
}

// awaitAttachment bounds the wait for the next attachment of a packet.
func (c *client) awaitAttachment() {
	var timer *time.Timer
	timer = time.AfterFunc(c.server.options.AttachmentTimeout, func() {
		c.turn.Lock()
		defer c.turn.Unlock()
		if c.waiting == timer {
			c.violate("attachment did not come in time")
		}
	})
	c.waiting = timer
}

func (c *client) stopWaiting() {
	if c.waiting != nil {
		c.waiting.Stop()
		c.waiting = nil
	}
}

// Closed implements engineio.Receiver.
func (c *client) Closed(reason Reason) {
	c.turn.Lock()
	defer c.turn.Unlock()
	c.joined()
	c.stopWaiting()
	for _, s := range c.all() {
		s.finish(reason)
	}
}

// handle acts on one packet (socketio.md section 3).
func (c *client) handle(p *packet.Packet) {
	switch p.Type {
	case packet.Connect:
		c.connect(p)
		return
	case packet.ConnectError:
		c.violate("packet type that only a server sends")
		return
	}
	s := c.socket(p.Namespace)
	switch {
	case s == nil:
		c.violate("packet for a namespace that is not joined")
	case p.Type == packet.Disconnect:
		c.forget(s)
		s.finish(ReasonClientDisconnect)
	case !s.Connected():
		// It crossed the server's DISCONNECT on the way.
	case p.Type == packet.Event || p.Type == packet.BinaryEvent:
		s.handle(p)
	case p.HasID && p.Data != nil: // an ACK without payload has no effect (socketio.md section 1)
		if err := s.shard.Acknowledge(c.context(), s.entry, p.ID, p.Data, p.Attachments); err != nil {
			s.log().Debug().Err(err).Msg("acknowledgement dropped")
		}
	}
}

// violate closes the connection of a client that broke the protocol.
func (c *client) violate(reason string) {
	c.server.metrics.Count(metrics.PacketsRejected, reason)
	c.server.log.Debug().Str("reason", reason).Msg("client broke the Socket.IO protocol, closing its connection")
	c.mu.Lock()
	c.broken = true
	c.mu.Unlock()
	c.conn.Close(engineio.ForcedClose)
}

// disconnect ends s, and with closing all sockets of the connection, from any goroutine.
func (c *client) disconnect(s *Socket, closing bool) {
	c.server.spawn(func() {
		c.turn.Lock()
		defer c.turn.Unlock()
		ending := []*Socket{s}
		if closing {
			ending = c.all()
		}
		for _, s := range ending {
			s.finish(ReasonServerDisconnect, s.disconnectPacket())
		}
		if closing {
			c.conn.Close(engineio.ForcedClose)
		}
	})
}

// joined ends the time in which a namespace is to be joined.
func (c *client) joined() {
	if c.joining != nil {
		c.joining.Stop()
		c.joining = nil
	}
}

// connectTimedOut closes a connection that joined nothing in time.
func (c *client) connectTimedOut() {
	if len(c.all()) == 0 {
		c.violate("no namespace joined in time")
	}
}

// connect joins a namespace (socketio.md section 4).
func (c *client) connect(p *packet.Packet) {
	if s := c.socket(p.Namespace); s != nil {
		if s.Connected() {
			c.violate("namespace is joined already")
			return
		}
		s.finish(ReasonServerDisconnect, s.disconnectPacket()) // if Disconnect is still under way
		c.forget(s)
	}
	if !c.allow(c.connectCost()) {
		c.refuse(p.Namespace, "event rate", &Error{Message: "Too many requests"})
		return
	}
	if len(c.all()) >= c.server.options.MaxNamespaces {
		c.server.metrics.Count(metrics.Limited, "namespaces")
		c.refuse(p.Namespace, "too many namespaces", &Error{Message: "Too many namespaces"})
		return
	}
	if len(p.Data) > maxAuthBytes {
		c.server.metrics.Count(metrics.Limited, "auth size")
		c.refuse(p.Namespace, "auth size", &Error{Message: "Auth payload too large"})
		return
	}
	auth := p.Data
	if auth == nil {
		auth = noAuth
	}
	n := c.server.lookup(p.Namespace, auth)
	if n == nil {
		c.refuse(p.Namespace, "invalid namespace", &Error{Message: "Invalid namespace"})
		return
	}
	s := &Socket{namespace: n, client: c, handshake: Handshake{c.conn.Handshake(), auth}}
	defer c.conn.release()
	if err := s.admit(); err != nil {
		s.state.Store(closed)
		s.over()
		c.server.release(n)
		if errors.Is(err, shard.ErrGone) {
			return // the client left meanwhile
		}
		public, expected := publicError(err)
		if !expected {
			s.log().Error().Err(err).Msg("connect failed")
		}
		c.refuse(n.name, "middleware", public)
		return
	}
	c.mu.Lock()
	c.sockets = append(c.sockets, s)
	c.mu.Unlock()
	c.joined()
	s.debug().Bool("recovered", s.recovered).Msg("socket connected")
	for _, f := range n.app.connection {
		s.contain("connection", "", func() { f(c.context(), s) })
	}
}

// refuse sends a CONNECT_ERROR.
func (c *client) refuse(namespace, reason string, e *Error) {
	c.server.metrics.Count(metrics.ConnectsRefused, reason)
	data, err := json.Marshal(struct {
		Message string `json:"message"`
		Data    any    `json:"data,omitempty"`
	}{e.Message, e.Data})
	if err != nil {
		c.server.log.Error().Err(err).Str("ns", namespace).Msg("a connect error's data is no JSON")
		data = []byte(`{"message":"internal error"}`)
	}
	c.conn.Enqueue(controlPacket(namespace, packet.ConnectError, data), 0)
	c.conn.Flush()
}

// connectCost is what a CONNECT counts for: a connection that joins again and again has the application welcome it each
// time, which costs it more than an event.
func (c *client) connectCost() (events int) {
	if c.connects++; c.connects <= c.server.options.MaxNamespaces {
		return 1
	}
	return 10
}

// allow tells whether the client may send another so many events now.
func (c *client) allow(events int) bool {
	limit := c.server.options.EventRate
	if limit <= 0 {
		return true
	}
	if c.limiter == nil {
		c.limiter = rate.NewLimiter(rate.Limit(limit), int(2*limit)+1)
	}
	if c.limiter.AllowN(time.Now(), min(events, c.limiter.Burst())) {
		return true
	}
	c.server.metrics.Count(metrics.Limited, "event rate")
	return false
}

func (c *client) socket(namespace string) *Socket {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range c.sockets {
		if s.namespace.name == namespace {
			return s
		}
	}
	return nil
}

// all returns the sockets, in the order they joined.
func (c *client) all() []*Socket {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.sockets)
}

func (c *client) forget(s *Socket) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sockets = slices.DeleteFunc(c.sockets, func(other *Socket) bool { return other == s })
}

func (c *client) isBroken() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.broken
}

package socketio

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"parley/engineio"
	"parley/fanout"
	"parley/metrics"
	"parley/registry"
	"parley/shard"
	"parley/socketio/packet"
	"parley/store"
)

// Socket is one client in one namespace. Its methods are safe for concurrent use, but for SetUser, which is
// for connect middleware.
type Socket struct {
	// Fixed once the socket has joined; until then owned by the connection's goroutine.

	namespace *Namespace
	client    *client
	id        string
	pid       string // private id, empty where the namespace has no recovery
	turn      uint64 // how often the client has been here; see store.Recovery
	user      string
	handshake Handshake
	recovered bool
	resumeAt  store.Offset // what a recovered socket has been sent up to
	entry     *registry.Socket
	shard     *shard.Shard

	state   atomic.Int32 // connecting, connected, closed
	leaving atomic.Bool  // Disconnect was called

	mu        sync.Mutex
	data      json.RawMessage
	box       store.Box     // what the socket follows, or followed before it was recovered
	start     store.Offset  // where it began to, for a client that gets no offset before it drops
	following bool          // Follow was called
	snapshot  bool          // EmitAt was called: a client without an offset lacks what that brought
	ended     bool          // the disconnect listeners have returned
	awaited   chan struct{} // closed then, if somebody waits for it; or else nil
}

// States of a socket.
const (
	connecting int32 = iota
	connected
	closed
)

// ID returns the socket's public id, which is also the name of a room of its own.
func (s *Socket) ID() string { return s.id }

// Namespace returns the namespace that the socket is in.
func (s *Socket) Namespace() *Namespace { return s.namespace }

// Handshake returns what the client said when it connected. It must not be changed.
func (s *Socket) Handshake() *Handshake { return &s.handshake }

// Connected tells whether the socket is joined.
func (s *Socket) Connected() bool { return s.state.Load() == connected && !s.leaving.Load() }

// Recovered tells whether this is a client that returned and was given what it missed (socketio.md section 8).
func (s *Socket) Recovered() bool { return s.recovered }

// SetUser says whose socket this is. All sockets of a user are on one shard. It is for connect middleware:
// later it has no effect.
func (s *Socket) SetUser(id string) {
	if s.state.Load() == connecting {
		s.user = id
	}
}

// User returns what SetUser was given.
func (s *Socket) User() string { return s.user }

// SetData attaches v, as JSON, for FetchSockets and for recovery.
func (s *Socket) SetData(v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("socket data: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.data = data
	return nil
}

// Data stores in v what SetData was given.
func (s *Socket) Data(v any) error {
	s.mu.Lock()
	data := s.data
	s.mu.Unlock()
	if data == nil {
		return errors.New("socket has no data")
	}
	return json.Unmarshal(data, v)
}

// Join puts the socket into rooms. When it returns, what is emitted to them reaches it.
func (s *Socket) Join(rooms ...string) error {
	return s.query(func(v *shard.View) error {
		for _, room := range rooms {
			if err := v.Join(s.entry, room, s.client.server.options.MaxRooms); err != nil {
				s.client.server.metrics.Count(metrics.Limited, "rooms")
				return err
			}
		}
		return nil
	})
}

// Leave takes the socket out of rooms.
func (s *Socket) Leave(rooms ...string) error {
	return s.query(func(v *shard.View) error {
		for _, room := range rooms {
			v.Leave(s.entry, room)
		}
		return nil
	})
}

// Rooms returns the rooms that the socket is in; none once it has left. After a fault of its shard they are
// those that it was in.
func (s *Socket) Rooms() (rooms []string) {
	err := s.query(func(*shard.View) error {
		rooms = s.entry.Rooms()
		return nil
	})
	if err != nil {
		return nil
	}
	return rooms
}

func (s *Socket) query(f func(*shard.View) error) error {
	if s.entry == nil {
		return errors.New("socket has not joined yet: rooms are for after the connect middleware")
	}
	var result error
	if err := s.shard.Query(s.client.server.ctx, func(v *shard.View) { result = f(v) }); err != nil {
		return err
	}
	return result
}

// Emit sends an event to this socket.
func (s *Socket) Emit(event string, args ...any) error { return s.direct().Emit(event, args...) }

// EmitWithAck sends an event to this socket and waits for the client's acknowledgement, until ctx ends, which
// needs a deadline. In a handler of the same client it fails with ErrDeadlock.
func (s *Socket) EmitWithAck(ctx context.Context, event string, args ...any) (Args, error) {
	return s.direct().EmitWithAck(ctx, event, args...)
}

// Volatile lets the next event for this socket be dropped if its client is not ready for it right now. For
// volatile events to others use Broadcast or To.
func (s *Socket) Volatile() Direct { return s.direct().Volatile() }

// Compress says whether the next event for this socket may be compressed, where the transport compresses at all.
func (s *Socket) Compress(yes bool) Direct { return s.direct().Compress(yes) }

// Timeout bounds the wait of the next EmitWithAck to this socket.
func (s *Socket) Timeout(d time.Duration) Direct { return s.direct().Timeout(d) }

func (s *Socket) direct() Direct { return Direct{socket: s} }

// send gives the socket an envelope. From a connect middleware it goes out at once, ahead of the CONNECT
// packet (socketio.md section 4).
func (s *Socket) send(e *shard.Envelope) error {
	if s.state.Load() == connecting {
		s.client.conn.Enqueue(e.Message, e.Flags)
		s.client.conn.Flush()
		return nil
	}
	if !s.Connected() {
		return ErrDisconnected
	}
	return s.shard.Send(s.client.server.ctx, s.entry, e)
}

// sendMessage is send for what has no flags and wants no answer.
func (s *Socket) sendMessage(m *engineio.Message) error {
	switch {
	case s.state.Load() == connecting:
		return s.send(&shard.Envelope{Message: m})
	case !s.Connected():
		return ErrDisconnected
	}
	return s.shard.SendMessage(s.client.server.ctx, s.entry, m)
}

// operator returns an operator for everybody else in the namespace.
func (s *Socket) operator() *Operator { return s.namespace.Except(s.id) }

// Broadcast chooses all other sockets of the namespace.
func (s *Socket) Broadcast() *Operator { return s.operator() }

// To chooses the other sockets in rooms.
func (s *Socket) To(rooms ...string) *Operator { return s.operator().To(rooms...) }

// In is another name for To.
func (s *Socket) In(rooms ...string) *Operator { return s.To(rooms...) }

// Except chooses the other sockets that are not in rooms.
func (s *Socket) Except(rooms ...string) *Operator { return s.operator().Except(rooms...) }

// Local chooses the other sockets of this process.
func (s *Socket) Local() *Operator { return s.operator().Local() }

// Disconnect ends the socket with a DISCONNECT packet, after which the client does not come back by itself;
// closing ends all sockets of its connection and the connection. It returns at once; the disconnect listeners
// run after the handler that is running for the same client, if any.
func (s *Socket) Disconnect(closing bool) {
	if !s.leaving.Swap(true) || closing {
		s.client.disconnect(s, closing)
	}
}

// Reconnect closes the socket's connection without a DISCONNECT packet, so that the client comes back by
// itself.
func (s *Socket) Reconnect() { s.client.conn.Close(engineio.ForcedClose) }

// Describe returns what other sockets and processes may know of this one. It implements fanout.App.
func (s *Socket) Describe() fanout.Socket {
	s.mu.Lock()
	data := s.data
	s.mu.Unlock()
	if data == nil {
		data = json.RawMessage("{}")
	}
	return fanout.Socket{ID: s.id, Handshake: s.handshake.json(), Data: data}
}

// finish ends the socket: listeners, rooms, and what recovery needs. It runs in the connection's turn, once.
// last, if any, is sent before the socket leaves.
func (s *Socket) finish(reason Reason, last ...*engineio.Message) {
	if s.state.Swap(closed) == closed {
		return
	}
	n, ctx := s.namespace, s.client.context()
	for _, f := range n.app.disconnecting {
		s.contain("disconnect", "", func() { f(ctx, s, reason) })
	}
	if err := s.leave(reason, last); err != nil && !errors.Is(err, shard.ErrStopped) {
		s.log().Warn().Err(err).Msg("socket did not leave its shard cleanly")
	}
	for _, f := range n.app.disconnect {
		s.contain("disconnect", "", func() { f(ctx, s, reason) })
	}
	s.over()
	if n.app.recovery != nil {
		n.app.recovery.live.remove(s)
	}
	s.client.server.release(n)
	s.debug().Str("reason", string(reason)).Msg("socket disconnected")
}

// over says that the disconnect listeners have returned.
func (s *Socket) over() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = true
	if s.awaited != nil {
		close(s.awaited)
	}
}

// isOver tells whether the disconnect listeners have returned.
func (s *Socket) isOver() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ended
}

// waitOver returns when the disconnect listeners have returned, or ctx ends with its error.
func (s *Socket) waitOver(ctx context.Context) error {
	s.mu.Lock()
	if s.ended {
		s.mu.Unlock()
		return nil
	}
	if s.awaited == nil {
		s.awaited = make(chan struct{})
	}
	awaited := s.awaited
	s.mu.Unlock()
	select {
	case <-awaited:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// contain runs f and keeps its panic from everything else.
func (s *Socket) contain(what, event string, f func()) {
	defer s.recoverFrom(what, event)
	f()
}

// recoverFrom is deferred around what an application has registered.
func (s *Socket) recoverFrom(what, event string) {
	if v := recover(); v != nil {
		s.client.server.metrics.Count(metrics.HandlerPanics, what)
		s.log().Error().Str("panic", fmt.Sprint(v)).Bytes("stack", debug.Stack()).Str("in", what).Str("event", event).
			Msg("handler panicked: what it was doing failed, its client stays connected")
	}
}

func (s *Socket) log() *zerolog.Logger {
	l := s.client.server.log.With().Str("ns", s.namespace.name).Str("sid", s.id).Logger()
	return &l
}

// debug is log().Debug(), for what happens to every socket: it costs nothing where that is not logged.
func (s *Socket) debug() *zerolog.Event {
	return s.client.server.log.Debug().Str("ns", s.namespace.name).Str("sid", s.id)
}

// disconnectPacket is the DISCONNECT of the socket's namespace.
func (s *Socket) disconnectPacket() *engineio.Message {
	return controlPacket(s.namespace.name, packet.Disconnect, nil)
}

package socketio

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"runtime/debug"
	"slices"
	"time"

	"parley/engineio"
	"parley/fanout"
	"parley/metrics"
	"parley/shard"
	"parley/socketio/packet"
	"parley/store"
)

// checkEvery is how often mailboxes are compared with the store when other processes may append to them.
const checkEvery = 10 * time.Second

// host is what a fan-out between processes sees of the server. It implements fanout.Host.
type host struct {
	server *Server
	missed chan struct{} // something was missed: room for one, which stands for all
}

func (h *host) OffsetMode(namespace string, text []byte, flags engineio.Flags) shard.OffsetMode {
	h.server.mu.RLock() // others speak before all is registered
	defer h.server.mu.RUnlock()
	if n := h.server.namespaces[namespace]; n != nil {
		return n.offsetMode(text, flags)
	}
	return shard.NoOffset
}

func (h *host) NextAckID(namespace string) uint64 {
	if n := h.server.existing(namespace); n != nil {
		return n.app.ackIDs.Add(1) - 1
	}
	return 0 // nobody is there to answer
}

func (h *host) Emitted(sel shard.Selector, data []byte, deliver func() error) (err error) {
	if n := h.server.existing(sel.Namespace); n != nil {
		if listen := n.listener(data); listen != nil {
			h.contain(n, "broadcast", func() { err = listen(sel, data, deliver) })
			return err
		}
	}
	return deliver()
}

func (h *host) Unready(namespace string, box store.Box, data []byte) bool {
	var m *Mail
	h.server.mu.RLock()
	if n := h.server.namespaces[namespace]; n != nil {
		m = n.app.mail
	}
	h.server.mu.RUnlock()
	return m != nil && m.App == box.App && m.Unready != nil && m.Unready(box.User, data)
}

// listener returns who listens to an event of other servers, or nil.
func (n *Namespace) listener(data []byte) func(shard.Selector, []byte, func() error) error {
	n.server.mu.RLock()
	defer n.server.mu.RUnlock()
	for _, l := range n.app.elsewhere {
		if args, is := bytes.CutPrefix(data, l.head); is && len(args) > 0 && (args[0] == ',' || args[0] == ']') {
			return l.listen
		}
	}
	return nil
}

func (n *Namespace) serverSideHandler(event string) serverSideHandler {
	n.server.mu.RLock()
	defer n.server.mu.RUnlock()
	return n.app.serverSide[event]
}

func (h *host) Resubscribed() {
	select {
	case h.missed <- struct{}{}:
	default:
	}
	h.server.mu.RLock()
	var missed []func()
	for _, n := range h.server.namespaces {
		missed = append(missed, n.app.missed...)
	}
	h.server.mu.RUnlock()
	for _, f := range missed {
		f()
	}
}

func (h *host) Unpublished() {
	// They do then as if they had not heard us. A failure is told of again.
	n := h.server.existing("/")
	if n == nil {
		return // it has just begun
	}
	if err := n.ServerSideEmit(missedEvent); err != nil {
		h.server.log.Debug().Err(err).Msg("other processes were not told that they missed something")
	}
}

// Server-side events between servers of this kind. Node servers have no listeners for them.
const (
	missedEvent   = "parley:missed"   // what I published may not have reached you
	returnedEvent = "parley:returned" // a client of yours is here now; see cameBack
)

// contain runs f and keeps its panic from the fan-out.
func (h *host) contain(n *Namespace, event string, f func()) {
	defer func() {
		if v := recover(); v != nil {
			h.server.metrics.Count(metrics.HandlerPanics, "server side")
			h.server.log.Error().Str("ns", n.name).Str("event", event).Str("panic", fmt.Sprint(v)).Bytes("stack", debug.Stack()).
				Msg("a handler of server-side events panicked")
		}
	}()
	f()
}

func (h *host) ServerSide(namespace string, data []byte, attachments [][]byte, ack func(fanout.Answer)) {
	n := h.server.existing(namespace)
	if n == nil {
		return
	}
	p := packet.Packet{Type: packet.Event, Data: data, Attachments: attachments}
	name, values, err := p.Event()
	if err != nil {
		return
	}
	switch name {
	case missedEvent:
		h.Resubscribed()
		return
	case returnedEvent:
		n.returned(Args{values, attachments})
		return
	}
	if handle := n.serverSideHandler(name); handle != nil {
		h.contain(n, name, func() { h.answer(n, name, handle, Args{values, attachments}, ack) })
	}
}

// answer has a server-side event handled, and answers it.
func (h *host) answer(n *Namespace, name string, handle serverSideHandler, args Args, ack func(fanout.Answer)) {
	reply, err := handle(h.server.ctx, args)
	switch {
	case err != nil:
		h.server.log.Warn().Err(err).Str("ns", n.name).Str("event", name).Msg("a server-side event failed")
	case ack != nil:
		answer, err := encodeAnswer(reply)
		if err != nil {
			h.server.log.Error().Err(err).Str("ns", n.name).Str("event", name).Msg("the answer to a server-side event can't be sent")
			return
		}
		ack(answer)
	}
}

// encodeAnswer encodes the one value that a server answers with.
func encodeAnswer(reply any) (fanout.Answer, error) {
	data, attachments, err := packet.EncodeArgs(reply)
	if err != nil {
		return fanout.Answer{}, err
	}
	p := packet.Packet{Type: packet.Ack, Data: data, Attachments: attachments}
	values, err := p.Args()
	if err != nil {
		return fanout.Answer{}, err
	}
	return fanout.Answer{JSON: values[0], Attachments: attachments}, nil
}

// existing returns a namespace if the server has it.
func (s *Server) existing(name string) *Namespace {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.namespaces[name]
}

// reservedServerSide are the names that server-side events can't have (socketio.md section 10).
var reservedServerSide = []string{"connect", "connection", "new_namespace"}

// OnServerSide sets the handler of an event that other servers emit with ServerSideEmit. Its reply goes to a
// server that wants an answer. Handlers run one at a time.
func (n *Namespace) OnServerSide(event string, h func(ctx context.Context, args Args) (reply any, err error)) {
	n.server.mu.Lock() // others speak before clients connect
	defer n.server.mu.Unlock()
	if n.app.serverSide == nil {
		n.app.serverSide = make(map[string]serverSideHandler)
	}
	n.app.serverSide[event] = h
}

type serverSideHandler = func(ctx context.Context, args Args) (reply any, err error)

// elsewhere listens to an event that other servers emit to sockets.
type elsewhere struct {
	head   []byte // of the JSON array: its name
	listen func(sel shard.Selector, data []byte, deliver func() error) error
}

// OnElsewhere sets a listener for an event, one without attachments, that other servers emit to sockets of this
// namespace and that is about to reach those of this process: deliver gives it to them, and may be left out; return its error.
// except are the rooms that the sender excepted. The listener must return soon: what the same server emits next
// waits behind it.
func (n *Namespace) OnElsewhere(event string, listen func(args Args, except []string, deliver func() error) error) {
	head, err := json.Marshal(event)
	if err != nil {
		panic(err) // every string can be encoded
	}
	n.server.mu.Lock()
	defer n.server.mu.Unlock()
	n.app.elsewhere = append(n.app.elsewhere, elsewhere{
		head: append([]byte{'['}, head...),
		listen: func(sel shard.Selector, data []byte, deliver func() error) error {
			p := packet.Packet{Type: packet.Event, Data: data}
			_, values, err := p.Event()
			if err != nil {
				return deliver()
			}
			return listen(Args{values, nil}, sel.Except, deliver)
		},
	})
}

// OnMissed sets a listener that is called when events of other servers, or what was emitted to them, may have been
// lost. It must return at once.
func (n *Namespace) OnMissed(f func()) {
	n.server.mu.Lock()
	defer n.server.mu.Unlock()
	n.app.missed = append(n.app.missed, f)
}

// ServerSideEmit gives an event to the other servers, not to this one. It is at most once.
func (n *Namespace) ServerSideEmit(event string, args ...any) error {
	data, attachments, err := encodeServerSide(event, args)
	if err != nil {
		return err
	}
	return n.server.fanout.ServerSideEmit(n.server.ctx, n.name, data, attachments)
}

// ServerSideEmitWithAck is ServerSideEmit, and returns what the other servers answered: one Args with one
// argument for each. With an error it returns the answers that came.
func (n *Namespace) ServerSideEmitWithAck(ctx context.Context, event string, args ...any) ([]Args, error) {
	data, attachments, err := encodeServerSide(event, args)
	if err != nil {
		return nil, err
	}
	answers, err := n.server.fanout.ServerSideEmitWithAck(ctx, n.name, data, attachments)
	replies := make([]Args, len(answers))
	for i, a := range answers {
		value := json.RawMessage(a.JSON)
		if value == nil {
			value = json.RawMessage("null")
		}
		replies[i] = Args{[]json.RawMessage{value}, a.Attachments}
	}
	return replies, err
}

func encodeServerSide(event string, args []any) ([]byte, [][]byte, error) {
	if slices.Contains(reservedServerSide, event) {
		return nil, nil, fmt.Errorf("server-side emit %q: %w", event, ErrReserved)
	}
	return packet.EncodeArgs(append([]any{event}, args...)...)
}

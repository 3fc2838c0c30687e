package socketio

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"parley/engineio"
	"parley/fanout"
	"parley/metrics"
	"parley/shard"
	"parley/socketio/packet"
)

// checkEvery is how often mailboxes are compared with the store when other processes may append to them.
const checkEvery = 10 * time.Second

// host is what a fan-out between processes sees of the server. It implements fanout.Host.
type host struct {
	server *Server
	missed chan struct{} // something was missed: room for one, which stands for all
}

func (h *host) OffsetMode(namespace string, text []byte, flags engineio.Flags) shard.OffsetMode {
	if n := h.server.existing(namespace); n != nil {
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

func (h *host) Resubscribed() {
	select {
	case h.missed <- struct{}{}:
	default:
	}
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
	handle := n.app.serverSide[name]
	if handle == nil {
		return
	}
	defer func() {
		if v := recover(); v != nil {
			h.server.metrics.Count(metrics.HandlerPanics, "server side")
			h.server.log.Error().Str("ns", namespace).Str("event", name).Str("panic", fmt.Sprint(v)).
				Msg("a handler of server-side events panicked")
		}
	}()
	reply, err := handle(h.server.ctx, Args{values, attachments})
	switch {
	case err != nil:
		h.server.log.Warn().Err(err).Str("ns", namespace).Str("event", name).Msg("a server-side event failed")
	case ack != nil:
		answer, err := encodeAnswer(reply)
		if err != nil {
			h.server.log.Error().Err(err).Str("ns", namespace).Str("event", name).Msg("the answer to a server-side event can't be sent")
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
	if n.app.serverSide == nil {
		n.app.serverSide = make(map[string]func(context.Context, Args) (any, error))
	}
	n.app.serverSide[event] = h
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

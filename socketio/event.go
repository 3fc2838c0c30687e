package socketio

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync/atomic"

	"parley/metrics"
	"parley/shard"
	"parley/socketio/packet"
)

// Args are the arguments of an event or an acknowledgement, not decoded yet.
type Args struct {
	values      []json.RawMessage
	attachments [][]byte
}

func newArgs(data []byte, attachments [][]byte) (Args, error) {
	p := packet.Packet{Data: data}
	values, err := p.Args()
	return Args{values, attachments}, err
}

// Len returns the number of arguments.
func (a Args) Len() int { return len(a.values) }

// Decode stores the i-th argument in v, as json.Unmarshal does; binary attachments become []byte. It fails
// if there is no i-th argument.
func (a Args) Decode(i int, v any) error {
	if i < 0 || i >= len(a.values) {
		return fmt.Errorf("argument %d is missing", i+1)
	}
	return packet.DecodeArg(a.values[i], a.attachments, v)
}

// Raw returns the arguments in a form that can be emitted again unchanged.
func (a Args) Raw() []any {
	raw := make([]any, len(a.values))
	for i, v := range a.values {
		raw[i] = packet.Raw{JSON: v, Attachments: a.attachments}
	}
	return raw
}

// Event is an event that a client sent. Its fields are not to be changed; Ack and WantsAck are safe for
// concurrent use, and may be called after the handler has returned.
type Event struct {
	Name   string
	Args   Args
	Socket *Socket

	id       uint64
	wantsAck atomic.Bool // an acknowledgement was asked for and not given yet
}

// WantsAck tells whether the client waits for an acknowledgement.
func (e *Event) WantsAck() bool { return e.wantsAck.Load() }

// Ack answers the event, if the client asked for that; the first answer counts. One that can't be encoded is
// an error and does not count.
func (e *Event) Ack(args ...any) error {
	if !e.wantsAck.Load() {
		return nil
	}
	m, err := e.Socket.namespace.ackPacket(e.id, args)
	if err != nil {
		return fmt.Errorf("acknowledge %q: %w", e.Name, err)
	}
	if !e.wantsAck.Swap(false) {
		return nil
	}
	return e.Socket.sendMessage(m)
}

// OnEvent sets the handler of an event, for those that take other arguments than one, or answer with other
// than one. If it returns an error and did not Ack, the client gets an error acknowledgement.
func (n *Namespace) OnEvent(event string, h func(context.Context, *Event) error) {
	if packet.Reserved(event) {
		panic(fmt.Sprintf("socketio: %q is a reserved event name", event))
	}
	if n.app.events == nil {
		n.app.events = make(map[string]func(context.Context, *Event) error)
	}
	n.app.events[event] = h
}

// Validator is what an argument type may implement to be checked after it was decoded. The error's text is
// shown to the client.
type Validator interface{ Validate() error }

// On sets the handler of an event that takes one argument. An argument that does not fit T never reaches it:
// the client gets an error acknowledgement, if it asked for one. Otherwise the acknowledgement is empty, sent
// when h has returned.
func On[T any](n *Namespace, event string, h func(context.Context, *Socket, T) error) {
	n.OnEvent(event, func(ctx context.Context, e *Event) error {
		arg, err := decodeArg[T](e.Args)
		if err != nil {
			return err
		}
		if err := h(ctx, e.Socket, arg); err != nil {
			return err
		}
		return e.Ack()
	})
}

// OnAck is On for a handler that answers with a value.
func OnAck[T, R any](n *Namespace, event string, h func(context.Context, *Socket, T) (R, error)) {
	n.OnEvent(event, func(ctx context.Context, e *Event) error {
		arg, err := decodeArg[T](e.Args)
		if err != nil {
			return err
		}
		reply, err := h(ctx, e.Socket, arg)
		if err != nil {
			return err
		}
		return e.Ack(reply)
	})
}

// ArgDecoder is what an argument type may implement to decode itself from the common form of its text. DecodeArg
// reports false for any other, which is then decoded as encoding/json does. raw is valid JSON without attachments, and
// what is kept of it may alias it.
type ArgDecoder interface {
	DecodeArg(raw json.RawMessage) bool
}

// decodeArg decodes the first argument as a T.
func decodeArg[T any](args Args) (T, error) {
	var arg T
	if args.Len() == 0 {
		return arg, badArgument("the event needs an argument")
	}
	if _, isAny := any(&arg).(*any); !isAny && bytes.Equal(args.values[0], []byte("null")) {
		return arg, badArgument("the argument is null")
	}
	if d, ok := any(&arg).(ArgDecoder); !ok || len(args.attachments) > 0 || !d.DecodeArg(args.values[0]) {
		if err := args.Decode(0, &arg); err != nil {
			return arg, badArgument("the argument does not fit: %v", describe(err))
		}
	}
	v, ok := any(&arg).(Validator)
	if !ok {
		v, ok = any(arg).(Validator) // a pointer, whose own pointer has no methods
	}
	if ok {
		if err := v.Validate(); err != nil {
			return arg, badArgument("%v", err)
		}
	}
	return arg, nil
}

// describe words a decoding error for a client, without Go's type names.
func describe(err error) error {
	if e, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		if e.Field == "" {
			return fmt.Errorf("unexpected %s", e.Value)
		}
		return fmt.Errorf("unexpected %s for %s", e.Value, e.Field)
	}
	return err
}

// handle runs an event through catch-all listeners, middleware and its handler. What they return or break is
// contained here.
func (s *Socket) handle(p *packet.Packet) {
	allowed := s.client.allow(1)
	name, values, err := p.Event()
	if err != nil {
		return // an EVENT without payload has no effect (socketio.md section 1)
	}
	e := &Event{Name: name, Args: Args{values, p.Attachments}, Socket: s, id: p.ID}
	e.wantsAck.Store(p.HasID)
	if !allowed {
		s.refuse(e, &Error{Code: CodeRateLimited, Message: "too many events, slow down"})
		return
	}
	if err := s.attempt(e); err != nil {
		s.refuse(e, err)
	}
}

// attempt is run with its panics contained.
func (s *Socket) attempt(e *Event) (err error) {
	err = errPanicked // unless run returns
	defer s.recoverFrom("event", e.Name)
	err = s.run(e)
	return err
}

// errPanicked is what the client of a handler that panicked is answered with; the log has the rest.
var errPanicked = &Error{Code: CodeInternal, Message: "internal error"}

func (s *Socket) run(e *Event) error {
	app, ctx := s.namespace.app, s.client.context()
	for _, f := range app.incoming {
		f(ctx, e)
	}
	for _, f := range app.packets {
		if err := f(ctx, e); err != nil {
			s.client.server.metrics.Count(metrics.EventsRefused, "middleware")
			s.log().Debug().Err(err).Str("event", e.Name).Msg("packet middleware dropped an event")
			return nil
		}
	}
	h := app.events[e.Name]
	if h == nil {
		return nil
	}
	return h(ctx, e)
}

// refuse answers an event with an error.
func (s *Socket) refuse(e *Event, err error) {
	if !s.Connected() && errors.Is(err, ErrDisconnected) || errors.Is(err, shard.ErrStopped) {
		return // nobody is there to be told
	}
	public, expected := publicError(err)
	s.client.server.metrics.Count(metrics.EventsRefused, public.Code)
	if !expected {
		s.log().Error().Err(err).Str("event", e.Name).Msg("handler failed")
	}
	if err := e.Ack(errorReply{errorBody{public.Code, public.Message}}); err != nil {
		s.log().Debug().Err(err).Str("event", e.Name).Msg("error acknowledgement not sent")
	}
}

package socketio_test

import (
	"context"
	"errors"
	"math"
	"testing"

	"parley/metrics"
	"parley/socketio"
	"parley/socketio/packet"
)

// order is an argument that checks itself.
type order struct {
	Item  string `json:"item"`
	Count int    `json:"count"`
}

func (o order) Validate() error {
	if o.Count < 1 {
		return errors.New("count must be 1 or more")
	}
	return nil
}

// upload is an argument with binary in it.
type upload struct {
	Name string        `json:"name"`
	Data packet.Binary `json:"data"`
}

func TestTypedHandlers(t *testing.T) {
	f := start(t, socketio.Options{})
	n := f.Of("/")
	taken := make(chan order, 10)
	socketio.OnAck(n, "order", func(_ context.Context, _ *socketio.Socket, o order) (map[string]int, error) {
		taken <- o
		switch o.Item {
		case "refused":
			return nil, &socketio.Error{Code: "sold_out", Message: "there is none left"}
		case "failed":
			return nil, errors.New("secret detail")
		case "asked another":
			return nil, socketio.ErrDisconnected // who left before they answered
		case "panic":
			panic("oops")
		case "nan":
			return map[string]int{}, nil
		}
		return map[string]int{"total": o.Count * 2}, nil
	})
	socketio.On(n, "note", func(_ context.Context, s *socketio.Socket, text string) error {
		return s.Emit("noted", text)
	})
	socketio.OnAck(n, "any", func(_ context.Context, _ *socketio.Socket, v any) (any, error) { return v, nil })
	socketio.OnAck(n, "unsendable", func(_ context.Context, _ *socketio.Socket, _ any) (any, error) {
		return struct{ V float64 }{math.NaN()}, nil
	})
	socketio.OnAck(n, "upload", func(_ context.Context, _ *socketio.Socket, u upload) (upload, error) {
		u.Name += "!"
		return u, nil
	})
	socketio.On(n, "leave", func(_ context.Context, s *socketio.Socket, _ any) error {
		s.Disconnect(false)
		return nil
	})
	c, _, _ := f.join("/")

	fits := []struct{ send, want string }{
		{`421["order",{"item":"x","count":2}]`, `431[{"total":4}]`},
		{`421["order",{"item":"x","count":2,"more":1},"more"]`, `431[{"total":4}]`},
		{`421["order",{"item":"refused","count":1}]`, `431[{"error":{"code":"sold_out","message":"there is none left"}}]`},
		{`421["order",{"item":"failed","count":1}]`, `431[{"error":{"code":"internal","message":"internal error"}}]`},
		{`421["order",{"item":"asked another","count":1}]`, `431[{"error":{"code":"internal","message":"internal error"}}]`},
		{`421["order",{"item":"panic","count":1}]`, `431[{"error":{"code":"internal","message":"internal error"}}]`},
		{`421["any",null]`, `431[null]`},
		{`421["unsendable",1]`, `431[{"error":{"code":"internal","message":"internal error"}}]`},
	}
	for _, v := range fits {
		c.send(v.send)
		c.want(v.want)
	}
	if len(taken) != 6 {
		t.Fatalf("the handler ran %d times", len(taken))
	}
	f.wantCount(metrics.HandlerPanics, "event", 1)
	f.wantCount(metrics.EventsRefused, "sold_out", 1)

	bad := []struct{ send, message string }{
		{`421["order"]`, "the event needs an argument"},
		{`421["order",null]`, "the argument is null"},
		{`421["order","text"]`, "the argument does not fit: unexpected string"},
		{`421["order",[1]]`, "the argument does not fit: unexpected array"},
		{`421["order",{"item":1}]`, "the argument does not fit: unexpected number for item"},
		{`421["order",{"count":1.5}]`, "the argument does not fit: unexpected number 1.5 for count"},
		{`421["order",{"count":99999999999999999999}]`, "the argument does not fit: unexpected number 99999999999999999999 for count"},
		{`421["order",{"item":"x"}]`, "count must be 1 or more"},
	}
	for _, v := range bad {
		c.send(v.send)
		c.want(`431[{"error":{"code":"bad_argument","message":"` + v.message + `"}}]`)
	}
	c.send(`42["order","no ack asked for"]`)
	c.sync("/")
	if len(taken) != 6 {
		t.Fatal("the handler got an argument that does not fit")
	}
	f.wantCount(metrics.EventsRefused, socketio.CodeBadArgument, float64(len(bad)+1))

	c.send(`429["note","hi"]`)
	c.want(`42["noted","hi"]`, `439[]`)
	c.send(`42["note","quiet"]`)
	c.want(`42["noted","quiet"]`)
	c.sync("/")

	c.send(`451-5["upload",{"name":"f","data":{"_placeholder":true,"num":0}}]`)
	c.sendBinary([]byte{1, 2})
	c.want(`461-5[{"name":"f!","data":{"_placeholder":true,"num":0}}]`)
	c.wantBinary([]byte{1, 2})

	refused := f.metrics.Value(metrics.EventsRefused, socketio.CodeInternal)
	c.send(`423["leave",1]`)
	c.want("41")
	if f.metrics.Value(metrics.EventsRefused, socketio.CodeInternal) != refused {
		t.Fatal("a socket that is gone was refused its acknowledgement")
	}
}

func TestRawEvent(t *testing.T) {
	f := start(t, socketio.Options{})
	later := make(chan *socketio.Event, 1)
	f.Of("/").OnEvent("later", func(_ context.Context, e *socketio.Event) error {
		later <- e
		return nil
	})
	f.Of("/").OnEvent("twice", func(_ context.Context, e *socketio.Event) error {
		if err := e.Ack(func() {}); err == nil || !e.WantsAck() {
			t.Error("what can't be encoded was acknowledged")
		}
		return errors.Join(e.Ack("first"), e.Ack("second"))
	})
	c, _, _ := f.join("/")
	c.send(`4212["later",1]`)
	c.sync("/")
	e := next(t, later, "the event")
	if !e.WantsAck() {
		t.Fatal("no acknowledgement is wanted")
	}
	check(t, e.Ack("done", []byte{1}))
	c.want(`461-12["done",{"_placeholder":true,"num":0}]`)
	c.wantBinary([]byte{1})
	c.send(`4213["twice"]`)
	c.want(`4313["first"]`)
	c.sync("/")
}

func TestListenersPanic(t *testing.T) {
	f := start(t, socketio.Options{})
	n := f.Of("/p")
	n.OnConnection(func(context.Context, *socketio.Socket) { panic("connection") })
	n.OnDisconnecting(func(context.Context, *socketio.Socket, socketio.Reason) { panic("disconnecting") })
	ended := make(chan socketio.Reason, 1)
	n.OnDisconnect(func(_ context.Context, _ *socketio.Socket, r socketio.Reason) { ended <- r })
	n.OnAny(func(_ context.Context, e *socketio.Event) {
		if e.Name == "any" {
			panic("any")
		}
	})
	c := f.dial()
	c.connect("/p")
	f.wantCount(metrics.HandlerPanics, "connection", 1)
	c.send(`42/p,1["any"]`)
	c.want(`43/p,1[{"error":{"code":"internal","message":"internal error"}}]`)
	f.wantCount(metrics.HandlerPanics, "event", 1)
	c.send("41/p,")
	next(t, ended, "the end")
	f.wantCount(metrics.HandlerPanics, "disconnect", 1)
	c.connect("/")
}

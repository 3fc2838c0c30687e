package socketio_test

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"parley/fanout"
	"parley/metrics"
	"parley/shard"
	"parley/socketio"
)

func TestNamespacesOnOneConnection(t *testing.T) {
	f := start(t, socketio.Options{})
	joined := sockets(f.Of("custom"))
	c, sid, _ := f.join("/")
	sid2, _ := c.connect("/custom")
	if s := next(t, joined, "a socket"); s.ID() != sid2 || sid2 == sid || s.Namespace().Name() != "/custom" {
		t.Fatalf("socket %s in %s", s.ID(), s.Namespace().Name())
	}
	c.send(`42["message","a"]`)
	c.want(`42["message-back","a"]`)
	c.send(`42/custom,["message","b"]`)
	c.want(`42/custom,["message-back","b"]`)
	check(t, f.Of("/").Emit("to-root"))
	c.want(`42["to-root"]`)
	c.send("41/custom,")
	f.wantReason(socketio.ReasonClientDisconnect)
	check(t, f.Of("/custom").Emit("to-nobody"))
	c.sync("/")
}

func TestDynamicNamespaces(t *testing.T) {
	f := start(t, socketio.Options{})
	var auths atomic.Value
	parent := f.OfFunc(func(name string, auth json.RawMessage) bool {
		auths.Store(string(auth))
		return strings.HasPrefix(name, "/room-")
	})
	f.serveEcho(parent)
	var passed atomic.Int32
	parent.Use(func(context.Context, *socketio.Socket) error { passed.Add(1); return nil })
	joined := sockets(parent)

	a, _, _ := f.join("/room-1")
	if got := auths.Load(); got != "{}" {
		t.Fatalf("matched with auth %q", got)
	}
	s := next(t, joined, "a socket")
	b, _, _ := f.join("/room-2", `{"k":1}`)
	if got := auths.Load(); got != `{"k":1}` {
		t.Fatalf("matched with auth %q", got)
	}
	if passed.Load() != 2 {
		t.Fatal("the parent's middleware did not run for its children")
	}
	if s.Namespace().Name() != "/room-1" || next(t, joined, "a socket").Namespace().Name() != "/room-2" {
		t.Fatalf("namespace %q", s.Namespace().Name())
	}
	a.send(`42/room-1,["message",1]`)
	a.want(`42/room-1,["message-back",1]`)

	check(t, parent.Emit("all", 1))
	a.want(`42/room-1,["all",1]`)
	b.want(`42/room-2,["all",1]`)
	check(t, s.Namespace().Emit("one"))
	a.want(`42/room-1,["one"]`)
	b.sync("/room-2")
	if _, err := parent.FetchSockets(long(t)); err == nil {
		t.Fatal("a parent fetched sockets")
	}
	if _, err := parent.EmitWithAck(long(t), "x"); err == nil {
		t.Fatal("a parent asked")
	}

	c := f.dial()
	c.send("40/elsewhere,")
	c.want(`44/elsewhere,{"message":"Invalid namespace"}`)

	// A namespace whose last socket left is gone, and comes back anew.
	old := f.Of("/room-1")
	a.send("41/room-1,")
	f.wantReason(socketio.ReasonClientDisconnect)
	a.connect("/room-1")
	if again := next(t, joined, "a socket").Namespace(); again == old {
		t.Fatal("the empty namespace was kept")
	}
	a.sync("/room-1")
}

func TestRefusedDynamicNamespaceIsRemoved(t *testing.T) {
	f := start(t, socketio.Options{})
	parent := f.OfFunc(func(string, json.RawMessage) bool { return true })
	var held atomic.Pointer[socketio.Namespace]
	parent.Use(func(_ context.Context, s *socketio.Socket) error {
		if !held.CompareAndSwap(nil, s.Namespace()) && held.Load() == s.Namespace() {
			t.Error("the namespace of a refused client was kept")
		}
		return errors.New("no")
	})
	c := f.dial()
	c.send("40/x,")
	c.want(`44/x,{"message":"internal error"}`)
	c.send("40/x,")
	c.want(`44/x,{"message":"internal error"}`)
}

func TestConnectMiddleware(t *testing.T) {
	f := start(t, socketio.Options{})
	var order []string // by the connection's goroutine
	step := func(name string, err error) func(context.Context, *socketio.Socket) error {
		return func(context.Context, *socketio.Socket) error {
			order = append(order, name)
			return err
		}
	}
	n := f.Of("/mw")
	n.Use(step("first", nil))
	n.Use(func(_ context.Context, s *socketio.Socket) error {
		var auth struct{ Mode string }
		if err := json.Unmarshal(s.Handshake().Auth, &auth); err != nil {
			return err
		}
		if s.Connected() || s.Join("x") == nil {
			t.Error("the socket counts as joined already")
		}
		if _, err := s.EmitWithAck(long(t), "x"); err == nil {
			t.Error("a socket that has not joined was asked")
		}
		switch auth.Mode {
		case "refuse":
			return &socketio.Error{Message: "no <b>"}
		case "fail":
			return errors.New("secret detail")
		case "data":
			return &socketio.Error{Message: "no", Data: func() {}}
		case "panic":
			panic("oops")
		}
		s.SetUser("user-" + auth.Mode)
		return s.SetData(map[string]string{"mode": auth.Mode})
	})
	n.Use(step("last", nil))
	joined := sockets(n)

	c := f.dial()
	for mode, message := range map[string]string{
		"refuse": `{"message":"no \u003cb\u003e"}`, "fail": `{"message":"internal error"}`,
		"data": `{"message":"internal error"}`, "panic": `{"message":"internal error"}`,
	} {
		c.send(`40/mw,{"mode":"` + mode + `"}`)
		c.want("44/mw," + message)
	}
	f.wantCount(metrics.HandlerPanics, "connection", 1)
	f.wantCount(metrics.ConnectsRefused, "middleware", 4)
	c.connect("/mw", `{"mode":"a"}`)
	s := next(t, joined, "a socket")
	var data struct{ Mode string }
	if err := s.Data(&data); err != nil || data.Mode != "a" || s.User() != "user-a" {
		t.Fatalf("data %v, user %q, %v", data, s.User(), err)
	}
	s.SetUser("other")
	if s.User() != "user-a" {
		t.Fatal("the user changed after the connect")
	}
	if want := []string{"first", "first", "first", "first", "first", "last"}; !slices.Equal(order, want) {
		t.Fatalf("middleware ran as %v", order)
	}
}

func TestClientLeavesDuringMiddleware(t *testing.T) {
	f := start(t, socketio.Options{})
	n := f.Of("/slow")
	entered, proceed := make(chan struct{}), make(chan struct{})
	n.Use(func(context.Context, *socketio.Socket) error {
		close(entered)
		<-proceed
		return nil
	})
	n.OnConnection(func(context.Context, *socketio.Socket) { t.Error("the connection listener ran") })
	n.OnDisconnect(func(context.Context, *socketio.Socket, socketio.Reason) { t.Error("the disconnect listener ran") })
	c := f.dial()
	c.send("40/slow,")
	<-entered
	// The connection's goroutine is busy: its end is noticed by the server's own close.
	c.drop()
	go f.shutdown()
	eventually(t, "the connection is closed", func() bool { return f.Len() == 0 })
	close(proceed)
	f.shutdown()
}

func TestPacketMiddlewareAndCatchAll(t *testing.T) {
	f := start(t, socketio.Options{})
	n := f.Of("/")
	var in, out []string // by the connection's goroutine, in this test
	n.OnAny(func(_ context.Context, e *socketio.Event) { in = append(in, e.Name) })
	n.OnAnyOutgoing(func(event string, args []any) { out = append(out, event) })
	n.UsePacket(func(_ context.Context, e *socketio.Event) error {
		if e.Name == "forbidden" {
			return errors.New("no")
		}
		return nil
	})
	n.OnEvent("forbidden", func(context.Context, *socketio.Event) error {
		t.Error("a dropped event reached its handler")
		return nil
	})
	c, _, _ := f.join("/")
	c.send(`421["forbidden"]`, `42["unknown",1]`, `422[5,"number"]`, `42`, `4212`, `42["message","x"]`)
	c.want(`42["message-back","x"]`)
	c.sync("/")
	if want := []string{"forbidden", "unknown", "5", "message", "sync"}; !slices.Equal(in, want) {
		t.Fatalf("incoming %v, want %v", in, want)
	}
	if want := []string{"message-back"}; !slices.Equal(out, want) {
		t.Fatalf("outgoing %v, want %v", out, want)
	}
	f.wantCount(metrics.EventsRefused, "middleware", 1)
	check(t, n.Emit("broadcast"))
	if out[len(out)-1] != "broadcast" {
		t.Fatal("a broadcast was not heard")
	}
	wantError(t, n.Emit("disconnect"), socketio.ErrReserved)
	if err := n.Emit("x", make([]any, 0), func() {}); err == nil {
		t.Fatal("a function was emitted")
	}
	if len(out) != 2 {
		t.Fatalf("outgoing heard what was not sent: %v", out)
	}
}

func TestReservedHandlerPanics(t *testing.T) {
	f := start(t, socketio.Options{})
	defer func() {
		if recover() == nil {
			t.Fatal("a handler for a reserved event was taken")
		}
	}()
	f.Of("/").OnEvent("disconnect", func(context.Context, *socketio.Event) error { return nil })
}

func TestHandshake(t *testing.T) {
	f := start(t, socketio.Options{})
	n := f.Of("/")
	joined := sockets(n)
	c := f.dial("&token=a%20b")
	sid, _ := c.connect("/", `{"k":"v"}`)
	s := next(t, joined, "a socket")
	h := s.Handshake()
	if string(h.Auth) != `{"k":"v"}` || h.Query().Get("token") != "a b" || h.Address != "127.0.0.1" || h.Secure || h.XDomain {
		t.Fatalf("handshake %+v", h)
	}
	check(t, s.SetData(map[string]int{"n": 1}))
	check(t, s.Join("r"))
	found, err := n.FetchSockets(long(t))
	if err != nil || len(found) != 1 {
		t.Fatalf("found %v, %v", found, err)
	}
	var got struct {
		Headers map[string]string
		Time    string
		Address string
		XDomain *bool
		Secure  *bool
		Issued  int64
		URL     string
		Query   map[string]string
		Auth    map[string]string
	}
	if err := json.Unmarshal(found[0].Handshake, &got); err != nil {
		t.Fatal(err)
	}
	if got.Headers["upgrade"] != "websocket" || got.Time == "" || got.Address != "127.0.0.1" || got.XDomain == nil ||
		got.Secure == nil || got.Issued == 0 || got.URL != h.URL || got.Query["EIO"] != "4" || got.Query["token"] != "a b" ||
		got.Query["transport"] != "websocket" || got.Auth["k"] != "v" {
		t.Fatalf("handshake %s", found[0].Handshake)
	}
	if r := found[0]; r.ID != sid || !slices.Equal(r.Rooms, []string{sid, "r"}) || string(r.Data) != `{"n":1}` {
		t.Fatalf("found %+v", r)
	}
	check(t, found[0].Emit("direct", 1))
	c.want(`42["direct",1]`)
}

// TestSpokenToWhileStarting has another process emit while this one still registers its application; for the race detector.
func TestSpokenToWhileStarting(t *testing.T) {
	var host fanout.Host
	f := start(t, socketio.Options{Fanout: func(_ *shard.Pool, local *fanout.Local, h fanout.Host) (fanout.Fanout, error) {
		host = h
		return local, nil
	}})
	text := []byte(`2["news","text"]`)
	done := make(chan struct{})
	go func() {
		defer close(done)
		host.OffsetMode("/", text, 0)
	}()
	f.Of("/").UseRecovery(socketio.Recovery{})
	<-done
	if mode := host.OffsetMode("/", text, 0); mode != shard.LogOffset {
		t.Errorf("mode %v", mode)
	}
}

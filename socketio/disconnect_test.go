package socketio_test

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"parley/engineio"
	"parley/metrics"
	"parley/socketio"
)

// TestDisconnectReasons provokes the rows of section 5 and of section 9 of the Engine.IO contract.
func TestDisconnectReasons(t *testing.T) {
	for _, v := range []struct {
		reason  socketio.Reason
		options socketio.Options
		cause   func(f *fixture, c *client, s *socketio.Socket)
		wire    []string // what the client still gets
		open    bool     // the connection stays open
	}{
		{reason: "client namespace disconnect", open: true,
			cause: func(_ *fixture, c *client, _ *socketio.Socket) { c.send("41") }},
		{reason: "server namespace disconnect", open: true, wire: []string{"41"},
			cause: func(_ *fixture, _ *client, s *socketio.Socket) { s.Disconnect(false) }},
		{reason: "server namespace disconnect", wire: []string{"41"},
			cause: func(_ *fixture, _ *client, s *socketio.Socket) { s.Disconnect(true) }},
		{reason: "server shutting down",
			cause: func(f *fixture, _ *client, _ *socketio.Socket) { f.shutdown() }},
		{reason: "transport close",
			cause: func(_ *fixture, c *client, _ *socketio.Socket) { c.drop() }},
		{reason: "transport close",
			cause: func(_ *fixture, c *client, _ *socketio.Socket) { c.send("1") }},
		{reason: "transport error",
			cause: func(_ *fixture, c *client, _ *socketio.Socket) { c.send("2") }},
		{reason: "transport error", options: socketio.Options{Engine: engineio.Options{MaxPayload: 100}},
			cause: func(_ *fixture, c *client, _ *socketio.Socket) { c.send(strings.Repeat("4", 101)) }},
		{reason: "parse error",
			cause: func(_ *fixture, c *client, _ *socketio.Socket) { c.send("x") }},
		{reason: "forced close",
			cause: func(_ *fixture, c *client, _ *socketio.Socket) { c.send("4x") }},
		{reason: "forced close",
			cause: func(_ *fixture, _ *client, s *socketio.Socket) { s.Reconnect() }},
		{reason: "ping timeout", wire: []string{"2"},
			options: socketio.Options{Engine: engineio.Options{PingInterval: 30 * time.Millisecond, PingTimeout: 30 * time.Millisecond}},
			cause:   func(*fixture, *client, *socketio.Socket) {}},
	} {
		t.Run(string(v.reason), func(t *testing.T) {
			f := start(t, v.options)
			n := f.Of("/")
			var order []string // by the goroutine that ends the socket
			n.OnDisconnecting(func(_ context.Context, s *socketio.Socket, r socketio.Reason) {
				order = append(order, "disconnecting "+string(r)+" "+strings.Join(s.Rooms(), ","))
			})
			ended := make(chan struct{})
			n.OnDisconnect(func(_ context.Context, s *socketio.Socket, r socketio.Reason) {
				order = append(order, "disconnect "+string(r)+" "+strings.Join(s.Rooms(), ","))
				if s.Connected() {
					t.Error("counts as connected")
				}
				close(ended)
			})
			joined := sockets(n)
			c, sid, _ := f.join("/")
			s := next(t, joined, "a socket")
			check(t, s.Join("r"))
			v.cause(f, c, s)
			f.wantReason(v.reason)
			<-ended
			want := []string{"disconnecting " + string(v.reason) + " " + sid + ",r", "disconnect " + string(v.reason) + " "}
			if !slices.Equal(order, want) {
				t.Fatalf("listeners ran as %q, want %q", order, want)
			}
			c.want(v.wire...)
			if v.open {
				c.connect("/")
				return
			}
			c.wantClosed()
			select {
			case r := <-f.reasons:
				t.Fatalf("disconnected again, with %q", r)
			default:
			}
		})
	}
}

func TestShutdownReachesAllNamespaces(t *testing.T) {
	f := start(t, socketio.Options{})
	c, _, _ := f.join("/")
	c.connect("/custom")
	p := f.poll()
	p.post("40")
	parseConnect(t, "/", p.packet())
	f.shutdown()
	c.wantClosed() // without 41
	for range 3 {
		f.wantReason("server shutting down")
	}
}

func TestShutdownLeavesStuckHandlers(t *testing.T) {
	f := start(t, socketio.Options{})
	entered, proceed := make(chan struct{}), make(chan struct{})
	canceled := make(chan struct{})
	f.Of("/").OnEvent("stuck", func(ctx context.Context, _ *socketio.Event) error {
		close(entered)
		<-ctx.Done()
		close(canceled)
		<-proceed
		return nil
	})
	joined := sockets(f.Of("/"))
	c, _, _ := f.join("/")
	s := next(t, joined, "a socket")
	c.send(`42["stuck"]`)
	<-entered
	s.Disconnect(true) // waits for the handler
	f.stop.Do(func() {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		if f.Shutdown(ctx) == nil {
			t.Error("Shutdown did not tell of the handler that it left")
		}
		f.http.Close()
	})
	<-canceled
	close(proceed)
	next(t, f.reasons, "the end") // for one reason or the other
	s.Disconnect(true)            // does no harm
}

func TestConnectTimeout(t *testing.T) {
	f := start(t, socketio.Options{ConnectTimeout: 50 * time.Millisecond})
	f.Of("/no").Use(func(context.Context, *socketio.Socket) error { return &socketio.Error{Message: "no"} })
	silent, refused := f.dial(), f.dial()
	refused.send("40/no,")
	refused.want(`44/no,{"message":"no"}`)
	silent.wantClosed()
	refused.wantClosed()
	f.wantCount(metrics.PacketsRejected, "no namespace joined in time", 2)

	// Cleared by the first join, and not armed again.
	c, _, _ := f.join("/")
	c.send("41")
	f.wantReason(socketio.ReasonClientDisconnect)
	f.dial().wantClosed() // so much time has passed
	c.connect("/")
}

func TestDisconnectFromHandler(t *testing.T) {
	f := start(t, socketio.Options{})
	f.Of("/").OnEvent("bye", func(_ context.Context, e *socketio.Event) error {
		check(t, e.Socket.Emit("last"))
		e.Socket.Disconnect(false)
		e.Socket.Disconnect(false)
		wantError(t, e.Socket.Emit("too late"), socketio.ErrDisconnected)
		return nil
	})
	c, _, _ := f.join("/")
	c.send(`42["bye"]`, `42["message","not handled"]`)
	c.want(`42["last"]`, "41")
	f.wantReason(socketio.ReasonServerDisconnect)
	c.connect("/")
	c.sync("/")
}

// TestDisconnectCrossesLeaving has the client leave and come back while the server's Disconnect waits its turn.
func TestDisconnectCrossesLeaving(t *testing.T) {
	f := start(t, socketio.Options{})
	entered, proceed := make(chan *socketio.Socket), make(chan struct{})
	f.Of("/").OnEvent("hold", func(_ context.Context, e *socketio.Event) error {
		entered <- e.Socket
		<-proceed
		return nil
	})
	for range 20 {
		c, sid, _ := f.join("/")
		c.send(`42["hold"]`, "41", "40")
		(<-entered).Disconnect(false)
		proceed <- struct{}{}
		text := c.text()
		if text == "41" {
			text = c.text()
		}
		if again, _ := parseConnect(t, "/", text); again == sid {
			t.Fatal("the old socket came back")
		}
		c.sync("/") // nothing ends the new socket
		next(t, f.reasons, "a disconnect")
		c.drop()
	}
}

// TestSlowClient has one client stop reading. It is disconnected, and nobody else is kept waiting.
func TestSlowClient(t *testing.T) {
	f := start(t, socketio.Options{Engine: engineio.Options{OutboundBytes: 1 << 20, MaxPayload: 1 << 20}})
	m := members(f, "/", 2)
	close(m[0].pause)
	text := strings.Repeat("x", 32<<10)
	for emitted := 0; m[0].s.Connected(); emitted++ {
		if emitted > 10_000 {
			t.Fatal("the client that does not read is still connected")
		}
		check(t, f.Of("/").Emit("flood", text))
		m[1].want(`42["flood","` + text + `"]`)
	}
	f.wantReason("slow client")
	m[1].sync("/")
}

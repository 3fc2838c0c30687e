package client_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"parley/engineio"
	"parley/internal/client"
	"parley/socketio"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 10 * time.Second

// fixture is a server that echoes.
type fixture struct {
	*socketio.Server
	url     string
	sockets chan *socketio.Socket // those that joined
	closed  chan socketio.Reason  // why they left
}

func newFixture(t *testing.T, engine engineio.Options) *fixture {
	engine.CloseGrace = 100 * time.Millisecond // for polling clients that were cut
	server, err := socketio.NewServer(socketio.Options{Engine: engine})
	if err != nil {
		t.Fatal(err)
	}
	f := &fixture{server, "", make(chan *socketio.Socket, 1024), make(chan socketio.Reason, 1024)}
	for _, name := range []string{"/", "/other"} {
		n := server.Of(name)
		n.UseRecovery(socketio.Recovery{})
		n.Use(func(_ context.Context, s *socketio.Socket) error {
			var auth struct{ Refuse bool }
			if json.Unmarshal(s.Handshake().Auth, &auth) == nil && auth.Refuse {
				return &socketio.Error{Message: "not you", Data: map[string]int{"n": 7}}
			}
			return nil
		})
		n.OnConnection(func(_ context.Context, s *socketio.Socket) {
			if err := s.Emit("welcome", s.Handshake().Auth); err != nil {
				t.Errorf("emit: %v", err)
			}
			f.sockets <- s
		})
		n.OnDisconnect(func(_ context.Context, _ *socketio.Socket, r socketio.Reason) { f.closed <- r })
		n.OnEvent("echo", func(_ context.Context, e *socketio.Event) error {
			if e.WantsAck() {
				return e.Ack(e.Args.Raw()...)
			}
			return e.Socket.Emit("echo", e.Args.Raw()...)
		})
		n.OnEvent("never", func(context.Context, *socketio.Event) error { return nil })
	}
	http := httptest.NewServer(server)
	f.url = http.URL
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := server.Shutdown(ctx); err != nil {
			t.Errorf("shutdown: %v", err)
		}
		http.Close()
	})
	return f
}

// peer is a client whose events can be waited for.
type peer struct {
	*client.Client
	t      *testing.T
	events chan client.Event
}

func (f *fixture) connect(t *testing.T, o client.Options) *peer {
	t.Helper()
	p := &peer{t: t, events: make(chan client.Event, 1024)}
	o.URL = f.url
	o.OnEvent = func(_ *client.Client, e client.Event) { p.events <- e }
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var err error
	if p.Client, err = client.Connect(ctx, o); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Cut)
	return p
}

// next returns the next event, which has to be of that name.
func (p *peer) next(name string) client.Event {
	p.t.Helper()
	e := await(p.t, p.events)
	if e.Name != name {
		p.t.Fatalf("got event %q, want %q", e.Name, name)
	}
	return e
}

func await[T any](t *testing.T, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(patience):
		t.Fatal("waited in vain")
		panic("unreachable")
	}
}

func transports(t *testing.T, test func(*testing.T, client.Transport)) {
	for _, transport := range []client.Transport{client.WebSocket, client.Polling, client.Upgrade} {
		t.Run(string(transport), func(t *testing.T) { test(t, transport) })
	}
}

func TestEventsAndAcks(t *testing.T) {
	f := newFixture(t, engineio.Options{})
	transports(t, func(t *testing.T, transport client.Transport) {
		p := f.connect(t, client.Options{Transport: transport, Namespace: "/other", Auth: map[string]any{"k": "v"}})
		var auth map[string]string
		if err := p.next("welcome").Decode(0, &auth); err != nil || auth["k"] != "v" {
			t.Errorf("auth arrived as %v, %v", auth, err)
		}
		const count = 200
		for i := range count {
			if err := p.Emit("echo", i, []byte{byte(i)}, "text <&> \u2028"); err != nil {
				t.Fatal(err)
			}
		}
		for i := range count {
			e := p.next("echo")
			var n int
			var b []byte
			var s string
			if err := errors.Join(e.Decode(0, &n), e.Decode(1, &b), e.Decode(2, &s)); err != nil {
				t.Fatal(err)
			}
			if n != i || len(b) != 1 || b[0] != byte(i) || s != "text <&> \u2028" {
				t.Fatalf("event %d came as %d, %v, %q", i, n, b, s)
			}
		}
		answer, err := p.EmitWithAck(t.Context(), "echo", "a", []byte("b"))
		var text string
		var bytes []byte
		if err = errors.Join(err, answer.Decode(0, &text), answer.Decode(1, &bytes)); err != nil || text != "a" || string(bytes) != "b" {
			t.Errorf("acknowledgement is %q, %q, %v", text, bytes, err)
		}
		if err := answer.Decode(2, &text); err == nil {
			t.Error("decoded an argument that is not there")
		}
	})
}

func TestAnswersTheServer(t *testing.T) {
	f := newFixture(t, engineio.Options{})
	p := f.connect(t, client.Options{})
	p.next("welcome")
	answers := make(chan socketio.Args, 1)
	socket := await(t, f.sockets)
	go func() {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		if answer, err := socket.EmitWithAck(ctx, "question", 1); err != nil {
			t.Errorf("emit: %v", err)
		} else {
			answers <- answer
		}
	}()
	e := p.next("question")
	if !e.WantsAck() {
		t.Fatal("the event does not ask for an answer")
	}
	if err := p.Ack(e, "answer"); err != nil {
		t.Fatal(err)
	}
	var text string
	if err := await(t, answers).Decode(0, &text); err != nil || text != "answer" {
		t.Errorf("the answer arrived as %q, %v", text, err)
	}
}

func TestRefusal(t *testing.T) {
	f := newFixture(t, engineio.Options{})
	transports(t, func(t *testing.T, transport client.Transport) {
		o := client.Options{URL: f.url, Transport: transport, Auth: map[string]bool{"refuse": true}}
		_, err := client.Connect(t.Context(), o)
		var refusal *client.ConnectError
		if !errors.As(err, &refusal) || refusal.Message != "not you" || string(refusal.Data) != `{"n":7}` {
			t.Errorf("refused with %v", err)
		}
		o.Namespace = "/none"
		if _, err = client.Connect(t.Context(), o); !errors.As(err, &refusal) || refusal.Message != "Invalid namespace" {
			t.Errorf("refused with %v", err)
		}
	})
	for _, o := range []client.Options{
		{URL: "http://127.0.0.1:1"}, {URL: f.url + "/elsewhere"}, {URL: f.url, Transport: "pigeon"}, {URL: f.url, Auth: 7}, {URL: ":"},
	} {
		if c, err := client.Connect(t.Context(), o); err == nil {
			t.Errorf("%+v connected", o)
			c.Cut()
		}
	}
}

func TestRecovery(t *testing.T) {
	f := newFixture(t, engineio.Options{})
	transports(t, func(t *testing.T, transport client.Transport) {
		p := f.connect(t, client.Options{Transport: transport})
		p.next("welcome")
		await(t, f.sockets)
		sent, sid := 0, p.SID()
		if p.Recovered() {
			t.Error("recovered out of nothing")
		}
		for round := range 5 {
			if round%2 == 0 {
				p.Cut()
			} else {
				p.Leave()
			}
			await(t, p.Done())
			if !errors.Is(p.Err(), client.ErrClosed) {
				t.Errorf("ended with %v", p.Err())
			}
			for range 3 {
				if err := f.Of("/").Emit("n", sent); err != nil {
					t.Fatal(err)
				}
				sent++
			}
			p = f.connect(t, client.Options{Transport: transport, State: p.State()})
			if !p.Recovered() || p.SID() != sid {
				t.Fatalf("round %d: recovered is %v, sid %s, was %s", round, p.Recovered(), p.SID(), sid)
			}
			for i := sent - 3; i < sent; i++ {
				var n int
				if err := p.next("n").Decode(0, &n); err != nil || n != i {
					t.Fatalf("round %d: got %d, %v, want %d", round, n, err, i)
				}
			}
			p.next("welcome")
			await(t, f.sockets)
		}
		p.Close()
		for await(t, f.closed) != socketio.ReasonClientDisconnect {
			continue // those that were cut before
		}
		p = f.connect(t, client.Options{Transport: transport, State: p.State()})
		if p.Recovered() || p.SID() == sid {
			t.Error("a connection that was closed on purpose came back")
		}
		await(t, f.sockets)
	})
}

func TestEnds(t *testing.T) {
	f := newFixture(t, engineio.Options{PingInterval: 50 * time.Millisecond, PingTimeout: patience})
	transports(t, func(t *testing.T, transport client.Transport) {
		p := f.connect(t, client.Options{Transport: transport})
		p.next("welcome")
		await(t, f.sockets)
		unanswered := make(chan error, 1)
		go func() {
			_, err := p.EmitWithAck(context.Background(), "never")
			unanswered <- err
		}()
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond) // a few heartbeats
		defer cancel()
		if _, err := p.EmitWithAck(ctx, "never"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("waiting for an answer ended with %v", err)
		}
		p.Close()
		if err := await(t, unanswered); !errors.Is(err, client.ErrDisconnected) {
			t.Errorf("waiting for an answer ended with %v", err)
		}
		if reason := await(t, f.closed); reason != socketio.ReasonClientDisconnect {
			t.Errorf("the server saw %q", reason)
		}
		if err := p.Emit("echo"); err == nil {
			t.Error("emitted into a closed connection")
		}

		if transport == client.Upgrade {
			return // a DISCONNECT in the middle of the change of transports may be lost
		}
		p = f.connect(t, client.Options{Transport: transport})
		await(t, f.sockets).Disconnect(true)
		await(t, p.Done())
		if !errors.Is(p.Err(), client.ErrServerDisconnect) {
			t.Errorf("ended with %v", p.Err())
		}
		await(t, f.closed)
	})
}

func TestSilentServer(t *testing.T) {
	f := newFixture(t, engineio.Options{PingInterval: time.Hour, PingTimeout: 50 * time.Millisecond})
	silent := httptest.NewServer(nil)
	defer silent.Close()
	p := f.connect(t, client.Options{})
	p.Cut()
	await(t, p.Done())
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := client.Connect(ctx, client.Options{URL: "http://192.0.2.1:9"}); err == nil {
		t.Error("connected to nobody")
	}
	if _, err := client.Connect(t.Context(), client.Options{URL: silent.URL, Transport: client.Polling}); err == nil || !strings.Contains(err.Error(), "404") {
		t.Errorf("a server of something else: %v", err)
	}
}

func ExampleConnect() {
	server, err := socketio.NewServer(socketio.Options{})
	if err != nil {
		panic(err)
	}
	socketio.OnAck(server.Of("/"), "double", func(_ context.Context, _ *socketio.Socket, n int) (int, error) { return 2 * n, nil })
	http := httptest.NewServer(server)
	defer http.Close()

	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c, err := client.Connect(ctx, client.Options{URL: http.URL})
	if err != nil {
		panic(err)
	}
	var n int
	answer, err := c.EmitWithAck(ctx, "double", 21)
	fmt.Println(err, answer.Decode(0, &n), n)
	c.Close()
	_ = server.Shutdown(ctx)
	// Output: <nil> <nil> 42
}

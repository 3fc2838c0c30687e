package socketio_test

import (
	"context"
	"encoding/json"
	"testing"
	"time"

	"parley/socketio"
	"parley/store"
)

// never is longer than any test.
const never = time.Hour

// A client is not told that it is connected before the listeners have put it where others look for it.
func TestWelcomeWaitsForListeners(t *testing.T) {
	f := start(t, socketio.Options{})
	f.HoldWelcomes(never)
	n := f.Of("/")
	entered, proceed := make(chan *socketio.Socket), make(chan struct{})
	n.OnConnection(func(_ context.Context, s *socketio.Socket) {
		entered <- s
		<-proceed
		check(t, s.Join("room"))
	})
	c := f.dial()
	c.send("40")
	next(t, entered, "the listener")
	check(t, n.Emit("all", 1)) // it is in the namespace already
	select {
	case fr := <-c.frames:
		t.Fatalf("got %+v before the listener has returned", fr)
	case <-time.After(20 * time.Millisecond):
	}
	close(proceed)
	c.connected("/")
	check(t, n.To("room").Emit("hello", 1))
	c.want(`42["all",1]`, `42["hello",1]`)
}

// A listener that hangs does not keep its client waiting for the reply, nor for what it emitted and others emit.
func TestWelcomeOfAHangingListener(t *testing.T) {
	f := start(t, socketio.Options{})
	n := f.Of("/")
	var since time.Time
	proceed := make(chan struct{})
	defer close(proceed)
	entered := make(chan *socketio.Socket, 1)
	n.Use(func(context.Context, *socketio.Socket) error { since = time.Now(); return nil })
	n.OnConnection(func(_ context.Context, s *socketio.Socket) {
		check(t, s.Emit("first"))
		entered <- s
		<-proceed
	})
	c := f.dial()
	c.send("40")
	c.connected("/")
	s := next(t, entered, "the listener")
	if held := time.Since(since); held < 20*time.Millisecond {
		t.Errorf("the reply came %v after the middleware", held)
	}
	c.want(`42["first"]`)
	check(t, s.Emit("second"))
	check(t, n.Emit("third"))
	c.want(`42["second"]`, `42["third"]`)
}

// A polling client has its whole welcome from one GET.
func TestWelcomeInOnePoll(t *testing.T) {
	f := start(t, socketio.Options{})
	f.HoldWelcomes(never)
	n := f.Of("/")
	n.OnConnection(func(_ context.Context, s *socketio.Socket) {
		check(t, s.Join("room"))
		check(t, s.Emit("one"))
		check(t, n.To("room").Emit("two"))
	})
	p := f.poll()
	p.post("40")
	parseConnect(t, "/", p.packet())
	if len(p.wait) != 2 {
		t.Errorf("with the reply came %q", p.wait)
	}
	p.want(`42["one"]`, `42["two"]`)
}

// What is volatile is not dropped because the welcome is held.
func TestVolatileInAWelcome(t *testing.T) {
	f := start(t, socketio.Options{})
	f.HoldWelcomes(never)
	proceed := make(chan struct{})
	defer close(proceed)
	f.Of("/").OnConnection(func(_ context.Context, s *socketio.Socket) {
		check(t, s.Volatile().Emit("now"))
		<-proceed
	})
	c := f.dial()
	c.send("40")
	c.connected("/")
	c.want(`42["now"]`)
}

// A listener may disconnect its client, close its connection or panic; the client hears of it all in order.
func TestWelcomeThatEnds(t *testing.T) {
	for what, test := range map[string]struct {
		end    func(*socketio.Socket)
		reason socketio.Reason
		check  func(*client)
	}{
		"disconnect": {
			func(s *socketio.Socket) { s.Disconnect(false) }, socketio.ReasonServerDisconnect,
			func(c *client) { c.want("41") },
		},
		"close": {
			func(s *socketio.Socket) { s.Disconnect(true) }, socketio.ReasonServerDisconnect,
			func(c *client) { c.want("41"); c.wantClosed() },
		},
		"reconnect": {func(s *socketio.Socket) { s.Reconnect() }, "forced close", (*client).wantClosed},
		"panic": {
			func(*socketio.Socket) { panic("in a test") }, "",
			func(c *client) { c.sync("/") },
		},
	} {
		t.Run(what, func(t *testing.T) {
			f := start(t, socketio.Options{})
			f.HoldWelcomes(never)
			f.Of("/").OnConnection(func(_ context.Context, s *socketio.Socket) {
				check(t, s.Emit("hello"))
				test.end(s)
			})
			c := f.dial()
			c.send("40")
			c.connected("/")
			c.want(`42["hello"]`)
			test.check(c)
			if test.reason != "" {
				f.wantReason(test.reason)
			}
		})
	}
}

// What middleware emits goes out at once, ahead of the reply.
func TestMiddlewareIsNotHeld(t *testing.T) {
	f := start(t, socketio.Options{})
	f.HoldWelcomes(never)
	proceed := make(chan struct{})
	f.Of("/").Use(func(_ context.Context, s *socketio.Socket) error {
		check(t, s.Emit("wait"))
		<-proceed
		return nil
	})
	c := f.dial()
	c.send("40")
	c.want(`42["wait"]`)
	close(proceed)
	c.connected("/")
}

func TestKeptDataIsJSON(t *testing.T) {
	for _, user := range []string{"", "ann", "a\"\\\n<é\u2028"} {
		for _, data := range []json.RawMessage{nil, json.RawMessage(`{"a":[1,"x"]}`)} {
			for _, start := range []store.Offset{{}, {Epoch: 1<<64 - 1, Seq: 7}} {
				for _, snapshot := range []bool{false, true} {
					fast, slow := socketio.EncodeKept(user, data, start, snapshot)
					var a, b any
					if err := json.Unmarshal([]byte(fast), &a); err != nil {
						t.Fatalf("%s: %v", fast, err)
					}
					check(t, json.Unmarshal([]byte(slow), &b))
					if again, _ := json.Marshal(a); string(again) != string(must(json.Marshal(b))) {
						t.Errorf("got %s, want %s", fast, slow)
					}
				}
			}
		}
	}
}

func must(text []byte, err error) []byte {
	if err != nil {
		panic(err)
	}
	return text
}

func TestClaimed(t *testing.T) {
	for auth, want := range map[string]struct {
		pid, offset string
		usable      bool
	}{
		`{}`:                            {"", "", true},
		`{"token":"x"}`:                 {"", "", true},
		`{"pid":"p"}`:                   {"p", "", true},
		`{"pid":"p","offset":"1-2"}`:    {"p", "1-2", true},
		`{"offset":"1-2", "pid" : "p"}`: {"p", "1-2", true},
		`{"pid":"p","offset":null}`:     {"p", "", true},
		`{"pid":"p","offset":""}`:       {"p", "", false},
		`{"pid":"p","offset":7}`:        {"p", "", false},
		`{"pid":"p","offset":["1-2"]}`:  {"p", "", false},
		`{"pid":7,"offset":"1-2"}`:      {"", "1-2", true},
		`{"pid":{"pid":"q"}}`:           {"", "", true},
	} {
		pid, offset, usable := socketio.Claimed(json.RawMessage(auth))
		if pid != want.pid || offset != want.offset || usable != want.usable {
			t.Errorf("%s: %q, %q, %v", auth, pid, offset, usable)
		}
	}
}

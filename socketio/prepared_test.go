package socketio_test

import (
	"slices"
	"sync"
	"testing"

	"parley/socketio"
)

// An event that is prepared reaches whom it is emitted to, as often as it is, as any other would.
func TestPrepared(t *testing.T) {
	f := start(t, socketio.Options{})
	n := f.Of("/prepared")
	joined := sockets(n)
	var mu sync.Mutex
	var sent []string
	n.OnAnyOutgoing(func(event string, args []any) {
		mu.Lock()
		defer mu.Unlock()
		sent = append(sent, event)
	})
	one, err := n.Prepare("one", 1, []byte{2})
	check(t, err)
	two, err := n.Prepare("two", "<text>")
	check(t, err)
	a, _, _ := f.join("/prepared")
	s := next(t, joined, "socket")
	b, _, _ := f.join("/prepared")
	next(t, joined, "socket")

	check(t, s.EmitPrepared(t.Context(), one, two, two))
	check(t, n.Except(s.ID()).Later().EmitPrepared(two))
	check(t, n.Later().EmitPrepared(one))
	check(t, n.Emit("three"))
	for _, c := range []struct {
		*client
		binary bool
	}{{a, true}, {b, false}} {
		if c.binary {
			c.want(`451-/prepared,["one",1,{"_placeholder":true,"num":0}]`)
			c.wantBinary([]byte{2})
			c.want(`42/prepared,["two","<text>"]`)
		}
		c.want(`42/prepared,["two","<text>"]`, `451-/prepared,["one",1,{"_placeholder":true,"num":0}]`)
		c.wantBinary([]byte{2})
		c.want(`42/prepared,["three"]`)
	}
	mu.Lock()
	defer mu.Unlock()
	if want := []string{"one", "two", "two", "two", "one", "three"}; !slices.Equal(sent, want) {
		t.Errorf("listeners were told of %q, want %q", sent, want)
	}
}

func TestPreparedRefused(t *testing.T) {
	f := start(t, socketio.Options{})
	n := f.Of("/prepared")
	joined := sockets(n)
	_, err := n.Prepare("connect")
	wantError(t, err, socketio.ErrReserved)
	if _, err := n.Prepare("event", func() {}); err == nil {
		t.Error("a function was encoded")
	}
	p, err := n.Prepare("event")
	check(t, err)
	c, _, _ := f.join("/prepared")
	s := next(t, joined, "socket")
	s.Disconnect(true)
	c.want("41/prepared,")
	eventually(t, "the socket has left", func() bool { return !s.Connected() })
	wantError(t, s.EmitPrepared(t.Context(), p), socketio.ErrDisconnected)
}

// What one socket is sent is not replayed to others that come back.
func TestPreparedIsKeptForItsSocketAlone(t *testing.T) {
	f := start(t, socketio.Options{})
	n := f.Of("/")
	n.UseRecovery(socketio.Recovery{SkipMiddlewares: true})
	joined := sockets(n)
	a, _, pid := f.join("/")
	check(t, next(t, joined, "socket").Emit("start"))
	offset := a.match(`42\["start","([^"]+)"\]`)[0]
	a.drop()
	f.wantReason("transport close")
	b, _, _ := f.join("/")
	secret, err := n.Prepare("secret", 1)
	check(t, err)
	check(t, next(t, joined, "socket").EmitPrepared(t.Context(), secret))
	b.match(`42\["secret",1,.*`)
	a = f.dial()
	a.send("40" + claim("", pid, offset))
	a.match(`40\{.*`)
	check(t, n.Emit("end"))
	a.match(`42\["end",.*`)
}

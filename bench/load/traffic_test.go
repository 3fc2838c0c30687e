//go:build linux

package load

import (
	"errors"
	"fmt"
	"testing"
)

func prepared(t *testing.T, p interface{ Prepare(*Loop, uint64) }) {
	l, err := NewLoop()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.CloseAll)
	p.Prepare(l, 1)
}

func notified1(user int) []byte {
	return fmt.Appendf(nil, `42/socket,["message",{"event":"message_sent","id":"user%08d","args":{}},"1-1"]`, user)
}

func TestNotifyChecks(t *testing.T) {
	n := &Notify{Users: 1, Devices: 2}
	prepared(t, n)
	n.conns[0], n.conns[1] = &Conn{state: closed}, &Conn{Device: 1, state: closed}
	n.send(0)
	if err := n.receive(n.conns[0], notified1(1)); err == nil {
		t.Error("another user's notification was accepted")
	}
	if err := n.receive(n.conns[0], notified1(0)); err != nil {
		t.Error(err)
	}
	if err := n.receive(n.conns[0], notified1(0)); err == nil {
		t.Error("a double was accepted")
	}
	if err := n.Drain(0); !errors.Is(err, errLost) {
		t.Errorf("one device has none, but the error is %v", err)
	}
	if err := n.receive(n.conns[1], notified1(0)); err != nil || n.Done != 1 {
		t.Errorf("done %d, error %v", n.Done, err)
	}
	if err := n.Drain(0); !errors.Is(err, errLost) {
		t.Errorf("the acknowledgement is missing, but the error is %v", err)
	}
	ack := []byte(`43/socket,1[]`)
	if err := n.receive(n.conns[0], ack); err != nil {
		t.Error(err)
	}
	if err := n.Drain(0); err != nil {
		t.Error(err)
	}
	if err := n.receive(n.conns[0], ack); err == nil {
		t.Error("a second acknowledgement was accepted")
	}
}

func TestBroadcastChecks(t *testing.T) {
	b := &Broadcast{Sockets: 2, ContentBytes: 10}
	prepared(t, b)
	b.conns[0], b.conns[1] = &Conn{state: closed}, &Conn{User: 1, state: closed}
	b.send(0)
	b.send(0)
	event := func(m uint32) []byte { return append(appendNumber([]byte(`42["event","`), m), `xx"]`...) }
	for _, c := range []struct {
		socket int
		number uint32
		ok     bool
	}{{0, 1, false}, {0, 0, true}, {0, 0, false}, {0, 1, true}, {0, 2, false}, {1, 0, true}} {
		if err := b.receive(b.conns[c.socket], event(c.number)); (err == nil) != c.ok {
			t.Errorf("socket %d, event %d: %v", c.socket, c.number, err)
		}
	}
	if err := b.receive(b.conns[1], event(1)[:20]); err == nil {
		t.Error("an event that was cut short was accepted")
	}
	if err := b.Drain(0); !errors.Is(err, errLost) {
		t.Errorf("event 1 is missing at socket 1, but the error is %v", err)
	}
	if err := b.receive(b.conns[1], event(1)); err != nil || b.Done != 2 || b.Last.Count() != 2 {
		t.Errorf("done %d, error %v", b.Done, err)
	}
}

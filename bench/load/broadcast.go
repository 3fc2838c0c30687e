//go:build linux

package load

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"time"
)

// Broadcast is the traffic of events to everybody: one socket asks, all get it.
type Broadcast struct {
	Sockets, ContentBytes int

	Counts

	loop       *Loop
	rng        *rand.Rand
	conns      []*Conn
	next       []uint32 // by socket: the number it gets next
	due        []int64  // by number
	missing    []int    // by number: sockets that do not have it yet
	joined     int
	packet     []byte
	saturating bool
}

var (
	broadcastEvent = []byte(`42["event","`)
	broadcastSend  = []byte(`42["broadcast","`)
)

// Prepare sets the traffic up.
func (t *Broadcast) Prepare(l *Loop, seed uint64) {
	t.loop, t.rng = l, rand.New(rand.NewPCG(seed, 3)) // #nosec G404 -- it is to be the same each time
	t.conns, t.next = make([]*Conn, t.Sockets), make([]uint32, t.Sockets)
	l.Receive = t.receive
	l.OnJoin = func(c *Conn) error {
		c.Ready = true
		t.joined++
		return nil
	}
}

// Connect makes all connections and returns when all have joined.
func (t *Broadcast) Connect(ports []int, atOnce int, d time.Duration) error {
	end := t.loop.Now() + int64(d)
	for i := range t.conns {
		c, err := t.loop.Dial(&Dial{Port: ports[i%len(ports)], Join: []byte("40")})
		if err != nil {
			return err
		}
		c.User = int32(i)
		t.conns[i] = c
		if err := t.loop.Until(time.Duration(end-t.loop.Now()), func() bool { return i+1-t.joined < atOnce }); err != nil {
			return fmt.Errorf("connecting: %w", err)
		}
	}
	return t.loop.Until(time.Duration(end-t.loop.Now()), func() bool { return t.joined == len(t.conns) })
}

func (t *Broadcast) send(due int64) {
	m := uint32(len(t.due))
	t.due, t.missing = append(t.due, due), append(t.missing, t.Sockets)
	b := appendNumber(append(t.packet[:0], broadcastSend...), m)
	for range t.ContentBytes - 8 {
		b = append(b, 'x')
	}
	t.packet = append(b, `"]`...)
	t.Sent++
	t.loop.Send(t.conns[0], t.packet)
}

func (t *Broadcast) receive(c *Conn, b []byte) error {
	if !bytes.HasPrefix(b, broadcastEvent) {
		return fmt.Errorf("an unexpected packet: %.200s", b)
	}
	m, ok := parseNumber(b[len(broadcastEvent):])
	if !ok || m != t.next[c.User] || int(m) >= len(t.due) || len(b) != len(broadcastEvent)+t.ContentBytes+2 {
		return fmt.Errorf("socket %d waits for event %d and got %.200s", c.User, t.next[c.User], b)
	}
	t.next[c.User]++
	t.Delivered++
	took := t.loop.since(t.due[m])
	t.Latency.Add(took)
	if t.missing[m]--; t.missing[m] > 0 {
		return nil
	}
	t.Done++
	t.Last.Add(took)
	if t.saturating {
		t.send(t.loop.Now())
	}
	return nil
}

// Saturate keeps a number of events in flight for some time.
func (t *Broadcast) Saturate(inFlight int, d time.Duration) error {
	t.saturating = true
	defer func() { t.saturating = false }()
	now := t.loop.Now()
	for range inFlight {
		t.send(now)
	}
	if err := t.loop.Flush(); err != nil {
		return err
	}
	return t.loop.For(d)
}

// Pace makes events at a mean rate.
func (t *Broadcast) Pace(perSecond float64, d time.Duration) error {
	return t.loop.pace(t.rng, perSecond, d, t.send)
}

// Drain waits for what is on its way and then checks that nothing is missing.
func (t *Broadcast) Drain(d time.Duration) error {
	return t.loop.drain(d, func() error {
		for m, n := range t.missing {
			if n > 0 {
				return fmt.Errorf("%w: event %d did not reach %d of %d sockets", errLost, m, n, t.Sockets)
			}
		}
		return nil
	})
}

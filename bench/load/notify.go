//go:build linux

package load

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"time"
)

// Notify is the traffic of notifications: any device of a user makes one, every device of that user gets it.
// The frames say whose they are but not which, so devices count.
type Notify struct {
	Users, Devices int
	First          int // number of the first user
	Sources        int // local addresses to connect from; 0 and 1: the kernel's choice

	Counts

	loop       *Loop
	rng        *rand.Rand
	conns      []*Conn
	users      []notified
	welcomed   int
	saturating bool
}

// notified is one user's notifications.
type notified struct {
	id       []byte
	due      []int64  // of those that some device misses
	done     uint64   // before those
	acks     uint64   // acknowledgements
	received []uint64 // by device
}

// Prepare names the users.
func (n *Notify) Prepare(l *Loop, seed uint64) {
	n.loop, n.rng = l, rand.New(rand.NewPCG(seed, 2)) // #nosec G404 -- it is to be the same each time
	n.conns, n.users = make([]*Conn, n.Users*n.Devices), make([]notified, n.Users)
	for i := range n.users {
		n.users[i] = notified{id: fmt.Appendf(nil, "user%08d", n.First+i), received: make([]uint64, n.Devices)}
	}
	l.Receive = n.receive
	l.OnJoin = func(c *Conn) error {
		c.Ready = true
		n.welcomed++
		return nil
	}
}

// NotifyDial is how a user's device connects.
func NotifyDial(port int, source [4]byte, id []byte) *Dial {
	return &Dial{Port: port, Source: source, Query: "&token=t&id=" + string(id), Join: []byte("40/socket,")}
}

// Connect makes all connections and returns when all have joined.
func (n *Notify) Connect(ports []int, atOnce int, d time.Duration) error {
	end := n.loop.Now() + int64(d)
	for i := range n.conns {
		var source [4]byte
		if n.Sources > 1 {
			source = [4]byte{127, 0, 1, byte(1 + i%n.Sources)}
		}
		c, err := n.loop.Dial(NotifyDial(ports[i%len(ports)], source, n.users[i/n.Devices].id))
		if err != nil {
			return err
		}
		c.User, c.Device = int32(i/n.Devices), int8(i%n.Devices)
		n.conns[i] = c
		if err := n.loop.Until(time.Duration(end-n.loop.Now()), func() bool { return i+1-n.welcomed < atOnce }); err != nil {
			return fmt.Errorf("connecting: %w", err)
		}
	}
	if err := n.loop.Until(time.Duration(end-n.loop.Now()), func() bool { return n.welcomed == len(n.conns) }); err != nil {
		return fmt.Errorf("connecting: %w", err)
	}
	// A socket is in its user's room once its connection handler ran, of which clients are not told.
	return n.loop.For(500 * time.Millisecond)
}

var (
	notification = []byte(`42/socket,["message",{"event":"message_sent","id":"`)
	notifyAck    = []byte(`43/socket,`)
	notifySend   = []byte(`42/socket,1["message",{"event":"sendMessage","args":{}}]`)
)

func (n *Notify) send(due int64) {
	c := n.conns[n.rng.IntN(len(n.conns))]
	u := &n.users[c.User]
	u.due = append(u.due, due)
	n.Sent++
	n.loop.Send(c, notifySend)
}

func (n *Notify) receive(c *Conn, b []byte) error {
	u := &n.users[c.User]
	sent := u.done + uint64(len(u.due))
	if bytes.HasPrefix(b, notifyAck) {
		if u.acks++; u.acks > sent || bytes.Contains(b, []byte(`"error"`)) {
			return fmt.Errorf("a wrong acknowledgement: %.200s", b)
		}
		return nil
	}
	if !bytes.HasPrefix(b, notification) {
		return fmt.Errorf("an unexpected packet: %.200s", b)
	}
	if !bytes.HasPrefix(b[len(notification):], u.id) {
		return fmt.Errorf("wrong recipient: user %s got %.200s", u.id, b)
	}
	k := u.received[c.Device]
	if k >= sent {
		return fmt.Errorf("device %d of user %s got more notifications than the %d that were made", c.Device, u.id, sent)
	}
	u.received[c.Device]++
	n.Delivered++
	n.Latency.Add(n.loop.since(u.due[k-u.done]))
	if k != u.done {
		return nil
	}
	for _, other := range u.received {
		if other <= k {
			return nil
		}
	}
	u.done++
	u.due = u.due[:copy(u.due, u.due[1:])]
	n.Done++
	if n.saturating {
		n.send(n.loop.Now())
	}
	return nil
}

// Saturate keeps a number of notifications in flight for some time.
func (n *Notify) Saturate(inFlight int, d time.Duration) error {
	n.saturating = true
	defer func() { n.saturating = false }()
	now := n.loop.Now()
	for range inFlight {
		n.send(now)
	}
	if err := n.loop.Flush(); err != nil {
		return err
	}
	return n.loop.For(d)
}

// Pace makes notifications at a mean rate.
func (n *Notify) Pace(perSecond float64, d time.Duration) error {
	return n.loop.pace(n.rng, perSecond, d, n.send)
}

// Drain waits for what is on its way and then checks that nothing is missing.
func (n *Notify) Drain(d time.Duration) error {
	return n.loop.drain(d, func() error {
		for i := range n.users {
			if u := &n.users[i]; len(u.due) > 0 || u.acks != u.done {
				return fmt.Errorf("%w: of user %s's notifications %d are not complete, %d not acknowledged", errLost, u.id, len(u.due),
					u.done+uint64(len(u.due))-u.acks)
			}
		}
		return nil
	})
}

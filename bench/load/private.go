//go:build linux

package load

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"time"
)

// Private is the traffic of private messages: users with the same number of devices each, who write to each
// other. A message is done when every device concerned has it and its sender has the acknowledgement; nothing
// may be lost, doubled, out of order, altered or with the wrong user.
type Private struct {
	Users, Devices, Partners int // each device writes to so many others, chosen at random
	ContentBytes             int
	Acks                     bool // messages ask for acknowledgement
	Senders                  int  // so many devices alone write, if not 0

	Counts

	loop       *Loop
	rng        *rand.Rand
	ids        []string // of users
	conns      []*Conn  // user*Devices + device
	partners   []int32  // (user*Devices+device)*Partners + k
	last       []uint32 // the same index: the latest message on this way; 0 is none
	messages   []message
	packet     []byte
	sessions   []string // of users
	ports      []int
	welcomed   int // connections
	checked    int // messages up to this one are complete
	saturating bool
	unused     []int // ways that Acquaint has not used yet
}

// message is one private message on its way.
type message struct {
	due    int64
	sender int32  // index in conns
	to     int32  // user
	prev   uint32 // the message before it on the same way
	seen   uint32 // bits: devices of the recipient, then those of the sender, then the acknowledgement
}

var (
	privatePrefix = []byte(`42["private message",{"content":"`)
	sessionPrefix = []byte(`42["session",`)
	usersPrefix   = []byte(`42["users",`)
)

// Prepare chooses who writes to whom. The same seed gives the same choice.
func (p *Private) Prepare(l *Loop, seed uint64) {
	p.loop, p.rng = l, rand.New(rand.NewPCG(seed, 1)) // #nosec G404 -- it is to be the same each time
	p.ids, p.sessions = make([]string, p.Users), make([]string, p.Users)
	p.conns = make([]*Conn, p.Users*p.Devices)
	p.partners = make([]int32, len(p.conns)*p.Partners)
	p.last = make([]uint32, len(p.partners))
	p.messages = make([]message, 1, 1<<20)
	for i := range p.partners {
		user := int32(i / p.Partners / p.Devices)
		if p.partners[i] = p.rng.Int32N(int32(p.Users - 1)); p.partners[i] >= user {
			p.partners[i]++
		}
	}
	l.Receive = p.receive
}

// random is a device that may write.
func (p *Private) random() int32 {
	if p.Senders > 0 {
		return p.rng.Int32N(int32(p.Senders)) * int32(len(p.conns)/p.Senders)
	}
	return p.rng.Int32N(int32(len(p.conns)))
}

// send queues the next message of a device to one of its partners.
func (p *Private) send(due int64, from int32) {
	p.sendOn(due, int(from)*p.Partners+int(p.rng.Int32N(int32(p.Partners))))
}

// sendOn queues the next message on a way from a device to one of its partners.
func (p *Private) sendOn(due int64, way int) {
	m, from, to := uint32(len(p.messages)), int32(way/p.Partners), p.partners[way]
	p.messages = append(p.messages, message{due: due, sender: from, to: to, prev: p.last[way]})
	p.last[way] = m

	b := append(p.packet[:0], "42"...)
	if p.Acks {
		b = appendNumber(b, m)
	}
	b = append(b, privatePrefix[2:]...)
	b = appendNumber(b, m)
	for range p.ContentBytes - 8 {
		b = append(b, 'x')
	}
	b = append(append(b, `","to":"`...), p.ids[to]...)
	p.packet = append(b, `"}]`...)
	p.Sent++
	p.loop.Send(p.conns[from], p.packet)
}

// number reads a message's eight digits; ok is false for one that was never sent.
func (p *Private) number(b []byte) (m uint32, ok bool) {
	m, ok = parseNumber(b)
	return m, ok && m > 0 && int(m) < len(p.messages)
}

func (p *Private) receive(c *Conn, b []byte) error {
	switch {
	case bytes.HasPrefix(b, privatePrefix):
		return p.delivery(c, b)
	case b[1] == '3':
		return p.ack(c, b)
	case bytes.HasPrefix(b, sessionPrefix):
		return p.session(c, b)
	case bytes.HasPrefix(b, usersPrefix):
		return p.welcome(c)
	}
	return nil
}

func (p *Private) delivery(c *Conn, b []byte) error {
	content := b[len(privatePrefix):]
	m, ok := p.number(content)
	if !ok {
		return fmt.Errorf("a message that was never sent: %.200s", b)
	}
	msg := &p.messages[m]
	from := msg.sender / int32(p.Devices)
	bit := uint32(1) << c.Device
	switch {
	case c.User == msg.to:
	case c.User == from && int32(c.Device) != msg.sender%int32(p.Devices):
		bit <<= p.Devices
	default:
		return fmt.Errorf("wrong recipient: message %d from user %d to user %d reached device %d of user %d", m, from, msg.to, c.Device, c.User)
	}
	if msg.seen&bit != 0 {
		return fmt.Errorf("message %d reached device %d of user %d twice", m, c.Device, c.User)
	}
	if msg.prev != 0 && p.messages[msg.prev].seen&bit == 0 {
		prev := &p.messages[msg.prev]
		return fmt.Errorf("message %d reached device %d of user %d before the one before it, %d, which was due %v ago and has been seen by %b",
			m, c.Device, c.User, msg.prev, p.loop.since(prev.due), prev.seen)
	}
	if !p.intact(content, from, msg.to) {
		return fmt.Errorf("message %d arrived altered: %.300s", m, b)
	}
	msg.seen |= bit
	p.Delivered++
	p.Latency.Add(p.loop.since(msg.due))
	p.finish(msg)
	return nil
}

// intact checks the members after the number: the rest of the content, from and to.
func (p *Private) intact(b []byte, from, to int32) bool {
	b = b[8:]
	fill := p.ContentBytes - 8
	if len(b) < fill || (fill > 0 && (b[0] != 'x' || b[fill-1] != 'x')) {
		return false
	}
	for _, part := range [...]string{`","from":"`, p.ids[from], `","to":"`, p.ids[to]} {
		if len(b) < fill+len(part) || string(b[fill:fill+len(part)]) != part {
			return false
		}
		b = b[len(part):]
	}
	return true
}

func (p *Private) ack(c *Conn, b []byte) error {
	m, ok := p.number(b[2:])
	if !ok || p.conns[p.messages[m].sender] != c {
		return fmt.Errorf("an acknowledgement of nothing: %.200s", b)
	}
	if bytes.Contains(b, []byte(`"error"`)) {
		return fmt.Errorf("message %d was refused: %.200s", m, b)
	}
	msg := &p.messages[m]
	bit := uint32(1) << (2 * p.Devices)
	if msg.seen&bit != 0 {
		return fmt.Errorf("message %d was acknowledged twice", m)
	}
	msg.seen |= bit
	p.AckLatency.Add(p.loop.since(msg.due))
	p.finish(msg)
	return nil
}

// complete is what Message.seen is in the end.
func (p *Private) complete(m *message) uint32 {
	devices := uint32(1)<<p.Devices - 1
	seen := devices | (devices&^(1<<(m.sender%int32(p.Devices))))<<p.Devices
	if p.Acks {
		seen |= 1 << (2 * p.Devices)
	}
	return seen
}

func (p *Private) finish(m *message) {
	if m.seen != p.complete(m) {
		return
	}
	p.Done++
	if n := len(p.unused); n > 0 {
		p.sendOn(p.loop.Now(), p.unused[n-1])
		p.unused = p.unused[:n-1]
		return
	}
	if !p.saturating {
		return
	}
	from := m.sender
	if p.Senders == 0 {
		from = p.random()
	}
	p.send(p.loop.Now(), from)
}

// Acquaint has each device write to each of its partners once, in random order, with a number of messages in flight.
// A server may have more to do for the first message between two users than for those that follow.
func (p *Private) Acquaint(inFlight int, d time.Duration) error {
	p.unused = p.rng.Perm(len(p.partners))
	n := max(0, len(p.unused)-inFlight)
	first := p.unused[n:]
	p.unused = p.unused[:n]
	now := p.loop.Now()
	for _, way := range first {
		p.sendOn(now, way)
	}
	if err := p.loop.Flush(); err != nil {
		return err
	}
	defer func() { p.unused = nil }()
	return p.Drain(d)
}

// Saturate keeps a number of messages in flight for some time; with Senders, one for each of them.
func (p *Private) Saturate(inFlight int, d time.Duration) error {
	p.saturating = true
	defer func() { p.saturating = false }()
	now := p.loop.Now()
	for i := range inFlight {
		from := p.random()
		if p.Senders > 0 {
			from = int32(i % p.Senders * (len(p.conns) / p.Senders))
		}
		p.send(now, from)
	}
	if err := p.loop.Flush(); err != nil {
		return err
	}
	return p.loop.For(d)
}

// Pace sends messages at a mean rate with random gaps (a Poisson process), whatever comes back.
func (p *Private) Pace(perSecond float64, d time.Duration) error {
	return p.loop.pace(p.rng, perSecond, d, func(due int64) { p.send(due, p.random()) })
}

// Drain waits for what is on its way and then checks that nothing is missing.
func (p *Private) Drain(d time.Duration) error {
	return p.loop.drain(d, func() error {
		missing, first := 0, 0
		for m := len(p.messages) - 1; m > p.checked; m-- {
			if p.messages[m].seen != p.complete(&p.messages[m]) {
				missing, first = missing+1, m
			}
		}
		if missing == 0 {
			p.checked = len(p.messages) - 1
			return nil
		}
		m := &p.messages[first]
		return fmt.Errorf("%w: %d of %d messages are not complete; the first is %d, due %v ago, seen by %b of %b", errLost, missing, len(p.messages)-1,
			first, p.loop.since(m.due), m.seen, p.complete(m))
	})
}

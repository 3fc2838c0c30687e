//go:build linux

package load

import (
	"bytes"
	"errors"
	"fmt"
	"syscall"
)

type state uint8

const (
	connecting state = iota
	upgrading
	opening // upgraded, not yet in the namespace
	joined
	closed
)

// Dial says how a connection is to be made.
type Dial struct {
	Port   int
	Source [4]byte // local address; zero: the kernel's choice
	Query  string  // beyond EIO and transport, with a leading &
	Join   []byte  // the CONNECT packet with its Engine.IO type: 40 or 40/socket,{…}
}

// Conn is one Socket.IO client in one namespace. It belongs to its Loop.
type Conn struct {
	User   int32 // the traffic's own
	Device int8  // the traffic's own
	Ready  bool  // the traffic's own: its application has welcomed it

	state   state
	armed   bool // waits for EPOLLOUT
	dirty   bool // in Loop.dirty
	fd      int32
	dial    *Dial
	rest    []byte // the start of a frame that is not complete
	out     []byte // what is to be written
	started int64  // when it was dialed
}

var (
	errRefused = errors.New("the upgrade was refused")
	joinReply  = []byte("40")
	joinError  = []byte("44")
)

func (c *Conn) request() []byte {
	return fmt.Appendf(nil, "GET /socket.io/?EIO=4&transport=websocket%s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n"+
		"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n\r\n",
		c.dial.Query, c.dial.Port)
}

// take handles what was read and returns what is left of it.
func (c *Conn) take(l *Loop, b []byte) ([]byte, error) {
	if c.state == upgrading {
		head, after, ok := bytes.Cut(b, []byte("\r\n\r\n"))
		if !ok {
			return b, nil
		}
		if !bytes.HasPrefix(head, []byte("HTTP/1.1 101")) {
			return nil, fmt.Errorf("%w: %.120s", errRefused, head)
		}
		c.state, b = opening, after
	}
	for len(b) > 0 && c.state != closed {
		op, payload, size, err := parseFrame(b)
		if err != nil {
			return nil, err
		}
		if size == 0 {
			return b, nil
		}
		b = b[size:]
		switch {
		case op == opText:
			err = c.packet(l, payload)
		case op == opPing:
			l.write(c, opPong, payload)
		case op == opClose:
			err = fmt.Errorf("the server closed the connection: %.80q", payload)
		case op != opPong:
			err = fmt.Errorf("a frame with opcode %d", op)
		}
		if err != nil {
			return nil, err
		}
	}
	return b, nil
}

// packet handles one Engine.IO packet.
func (c *Conn) packet(l *Loop, p []byte) error {
	if len(p) == 0 {
		return errors.New("an empty packet")
	}
	if c.state == joined && p[0] == '4' {
		l.Events++
		return l.Receive(c, p)
	}
	switch {
	case p[0] == '2':
		l.Pings++
		l.write(c, opText, []byte("3"))
	case p[0] == '0' && c.state == opening:
		l.write(c, opText, c.dial.Join)
	case c.state == opening && bytes.HasPrefix(p, joinReply):
		c.state = joined
		l.Joined++
		l.Connects.Add(l.since(c.started))
		if l.OnJoin != nil {
			return l.OnJoin(c)
		}
	case c.state == opening && bytes.HasPrefix(p, joinError):
		return fmt.Errorf("the namespace refused: %.200s", p)
	default:
		return fmt.Errorf("an unexpected packet: %.80q", p)
	}
	return nil
}

// flush writes what waits. What the kernel does not take goes out when it can.
func (c *Conn) flush(l *Loop) error {
	for len(c.out) > 0 {
		n, err := syscall.Write(int(c.fd), c.out)
		l.Writes++
		if err == syscall.EINTR {
			continue
		}
		if err == syscall.EAGAIN {
			return l.arm(c, true)
		}
		if err != nil {
			return fmt.Errorf("write: %w", err)
		}
		if n == len(c.out) {
			c.out = c.out[:0]
			break
		}
		c.out = c.out[:copy(c.out, c.out[n:])]
	}
	if c.armed {
		return l.arm(c, false)
	}
	return nil
}

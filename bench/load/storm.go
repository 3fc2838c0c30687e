//go:build linux

package load

import (
	"bytes"
	"fmt"
	"time"
)

// Storm is what became of many connections made at once.
type Storm struct {
	Took   Histogram // from dialing to the welcome
	Conns  []*Conn   // those that were let in
	Failed int
	First  error // why the first failed
}

// Storm dials, with at most so many connections that wait for their welcome at a time. The welcome is a packet that
// begins like welcome, or the CONNECT reply if that is nil. It returns when all are welcomed or failed.
func (l *Loop) Storm(dials []*Dial, atOnce int, welcome []byte, d time.Duration) (*Storm, error) {
	s := &Storm{}
	receive, join, fail := l.Receive, l.OnJoin, l.OnFail
	defer func() { l.Receive, l.OnJoin, l.OnFail = receive, join, fail }()
	mine := map[*Conn]bool{}
	welcomed := func(c *Conn) {
		c.Ready = true
		s.Took.Add(l.since(c.started))
		s.Conns = append(s.Conns, c)
	}
	l.OnJoin = func(c *Conn) error {
		if welcome == nil {
			welcomed(c)
		}
		return nil
	}
	l.Receive = func(c *Conn, b []byte) error {
		switch {
		case !mine[c] && receive != nil:
			return receive(c, b)
		case welcome != nil && !c.Ready && bytes.HasPrefix(b, welcome):
			welcomed(c)
		}
		return nil
	}
	l.OnFail = func(c *Conn, err error) error {
		if !mine[c] || c.Ready {
			return err
		}
		if s.Failed++; s.First == nil {
			s.First = err
		}
		return nil
	}
	end := l.Now() + int64(d)
	finished := func() int { return len(s.Conns) + s.Failed }
	for i, dial := range dials {
		c, err := l.Dial(dial)
		if err != nil {
			return nil, err
		}
		mine[c] = true
		if i+1-finished() < atOnce {
			continue
		}
		if err := l.Until(time.Duration(end-l.Now()), func() bool { return i+1-finished() < atOnce }); err != nil {
			return nil, fmt.Errorf("connecting: %w", err)
		}
	}
	if err := l.Until(time.Duration(end-l.Now()), func() bool { return finished() == len(dials) }); err != nil {
		return nil, fmt.Errorf("%d of %d connections: %w", finished(), len(dials), err)
	}
	return s, nil
}

// ChatWelcome begins the packet with which chat has welcomed a socket.
var ChatWelcome = usersPrefix

// Again is how another device of a user connects who has been welcomed before.
func (p *Private) Again(user int) *Dial {
	return &Dial{Port: p.ports[user%len(p.ports)], Join: fmt.Appendf(nil, `40{"sessionID":%q}`, p.sessions[user])}
}

// Leave closes all connections.
func (p *Private) Leave() {
	for _, c := range p.conns {
		p.loop.Close(c)
	}
}

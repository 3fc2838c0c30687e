//go:build linux

package load

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// For steps for some time.
func (l *Loop) For(d time.Duration) error {
	end := l.Now() + int64(d)
	for now := l.Now(); now < end; now = l.Now() {
		if err := l.Wake(end); err != nil {
			return err
		}
		if err := l.Step(time.Duration(end-now) + time.Millisecond); err != nil {
			return err
		}
	}
	return nil
}

// Until steps until a condition holds.
func (l *Loop) Until(d time.Duration, done func() bool) error {
	end := l.Now() + int64(d)
	for !done() {
		if l.Now() > end {
			return fmt.Errorf("nothing came of it in %v", d)
		}
		if err := l.Step(100 * time.Millisecond); err != nil {
			return err
		}
	}
	return nil
}

// session takes note of who a connection is.
func (p *Private) session(c *Conn, b []byte) error {
	var who struct{ SessionID, UserID string }
	event := []any{new(string), &who}
	if err := json.Unmarshal(b[2:], &event); err != nil {
		return fmt.Errorf("session: %w", err)
	}
	if id := p.ids[c.User]; id != "" && id != who.UserID {
		return errors.New("a session of another user")
	}
	p.ids[c.User], p.sessions[c.User] = who.UserID, who.SessionID
	return nil
}

// welcome notes that a connection has been sent its roster. The user's other devices follow the first then: by now
// the session is where every process finds it.
func (p *Private) welcome(c *Conn) error {
	if c.Ready = true; c.Device > 0 {
		return nil
	}
	for d := 1; d < p.Devices; d++ {
		if err := p.dial(int(c.User), d, fmt.Appendf(nil, `40{"sessionID":%q}`, p.sessions[c.User])); err != nil {
			return err
		}
	}
	return nil
}

func (p *Private) dial(user, device int, join []byte) error {
	i := user*p.Devices + device
	c, err := p.loop.Dial(&Dial{Port: p.ports[i%len(p.ports)], Join: join})
	if err != nil {
		return err
	}
	c.User, c.Device = int32(user), int8(device)
	p.conns[i] = c
	return nil
}

// Connect makes all connections, some users at a time, device by device on each port in turn, and returns when
// all are welcomed.
func (p *Private) Connect(ports []int, atOnce int, d time.Duration) error {
	p.ports = ports
	ready := func(users int) func() bool {
		return func() bool {
			for _, c := range p.conns[p.welcomed : users*p.Devices] {
				if c == nil || !c.Ready {
					return false
				}
				p.welcomed++
			}
			return true
		}
	}
	end := p.loop.Now() + int64(d)
	for user := 0; user < p.Users; user += atOnce {
		last := min(user+atOnce, p.Users)
		for u := user; u < last; u++ {
			if err := p.dial(u, 0, fmt.Appendf(nil, `40{"username":"user%06d"}`, u)); err != nil {
				return err
			}
		}
		if err := p.loop.Until(time.Duration(end-p.loop.Now()), ready(last)); err != nil {
			return fmt.Errorf("connecting %d users: %w", p.Users, err)
		}
	}
	return nil
}

//go:build linux

// Package load is a load generator that is lean enough to share a machine with what it measures: one thread,
// one epoll set and one read buffer for all connections, frames built by appending bytes and checked in place.
// Nothing is decoded on the way. One Loop belongs to one goroutine.
package load

import (
	"errors"
	"fmt"
	"syscall"
	"time"
	"unsafe"
)

// Loop drives connections.
type Loop struct {
	Receive func(c *Conn, packet []byte) error // a Socket.IO packet with its Engine.IO type; the bytes are the loop's
	OnJoin  func(c *Conn) error                // the namespace let the connection in
	OnFail  func(c *Conn, err error) error     // a connection failed; its error, if not nil, ends the step. nil: all do

	Joined, Failed, Events, Pings, Reads, Writes int
	Connects                                     Histogram // from dialing to the CONNECT reply

	epoll, timer int
	conns        []*Conn // by descriptor
	dirty        []*Conn
	events       []syscall.EpollEvent
	buf          []byte
	open         int
	start        time.Time
}

// NewLoop makes an empty loop.
func NewLoop() (*Loop, error) {
	epoll, err := syscall.EpollCreate1(syscall.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("epoll: %w", err)
	}
	timer, _, errno := syscall.Syscall(syscall.SYS_TIMERFD_CREATE, 1 /* monotonic */, syscall.O_NONBLOCK|syscall.O_CLOEXEC, 0)
	if errno != 0 {
		return nil, fmt.Errorf("timerfd: %w", errno)
	}
	l := &Loop{
		epoll: epoll, timer: int(timer), events: make([]syscall.EpollEvent, 1024), buf: make([]byte, 1<<20), start: time.Now(),
	}
	return l, l.control(syscall.EPOLL_CTL_ADD, l.timer, syscall.EPOLLIN)
}

// Now is the time since the loop was made.
func (l *Loop) Now() int64 { return int64(time.Since(l.start)) }

func (l *Loop) since(t int64) time.Duration { return time.Duration(l.Now() - t) }

// Open is how many connections there are, in whatever state.
func (l *Loop) Open() int { return l.open }

func (l *Loop) control(op, fd int, events uint32) error {
	if err := syscall.EpollCtl(l.epoll, op, fd, &syscall.EpollEvent{Events: events, Fd: int32(fd)}); err != nil {
		return fmt.Errorf("epoll: %w", err)
	}
	return nil
}

func (l *Loop) arm(c *Conn, out bool) error {
	if c.armed == out {
		return nil
	}
	c.armed = out
	events := uint32(syscall.EPOLLIN)
	if out {
		events |= syscall.EPOLLOUT
	}
	return l.control(syscall.EPOLL_CTL_MOD, int(c.fd), events)
}

// Dial begins a connection.
func (l *Loop) Dial(d *Dial) (*Conn, error) {
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_NONBLOCK|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("socket: %w", err)
	}
	c := &Conn{fd: int32(fd), dial: d, started: l.Now(), armed: true}
	fail := func(what string, err error) (*Conn, error) {
		_ = syscall.Close(fd)
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	if err := syscall.SetsockoptInt(fd, syscall.IPPROTO_TCP, syscall.TCP_NODELAY, 1); err != nil {
		return fail("TCP_NODELAY", err)
	}
	// Closing resets, or the ports of the last run would linger for a minute.
	if err := syscall.SetsockoptLinger(fd, syscall.SOL_SOCKET, syscall.SO_LINGER, &syscall.Linger{Onoff: 1}); err != nil {
		return fail("SO_LINGER", err)
	}
	if d.Source != [4]byte{} {
		if err := syscall.Bind(fd, &syscall.SockaddrInet4{Addr: d.Source}); err != nil {
			return fail("bind", err)
		}
	}
	err = syscall.Connect(fd, &syscall.SockaddrInet4{Port: d.Port, Addr: [4]byte{127, 0, 0, 1}})
	if err != nil && err != syscall.EINPROGRESS {
		return fail("connect", err)
	}
	for len(l.conns) <= fd {
		l.conns = append(l.conns, nil)
	}
	l.conns[fd] = c
	l.open++
	return c, l.control(syscall.EPOLL_CTL_ADD, fd, syscall.EPOLLIN|syscall.EPOLLOUT)
}

// Send queues a Socket.IO packet with its Engine.IO type; it goes out at the end of the step or by Flush.
func (l *Loop) Send(c *Conn, packet []byte) { l.write(c, opText, packet) }

func (l *Loop) write(c *Conn, op byte, payload []byte) {
	c.out = appendFrame(c.out, op, payload)
	if !c.dirty {
		c.dirty = true
		l.dirty = append(l.dirty, c)
	}
}

// Flush writes what is queued, one write for each connection.
func (l *Loop) Flush() error {
	for i := 0; i < len(l.dirty); i++ { // a failure may queue more
		c := l.dirty[i]
		c.dirty = false
		if c.state == closed || c.state == connecting {
			continue
		}
		if err := c.flush(l); err != nil {
			if err := l.fail(c, err); err != nil {
				return err
			}
		}
	}
	l.dirty = l.dirty[:0]
	return nil
}

// Wake makes Step return at the given time of Now, or before.
func (l *Loop) Wake(at int64) error {
	wait := max(at-l.Now(), 1)
	spec := [2]syscall.Timespec{{}, syscall.NsecToTimespec(wait)}
	_, _, errno := syscall.Syscall6(syscall.SYS_TIMERFD_SETTIME, uintptr(l.timer), 0, uintptr(unsafe.Pointer(&spec)), 0, 0, 0) // #nosec G103 -- as the call wants it
	if errno != 0 {
		return fmt.Errorf("timerfd: %w", errno)
	}
	return nil
}

// Step waits for events, at most so long, handles them and flushes.
func (l *Loop) Step(wait time.Duration) error {
	n, err := syscall.EpollWait(l.epoll, l.events, int(wait.Milliseconds()))
	if err == syscall.EINTR {
		return nil
	}
	if err != nil {
		return fmt.Errorf("epoll: %w", err)
	}
	for i := range l.events[:n] {
		e := &l.events[i]
		if int(e.Fd) == l.timer {
			var ticks [8]byte
			_, _ = syscall.Read(l.timer, ticks[:]) // only its readiness matters
			continue
		}
		c := l.conns[e.Fd]
		if c == nil {
			continue
		}
		if err := l.ready(c, e.Events); err != nil {
			if err := l.fail(c, err); err != nil {
				return err
			}
		}
	}
	return l.Flush()
}

func (l *Loop) ready(c *Conn, events uint32) error {
	if events&syscall.EPOLLOUT != 0 {
		if c.state == connecting {
			code, err := syscall.GetsockoptInt(int(c.fd), syscall.SOL_SOCKET, syscall.SO_ERROR)
			if err == nil && code != 0 {
				err = syscall.Errno(code)
			}
			if err != nil {
				return fmt.Errorf("connect: %w", err)
			}
			c.state = upgrading
			c.out = append(c.out, c.request()...)
		}
		if err := c.flush(l); err != nil {
			return err
		}
		if len(c.out) == 0 {
			if err := l.arm(c, false); err != nil {
				return err
			}
		}
	}
	if events&^syscall.EPOLLOUT != 0 {
		return l.read(c)
	}
	return nil
}

func (l *Loop) read(c *Conn) error {
	kept := copy(l.buf, c.rest)
	if kept == len(l.buf) || kept > len(l.buf)/2 {
		l.buf = append(l.buf, make([]byte, len(l.buf))...)
	}
	n, err := syscall.Read(int(c.fd), l.buf[kept:])
	l.Reads++
	switch {
	case err == syscall.EAGAIN || err == syscall.EINTR:
		return nil
	case err != nil:
		return fmt.Errorf("read: %w", err)
	case n == 0:
		return errors.New("the server hung up")
	}
	left, err := c.take(l, l.buf[:kept+n])
	if err != nil {
		return err
	}
	if len(left) == 0 {
		if cap(c.rest) > 4096 {
			c.rest = nil
		}
		c.rest = c.rest[:0]
		return nil
	}
	c.rest = append(c.rest[:0], left...)
	return nil
}

func (l *Loop) fail(c *Conn, err error) error {
	l.Failed++
	l.Close(c)
	if l.OnFail != nil {
		return l.OnFail(c, err)
	}
	return err
}

// Close ends a connection without a word.
func (l *Loop) Close(c *Conn) {
	if c.state == closed {
		return
	}
	c.state = closed
	l.conns[c.fd] = nil
	l.open--
	_ = syscall.Close(int(c.fd)) // which takes it out of the epoll set
}

// CloseAll ends every connection and the loop.
func (l *Loop) CloseAll() {
	for _, c := range l.conns {
		if c != nil {
			l.Close(c)
		}
	}
	_ = syscall.Close(l.timer)
	_ = syscall.Close(l.epoll)
}

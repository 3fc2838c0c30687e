package main

import (
	"context"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// line is a client's TCP connection that can fail in more ways than being closed.
type line struct {
	net.Conn

	mu        sync.Mutex
	stalled   chan struct{} // not nil while nothing is read; closed when reading goes on
	abandoned bool          // this side has gone away and the other does not know
	ended     bool
}

// lines dials lines, and knows the last one.
type lines struct {
	dialer net.Dialer

	mu   sync.Mutex
	last *line
}

func (l *lines) dial(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := l.dialer.DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.last = &line{Conn: conn}
	return l.last, nil
}

// current returns the line that was dialed last, or nil.
func (l *lines) current() *line {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.last
}

// stall stops reading until resume.
func (l *line) stall() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.stalled == nil && !l.ended {
		l.stalled = make(chan struct{})
	}
}

func (l *line) resume() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.flow()
}

func (l *line) flow() {
	if l.stalled != nil {
		close(l.stalled)
		l.stalled = nil
	}
}

// reset ends the connection with a TCP reset.
func (l *line) reset() {
	if tcp, ok := l.Conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0) // fails if it is closed already
	}
	_ = l.Close() // fails if it is closed already
}

// abandon makes this side believe that the connection broke, while the other side finds it open and silent
// for that time, as when a phone changes its network.
func (l *line) abandon(d time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended {
		return
	}
	l.abandoned = true
	l.flow()
	_ = l.Conn.SetReadDeadline(time.Unix(1, 0)) // fails if it is closed already
	time.AfterFunc(d, func() { _ = l.Conn.Close() })
}

func (l *line) gone() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.abandoned
}

// Read implements net.Conn.
func (l *line) Read(p []byte) (int, error) {
	n, err := l.Conn.Read(p)
	l.mu.Lock()
	stalled := l.stalled
	l.mu.Unlock()
	if stalled != nil {
		<-stalled
	}
	if l.gone() {
		return 0, io.ErrUnexpectedEOF
	}
	return n, err
}

// Write implements net.Conn.
func (l *line) Write(p []byte) (int, error) {
	if l.gone() {
		return 0, os.ErrClosed
	}
	return l.Conn.Write(p)
}

// SetReadDeadline implements net.Conn.
func (l *line) SetReadDeadline(t time.Time) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.abandoned {
		return os.ErrClosed
	}
	return l.Conn.SetReadDeadline(t)
}

// Close implements net.Conn.
func (l *line) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ended = true
	l.flow()
	if l.abandoned {
		return nil
	}
	return l.Conn.Close()
}

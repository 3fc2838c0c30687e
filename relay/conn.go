package relay

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"sync"
	"time"
)

// reply is the body of what another process answers, which it has to go on with.
type reply struct {
	io.ReadCloser
	timeout time.Duration
	cancel  context.CancelCauseFunc // ends the forward
}

func (b *reply) Read(p []byte) (int, error) {
	defer time.AfterFunc(b.timeout, func() { b.cancel(nil) }).Stop()
	return b.ReadCloser.Read(p)
}

// writer gives the client time for each part of its reply. It is used for one request.
type writer struct {
	http.ResponseWriter
	timeout time.Duration
	forward *forward
}

// Unwrap is for http.ResponseController.
func (w *writer) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *writer) Write(p []byte) (int, error) {
	w.forward.setWriteDeadline(time.Now().Add(w.timeout))
	return w.ResponseWriter.Write(p)
}

// Hijack implements http.Hijacker: the connection that it returns is bounded, and ends when one side has ended it.
func (w *writer) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	c, buffered, err := w.forward.control.Hijack()
	if err != nil {
		return nil, nil, err
	}
	s := &socket{patient: patient{Conn: c, timeout: w.timeout}, early: buffered.Reader, cancel: w.forward.cancel}
	w.forward.hijacked(c)
	return s, buffered, nil
}

// patient is a TCP connection of which each write has a deadline.
type patient struct {
	net.Conn
	timeout time.Duration
}

func (c *patient) Write(p []byte) (int, error) {
	_ = c.Conn.SetWriteDeadline(time.Now().Add(c.timeout))
	return c.Conn.Write(p)
}

// CloseWrite ends one direction. Without it the proxy could not pass on that a peer has ended.
func (c *patient) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return c.Close()
}

// linger is how long a WebSocket lasts that one side has ended, for what is under way to the other.
const linger = 2 * time.Second

// socket is the client's side of a forwarded WebSocket.
type socket struct {
	patient
	early  *bufio.Reader // what was read before the connection was taken over; nil once that is used up
	cancel context.CancelCauseFunc
	ending sync.Once
}

func (s *socket) Read(p []byte) (int, error) {
	if s.early != nil {
		if n := s.early.Buffered(); n > 0 {
			return s.early.Read(p[:min(n, len(p))])
		}
		s.early = nil
	}
	n, err := s.Conn.Read(p)
	if err != nil {
		s.end()
	}
	return n, err
}

// CloseWrite tells the client that the other process has ended.
func (s *socket) CloseWrite() error {
	s.end()
	return s.patient.CloseWrite()
}

// end gives the side that has not ended linger to do so.
func (s *socket) end() {
	s.ending.Do(func() {
		_ = s.SetReadDeadline(time.Now().Add(linger))
		time.AfterFunc(linger, func() { s.cancel(nil) }) // closes the other process' side
	})
}

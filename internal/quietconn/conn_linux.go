//go:build !race

package quietconn

import (
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"unsafe"

	"parley/internal/rawconn"
)

// wrap returns c as a quiet connection if it can be one.
func wrap(c net.Conn) net.Conn {
	raw := rawconn.Of(c)
	if raw == nil {
		return c
	}
	quiet := &conn{Conn: c, raw: raw}
	quiet.in.try, quiet.out.try = quiet.in.read, quiet.out.write
	return quiet
}

// conn is a connection whose descriptor, which is in non-blocking mode, is read and written directly. Waiting is the
// runtime's as for any other, so that deadlines and Close do what they should.
type conn struct {
	net.Conn
	raw     syscall.RawConn
	in, out transfer
}

// transfer is one direction of a connection.
type transfer struct {
	mu  sync.Mutex // held while somebody reads or writes
	p   []byte     // what is to be read into, or what is left to be written
	n   int        // bytes that were read or written
	err error
	try func(fd uintptr) bool // makes an attempt, and returns false if it has to be waited for; kept, so that it costs no memory
}

// Read implements net.Conn.
func (c *conn) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	n, err := c.in.run(p, c.raw.Read)
	if err == nil || err == io.EOF { //nolint:errorlint // as it was set below
		return n, err
	}
	return n, c.failed("read", err)
}

// Write implements net.Conn.
func (c *conn) Write(p []byte) (int, error) {
	n, err := c.out.run(p, c.raw.Write)
	if err == nil {
		return n, nil
	}
	return n, c.failed("write", err)
}

// failed returns an error as the connection's own methods do.
func (c *conn) failed(op string, err error) error {
	if already, ok := err.(*net.OpError); ok { //nolint:errorlint // by the runtime, while it waited
		err = already.Err
	}
	return &net.OpError{Op: op, Net: c.LocalAddr().Network(), Source: c.LocalAddr(), Addr: c.RemoteAddr(), Err: err}
}

// run reads or writes p.
func (t *transfer) run(p []byte, repeat func(func(fd uintptr) bool) error) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.p, t.n, t.err = p, 0, nil
	err := repeat(t.try)
	t.p = nil
	if err == nil {
		err = t.err
	}
	return t.n, err
}

// read makes an attempt to read something.
func (t *transfer) read(fd uintptr) (done bool) {
	for {
		n, err := rawconn.Read(int(fd), t.p)
		switch {
		case err == syscall.EINTR:
			continue
		case err == syscall.EAGAIN:
			return false
		case err != nil:
			t.err = os.NewSyscallError("read", err)
		case n == 0:
			t.err = io.EOF
		default:
			t.n = n
		}
		return true
	}
}

// write makes an attempt to write all that is left.
func (t *transfer) write(fd uintptr) (done bool) {
	for len(t.p) > 0 {
		n, err := rawconn.Write(int(fd), t.p)
		switch err {
		case nil:
			t.n, t.p = t.n+n, t.p[n:]
		case syscall.EINTR:
		case syscall.EAGAIN:
			return false
		default:
			t.err = os.NewSyscallError("write", err)
			return true
		}
	}
	return true
}

// SyscallConn implements [syscall.Conn]. A pool of connections looks through it whether one is still alive, each time
// that it is to be used.
func (c *conn) SyscallConn() (syscall.RawConn, error) { return rawConn{c.raw}, nil }

// rawConn is the connection for those who read by themselves.
type rawConn struct{ syscall.RawConn }

// Read calls f if there is anything to see: what has come, the end of the connection, or an error. If there is nothing, a
// pool's look has told it all that it wants to know; who wants to wait for something reads the connection itself.
func (r rawConn) Read(f func(fd uintptr) bool) error {
	return r.RawConn.Read(func(fd uintptr) bool { return empty(fd) || f(fd) })
}

// empty tells whether there is nothing to be read, and no reason to.
func empty(fd uintptr) bool {
	var first [1]byte
	_, _, errno := syscall.RawSyscall6(syscall.SYS_RECVFROM, fd, uintptr(unsafe.Pointer(&first[0])), 1, syscall.MSG_PEEK|syscall.MSG_DONTWAIT, 0, 0) //nolint:gosec // the kernel has it for the call alone
	return errno == syscall.EAGAIN
}

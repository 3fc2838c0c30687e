//go:build unix

package engineio

import (
	"io"
	"net"
	"syscall"
)

// rawConn returns what reads from and writes to c without blocking, or nil. It asks for the exact types: something that wraps
// one of them has a reason to see the writes.
func rawConn(c net.Conn) syscall.RawConn {
	var raw syscall.RawConn
	var err error
	switch c := c.(type) {
	case *net.TCPConn:
		raw, err = c.SyscallConn()
	case *net.UnixConn:
		raw, err = c.SyscallConn()
	}
	if err != nil {
		return nil
	}
	return raw
}

// try makes one attempt to write. It returns true so that RawConn.Write doesn't wait for another.
func (w *writer) try(fd uintptr) bool {
	for {
		n, err := syscall.Write(int(fd), w.p)
		switch err {
		case syscall.EINTR:
			continue
		case nil:
			w.n = n
		case syscall.EAGAIN:
		default:
			w.err = err
		}
		return true
	}
}

// tryRead makes one attempt to read ahead, and returns false if there is nothing to read yet. The buffer is taken
// only now, when there may be.
func (k *socket) tryRead(fd uintptr) bool {
	r := k.conn.server.readers.Get().(*reader)
	for {
		n, err := syscall.Read(int(fd), r.bytes[:])
		switch {
		case err == syscall.EINTR:
			continue
		case n > 0:
			r.from, r.to, k.input = 0, n, r
			return true
		}
		k.conn.server.readers.Put(r)
		switch err {
		case syscall.EAGAIN:
			return false
		case nil:
			k.failure = io.EOF
		default:
			k.failure = err
		}
		return true
	}
}

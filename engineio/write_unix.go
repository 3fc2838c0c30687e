//go:build unix

package engineio

import (
	"net"
	"syscall"
)

// rawConn returns what writes to c without blocking, or nil. It asks for the exact types: something that wraps
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

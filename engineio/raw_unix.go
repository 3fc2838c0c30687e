//go:build unix

package engineio

import (
	"io"
	"net"
	"syscall"

	"parley/internal/rawconn"
)

// rawConn returns what reads from and writes to c without blocking, or nil.
func rawConn(c net.Conn) syscall.RawConn { return rawconn.Of(c) }

// descriptor returns the number under which the kernel knows raw's connection, or -1. It is valid until the connection is
// closed.
func descriptor(raw syscall.RawConn) int {
	number := -1
	if raw != nil {
		_ = raw.Control(func(fd uintptr) { number = int(fd) })
	}
	return number
}

// write writes as much of p as the kernel takes at once.
func write(fd int, p []byte) (int, error) {
	for {
		switch n, err := rawconn.Write(fd, p); err {
		case syscall.EINTR:
		case syscall.EAGAIN:
			return 0, nil
		default:
			return n, err
		}
	}
}

// tryRead makes one attempt to read more input, and returns false if there is nothing to read yet. A buffer is taken
// only now, when there may be.
func (k *socket) tryRead(fd uintptr) bool {
	in, waiting := k.input, k.input != nil
	if !waiting {
		in = k.conn.server.inputs.Get().(*input)
	}
	for {
		n, err := rawconn.Read(int(fd), in.bytes[in.to:])
		switch {
		case err == syscall.EINTR:
			continue
		case n > 0:
			in.to += n
			k.input = in
			return true
		}
		if !waiting {
			k.conn.server.inputs.Put(in)
		}
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

// peek makes one attempt to look at what the connection begins with, and returns false if there is nothing to see yet.
func (a *arrival) peek(fd uintptr) bool {
	first := a.front.firsts.Get().(*first)
	for {
		n, _, err := syscall.Recvfrom(int(fd), first.bytes[:], syscall.MSG_PEEK)
		switch {
		case err == syscall.EINTR:
			continue
		case n > 0:
			first.n, a.first = n, first
			return true
		}
		a.front.firsts.Put(first)
		return err != syscall.EAGAIN // net/http will see the end of the connection, or what is wrong with it
	}
}

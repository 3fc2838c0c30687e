// Package rawconn reads and writes the descriptors of connections directly. They are all in non-blocking mode: a call takes
// some microseconds, more where the kernel is short of memory.
//
// On Linux the scheduler is not told of these calls, as syscall.Read and syscall.Write do. On a busy machine that costs more
// than it is worth: it gives the processor to another thread meanwhile, which has to be woken. On one that rests, it wakes
// the runtime's monitor. The race detector has to see the calls, since what passes through a socket is in order: with it,
// and on other systems, they are ordinary ones.
package rawconn

import (
	"net"
	"syscall"
)

// Of returns what reads from and writes to c without blocking, or nil. It asks for the exact types: something that wraps one
// of them has a reason to see what is read and written.
func Of(c net.Conn) syscall.RawConn {
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

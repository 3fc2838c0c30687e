//go:build !unix

package engineio

import (
	"net"
	"syscall"
)

// rawConn returns nil: calls that don't block are not known here. All writes are left to the goroutine that
// drains the outbox.
func rawConn(net.Conn) syscall.RawConn { return nil }

func descriptor(syscall.RawConn) int { return -1 }

func write(int, []byte) (int, error) { return 0, nil }

func (k *socket) tryRead(uintptr) bool { return true }

func (a *arrival) peek(uintptr) bool { return true }

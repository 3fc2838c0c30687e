//go:build !unix

package engineio

import (
	"net"
	"syscall"
)

// rawConn returns nil: writes that don't block are not known here, and all are left to the goroutine that
// drains the outbox.
func rawConn(net.Conn) syscall.RawConn { return nil }

func (w *writer) try(uintptr) bool { return true }

//go:build !race

package engineio

import (
	"syscall"
	"unsafe"
)

// The descriptors are all in non-blocking mode: a call takes some microseconds, more where the kernel is short of memory. To tell the scheduler of each, as
// syscall.Read and syscall.Write do, costs more than it is worth: on a busy machine it gives the processor to another
// thread meanwhile, which has to be woken. The race detector has to see them: what passes through a socket is in order.

func sysRead(fd int, p []byte) (int, error) {
	n, _, errno := syscall.RawSyscall(syscall.SYS_READ, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p))) //nolint:gosec // the kernel has p for the call alone
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

func sysWrite(fd int, p []byte) (int, error) {
	n, _, errno := syscall.RawSyscall(syscall.SYS_WRITE, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p))) //nolint:gosec // the kernel has p for the call alone
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

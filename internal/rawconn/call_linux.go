//go:build !race

package rawconn

import (
	"syscall"
	"unsafe"
)

// Read is read(2) of a non-blocking descriptor.
func Read(fd int, p []byte) (int, error) {
	n, _, errno := syscall.RawSyscall(syscall.SYS_READ, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p))) //nolint:gosec // the kernel has p for the call alone
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

// Write is write(2) to a non-blocking descriptor.
func Write(fd int, p []byte) (int, error) {
	n, _, errno := syscall.RawSyscall(syscall.SYS_WRITE, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p))) //nolint:gosec // the kernel has p for the call alone
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

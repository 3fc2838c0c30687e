//go:build unix && (!linux || race)

package rawconn

import "syscall"

// Read is read(2) of a non-blocking descriptor.
func Read(fd int, p []byte) (int, error) { return syscall.Read(fd, p) }

// Write is write(2) to a non-blocking descriptor.
func Write(fd int, p []byte) (int, error) { return syscall.Write(fd, p) }

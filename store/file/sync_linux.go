package file

import (
	"os"
	"syscall"
)

// syncData makes the data of a file durable, and of its metadata what is needed to read it.
func syncData(f *os.File) error {
	for {
		if err := syscall.Fdatasync(int(f.Fd())); err != syscall.EINTR {
			return os.NewSyscallError("fdatasync", err)
		}
	}
}

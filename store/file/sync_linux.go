package file

import (
	"errors"
	"io"
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

// openDirect opens a file, making it if it is missing, such that whole blocks go straight to the disk where the file
// system can do that: to find in the page cache what a sync has to write takes as much CPU time as the rest of it.
func openDirect(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|syscall.O_DIRECT, 0o600)
	if err == nil {
		// One that wants larger blocks says so now.
		if _, err = f.ReadAt(newBlocks(blockBytes), 0); err == nil || errors.Is(err, io.EOF) {
			return f, nil
		}
		_ = f.Close() // nothing was written
	}
	if errors.Is(err, syscall.EINVAL) || errors.Is(err, syscall.EOPNOTSUPP) {
		return os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	}
	return nil, err
}

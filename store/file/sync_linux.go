package file

import (
	"errors"
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
		if err = tryBlock(f); !indirect(err) {
			return f, nil
		}
		_ = f.Close() // what is in it stays
	}
	if indirect(err) {
		return os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	}
	return nil, err
}

// tryBlock finds out whether a block can go straight to the disk: some want larger ones. At the end of a file reading tells
// nothing, so an empty one gets zeros, which are what a journal is filled with.
func tryBlock(f *os.File) error {
	_, err := f.ReadAt(newBlocks(blockBytes), 0)
	if info, statErr := f.Stat(); statErr == nil && info.Size() == 0 {
		_, err = f.WriteAt(newBlocks(blockBytes), 0)
	}
	return err
}

// indirect reports whether it was refused because it does not go through the page cache. All else is for those to say who
// write what is needed.
func indirect(err error) bool {
	return errors.Is(err, syscall.EINVAL) || errors.Is(err, syscall.EOPNOTSUPP)
}

//go:build !linux

package file

import "os"

// syncData makes a file durable.
func syncData(f *os.File) error { return f.Sync() }

// openDirect opens a file, making it if it is missing.
func openDirect(path string) (*os.File, error) {
	return os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
}

package file

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
)

// asNobody runs f without the rights of root over files, which the tests may have. They are given up for one thread.
func asNobody(t *testing.T, f func()) {
	t.Helper()
	if os.Geteuid() != 0 {
		f()
		return
	}
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		err := syscall.Setfsuid(65534)
		if err == nil {
			f()
		}
		done <- errors.Join(err, syscall.Setfsuid(0))
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func TestReadOnly(t *testing.T) {
	// Not t.TempDir, which others may not look into.
	top, err := os.MkdirTemp("", "parley")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(top) })
	empty, full := filepath.Join(top, "empty"), filepath.Join(top, "full")
	if err := os.Mkdir(empty, 0o500); err != nil {
		t.Fatal(err)
	}
	filled(t, full)
	for path, mode := range map[string]os.FileMode{
		top: 0o755, empty: 0o555, full: 0o555, filepath.Join(full, fileName): 0o444,
	} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
	}
	before := contents(t, top)
	asNobody(t, func() {
		for _, dir := range []string{empty, full} {
			s, err := Open(dir, Options{})
			if err == nil {
				s.Close()
				t.Errorf("%s was opened", dir)
			} else if !strings.Contains(err.Error(), "cannot be written") || !strings.Contains(err.Error(), dir) {
				t.Errorf("%s: %v", dir, err)
			}
		}
		if _, err := Open(filepath.Join(empty, "sub"), Options{}); err == nil || !strings.Contains(err.Error(), "cannot be made") {
			t.Errorf("a directory that cannot be made: %v", err)
		}
	})
	if string(before) != string(contents(t, top)) {
		t.Error("something was changed")
	}
}

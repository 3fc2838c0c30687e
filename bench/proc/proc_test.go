//go:build linux

package proc

import (
	"os"
	"testing"
	"time"
)

func TestParents(t *testing.T) {
	pid, parent, err := parents([]byte("42 (a) b (c) S 7 42 42 0 -1\n"))
	if pid != 42 || parent != 7 || err != nil {
		t.Errorf("pid %d, parent %d, error %v", pid, parent, err)
	}
	for _, bad := range []string{"", "42 x", "42 (x)", "x (x) S 1", "1 (x) S x"} {
		if _, _, err := parents([]byte(bad)); err == nil {
			t.Errorf("%q was read", bad)
		}
	}
}

func TestRollup(t *testing.T) {
	m := rollup([]byte("00400000-7ffd [rollup]\nRss:      1234 kB\nPss:       567 kB\nPss_Dirty:  8 kB\n"))
	if m.RSS != 1234<<10 || m.PSS != 567<<10 {
		t.Errorf("%+v", m)
	}
}

func TestSelfGrows(t *testing.T) {
	before, err := Self()
	if err != nil {
		t.Fatal(err)
	}
	for begin := time.Now(); time.Since(begin) < 5*time.Millisecond; {
		_ = os.Getpid()
	}
	after, err := Self()
	if err != nil || after <= before || after-before > time.Minute {
		t.Errorf("%v became %v, error %v", before, after, err)
	}
}

func TestTreeHasThisProcess(t *testing.T) {
	pids, err := tree(os.Getppid())
	if err != nil {
		t.Fatal(err)
	}
	for _, pid := range pids {
		if pid == os.Getpid() {
			return
		}
	}
	t.Errorf("process %d is not among the descendants of its parent: %v", os.Getpid(), pids)
}

func TestTailKeepsTheEnd(t *testing.T) {
	var log tail
	for range 3 * tailBytes {
		_, _ = log.Write([]byte("a"))
	}
	_, _ = log.Write([]byte("end"))
	if s := log.String(); len(s) != tailBytes || s[len(s)-3:] != "end" {
		t.Errorf("%d bytes, ending in %q", len(s), s[len(s)-3:])
	}
}

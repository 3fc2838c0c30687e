//go:build unix

package engineio

import (
	"bytes"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

func TestFlushWritesOnce(t *testing.T) {
	c, _ := tcpConn(t)
	pair, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_SEQPACKET, 0) // keeps writes apart
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(pair[0])
	defer syscall.Close(pair[1])
	c.ws.fd = pair[0]
	var want []byte
	for i := range 500 {
		m := NewMessage(bytes.Repeat([]byte{'x'}, i%100), []byte("attachment"))
		want = append(want, m.frames...)
		c.Enqueue(m, 0)
	}
	c.Flush()
	got := make([]byte, len(want)+1)
	if n, err := syscall.Read(pair[1], got); err != nil || !bytes.Equal(got[:n], want) {
		t.Errorf("one write has %d bytes of %d: %v", n, len(want), err)
	}
}

// TestNothingIsWrittenAfterClosing takes the place that a closed connection had among the open files.
func TestNothingIsWrittenAfterClosing(t *testing.T) {
	c, _ := tcpConn(t)
	c.receiver = make(closedReceiver, 1)
	k := c.ws
	c.Enqueue(NewMessage([]byte("a")), 0)
	c.mu.Lock()
	c.slowLocked()
	c.mu.Unlock()
	var next *os.File
	for next == nil || int(next.Fd()) < k.fd {
		var err error
		if next, err = os.Create(filepath.Join(t.TempDir(), "next")); err != nil {
			t.Fatal(err)
		}
		defer next.Close()
	}
	if int(next.Fd()) != k.fd {
		t.Fatalf("file %d is not %d", next.Fd(), k.fd)
	}
	c.Enqueue(NewMessage([]byte("a")), 0)
	c.Flush()
	c.mu.Lock()
	k.out.add(NewMessage([]byte("a")), 0) // as nobody does
	k.flushLocked()
	k.closeLocked(closeFrame(0))
	c.mu.Unlock()
	c.Close(ForcedClose)
	if info, err := next.Stat(); err != nil || info.Size() != 0 {
		t.Errorf("%d bytes were written to another's file: %v", info.Size(), err)
	}
	c.server.work.Wait()
}

package file

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// TestBlocks writes frames of many sizes, which end within blocks and at their edges, to a journal whose files end
// within a block, with writes that fail between them.
func TestBlocks(t *testing.T) {
	dir := t.TempDir()
	for i := range uint64(2) {
		if err := os.WriteFile(filepath.Join(dir, journalName(i)), bytes.Repeat([]byte{0xff}, 3*blockBytes/2), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	j, err := openJournal(dir, 1)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = j.close() }()                                                                                 // for reading, all is there
	rest := frameHeaderBytes + len((&logged{id: "000000", data: make([]byte, blockBytes)}).append(nil)) - blockBytes // of a frame
	n := 0
	for size := 1; size < 5*blockBytes; size += 577 {
		data := bytes.Repeat([]byte{byte(size)}, size)
		if n%3 == 2 { // up to the end of a block
			data = make([]byte, int(wholeBlocks(j.at+int64(rest+200))-j.at)-rest)
		}
		m := &logged{id: fmt.Sprintf("%06d", n), data: data}
		write := j.writeAt
		j.writeAt = func(f *os.File, b []byte, at int64) (int, error) {
			if at%blockBytes != 0 || len(b)%blockBytes != 0 {
				t.Errorf("%d bytes at %d", len(b), at)
			}
			half, err := write(f, b[:wholeBlocks(int64(len(b)/2))], at)
			return half, errors.Join(err, syscall.ENOSPC)
		}
		if err := j.write([]*logged{{id: "lost", data: data[:len(data)/2]}}); err == nil {
			t.Fatal("a write that failed was taken for good")
		}
		j.writeAt = write
		if err := j.write([]*logged{m}); err != nil {
			t.Fatal(err)
		}
		if n%3 == 2 && j.at%blockBytes != 0 {
			t.Fatalf("a frame of %d bytes ends at %d", len(j.frame), j.at)
		}
		n++
		turns, err := readJournal(dir, 0)
		if err != nil || len(turns) != 1 || len(turns[0].messages) != n {
			t.Fatalf("after %d frames: %d turns, %v", n, len(turns), err)
		}
		if last := &turns[0].messages[n-1]; last.id != m.id || !bytes.Equal(last.data, m.data) {
			t.Fatalf("frame %d is another: %.40q", n, last.id)
		}
	}
}

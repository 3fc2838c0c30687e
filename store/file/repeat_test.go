package file

import (
	"bytes"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"parley/store"
)

// TestRepeats posts messages again while they are in the same group, in the journal, being folded, and in the tables.
func TestRepeats(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, Options{})
	heal := noRoom(s)
	again := func(s *Store, p store.Post, first store.Receipt) {
		t.Helper()
		r := post(t, s, p)
		if !r.Duplicate || !r.At.Equal(first.At) || r.Offsets[0] != first.Offsets[0] || r.Offsets[1] != first.Offsets[1] {
			t.Errorf("%+v, at first %+v", r, first)
		}
	}
	one := message("one", "alice", "bob")
	one.At = time.Now().Add(-time.Hour).Truncate(time.Millisecond)
	first := post(t, s, one)
	one.At = time.Time{}
	again(s, one, first)

	two := message("two", "alice", "bob")
	var news atomic.Int32
	var wait sync.WaitGroup
	for range 50 {
		wait.Go(func() {
			if r, err := s.Append(t.Context(), two); err != nil || r.Offsets[0].Seq != 2 || r.Offsets[1].Seq != 2 {
				t.Errorf("%+v, %v", r, err)
			} else if !r.Duplicate {
				news.Add(1)
			}
		})
	}
	wait.Wait()
	if news.Load() != 1 {
		t.Errorf("%d of 50 were the first", news.Load())
	}

	large := message("", "eve", "mallory")
	large.Data = bytes.Repeat([]byte{'x'}, 1<<16)
	folding := func() bool {
		s.mu.RLock()
		defer s.mu.RUnlock()
		return s.folding != nil
	}
	for i := 0; !folding(); i++ { // what is large enough is folded at once; there is no room for it
		large.ID = fmt.Sprint(i)
		post(t, s, large)
	}
	again(s, one, first)
	three := post(t, s, message("three", "alice", "bob"))
	more := message("one", "alice", "carol")
	r := post(t, s, more)
	if r.Duplicate || !r.At.Equal(first.At) || r.Offsets[0] != first.Offsets[0] || r.Offsets[1].Seq != 1 {
		t.Errorf("to one mailbox more: %+v, at first %+v", r, first)
	}
	again(s, more, r)
	heal()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, dir, Options{})
	again(s, one, first)
	again(s, more, r)
	again(s, message("three", "alice", "bob"), three)
	if found := ids(t, s, "bob"); len(found) != 3 {
		t.Errorf("bob has %v", found)
	}
}

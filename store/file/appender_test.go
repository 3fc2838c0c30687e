package file

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"time"
	"weak"

	"go.etcd.io/bbolt"

	"parley/store"
)

// TestNoRoomBetweenTurns has a disk that is full for the last frames of a turn.
func TestNoRoomBetweenTurns(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, Options{})
	heal := noRoom(s)
	full := func(f *os.File, data []byte, at int64) (int, error) {
		n, err := f.WriteAt(data[:len(data)/2], at)
		return n, errors.Join(err, syscall.ENOSPC)
	}
	post(t, s, message("1", "alice", "bob"))
	s.journal.writeAt = full
	for _, id := range []string{"a", "b"} {
		if _, err := s.Append(t.Context(), message(id, "alice", "bob")); !errors.Is(err, store.ErrUnavailable) {
			t.Fatalf("on a full disk: %v", err)
		}
	}
	s.journal.writeAt = (*os.File).WriteAt
	foldsLarge(t, s)
	s.journal.writeAt = full
	if _, err := s.Append(t.Context(), message("c", "alice", "bob")); !errors.Is(err, store.ErrUnavailable) {
		t.Fatalf("on a full disk: %v", err)
	}
	s.journal.writeAt = (*os.File).WriteAt
	post(t, s, message("2", "alice", "bob"))
	crashed := copyDir(t, dir)
	heal()
	for _, s := range []*Store{s, open(t, crashed, Options{})} {
		if found := fmt.Sprint(ids(t, s, "bob")); found != "[1 2]" {
			t.Errorf("bob has %s", found)
		}
	}
}

// TestCloseInTime has a Close whose time is over after the first step of a fold.
func TestCloseInTime(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, Options{})
	heal := noRoom(s)
	const boxes = 3*foldEntries/store.MaxDeliveries + 1
	for i := range boxes {
		p := store.Post{ID: fmt.Sprint(i), Sender: "alice"}
		for n := range store.MaxDeliveries {
			p.To = append(p.To, store.Delivery{Box: store.Box{App: "chat", User: fmt.Sprint("user", n)}, Peer: "alice"})
		}
		post(t, s, p)
	}
	heal()
	s.closeFor = 0
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	turns, err := readJournal(dir, 0)
	if err != nil || len(turns) != 1 {
		t.Fatalf("%d turns, %v", len(turns), err)
	}
	change(t, dir, func(tx *bbolt.Tx) error {
		if tx.Bucket(metaBucket).Get(foldedKey) != nil || tx.Bucket(boxesBucket).Stats().KeyN == 0 {
			t.Error("it did not stop in between")
		}
		return nil
	})
	s = open(t, dir, Options{})
	for n := range store.MaxDeliveries {
		if found := ids(t, s, fmt.Sprint("user", n)); len(found) != boxes {
			t.Errorf("user%d has %v", n, found)
		}
	}
}

// TestSize checks that the size of a generation is no less than what small messages take.
func TestSize(t *testing.T) {
	s := open(t, t.TempDir(), Options{})
	defer noRoom(s)()
	for i := range 100 {
		post(t, s, store.Post{ID: fmt.Sprint(i), Sender: "a", To: []store.Delivery{{Box: store.Box{App: "c", User: fmt.Sprint(i)}}}})
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	if size := int64(s.active.bytes); size < s.journal.at || size < 100*(messageBytes+deliveryBytes) {
		t.Errorf("%d bytes, %d in the journal", size, s.journal.at)
	}
}

// TestLetGo checks that nothing keeps a generation that was folded, nor the last group, until there is another.
func TestLetGo(t *testing.T) {
	s := open(t, t.TempDir(), Options{})
	heal := noRoom(s)
	foldsLarge(t, s)
	turn, last := func() (weak.Pointer[generation], weak.Pointer[logged]) {
		s.mu.RLock()
		defer s.mu.RUnlock()
		r := s.folding.boxes[string(boxKey(store.Box{App: "chat", User: "eve"}))]
		return weak.Make(s.folding), weak.Make(r.entries[len(r.entries)-1].message)
	}()
	heal()
	for until := time.Now().Add(10 * time.Second); turn.Value() != nil || last.Value() != nil; runtime.GC() {
		if time.Now().After(until) {
			t.Fatalf("the generation is kept: %v, the message: %v", turn.Value() != nil, last.Value() != nil)
		}
	}
}

// TestJournalHasGap has a journal that does not go on where the tables end, as when those are from an older backup.
func TestJournalHasGap(t *testing.T) {
	s, _, _ := nearlyExpired(t)
	defer noRoom(s)()
	post(t, s, message("late", "alice", "bob"))
	crashed := copyDir(t, filepath.Dir(s.path))
	change(t, crashed, func(tx *bbolt.Tx) error {
		head := (&Store{opts: s.opts}).begin(tx)
		b, _, err := head.find(boxKey(bob))
		b.last--
		return errors.Join(err, head.writeHead(&b))
	})
	refused(t, crashed, "damaged", "the journal has number 4 of a mailbox that ends at 2")
}

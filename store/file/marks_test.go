package file

import (
	"bytes"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"parley/store"
	"parley/store/storetest"
)

func chatBox(user string) store.Box { return store.Box{App: "chat", User: user} }

func markOf(t *testing.T, s store.Store, user, peer string) store.Mark {
	t.Helper()
	marks, err := s.Marks(t.Context(), chatBox(user), []string{peer}, 0)
	if err != nil {
		t.Fatal(err)
	}
	return marks[0]
}

func advance(t *testing.T, s store.Store, user, peer string, to store.Mark) store.Mark {
	t.Helper()
	now, moved, err := s.Advance(t.Context(), chatBox(user), peer, to)
	if err != nil || !moved {
		t.Fatalf("moved %v: %v", moved, err)
	}
	return now
}

// markRows counts the marks in the tables.
func markRows(t *testing.T, s *Store) (n int) {
	t.Helper()
	err := s.db.View(func(tx *bbolt.Tx) error {
		return tx.Bucket(mailBucket).ForEach(func(key, _ []byte) error {
			if key[8] == mailMark {
				n++
			}
			return nil
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// settled waits until no mark waits to be written.
func settled(t *testing.T, s *Store) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for end := time.After(10 * time.Second); ; {
		if some, _ := s.marks.some(1); len(some) == 0 {
			return
		}
		select {
		case <-tick.C:
		case <-end:
			t.Fatal("the marks were not written")
		}
	}
}

// TestMarksReopen checks that marks are kept when the store is closed, and that it writes them by itself.
func TestMarksReopen(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, Options{})
	at := post(t, s, message("1", "bob", "alice")).Offsets[1]
	want := advance(t, s, "alice", "bob", store.Mark{Read: at, Seen: time.UnixMilli(1700000000001)})
	settled(t, s)
	if n := markRows(t, s); n != 1 {
		t.Errorf("%d marks in the tables", n)
	}
	if got := markOf(t, s, "alice", "bob"); got != want {
		t.Errorf("from the tables %+v, want %+v", got, want)
	}
	want = advance(t, s, "alice", "bob", store.Mark{Received: time.UnixMilli(1700000000002)})
	last := advance(t, s, "bob", "alice", store.Mark{Received: time.UnixMilli(7)})
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	again := open(t, dir, Options{})
	if got := markOf(t, again, "alice", "bob"); got != want {
		t.Errorf("after the restart %+v, want %+v", got, want)
	}
	if got := markOf(t, again, "bob", "alice"); got != last {
		t.Errorf("after the restart %+v, want %+v", got, last)
	}
}

// TestUnreadInAllPlaces counts what is in the tables, in the journal that a crash left, and in both.
func TestUnreadInAllPlaces(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, Options{})
	heal := noRoom(s) // in the tables
	defer heal()
	check := func(s *Store, where string, unread int, newest uint64) {
		t.Helper()
		if got := markOf(t, s, "alice", "bob"); got.Unread != unread || got.Newest.Seq != newest {
			t.Errorf("%s: %+v, want %d unread", where, got, unread)
		}
		_, until, err := s.Reach(t.Context(), chatBox("alice"), "bob", newest)
		if err != nil || until.IsZero() {
			t.Errorf("%s: until %v, %v", where, until, err)
		}
	}
	for i := range 5 {
		post(t, s, message(fmt.Sprint("b", i), "bob", "alice"))
		post(t, s, message(fmt.Sprint("a", i), "alice", "bob"))
		post(t, s, message(fmt.Sprint("c", i), "carol", "alice"))
	}
	check(s, "in the journal", 5, 14)
	s = open(t, copyDir(t, dir), Options{})
	check(s, "after a crash", 5, 14)
	post(t, s, message("b5", "bob", "alice"))
	post(t, s, message("a5", "alice", "bob"))
	check(s, "in both", 6, 17)
	at := markOf(t, s, "alice", "bob").Newest
	at.Seq = 5
	if now := advance(t, s, "alice", "bob", store.Mark{Read: at}); now.Unread != 4 {
		t.Errorf("read to 5: %+v", now)
	}
}

// TestMarksHoldNobodyUp has a look at marks take long: others' marks move, and are written, meanwhile.
func TestMarksHoldNobodyUp(t *testing.T) {
	s := open(t, t.TempDir(), Options{})
	at := post(t, s, message("1", "bob", "alice")).Offsets[1]
	s.mu.Lock() // nobody can begin to read
	var looking sync.WaitGroup
	looking.Go(func() { markOf(t, s, "alice", "bob") })
	looking.Go(func() { advance(t, s, "alice", "bob", store.Mark{Read: at}) })
	turn := s.marks.turn(markPlace{string(boxKey(chatBox("alice"))), "bob"})
	for turn.TryLock() { // until it is being moved
		turn.Unlock()
		runtime.Gosched()
	}
	put := make(chan bool)
	go func() { put <- s.marks.put(markPlace{"x", "y"}, waitingMark{}) }()
	select {
	case <-put:
	case <-time.After(10 * time.Second):
		t.Error("who looks at marks holds up all others")
	}
	s.mu.Unlock()
	looking.Wait()
}

// TestMarksFullDisk checks that marks that cannot be written are seen, wait, and are written when there is room.
func TestMarksFullDisk(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, Options{})
	heal := noRoom(s)
	at := post(t, s, message("1", "bob", "alice")).Offsets[1]
	want := advance(t, s, "alice", "bob", store.Mark{Read: at})
	err := s.SaveSession(t.Context(), store.Session{ID: "s", UserID: "u"})
	if !errors.Is(err, store.ErrUnavailable) {
		t.Fatalf("saved on a full disk: %v", err)
	}
	if got := markOf(t, s, "alice", "bob"); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	heal()
	settled(t, s)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if got := markOf(t, open(t, dir, Options{}), "alice", "bob"); got != want {
		t.Errorf("after the restart %+v, want %+v", got, want)
	}
}

// TestMarksAreBounded checks that a store whose disk is full refuses marks before it is out of memory.
func TestMarksAreBounded(t *testing.T) {
	s := open(t, t.TempDir(), Options{})
	heal := noRoom(s)
	defer heal()
	at := post(t, s, message("1", "bob", "alice")).Offsets[1]
	s.marks.mu.Lock()
	for i := range uint64(maxMarks) {
		s.marks.waiting[markPlace{key: "x", peer: fmt.Sprint(i)}] = waitingMark{}
	}
	s.marks.mu.Unlock()
	if _, _, err := s.Advance(t.Context(), chatBox("alice"), "bob", store.Mark{Read: at}); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("one more than there is room for: %v", err)
	}
}

// TestMarksGo checks that no mark stays in the tables when its conversation, or its mailbox, is gone.
func TestMarksGo(t *testing.T) {
	const limit = 20
	clock := storetest.NewClock()
	s := open(t, t.TempDir(), Options{Options: store.Options{MailboxLimit: limit, MessageTTL: time.Hour, Now: clock.Now}})
	for i := range 5 * limit {
		peer := fmt.Sprint("peer", i)
		r := post(t, s, message("m", peer, "alice"))
		advance(t, s, "alice", peer, store.Mark{Read: r.Offsets[1]})
		if i == 2*limit {
			settled(t, s)
		}
	}
	settled(t, s)
	// What has been trimmed leaves the tables when the journal is folded.
	deadline := time.Now().Add(10 * time.Second)
	for n := -1; n != limit; n = markRows(t, s) {
		if time.Now().After(deadline) {
			t.Fatalf("%d marks in the tables", n)
		}
		post(t, s, message(fmt.Sprint(n, time.Now()), "peer", "bob")) // something to do
	}
	clock.Advance(time.Hour + sweepGrace)
	for n := -1; n != 0; n = markRows(t, s) {
		if time.Now().After(deadline) {
			t.Fatalf("%d marks in the tables after the mailbox expired", n)
		}
	}
}

// TestMarksDamaged checks that a row that is not a mark fails those who ask for it, and nobody else.
func TestMarksDamaged(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, Options{})
	at := post(t, s, message("1", "bob", "alice")).Offsets[1]
	post(t, s, message("2", "carol", "alice"))
	advance(t, s, "alice", "bob", store.Mark{Read: at})
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	change(t, dir, func(tx *bbolt.Tx) error {
		key := markKey(at.Epoch, "bob")
		if !bytes.Equal(tx.Bucket(mailBucket).Get(key)[:8], []byte{7: 1}) {
			t.Errorf("the mark is %x", tx.Bucket(mailBucket).Get(key))
		}
		return tx.Bucket(mailBucket).Put(key, []byte("short"))
	})
	s = open(t, dir, Options{})
	if _, err := s.Marks(t.Context(), chatBox("alice"), []string{"bob"}, 0); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("a damaged mark: %v", err)
	}
	if got := markOf(t, s, "alice", "carol"); got.Newest.Seq != 2 {
		t.Errorf("the other is %+v", got)
	}
}

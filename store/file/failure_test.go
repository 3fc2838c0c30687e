package file

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"parley/store"
	"parley/store/storetest"
)

// noRoom makes all changes of the tables fail, as on a full disk, until the function it returns is called.
func noRoom(s *Store) (heal func()) {
	var mu sync.Mutex
	full := true
	// Nothing has been written yet: the writer reads this when it gets its first group.
	s.commit = func(tx *bbolt.Tx) error {
		mu.Lock()
		defer mu.Unlock()
		if full {
			return syscall.ENOSPC
		}
		return tx.Commit()
	}
	return func() {
		mu.Lock()
		defer mu.Unlock()
		full = false
	}
}

func copyDir(t *testing.T, from string) (to string) {
	t.Helper()
	to = t.TempDir()
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
	return to
}

// unfolded makes a store whose messages are all in the journal, and a copy of its directory, as after a crash.
func unfolded(t *testing.T, messages int) (s *Store, crashed string, heal func()) {
	t.Helper()
	dir := t.TempDir()
	s = open(t, dir, Options{})
	heal = noRoom(s)
	for i := range messages {
		post(t, s, message(fmt.Sprint(i), fmt.Sprint("user", i%10), fmt.Sprint("user", i%7)))
	}
	return s, copyDir(t, dir), heal
}

// ids returns the ids in a user's mailbox, in order, and checks that the numbers have no gaps.
func ids(t *testing.T, s store.Store, user string) []string {
	t.Helper()
	entries, err := s.After(t.Context(), store.Box{App: "chat", User: user}, store.Offset{}, 1e6)
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for i, e := range entries {
		if e.Seq != uint64(i+1) {
			t.Fatalf("number %d at place %d", e.Seq, i+1)
		}
		found = append(found, e.ID)
	}
	return found
}

// TestJournal checks that what was acked is read while it is in the journal alone, after a crash, and after it was
// folded, more than once.
func TestJournal(t *testing.T) {
	s, crashed, heal := unfolded(t, 200)
	want := ids(t, s, "user3")
	if len(want) < 40 {
		t.Fatalf("only %d entries", len(want))
	}
	same := func(what string, s store.Store) {
		t.Helper()
		if got := ids(t, s, "user3"); fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%s: %v, want %v", what, got, want)
		}
		if r := post(t, s, message("3", "user3", "user3")); !r.Duplicate {
			t.Errorf("%s: a retry was stored again: %+v", what, r)
		}
	}
	same("in the journal", s)
	for range 2 {
		again := open(t, crashed, Options{})
		same("after a crash", again)
		if err := again.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.SaveSession(t.Context(), store.Session{ID: "s", UserID: "u"}); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("a session was saved on a full disk: %v", err)
	}
	heal()
	if err := s.SaveSession(t.Context(), store.Session{ID: "s", UserID: "u"}); err != nil {
		t.Errorf("a session was not saved when there was room again: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, filepath.Dir(s.path), Options{})
	if err := s.view(t.Context(), func(tx *txn) error {
		if v, err := tx.box("\x04chatuser3"); err != nil || v == nil || v.last != uint64(len(want)) {
			t.Errorf("the tables have %+v, %v", v, err)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	same("in the tables", s)
}

// TestJournalCutOff has a crash in the middle of a frame.
func TestJournalCutOff(t *testing.T) {
	s, crashed, heal := unfolded(t, 50)
	heal()
	before := ids(t, s, "user3")
	log := filepath.Join(crashed, journalName(1))
	data := read(t, log)
	at := 0
	var starts []int
	for {
		_, _, rest, ok := readFrame(data[at:])
		if !ok {
			break
		}
		starts = append(starts, at)
		at = len(data) - len(rest)
	}
	if len(starts) != 50 {
		t.Fatalf("%d frames", len(starts))
	}
	last := starts[49]
	for _, cut := range []int{last, last + 1, last + frameHeaderBytes, at - 1} {
		dir := copyDir(t, crashed)
		torn := bytes.Clone(data)
		clear(torn[cut:])
		write(t, filepath.Join(dir, journalName(1)), torn)
		again := open(t, dir, Options{})
		if got := ids(t, again, "user9"); len(got) == 0 || len(ids(t, again, "user3")) != len(before) {
			t.Errorf("cut at %d: %v", cut, got)
		}
		// The one that was cut off is there once it is sent again, once.
		post(t, again, message("49", "user9", "user0"))
		if got := ids(t, again, "user9"); got[len(got)-1] != "49" || len(got) != 5 {
			t.Errorf("cut at %d: %v", cut, got)
		}
	}
	// In the middle it is no crash.
	damaged := bytes.Clone(data)
	damaged[starts[20]+20] ^= 1
	write(t, log, damaged)
	refused(t, crashed, "damaged", "nothing was changed", journalName(1))
}

// TestStepsOfFold has a crash after each step of a fold.
func TestStepsOfFold(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, Options{})
	var crashed []string
	var sent atomic.Bool
	s.commit = func(tx *bbolt.Tx) error {
		if !sent.Load() {
			return syscall.ENOSPC
		}
		crashed = append(crashed, copyDir(t, dir))
		return tx.Commit()
	}
	var wait sync.WaitGroup
	for sender := range 50 {
		wait.Go(func() {
			for i := range 60 {
				if _, err := s.Append(t.Context(), message(fmt.Sprint(sender, "-", i), fmt.Sprint("user", sender%5), "bob")); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wait.Wait()
	sent.Store(true)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if len(crashed) < 3 {
		t.Fatalf("only %d steps", len(crashed))
	}
	for _, dir := range crashed {
		if n := len(ids(t, open(t, dir, Options{}), "bob")); n != 3000 {
			t.Errorf("%d entries after a crash", n)
		}
	}
}

func TestDiskFails(t *testing.T) {
	for name, test := range map[string]struct {
		err     error
		sync    bool // it is the sync that fails
		forever bool
	}{
		"full":                 {syscall.ENOSPC, false, false},
		"quota":                {syscall.EDQUOT, false, false},
		"broken":               {syscall.EIO, false, true},
		"full, said by sync":   {syscall.ENOSPC, true, true},
		"quota, said by sync":  {syscall.EDQUOT, true, true},
		"broken, said by sync": {syscall.EIO, true, true},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			s := open(t, dir, Options{})
			post(t, s, message("1", "alice", "bob"))
			if test.sync {
				s.journal.sync = func(*os.File) error { return test.err }
			} else {
				s.journal.writeAt = func(*os.File, []byte, int64) (int, error) { return 0, test.err }
			}
			_, err := s.Append(t.Context(), message("2", "alice", "bob"))
			if !errors.Is(err, store.ErrUnavailable) || !errors.Is(err, test.err) {
				t.Errorf("append: %v", err)
			}
			if found := ids(t, s, "bob"); len(found) != 1 {
				t.Errorf("what was not acked is read: %v", found)
			}
			s.journal.sync, s.journal.writeAt = syncData, (*os.File).WriteAt
			_, err = s.Append(t.Context(), message("3", "alice", "bob"))
			if forever := errors.Is(err, store.ErrUnavailable); forever != test.forever {
				t.Errorf("after the failure: %v", err)
			}
			if healthy := s.Health() == nil; healthy == test.forever {
				t.Errorf("healthy: %v", healthy)
			}
			err = s.SaveSession(t.Context(), store.Session{ID: "s", UserID: "u"})
			if forever := errors.Is(err, store.ErrUnavailable); forever != test.forever {
				t.Errorf("session after the failure: %v", err)
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			s = open(t, dir, Options{})
			post(t, s, message("1", "alice", "bob"))
			post(t, s, message("2", "alice", "bob"))
			post(t, s, message("3", "alice", "bob"))
			if found := ids(t, s, "bob"); len(found) != 3 {
				t.Errorf("after a restart: %v", found)
			}
		})
	}
}

// TestDamagedRow checks that a damaged mailbox fails its own requests alone.
func TestDamagedRow(t *testing.T) {
	dir := t.TempDir()
	filled(t, dir)
	change(t, dir, func(tx *bbolt.Tx) error {
		epoch := tx.Bucket(boxesBucket).Get(boxKey(store.Box{App: "chat", User: "user5"}))
		return errors.Join(
			tx.Bucket(mailBucket).Put(append(bytes.Clone(epoch), mailHead), []byte("?")),
			tx.Bucket(recordsBucket).Put([]byte("s7"), []byte("?")),
		)
	})
	s := open(t, dir, Options{})
	if _, err := s.Overview(t.Context(), store.Box{App: "chat", User: "user5"}, 1, 1); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("overview of a damaged mailbox: %v", err)
	}
	var wait sync.WaitGroup
	for i := range 10 {
		wait.Go(func() {
			for j := range 20 {
				user := fmt.Sprint("user", i)
				_, err := s.Append(t.Context(), message(fmt.Sprint("new", j), user, user))
				if damaged := errors.Is(err, store.ErrUnavailable); damaged != (i == 5) || !damaged && err != nil {
					t.Errorf("append to %s: %v", user, err)
				}
				err = s.SaveSession(t.Context(), store.Session{ID: fmt.Sprint(i), UserID: fmt.Sprint(i)})
				if damaged := errors.Is(err, store.ErrUnavailable); damaged != (i == 7) || !damaged && err != nil {
					t.Errorf("session %d: %v", i, err)
				}
			}
		})
	}
	wait.Wait()
}

// TestPanic checks that a request that panics in bbolt is an error.
func TestPanic(t *testing.T) {
	s := open(t, t.TempDir(), Options{})
	for range 2 {
		err := s.update(t.Context(), 0, func(*txn) error { panic("page 7 already freed") })
		if !errors.Is(err, store.ErrUnavailable) {
			t.Errorf("panic in a request: %v", err)
		}
		if err := s.view(t.Context(), func(*txn) error { panic("page 7 already freed") }); !errors.Is(err, store.ErrUnavailable) {
			t.Errorf("panic in a reader: %v", err)
		}
	}
	post(t, s, message("m", "alice", "bob"))
	if err := s.SaveSession(t.Context(), store.Session{ID: "s", UserID: "u"}); err != nil {
		t.Error(err)
	}
}

// TestFullQueue checks that senders wait for room no longer than their context says.
func TestFullQueue(t *testing.T) {
	s := open(t, t.TempDir(), Options{})
	release := make(chan struct{})
	blocked := make(chan struct{})
	done := make(chan error, 1)
	go func() {
		done <- s.update(context.Background(), 0, func(*txn) error {
			close(blocked)
			<-release
			return nil
		})
	}()
	<-blocked
	for i := range queueLength {
		if err := s.SaveRecovery(t.Context(), store.Recovery{PID: fmt.Sprint(i)}, time.Hour); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := s.SaveRecovery(ctx, store.Recovery{PID: "late"}, time.Hour); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("no room: %v", err)
	}
	close(release)
	if err := <-done; err != nil {
		t.Error(err)
	}
	if _, err := s.TakeRecovery(t.Context(), fmt.Sprint(queueLength-1)); err != nil {
		t.Error(err)
	}
}

// TestSweep checks that nothing is left of what has expired, that it takes bounded steps, and that what is in use stays.
func TestSweep(t *testing.T) {
	dir := t.TempDir()
	clock := storetest.NewClock()
	opts := Options{Options: store.Options{Now: clock.Now}}
	s := open(t, dir, opts)
	fill(t, s)
	for i := range 100 {
		if err := s.SaveRecovery(t.Context(), store.Recovery{PID: fmt.Sprint(i)}, time.Minute); err != nil {
			t.Fatal(err)
		}
	}
	reopen := func() { // which folds the journal
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		s = open(t, dir, opts)
	}
	sweep := func() (steps int) {
		for more := true; more; steps++ {
			if err := s.update(t.Context(), 0, func(t *txn) (err error) {
				more, err = t.sweep(100)
				return err
			}); err != nil {
				t.Fatal(err)
			}
		}
		return steps
	}
	rows := func() map[string]int {
		n := map[string]int{}
		if err := s.view(t.Context(), func(t *txn) error {
			for _, name := range buckets[1:] {
				n[string(name)] = t.tx.Bucket(name).Stats().KeyN
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		return n
	}
	clock.Advance(20 * time.Hour)
	post(t, s, message("late", "user1", "user2"))
	reopen()
	clock.Advance(5 * time.Hour)
	sweep()
	if n := rows(); n["boxes"] != 2 || n["expiry"] != 2 || n["records"] != 1 || n["mail"] < 100 {
		t.Errorf("what is in use: %v", n)
	}
	if found := ids(t, s, "user1"); len(found) < 100 || found[len(found)-1] != "late" {
		t.Errorf("a mailbox in use has %d entries", len(found))
	}
	clock.Advance(20 * time.Hour)
	sweep()
	if n := rows(); n["boxes"]+n["expiry"]+n["mail"] != 0 || n["records"] != 1 {
		t.Errorf("what is left: %v", n)
	}
	if first := post(t, s, message("late", "user1", "user2")); first.Duplicate || first.Offsets[0].Seq != 1 {
		t.Errorf("the next incarnation: %+v", first)
	}
}

// TestGroups checks that concurrent senders share syncs.
func TestGroups(t *testing.T) {
	s := open(t, t.TempDir(), Options{})
	var wait sync.WaitGroup
	for sender := range 64 {
		wait.Go(func() {
			for i := range 20 {
				if _, err := s.Append(t.Context(), message(fmt.Sprint(i), fmt.Sprint(sender), "bob")); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wait.Wait()
	if messages, groups := s.grouped.Load(), s.groups.Load(); messages != 64*20 || groups*4 > messages {
		t.Errorf("%d messages in %d groups", messages, groups)
	}
}

// FuzzReadTurn checks that no journal file makes Open panic.
func FuzzReadTurn(f *testing.F) {
	f.Add([]byte{})
	f.Add(make([]byte, 100))
	m := logged{id: "m", data: []byte("data"), to: []loggedDelivery{{"box", "peer", true, 1, 1}}}
	dir := f.TempDir()
	j, err := openJournal(dir, 1)
	if err != nil {
		f.Fatal(err)
	}
	for range 2 {
		if err := j.write([]*logged{&m, &m}); err != nil {
			f.Fatal(err)
		}
	}
	data, err := os.ReadFile(filepath.Join(dir, journalName(1)))
	if err := errors.Join(err, j.close()); err != nil {
		f.Fatal(err)
	}
	f.Add(data[:j.at+100])
	f.Fuzz(func(t *testing.T, data []byte) {
		turn, err := readTurn(data, 0)
		if err == nil && len(turn.messages) > len(data)/frameHeaderBytes {
			t.Errorf("%d messages in %d bytes", len(turn.messages), len(data))
		}
	})
}

package file

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"parley/store"
	"parley/store/storetest"
)

var bob = store.Box{App: "chat", User: "bob"}

// sweepAll sweeps until nothing is due, whatever becomes of the writer's own transactions.
func sweepAll(t *testing.T, s *Store) {
	t.Helper()
	for steps, more := 0, true; more; steps++ {
		if err := s.db.Update(func(tx *bbolt.Tx) (err error) {
			more, err = s.begin(tx).sweep(100)
			return err
		}); err != nil {
			t.Fatal(err)
		}
		if steps == 1000 {
			t.Fatal("the sweep does not end")
		}
	}
}

// nearlyExpired makes a store whose mailboxes are in the tables, with three entries, and have a second to live.
func nearlyExpired(t *testing.T) (s *Store, opts Options, clock *storetest.Clock) {
	t.Helper()
	dir := t.TempDir()
	clock = storetest.NewClock()
	opts = Options{Options: store.Options{Now: clock.Now}}
	s = open(t, dir, opts)
	for i := range 3 {
		post(t, s, message(fmt.Sprint(i), "alice", "bob"))
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, dir, opts)
	clock.Advance(s.opts.MessageTTL - time.Second)
	return s, opts, clock
}

// foldsLarge posts until the journal is being folded.
func foldsLarge(t *testing.T, s *Store) {
	t.Helper()
	large := message("", "eve", "mallory")
	large.Data = bytes.Repeat([]byte{'x'}, 1<<20)
	folding := func() bool {
		s.mu.RLock()
		defer s.mu.RUnlock()
		return s.folding != nil
	}
	for i := 0; !folding(); i++ {
		large.ID = fmt.Sprint(i)
		post(t, s, large)
	}
}

// TestSweepWhileInJournal has the time of mailboxes come whose newest entries are in the journal alone.
func TestSweepWhileInJournal(t *testing.T) {
	for _, folding := range []bool{false, true} {
		t.Run(fmt.Sprint("folding=", folding), func(t *testing.T) {
			s, opts, clock := nearlyExpired(t)
			dir := filepath.Dir(s.path)
			heal := noRoom(s)
			post(t, s, message("late", "alice", "bob"))
			if folding {
				foldsLarge(t, s)
			}
			clock.Advance(time.Second + sweepGrace) // as after the machine was asleep
			sweepAll(t, s)
			if found := ids(t, s, "bob"); len(found) != 4 {
				t.Errorf("after the sweep: %v", found)
			}
			if found := ids(t, open(t, copyDir(t, dir), opts), "bob"); len(found) != 4 {
				t.Errorf("after a crash: %v", found)
			}
			clock.Advance(2 * s.opts.MessageTTL)
			sweepAll(t, s) // what has expired in the journal
			heal()
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			s = open(t, dir, opts)
			clock.Advance(2 * sweepGrace)
			sweepAll(t, s)
			if err := s.view(t.Context(), func(t *txn) error {
				if left := t.boxes.Stats().KeyN + t.mail.Stats().KeyN; left > 0 {
					return fmt.Errorf("%d rows are left", left)
				}
				return nil
			}); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestSweepAwaitsGroup has the time of mailboxes come while a message for them is on its way to the journal.
func TestSweepAwaitsGroup(t *testing.T) {
	s, _, clock := nearlyExpired(t)
	syncing, release := make(chan struct{}), make(chan struct{})
	s.journal.sync = func(f *os.File) error {
		close(syncing)
		<-release
		return syncData(f)
	}
	acked, swept := make(chan error, 1), make(chan error, 1)
	go func() {
		_, err := s.Append(t.Context(), message("late", "alice", "bob"))
		acked <- err
	}()
	<-syncing
	clock.Advance(time.Second + sweepGrace)
	go func() {
		swept <- s.db.Update(func(tx *bbolt.Tx) error {
			_, err := s.begin(tx).sweep(100)
			return err
		})
	}()
	select {
	case err := <-swept:
		t.Errorf("it did not wait: %v", err)
		swept <- err
	case <-time.After(20 * time.Millisecond):
	}
	close(release)
	if err := errors.Join(<-acked, <-swept); err != nil {
		t.Fatal(err)
	}
	if found := ids(t, s, "bob"); len(found) != 4 {
		t.Errorf("after the sweep: %v", found)
	}
}

// TestMailboxLost checks that a mailbox which lost its rows goes on with what the journal has, and keeps nobody else from
// anything.
func TestMailboxLost(t *testing.T) {
	s, opts, _ := nearlyExpired(t)
	dir := filepath.Dir(s.path)
	heal := noRoom(s)
	post(t, s, message("late", "alice", "bob"))
	crashed := copyDir(t, dir)
	lose := func(tx *bbolt.Tx) error { return tx.Bucket(boxesBucket).Delete(boxKey(bob)) }
	change(t, crashed, lose)
	if err := s.db.Update(lose); err != nil {
		t.Fatal(err)
	}
	heal()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{dir, crashed} {
		s := open(t, dir, opts)
		entries, err := s.After(t.Context(), bob, store.Offset{}, 100)
		if err != nil || len(entries) != 1 || entries[0].ID != "late" || entries[0].Seq != 4 {
			t.Errorf("%+v, %v", entries, err)
		}
		if _, err := s.Overview(t.Context(), bob, 10, 10); err != nil {
			t.Error(err)
		}
		if r := post(t, s, message("0", "alice", "bob")); r.Offsets[0].Seq != 1 || r.Offsets[1].Seq != 5 {
			t.Errorf("what was lost is posted again: %+v", r)
		}
		if found := ids(t, s, "alice"); len(found) != 4 {
			t.Errorf("alice has %v", found)
		}
	}
}

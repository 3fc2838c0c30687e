package redisstore

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"parley/store"
)

// TestRecoveryTurns has a client go from process to process: what one that it left still writes does not count.
func TestRecoveryTurns(t *testing.T) {
	server := newServer(t)
	a, b := open(t, server.client(t), Options{}), open(t, server.client(t), Options{})
	save := func(s *Store, sid string, turn uint64) {
		t.Helper()
		if err := s.SaveRecovery(t.Context(), store.Recovery{PID: "p", SID: sid, Turn: turn}, time.Minute); err != nil {
			t.Fatal(err)
		}
		if _, err := s.TakeRecovery(t.Context(), "another"); !errors.Is(err, store.ErrNotFound) {
			t.Fatal(err)
		}
		// The lane of "p" has written when a call that follows in it has been answered.
		if err := s.writes.do(t.Context(), recoveryKey("p"), plain("EXISTS", recoveryKey("p"))); err != nil {
			t.Fatal(err)
		}
	}
	take := func(s *Store, sid string, turn uint64) {
		t.Helper()
		r, err := s.TakeRecovery(t.Context(), "p")
		if sid == "" {
			if !errors.Is(err, store.ErrNotFound) {
				t.Errorf("%+v, %v", r, err)
			}
		} else if err != nil || r.SID != sid || r.Turn != turn {
			t.Errorf("%+v, %v instead of %s, turn %d", r, err, sid, turn)
		}
	}
	save(a, "live on a", 1)
	take(b, "live on a", 1)
	save(a, "dropped on a", 1)
	take(a, "", 0)
	save(b, "live on b", 2)
	save(a, "dropped on a", 1)
	save(b, "dropped on b", 2)
	take(a, "dropped on b", 2)
	save(a, "given back", 3)
	take(b, "given back", 3)
	take(a, "", 0)
	save(a, "no turn", 0)
	take(b, "no turn", 0)
}

// TestHurry has a process that is to end not wait for a Redis that does not answer.
func TestHurry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, client := bubble(t)
		wire := &line{}
		s := open(t, client(wire), Options{Reconcile: -1})
		for _, user := range []string{"alice", "bob"} {
			if _, err := s.Connect(t.Context(), user, user); err != nil {
				t.Fatal(err)
			}
		}
		hold := make(chan struct{})
		wire.hold.Store(&hold)
		ended := make(chan error, 1)
		go func() {
			_, err := s.Disconnect(context.Background(), "alice", "alice")
			ended <- err
		}()
		synctest.Wait()
		start := time.Now()
		s.Hurry()
		if err := <-ended; !errors.Is(err, store.ErrUnavailable) {
			t.Error(err)
		}
		if _, err := s.Disconnect(t.Context(), "bob", "bob"); !errors.Is(err, store.ErrUnavailable) {
			t.Error(err)
		}
		if took := time.Since(start); took > 3*hurriedTimeout {
			t.Errorf("it took %v", took)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if took := time.Since(start); took > 5*time.Second {
			t.Errorf("with closing it took %v", took)
		}
		wire.hold.Store(nil)
		close(hold)
	})
}

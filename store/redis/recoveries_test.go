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
	take(a, "live on a", 2) // b ended before it could write
	save(b, "live on b", 2)
	save(a, "back on a", 3)
	save(b, "dropped on b", 2)
	take(b, "back on a", 3)
	save(b, "given back", 4)
	take(a, "given back", 4)
	if err := a.DeleteRecovery(t.Context(), "p"); err != nil {
		t.Fatal(err)
	}
	save(a, "written late", 5)
	take(b, "", 0)
	save(a, "no turn", 0)
	take(b, "no turn", 0)
	take(a, "", 0)
}

// TestRecoveryTakenTwice has a client come back a second time before the process that took it wrote anything: it was
// not away since the time that the record tells.
func TestRecoveryTakenTwice(t *testing.T) {
	server := newServer(t)
	s := open(t, server.client(t), Options{})
	gone := time.UnixMilli(1600000000123)
	r := store.Recovery{PID: "p", SID: "s", Rooms: []string{"r"}, Data: []byte("{}"), Disconnected: gone, Turn: 7}
	if err := s.SaveRecovery(t.Context(), r, time.Minute); err != nil {
		t.Fatal(err)
	}
	for i, want := range []time.Time{gone, {}, {}} {
		got, err := s.TakeRecovery(t.Context(), "p")
		if err != nil || got.SID != "s" || len(got.Rooms) != 1 || string(got.Data) != "{}" ||
			got.Turn != uint64(7+i) || !got.Disconnected.Equal(want) {
			t.Errorf("take %d: %+v, %v", i, got, err)
		}
	}
}

// TestUnknownScript has Redis forget the scripts: calls for one key stay in their order.
func TestUnknownScript(t *testing.T) {
	server := newServer(t)
	client := server.client(t)
	key := recoveryKey("p")
	save := func(turn, row string) *command { return scriptRecovery.run([]string{key}, 60_000, turn, row) }
	for _, flush := range []bool{true, false} {
		if err := client.FlushDB(t.Context()).Err(); err != nil {
			t.Fatal(err)
		}
		if flush {
			if err := client.ScriptFlush(t.Context()).Err(); err != nil {
				t.Fatal(err)
			}
		}
		left := plain("GET", key)
		commands := []*command{plain("SET", key, "1 older"), save("2", "newer"), plain("DEL", key), save("1", "last"), left}
		if err := do(t.Context(), client, commands...); err != nil {
			t.Fatal(err)
		}
		if got, _ := left.Text(); got != "1 last" {
			t.Errorf("scripts forgotten: %t: %q is left", flush, got)
		}
	}
}

// TestRecoveryOutlivesOutage has a recovery written while Redis is away: it is there when Redis is back.
func TestRecoveryOutlivesOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server, client := bubble(t)
		s := open(t, client(), Options{Reconcile: -1})
		server.SetError("LOADING Redis is loading the dataset in memory")
		if err := s.SaveRecovery(t.Context(), store.Recovery{PID: "p", SID: "s", Turn: 1}, time.Hour); err != nil {
			t.Fatal(err)
		}
		time.Sleep(3 * time.Second)
		server.SetError("")
		time.Sleep(2 * keptPause)
		synctest.Wait()
		if r, err := s.TakeRecovery(t.Context(), "p"); err != nil || r.SID != "s" {
			t.Errorf("%+v, %v", r, err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
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

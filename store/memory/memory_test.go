package memory

import (
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"parley/store"
	"parley/store/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestConformance(t *testing.T) {
	storetest.Run(t, func(t *testing.T, opts store.Options) (store.Store, func(time.Duration)) {
		clock := storetest.NewClock()
		opts.Now = clock.Now
		return New(opts), clock.Advance
	})
}

// fill puts n mailboxes, sessions and recoveries into the store.
func fill(t *testing.T, s *Store, n int) {
	t.Helper()
	for i := range n {
		user := fmt.Sprint(i)
		if _, err := s.Append(t.Context(), store.Post{
			ID: "m", Sender: user, To: []store.Delivery{{Box: store.Box{App: "chat", User: user}}},
		}); err != nil {
			t.Fatal(err)
		}
		if err := s.SaveSession(t.Context(), store.Session{ID: user, UserID: user}); err != nil {
			t.Fatal(err)
		}
		if err := s.SaveRecovery(t.Context(), store.Recovery{PID: user}, time.Minute); err != nil {
			t.Fatal(err)
		}
	}
}

// size counts what the store holds, expired or not.
func size(s *Store) (boxes, rows, recoveries int) {
	for i := range s.mailboxes.stripes {
		stripe := &s.mailboxes.stripes[i]
		stripe.mu.Lock()
		boxes += len(stripe.boxes)
		stripe.mu.Unlock()
	}
	s.recoveries.mu.Lock()
	recoveries = len(s.recoveries.byPID)
	if due := len(s.recoveries.due); due != recoveries {
		panic(fmt.Sprintf("%d recoveries, %d of them due", recoveries, due))
	}
	s.recoveries.mu.Unlock()
	s.mu.RLock()
	defer s.mu.RUnlock()
	return boxes, s.rows.Len(), recoveries
}

// TestSweep checks that expired things are removed without being asked for.
func TestSweep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(store.Options{SessionTTL: time.Minute, MessageTTL: time.Minute})
		defer s.Close()
		fill(t, s, 3000)
		time.Sleep(30 * time.Second)
		fill(t, s, 10) // keeps these ten sessions alive; the messages are retries, which keep nothing
		time.Sleep(30*time.Second + 2*sweepInterval)
		// A session is two rows, its user three, and there is the number of users.
		if boxes, rows, recoveries := size(s); boxes != 0 || rows != 10*5+1 || recoveries != 10 {
			t.Errorf("%d mailboxes, %d rows and %d recoveries are left", boxes, rows, recoveries)
		}
		time.Sleep(time.Minute)
		if boxes, rows, recoveries := size(s); boxes != 0 || rows != 1 || recoveries != 0 {
			t.Errorf("%d mailboxes, %d rows and %d recoveries are left at the end", boxes, rows, recoveries)
		}
	})
}

// TestRecoveriesAnyOrder checks that recoveries expire by their time, whatever the order in which they came, were
// replaced and went.
func TestRecoveriesAnyOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(store.Options{})
		defer s.Close()
		const n = 1000
		rng := rand.New(rand.NewPCG(1, 2))
		left := map[string]int{} // in how many minutes each expires
		for range 3 {
			for _, i := range rng.Perm(n) {
				pid := fmt.Sprint(i)
				if rng.IntN(4) == 0 {
					if err := s.DeleteRecovery(t.Context(), pid); err != nil {
						t.Fatal(err)
					}
					delete(left, pid)
					continue
				}
				left[pid] = 1 + rng.IntN(5)
				if err := s.SaveRecovery(t.Context(), store.Recovery{PID: pid}, time.Duration(left[pid])*time.Minute); err != nil {
					t.Fatal(err)
				}
			}
		}
		time.Sleep(2 * sweepInterval)
		for minute := range 6 {
			want := 0
			for _, at := range left {
				if at > minute {
					want++
				}
			}
			if _, _, got := size(s); got != want {
				t.Errorf("after %d minutes %d recoveries are left, want %d", minute, got, want)
			}
			time.Sleep(time.Minute)
		}
	})
}

// BenchmarkRecovery replaces and takes the record of one of ten thousand clients.
func BenchmarkRecovery(b *testing.B) {
	s := New(store.Options{})
	defer s.Close()
	var all [10000]store.Recovery
	for i := range all {
		pid := fmt.Sprintf("%020x", i)
		all[i] = store.Recovery{
			PID: pid, SID: pid, Namespace: "/", User: "0123456789abcdef", Box: store.Box{App: "chat", User: "0123456789abcdef"},
			Rooms: []string{pid, "0123456789abcdef"}, Data: []byte(`{"User":"0123456789abcdef","Data":null,"Start":{"Epoch":0,"Seq":0}}`),
		}
		if err := s.SaveRecovery(b.Context(), all[i], 24*time.Hour); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		r := &all[i*7919%len(all)]
		if _, err := s.TakeRecovery(b.Context(), r.PID); err != nil {
			b.Fatal(err)
		}
		if err := s.SaveRecovery(b.Context(), *r, 24*time.Hour); err != nil {
			b.Fatal(err)
		}
	}
}

// TestPresenceLeavesNothing checks that users who left cost nothing.
func TestPresenceLeavesNothing(t *testing.T) {
	p := NewPresence()
	for i := range 1000 {
		user := fmt.Sprint(i)
		_, _ = p.Connect(t.Context(), user, "a")
		_, _ = p.Connect(t.Context(), user, "b")
		_, _ = p.Disconnect(t.Context(), user, "b")
		_, _ = p.Disconnect(t.Context(), user, "a")
	}
	for i := range p.stripes {
		if n := len(p.stripes[i].sockets) + len(p.stripes[i].counts); n != 0 {
			t.Fatalf("%d things are left in a stripe", n)
		}
	}
}

// BenchmarkAppend appends private messages between a thousand users, each into two mailboxes.
func BenchmarkAppend(b *testing.B) {
	s := New(store.Options{})
	defer s.Close()
	const users = 1000
	var all [users]string
	for i := range all {
		all[i] = fmt.Sprintf("%016x", i)
	}
	data := []byte(`{"content":"a message of the usual length, more or less","from":"0123456789abcdef","to":"0123456789abcdef"}`)
	var worker atomic.Int64
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		id := worker.Add(1)
		for i := 0; pb.Next(); i++ {
			from, to := all[(i*7+int(id)*13)%users], all[i%users]
			_, err := s.Append(b.Context(), store.Post{
				ID: fmt.Sprintf("%d-%d", id, i), Sender: from, Data: data,
				To: []store.Delivery{{Box: store.Box{App: "chat", User: from}, Peer: to}, {Box: store.Box{App: "chat", User: to}, Peer: from}},
			})
			if err != nil {
				b.Fatal(err)
			}
		}
	})
}

package memory

import (
	"fmt"
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
func size(s *Store) (boxes, rows int) {
	for i := range s.mailboxes.stripes {
		stripe := &s.mailboxes.stripes[i]
		stripe.mu.Lock()
		boxes += len(stripe.boxes)
		stripe.mu.Unlock()
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	return boxes, s.rows.Len()
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
		// A session is two rows, its user three, a recovery two, and there is the number of users.
		if boxes, rows := size(s); boxes != 0 || rows != 10*7+1 {
			t.Errorf("%d mailboxes and %d rows are left", boxes, rows)
		}
		time.Sleep(time.Minute)
		if boxes, rows := size(s); boxes != 0 || rows != 1 {
			t.Errorf("%d mailboxes and %d rows are left at the end", boxes, rows)
		}
	})
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

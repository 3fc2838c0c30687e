package redisstore

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"

	"parley/store"
)

// record returns the names of the commands that f sends, but for those that come at any time: connections are opened,
// servers learn scripts, and what nobody waits for is cleaned up.
func (l *line) record(f func()) []string {
	l.mu.Lock()
	l.commands = []string{}
	l.mu.Unlock()
	f()
	l.mu.Lock()
	defer l.mu.Unlock()
	commands := l.commands
	l.commands = nil
	slices.Sort(commands) // those of different lanes come in any order
	return slices.DeleteFunc(commands, func(name string) bool {
		return slices.Contains([]string{"hello", "auth", "select", "eval", "srem"}, name)
	})
}

// TestCostOfConnect checks that a connect costs the same whatever the number of sessions.
func TestCostOfConnect(t *testing.T) {
	server := newServer(t)
	wire := &line{}
	c := server.client(t)
	c.AddHook(wire)
	// Nothing that goes on by itself is to be counted.
	s := open(t, c, Options{Lease: time.Hour, Reconcile: -1})
	const limit = 50
	sessions := 0
	// grow writes what SaveSession does, without its scripts, which take their time in a Redis in this process.
	grow := func(to int) {
		pipe := c.Pipeline()
		for ; sessions < to; sessions++ {
			id, name := fmt.Sprint("user", sessions), fmt.Sprint("name", sessions)
			seen := time.Now().UnixMilli()
			place := name + "\x00\x01" + id
			pipe.HSet(t.Context(), "session:"+id, "userID", id, "username", name, "seen", seen)
			pipe.HSet(t.Context(), rosterKeys[rosterInfo], id, fmt.Sprintf("%d %d %d %s%s%s", seen, len(name), len(id), name, id, place))
			pipe.ZAdd(t.Context(), rosterKeys[rosterSeen], redis.Z{Score: float64(seen), Member: id})
			pipe.ZAdd(t.Context(), rosterKeys[rosterIDs], redis.Z{Member: id})
			pipe.ZAdd(t.Context(), rosterKeys[rosterNames], redis.Z{Member: place})
		}
		if _, err := pipe.Exec(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	connect := func(user string) []string {
		return wire.record(func() {
			ctx := t.Context()
			errs := make([]error, 10)
			_, errs[0] = s.Session(ctx, "s")
			errs[1] = s.SaveSession(ctx, store.Session{ID: "s" + user, UserID: user, Username: user})
			_, errs[2] = s.Connect(ctx, user, "1")
			_, errs[3] = s.Overview(ctx, store.Box{App: chatApp, User: user}, limit, 50)
			users, err := s.Users(ctx, limit+1)
			errs[4] = err
			ids := make([]string, len(users))
			for i, u := range users {
				ids[i] = u.ID
			}
			_, errs[5] = s.UsersByID(ctx, ids)
			if len(users) != limit+1 {
				t.Errorf("%d users", len(users))
			}
			_, errs[6] = s.Online(ctx, ids)
			_, errs[7] = s.CountUsers(ctx)
			_, errs[8] = s.SearchUsers(ctx, "name1", 10)
			_, errs[9] = s.Marks(ctx, store.Box{App: chatApp, User: user}, ids, 0)
			for i, err := range errs {
				if err != nil && i != 0 {
					t.Fatal(i, err)
				}
			}
		})
	}
	grow(100)
	connect("first") // which has Redis learn the scripts
	if _, err := s.Disconnect(t.Context(), "first", "1"); err != nil {
		t.Fatal(err)
	}
	few := connect("alice")
	grow(5000)
	many := connect("bobby")
	same(t, "commands with 5000 sessions", many, few)
	t.Logf("a connect sends %d commands: %v", len(few), slices.Compact(few))
	for _, never := range []string{"scan", "keys", "hgetall", "smembers", "sscan", "hscan"} {
		if slices.Contains(few, never) {
			t.Errorf("a connect sends %s", never)
		}
	}
}

// TestSendersShareTrips checks that those who wait at the same time cost few round trips.
func TestSendersShareTrips(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, client := bubble(t)
		wire := &line{}
		s := open(t, client(wire), Options{Lease: time.Hour, Reconcile: -1})
		post(t, s, message("first", "alice", "bob"))
		hold := make(chan struct{})
		wire.hold.Store(&hold)
		before := wire.trips.Load()
		var wait sync.WaitGroup
		const senders = 64
		for i := range senders {
			wait.Go(func() { post(t, s, message("m", fmt.Sprint("from", i), fmt.Sprint("to", i))) })
		}
		synctest.Wait() // one pipeline is on its way, and all others wait
		close(hold)
		wait.Wait()
		trips := wire.trips.Load() - before
		t.Logf("%d messages to two mailboxes each took %d round trips", senders, trips)
		if trips > 3 {
			t.Errorf("%d round trips for %d messages", trips, senders)
		}
	})
}

// spent returns the CPU seconds that a real Redis has spent so far.
func spent(b *testing.B, c redis.UniversalClient) (seconds float64) {
	b.Helper()
	info, err := c.Info(b.Context(), "cpu").Result()
	if err != nil {
		b.Fatal(err)
	}
	for line := range strings.Lines(info) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		if name == "used_cpu_user" || name == "used_cpu_sys" {
			n, err := strconv.ParseFloat(value, 64)
			if err != nil {
				b.Fatal(err)
			}
			seconds += n
		}
	}
	return seconds
}

// benchmarkAppend has a number of senders append private messages as fast as the acks allow. With a real Redis it tells
// what that spends.
func benchmarkAppend(b *testing.B, senders, users int) {
	server := newServer(b)
	wire := &line{}
	c := server.client(b)
	c.AddHook(wire)
	s := open(b, c, Options{Reconcile: -1})
	data := []byte(`{"content":"a message of the usual length, more or less","from":"0123456789abcdef","to":"0123456789abcdef"}`)
	var next atomic.Int64
	done := make(chan error, senders)
	wire.trips.Store(0)
	before := 0.0
	if server.mini == nil {
		before = spent(b, c)
	}
	b.ReportAllocs()
	b.ResetTimer()
	for range senders {
		go func() {
			for {
				i := next.Add(1)
				if i > int64(b.N) {
					done <- nil
					return
				}
				from, to := fmt.Sprintf("%016x", i*7919%int64(users)), fmt.Sprintf("%016x", i*104729%int64(users))
				_, err := s.Append(b.Context(), store.Post{
					ID: fmt.Sprintf("message-%d", i), Sender: from, Origin: "0123456789abcdefghij", Data: data,
					To: []store.Delivery{{Box: store.Box{App: chatApp, User: from}, Peer: to}, {Box: store.Box{App: chatApp, User: to}, Peer: from}},
				})
				if err != nil {
					done <- err
					return
				}
			}
		}()
	}
	for range senders {
		if err := <-done; err != nil {
			b.Fatal(err)
		}
	}
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "messages/s")
	b.ReportMetric(float64(b.N)/float64(wire.trips.Load()), "messages/trip")
	if server.mini == nil {
		b.ReportMetric((spent(b, c)-before)*1e6/float64(b.N), "redis-µs/message")
	}
}

func BenchmarkAppend(b *testing.B) {
	for _, senders := range []int{1, 64, 512} {
		b.Run(fmt.Sprintf("senders=%d", senders), func(b *testing.B) { benchmarkAppend(b, senders, 10000) })
	}
}

package redisstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/alicebob/miniredis/v2"
	redisserver "github.com/alicebob/miniredis/v2/server"
	"github.com/redis/go-redis/v9"
	"github.com/rs/zerolog"

	"parley/store"
)

// fakeReplicas is what a Redis says of its replicas, and what they do.
type fakeReplicas struct {
	t testing.TB

	mu       sync.Mutex
	role, id string
	former   string        // the id before
	lags     []int         // in seconds, of each replica
	more     string        // what a Redis to come may add to that
	confirms bool          // they do what WAIT waits for
	slow     time.Duration // how long that takes
	refusal  string        // what WAIT gets instead
	barred   string        // a command that this user may not use
	unknown  string        // a command that there is not
	waits    int
	wrote    map[*redisserver.Peer]bool // the newest command of a connection was a script
}

// newFakeReplicas makes the server say it, as a primary without replicas at first.
func newFakeReplicas(t testing.TB, mini *miniredis.Miniredis) *fakeReplicas {
	f := &fakeReplicas{t: t, role: "master", id: "first", wrote: map[*redisserver.Peer]bool{}}
	mini.Server().SetPreHook(f.serve)
	return f
}

// set changes it.
func (f *fakeReplicas) set(change func(*fakeReplicas)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change(f)
}

// waited returns how often somebody waited since it was last asked.
func (f *fakeReplicas) waited() (n int) {
	f.set(func(f *fakeReplicas) { n, f.waits = f.waits, 0 })
	return n
}

// wait lets time pass, and others in.
func (f *fakeReplicas) wait(d time.Duration) {
	f.mu.Unlock()
	defer f.mu.Lock()
	<-time.After(d)
}

func (f *fakeReplicas) serve(c *redisserver.Peer, name string, args ...string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	name = strings.ToUpper(name)
	behind := f.wrote[c]
	f.wrote[c] = strings.HasPrefix(name, "EVAL")
	switch name {
	case f.barred:
		c.WriteError("NOPERM this user has no permissions to run the '" + strings.ToLower(name) + "' command")
	case f.unknown:
		c.WriteError("ERR unknown command '" + name + "', with args beginning with: '" + strings.Join(args, "' '") + "' ")
	case "INFO":
		text := fmt.Sprintf("# Replication\r\nrole:%s\r\nconnected_slaves:%d\r\n", f.role, len(f.lags))
		for i, lag := range f.lags {
			text += fmt.Sprintf("slave%d:ip=127.0.0.1,port=%d,state=online,offset=14,lag=%d%s\r\n", i, 7000+i, lag, f.more)
		}
		c.WriteBulk(text + "slave9:ip=127.0.0.1,port=7009,state=send_bulk,offset=0,lag=0\r\nmaster_failover_state:no-failover\r\nmaster_replid:" + f.id + "\r\nmaster_replid2:" + f.former + "\r\n")
	case "WAIT":
		f.waits++
		if !behind {
			f.t.Error("WAIT does not follow an append on its connection")
		}
		number, _ := strconv.Atoi(args[1])
		timeout := time.Duration(number) * time.Millisecond
		switch {
		case f.refusal != "":
			c.WriteError(f.refusal)
		case f.confirms && f.slow < timeout:
			f.wait(f.slow)
			c.WriteInt(len(f.lags))
		default:
			f.wait(timeout)
			c.WriteInt(0)
		}
	default:
		return false
	}
	return true
}

// followedStore runs a test with a store in a Redis of which the test says what its replicas do.
func followedStore(t *testing.T, test func(t *testing.T, f *fakeReplicas, mini *miniredis.Miniredis, s *Store, log *bytes.Buffer)) {
	synctest.Test(t, func(t *testing.T) {
		mini, client := bubble(t)
		c := client()
		if err := c.Ping(t.Context()).Err(); err != nil {
			t.Fatal(err)
		}
		f := newFakeReplicas(t, mini)
		var log bytes.Buffer
		test(t, f, mini, open(t, c, Options{Lease: time.Hour, Reconcile: -1, Logger: zerolog.New(&log)}), &log)
	})
}

func unconfirmed(t *testing.T, s *Store, id string) {
	t.Helper()
	if r, err := s.Append(t.Context(), message(id, "alice", "bob")); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("%s: %+v, %v", id, r, err)
	}
}

// TestReplicaConfirms checks that an append succeeds once a replica has it, and can be made again if none has.
func TestReplicaConfirms(t *testing.T) {
	followedStore(t, func(t *testing.T, f *fakeReplicas, mini *miniredis.Miniredis, s *Store, log *bytes.Buffer) {
		post(t, s, message("alone", "alice", "bob"))
		same(t, "waits without a replica", f.waited(), 0)
		<-time.After(replicaPause)
		f.set(func(f *fakeReplicas) { f.lags, f.more, f.confirms = []int{0, 1}, ",type=replica", true })
		post(t, s, message("m1", "alice", "bob"))
		same(t, "waits", f.waited(), 1)

		f.set(func(f *fakeReplicas) { f.confirms = false })
		unconfirmed(t, s, "m2")
		unconfirmed(t, s, "m2") // which is there already, and is written all the same
		for range 2 {
			<-time.After(time.Second)
			life := mini.TTL("messages:bob")
			unconfirmed(t, s, "m2")
			if now := mini.TTL("messages:bob"); now <= life {
				t.Errorf("the mailbox lives for %v, and before for %v: a repeated append has written nothing to confirm", now, life)
			}
		}
		f.set(func(f *fakeReplicas) { f.confirms = true })
		if r := post(t, s, message("m2", "alice", "bob")); !r.Duplicate || r.Offsets[1].Seq != 3 {
			t.Errorf("retry %+v", r)
		}
		same(t, "waits", f.waited(), 5)
		if _, err := s.Tail(t.Context(), store.Box{App: chatApp, User: "bob"}); err != nil {
			t.Error(err)
		}
		same(t, "waits of a read", f.waited(), 0)
		same(t, "lines in the log", strings.Count(log.String(), "\n"), 3)
	})
}

// TestReplicaLeaves checks that a server whose replica has left is on its own after a while, and not at once: the replica
// may have taken its place.
func TestReplicaLeaves(t *testing.T) {
	followedStore(t, func(t *testing.T, f *fakeReplicas, _ *miniredis.Miniredis, s *Store, log *bytes.Buffer) {
		f.set(func(f *fakeReplicas) { f.lags, f.confirms = []int{0}, true })
		post(t, s, message("m1", "alice", "bob"))
		f.waited()
		<-time.After(time.Hour) // however long nothing is written
		f.set(func(f *fakeReplicas) { f.lags, f.confirms = nil, false })
		start := time.Now()
		for i := 0; ; i++ {
			if _, err := s.Append(t.Context(), message(fmt.Sprint("n", i), "alice", "bob")); err == nil {
				break
			}
			<-time.After(100 * time.Millisecond)
		}
		if took := time.Since(start); took < replicaPatience || took > replicaPatience+time.Second {
			t.Errorf("on its own after %v", took)
		}
		for i := range 3 {
			post(t, s, message(fmt.Sprint("alone", i), "alice", "bob"))
		}
		same(t, "waits for a replica that has left", f.waited(), 1)
		same(t, "lines in the log", strings.Count(log.String(), "\n"), 3)

		// It comes back, and confirms again.
		f.set(func(f *fakeReplicas) { f.lags, f.confirms = []int{0}, true })
		<-time.After(replicaPause)
		f.waited()
		post(t, s, message("m2", "alice", "bob"))
		same(t, "waits", f.waited(), 1)
	})
}

// TestReplicaIsSlow checks that one that takes a while confirms again after it did not in time for once.
func TestReplicaIsSlow(t *testing.T) {
	followedStore(t, func(t *testing.T, f *fakeReplicas, _ *miniredis.Miniredis, s *Store, _ *bytes.Buffer) {
		f.set(func(f *fakeReplicas) { f.lags, f.confirms, f.slow = []int{0}, true, 200*time.Millisecond })
		post(t, s, message("m1", "alice", "bob"))
		f.set(func(f *fakeReplicas) { f.confirms = false })
		unconfirmed(t, s, "m2")
		f.set(func(f *fakeReplicas) { f.confirms = true })
		start := time.Now()
		for {
			if _, err := s.Append(t.Context(), message("m2", "alice", "bob")); err == nil {
				break
			}
		}
		if took := time.Since(start); took > 2*confirmTimeout {
			t.Errorf("refused for %v", took)
		}
	})
}

// TestReplicaLeavesLater checks that the time in which nothing is appended is no time in which a replica was missed.
func TestReplicaLeavesLater(t *testing.T) {
	followedStore(t, func(t *testing.T, f *fakeReplicas, _ *miniredis.Miniredis, s *Store, _ *bytes.Buffer) {
		f.set(func(f *fakeReplicas) { f.lags, f.confirms = []int{0}, true })
		post(t, s, message("m1", "alice", "bob"))
		f.set(func(f *fakeReplicas) { f.confirms = false })
		unconfirmed(t, s, "m2")
		<-time.After(time.Hour)
		f.set(func(f *fakeReplicas) { f.lags = nil })
		unconfirmed(t, s, "m2")
	})
}

// TestReplicaLags checks that a server whose replica is there, and confirms nothing, is on its own after a while.
func TestReplicaLags(t *testing.T) {
	followedStore(t, func(t *testing.T, f *fakeReplicas, _ *miniredis.Miniredis, s *Store, _ *bytes.Buffer) {
		f.set(func(f *fakeReplicas) { f.lags, f.confirms = []int{0}, true })
		post(t, s, message("m1", "alice", "bob"))
		f.set(func(f *fakeReplicas) { f.confirms = false })
		start := time.Now()
		for i := 0; ; i++ {
			if _, err := s.Append(t.Context(), message(fmt.Sprint("n", i), "alice", "bob")); err == nil {
				break
			}
		}
		if took := time.Since(start); took < replicaPatience || took > replicaPatience+3*time.Second {
			t.Errorf("on its own after %v", took)
		}
		f.set(func(f *fakeReplicas) { f.confirms = true })
		post(t, s, message("m2", "alice", "bob"))
		f.set(func(f *fakeReplicas) { f.confirms = false })
		unconfirmed(t, s, "m3")
	})
}

// TestReplicaTakesOver checks that a new primary needs no replica of its own, and that one that was replaced, or has only been
// started again, confirms nothing.
func TestReplicaTakesOver(t *testing.T) {
	followedStore(t, func(t *testing.T, f *fakeReplicas, _ *miniredis.Miniredis, s *Store, _ *bytes.Buffer) {
		f.set(func(f *fakeReplicas) { f.lags, f.confirms = []int{0}, true })
		post(t, s, message("m1", "alice", "bob"))
		f.set(func(f *fakeReplicas) { f.id, f.former, f.lags, f.confirms = "second", "first", nil, false })
		post(t, s, message("m2", "alice", "bob"))
		f.set(func(f *fakeReplicas) { f.id, f.former = "first", "" }) // over a connection that was left
		unconfirmed(t, s, "m3")
		f.set(func(f *fakeReplicas) { f.id = "started again" })
		unconfirmed(t, s, "m3")

		f.set(func(f *fakeReplicas) { f.id, f.former, f.lags, f.confirms = "second", "first", []int{0}, true })
		post(t, s, message("m3", "alice", "bob"))
		post(t, s, message("m4", "alice", "bob"))
		for _, refusal := range []string{
			"UNBLOCKED force unblock from blocking operation, instance state changed (master -> replica?)",
			"ERR WAIT cannot be used with replica instances.",
		} {
			f.set(func(f *fakeReplicas) { f.refusal = refusal })
			unconfirmed(t, s, "m5")
		}
		f.set(func(f *fakeReplicas) { f.refusal, f.id, f.former, f.role, f.lags = "", "third", "second", "slave", nil })
		unconfirmed(t, s, "m5")
	})
}

// TestConfirmationBarred checks that appends go on where Redis does not let us ask, and that the log says so once.
func TestConfirmationBarred(t *testing.T) {
	for _, bar := range []func(*fakeReplicas){
		func(f *fakeReplicas) { f.barred = "INFO" },
		func(f *fakeReplicas) { f.barred = "WAIT" },
		func(f *fakeReplicas) { f.unknown = "WAIT" },
	} {
		followedStore(t, func(t *testing.T, f *fakeReplicas, _ *miniredis.Miniredis, s *Store, log *bytes.Buffer) {
			f.set(func(f *fakeReplicas) { f.lags = []int{0} })
			f.set(bar)
			for i := range 3 {
				post(t, s, message(fmt.Sprint("m", i), "alice", "bob"))
				<-time.After(2 * replicaPause)
			}
			same(t, "lines in the log", strings.Count(log.String(), "can't be asked for confirmation"), 1)
			same(t, "waits", f.waited(), 0)
		})
	}
}

// TestParseReplication checks what is read of what servers say.
func TestParseReplication(t *testing.T) {
	for text, want := range map[string]inform{
		"": {lag: noReplica},
		"role:master\r\nslave0:ip=::1,port=1,state=online,offset=14,lag=3\r\nmaster_replid:a\r\nmaster_replid2:b\r\n":                           {"master", "a", "b", 3 * time.Second},
		"role:master\nslave0:ip=h,port=1,state=online,offset=14,lag=2,type=replica\nslave1:ip=h,port=2,state=online,offset=14,lag=1,type=rdb\n": {"master", "", "", time.Second},
		"slave0:ip=h,port=1,state=wait_bgsave,offset=14,lag=0\nslave1:ip=h,port=1,state=online,offset=0,lag=0\nslave2:ip=h,state=online,lag=-1\nslave3:\n": {
			lag: noReplica,
		},
	} {
		if got := parseReplication(text); got != want {
			t.Errorf("%q: %+v", text, got)
		}
	}
}

// TestConfirmationStays checks that what asks one server for its replicas is sent to no other: the client of a Cluster tries a
// whole pipeline elsewhere.
func TestConfirmationStays(t *testing.T) {
	var sent []string
	send := (&replicas{servers: &servers{}}).ProcessPipelineHook(func(_ context.Context, cmds []redis.Cmder) error {
		for _, cmd := range cmds {
			sent = append(sent, cmd.Name())
		}
		return nil
	})
	wait, info := redis.NewIntCmd(t.Context(), "wait", 1, 1000), redis.NewStringCmd(t.Context(), "info", "replication")
	if err := send(t.Context(), []redis.Cmder{redis.NewCmd(t.Context(), "get", "key"), wait, info}); err != nil {
		t.Fatal(err)
	}
	if err := send(t.Context(), []redis.Cmder{wait, info}); err != nil {
		t.Fatal(err)
	}
	same(t, "sent", sent, []string{"get"})
}

var _ redis.Hook = (*replicas)(nil)

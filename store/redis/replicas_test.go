package redisstore

import (
	"bytes"
	"errors"
	"fmt"
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

// following is what a Redis says of its replicas, and what they do.
type following struct {
	t testing.TB

	mu       sync.Mutex
	role, id string
	lags     []int  // in seconds, of each replica
	confirms bool   // they do what WAIT waits for
	refusal  string // what WAIT gets instead
	barred   string // a command that this user may not use
	waits    int
	wrote    map[*redisserver.Peer]bool // the newest command of a connection was a script
}

// newFollowing makes the server say it, as a primary without replicas at first.
func newFollowing(t testing.TB, mini *miniredis.Miniredis) *following {
	f := &following{t: t, role: "master", id: "first", wrote: map[*redisserver.Peer]bool{}}
	mini.Server().SetPreHook(f.serve)
	return f
}

// set changes it.
func (f *following) set(change func(*following)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change(f)
}

// waited returns how often somebody waited since it was last asked.
func (f *following) waited() (n int) {
	f.set(func(f *following) { n, f.waits = f.waits, 0 })
	return n
}

func (f *following) serve(c *redisserver.Peer, name string, args ...string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	name = strings.ToUpper(name)
	behind := f.wrote[c]
	f.wrote[c] = strings.HasPrefix(name, "EVAL")
	switch name {
	case f.barred:
		c.WriteError("NOPERM this user has no permissions to run the '" + strings.ToLower(name) + "' command")
	case "INFO":
		text := fmt.Sprintf("# Replication\r\nrole:%s\r\nconnected_slaves:%d\r\n", f.role, len(f.lags))
		for i, lag := range f.lags {
			text += fmt.Sprintf("slave%d:ip=127.0.0.1,port=%d,state=online,offset=14,lag=%d\r\n", i, 7000+i, lag)
		}
		c.WriteBulk(text + "slave9:ip=127.0.0.1,port=7009,state=send_bulk,offset=0,lag=0\r\nmaster_failover_state:no-failover\r\nmaster_replid:" + f.id + "\r\n")
	case "WAIT":
		f.waits++
		if !behind {
			f.t.Error("WAIT does not follow an append on its connection")
		}
		switch {
		case f.refusal != "":
			c.WriteError(f.refusal)
		case f.confirms:
			c.WriteInt(len(f.lags))
		default:
			<-time.After(confirmTimeout)
			c.WriteInt(0)
		}
	default:
		return false
	}
	return true
}

// followed runs a test with a store in a Redis of which the test says what its replicas do.
func followed(t *testing.T, test func(t *testing.T, f *following, mini *miniredis.Miniredis, s *Store, log *bytes.Buffer)) {
	synctest.Test(t, func(t *testing.T) {
		mini, client := bubble(t)
		c := client()
		if err := c.Ping(t.Context()).Err(); err != nil {
			t.Fatal(err)
		}
		f := newFollowing(t, mini)
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
	followed(t, func(t *testing.T, f *following, mini *miniredis.Miniredis, s *Store, log *bytes.Buffer) {
		post(t, s, message("alone", "alice", "bob"))
		same(t, "waits without a replica", f.waited(), 0)
		<-time.After(replicaPause)
		f.set(func(f *following) { f.lags, f.confirms = []int{0, 1}, true })
		post(t, s, message("m1", "alice", "bob"))
		same(t, "waits", f.waited(), 1)

		f.set(func(f *following) { f.confirms = false })
		unconfirmed(t, s, "m2")
		<-time.After(time.Hour)
		life := mini.TTL("messages:bob")
		unconfirmed(t, s, "m2") // which is there already, and is written all the same
		if now := mini.TTL("messages:bob"); now <= life {
			t.Errorf("the mailbox lives for %v, and before for %v: a repeated append has written nothing to confirm", now, life)
		}
		f.set(func(f *following) { f.confirms = true })
		if r := post(t, s, message("m2", "alice", "bob")); !r.Duplicate || r.Offsets[1].Seq != 3 {
			t.Errorf("retry %+v", r)
		}
		same(t, "waits", f.waited(), 3)
		if _, err := s.Tail(t.Context(), store.Box{App: chatApp, User: "bob"}); err != nil {
			t.Error(err)
		}
		same(t, "waits of a read", f.waited(), 0)
		same(t, "lines in the log", strings.Count(log.String(), "\n"), 1)
	})
}

// TestReplicaLeaves checks that a server whose replica has left is on its own after a while, and not at once: the replica
// may have taken its place.
func TestReplicaLeaves(t *testing.T) {
	followed(t, func(t *testing.T, f *following, _ *miniredis.Miniredis, s *Store, log *bytes.Buffer) {
		f.set(func(f *following) { f.lags, f.confirms = []int{0}, true })
		post(t, s, message("m1", "alice", "bob"))
		f.set(func(f *following) { f.lags, f.confirms = nil, false })
		start := time.Now()
		for i := 0; ; i++ {
			if _, err := s.Append(t.Context(), message(fmt.Sprint("n", i), "alice", "bob")); err == nil {
				break
			}
		}
		if took := time.Since(start); took < replicaPatience || took > replicaPatience+2*confirmTimeout {
			t.Errorf("on its own after %v", took)
		}
		f.waited()
		post(t, s, message("m2", "alice", "bob"))
		same(t, "waits", f.waited(), 0)

		// One that hangs is one that has left.
		<-time.After(replicaPause)
		f.set(func(f *following) { f.lags = []int{0} })
		unconfirmed(t, s, "m3")
		f.set(func(f *following) { f.lags = []int{18} })
		unconfirmed(t, s, "m3")
		<-time.After(time.Second)
		f.set(func(f *following) { f.lags = []int{20} })
		post(t, s, message("m3", "alice", "bob"))
		same(t, "lines in the log", strings.Count(log.String(), "\n"), 4)
	})
}

// TestReplicaTakesOver checks that a new primary needs no replica of its own, and that one that was replaced confirms
// nothing.
func TestReplicaTakesOver(t *testing.T) {
	followed(t, func(t *testing.T, f *following, _ *miniredis.Miniredis, s *Store, _ *bytes.Buffer) {
		f.set(func(f *following) { f.lags, f.confirms = []int{0}, true })
		post(t, s, message("m1", "alice", "bob"))
		f.set(func(f *following) { f.id, f.lags, f.confirms = "second", nil, false })
		post(t, s, message("m2", "alice", "bob"))
		<-time.After(replicaPause)
		f.set(func(f *following) { f.lags = []int{0} })
		for _, refusal := range []string{
			"UNBLOCKED force unblock from blocking operation, instance state changed (master -> replica?)",
			"ERR WAIT cannot be used with replica instances.",
		} {
			f.set(func(f *following) { f.refusal = refusal })
			unconfirmed(t, s, "m3")
		}
		f.set(func(f *following) { f.refusal, f.id, f.role, f.lags = "", "third", "slave", nil })
		unconfirmed(t, s, "m3")
		f.set(func(f *following) { f.id, f.role = "second", "master" }) // as before it learns that it is not
		unconfirmed(t, s, "m3")
	})
}

// TestConfirmationBarred checks that appends go on where Redis does not let us ask, and that the log says so once.
func TestConfirmationBarred(t *testing.T) {
	for _, name := range []string{"INFO", "WAIT"} {
		followed(t, func(t *testing.T, f *following, _ *miniredis.Miniredis, s *Store, log *bytes.Buffer) {
			f.set(func(f *following) { f.lags, f.barred = []int{0}, name })
			for i := range 3 {
				post(t, s, message(fmt.Sprint("m", i), "alice", "bob"))
				<-time.After(2 * replicaPause)
			}
			same(t, "lines in the log", strings.Count(log.String(), "can't be asked for confirmation"), 1)
			same(t, "waits", f.waited(), 0)
		})
	}
}

var _ redis.Hook = (*replicas)(nil)

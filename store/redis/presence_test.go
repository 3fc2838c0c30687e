package redisstore

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/rs/zerolog"

	"parley/store"
)

// node is a process in a test.
type node struct {
	*Store
	line *line
	mu   sync.Mutex
	news []string // guarded by mu: what it was told, "-user" and "+user"

	slow atomic.Pointer[chan struct{}] // being told takes until it is closed
}

// told returns what the node was told so far, sorted.
func (n *node) told() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return fmt.Sprint(slices.Sorted(slices.Values(n.news)))
}

func newNode(t *testing.T, client func(...redis.Hook) redis.UniversalClient) *node {
	t.Helper()
	n := &node{line: &line{}}
	tell := func(sign string) func(string) {
		return func(user string) {
			n.mu.Lock()
			defer n.mu.Unlock()
			n.news = append(n.news, sign+user)
			if slow := n.slow.Load(); slow != nil {
				n.mu.Unlock()
				<-*slow
				n.mu.Lock()
			}
		}
	}
	n.Store = open(t, client(n.line), Options{Departed: tell("-"), Returned: tell("+"), Reconcile: -1, Logger: zerolog.New(zerolog.NewTestWriter(t))})
	return n
}

func (n *node) connect(t *testing.T, user, socket string, want bool) {
	t.Helper()
	if first, err := n.Connect(t.Context(), user, socket); err != nil || first != want {
		t.Fatalf("connect %s: first %v, %v", user, first, err)
	}
}

func (n *node) disconnect(t *testing.T, user, socket string, want bool) {
	t.Helper()
	if last, err := n.Disconnect(t.Context(), user, socket); err != nil || last != want {
		t.Fatalf("disconnect %s: last %v, %v", user, last, err)
	}
}

func (n *node) online(t *testing.T, want bool, users ...string) {
	t.Helper()
	online, err := n.Online(t.Context(), users)
	if err != nil {
		t.Fatal(err)
	}
	for i, user := range users {
		if online[i] != want {
			t.Fatalf("%s is online: %v", user, online[i])
		}
	}
}

// nodes runs a test with some nodes on one Redis, in a bubble.
func nodes(t *testing.T, count int, test func(t *testing.T, n []*node)) {
	synctest.Test(t, func(t *testing.T) {
		_, client := bubble(t)
		var all []*node
		for range count {
			all = append(all, newNode(t, client))
		}
		time.Sleep(5*time.Second + 100*time.Millisecond) // past the grace after the start, and between two beats
		test(t, all)
	})
}

func TestPresenceOfTwoNodes(t *testing.T) {
	nodes(t, 2, func(t *testing.T, n []*node) {
		n[0].connect(t, "alice", "1", true)
		n[1].connect(t, "alice", "2", false)
		n[0].connect(t, "alice", "3", false)
		n[0].online(t, true, "alice")
		n[1].online(t, true, "alice")
		n[0].disconnect(t, "alice", "1", false)
		n[0].disconnect(t, "alice", "3", false)
		n[0].online(t, true, "alice")
		n[1].disconnect(t, "alice", "2", true)
		n[0].online(t, false, "alice")
		n[0].connect(t, "alice", "1", true)
		time.Sleep(time.Minute)
		n[1].online(t, true, "alice")
		same(t, "news", n[0].told()+n[1].told(), "[][]")
	})
}

// TestDeath checks that a process that dies is cleaned up after by one of the others, in time.
func TestDeath(t *testing.T) {
	nodes(t, 3, func(t *testing.T, n []*node) {
		for i := range 300 {
			n[0].connect(t, fmt.Sprint("user", i), "1", true)
		}
		n[0].connect(t, "bob", "1", true)
		n[1].connect(t, "bob", "2", false)
		n[0].line.cut.Store(true)
		time.Sleep(8 * time.Second)
		n[1].online(t, true, "user0", "bob")
		same(t, "news before the lease ends", n[1].told()+n[2].told(), "[][]")
		time.Sleep(3 * time.Second)
		n[1].online(t, false, "user0", "user299")
		n[2].online(t, true, "bob")
		n[1].mu.Lock()
		n[2].mu.Lock()
		news := append(slices.Clone(n[1].news), n[2].news...)
		n[1].mu.Unlock()
		n[2].mu.Unlock()
		slices.Sort(news)
		if len(news) != 300 || len(slices.Compact(news)) != 300 || slices.Contains(news, "-bob") {
			t.Fatalf("%d users were announced", len(news))
		}
		n[1].disconnect(t, "bob", "2", true)
		// The frozen process wakes up: its users are still there.
		n[0].line.cut.Store(false)
		time.Sleep(3 * time.Second)
		n[1].online(t, true, "user0", "user299", "bob")
		if n[0].mu.Lock(); len(n[0].news) != 301 {
			t.Errorf("%d users came back", len(n[0].news))
		}
		n[0].mu.Unlock()
		n[0].disconnect(t, "user0", "1", true)
		n[2].online(t, false, "user0")
	})
}

// TestUndone has a process thaw, whose users are entered again before their connections are found dead: of those nobody was
// told that they are back, nor is of their going.
func TestUndone(t *testing.T) {
	nodes(t, 2, func(t *testing.T, n []*node) {
		n[0].connect(t, "alice", "1", true)
		n[0].connect(t, "bob", "2", true)
		n[0].connect(t, "carol", "3", true)
		n[0].line.cut.Store(true)
		time.Sleep(12 * time.Second)
		same(t, "news of the death", n[1].told(), "[-alice -bob -carol]")
		slow := make(chan struct{})
		n[0].slow.Store(&slow)
		n[0].line.cut.Store(false)
		time.Sleep(time.Second)
		n[1].online(t, true, "alice", "bob", "carol")
		first := n[0].told() // one of them, and the others follow
		sockets := map[string]string{"alice": "1", "bob": "2", "carol": "3"}
		var left []string
		for _, user := range slices.Sorted(maps.Keys(sockets)) {
			if first != fmt.Sprintf("[+%s]", user) {
				left = append(left, user)
			}
		}
		if len(left) != 2 {
			t.Fatalf("told %s", first)
		}
		n[0].disconnect(t, left[0], sockets[left[0]], false)
		n[1].connect(t, left[1], "4", false) // who is told of this is not this caller
		n[0].disconnect(t, left[1], sockets[left[1]], false)
		n[1].online(t, false, left[0])
		n[1].online(t, true, left[1])
		close(slow)
		time.Sleep(time.Second)
		told := []string{strings.Trim(first, "[]"), "+" + left[1]}
		slices.Sort(told)
		same(t, "news", n[0].told(), fmt.Sprint(told))
		n[1].connect(t, left[0], "5", true)
		n[1].disconnect(t, left[1], "4", true)
		same(t, "news", n[1].told(), "[-alice -bob -carol]")
	})
}

// TestRedisAway checks that nobody is taken for dead because Redis was away.
func TestRedisAway(t *testing.T) {
	nodes(t, 3, func(t *testing.T, n []*node) {
		n[0].connect(t, "alice", "1", true)
		n[1].connect(t, "bob", "2", true)
		for _, away := range []time.Duration{3 * time.Second, time.Minute} {
			for _, n := range n {
				n.line.cut.Store(true)
			}
			time.Sleep(away)
			if err := n[2].Health(); !errors.Is(err, store.ErrUnavailable) {
				t.Fatalf("health without Redis: %v", err)
			}
			if _, err := n[2].Connect(t.Context(), "carol", "3"); !errors.Is(err, store.ErrUnavailable) {
				t.Fatalf("connect without Redis: %v", err)
			}
			for _, n := range n {
				n.line.cut.Store(false)
				time.Sleep(700 * time.Millisecond) // one after the other
			}
			time.Sleep(time.Minute)
			for _, n := range n {
				if err := n.Health(); err != nil {
					t.Error(err)
				}
				n.online(t, true, "alice", "bob")
				n.online(t, false, "carol")
			}
			same(t, "news", n[0].told()+n[1].told()+n[2].told(), "[][][]")
		}
		n[0].disconnect(t, "alice", "1", true)
		n[1].disconnect(t, "bob", "2", true)
	})
}

// TestLostLease checks that nothing is written under a lease that is over, however late it arrives.
func TestLostLease(t *testing.T) {
	nodes(t, 2, func(t *testing.T, n []*node) {
		p := &n[0].presence
		l, err := p.current(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(11 * time.Second) // renewed meanwhile, but the call was made before
		for _, script := range []*script{scriptEnter, scriptLeave, scriptDrop} {
			if answer, err := p.run(t.Context(), "alice", script, l, l.node, "x", l.node, ""); err != nil || answer != answerLost {
				t.Errorf("answer %d, %v", answer, err)
			}
		}
		n[1].online(t, false, "alice")
	})
}

// TestLostReplies checks that transitions are told once although replies are lost.
func TestLostReplies(t *testing.T) {
	lost := func(t *testing.T, n *node, call func(context.Context, string, string) (bool, error)) {
		t.Helper()
		n.line.lose.Store(true)
		if _, err := call(t.Context(), "alice", "1"); !errors.Is(err, store.ErrUnavailable) {
			t.Fatalf("a lost reply: %v", err)
		}
	}
	nodes(t, 2, func(t *testing.T, n []*node) {
		lost(t, n[0], n[0].Connect)
		n[0].connect(t, "alice", "1", true) // the same again
		n[1].online(t, true, "alice")
		lost(t, n[0], n[0].Disconnect)
		n[0].connect(t, "alice", "1", false) // nobody was told of either
		lost(t, n[0], n[0].Disconnect)
		time.Sleep(2 * time.Second)
		same(t, "news", n[0].told(), "[-alice]")
		n[1].online(t, false, "alice")

		lost(t, n[0], n[0].Connect)
		time.Sleep(2 * time.Second) // nobody was told that she came, or that she went
		same(t, "news", n[0].told(), "[-alice]")
		n[1].online(t, false, "alice")

		lost(t, n[0], n[0].Connect)
		n[1].connect(t, "alice", "2", false)
		time.Sleep(2 * time.Second)
		same(t, "news", n[0].told(), "[+alice -alice]") // that she came is told after all
		n[1].disconnect(t, "alice", "2", true)
	})
}

// TestClosedWithUsers checks that the others need not wait for the lease of one that was closed.
func TestClosedWithUsers(t *testing.T) {
	nodes(t, 2, func(t *testing.T, n []*node) {
		n[0].connect(t, "alice", "1", true)
		if err := n[0].Close(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Second)
		n[1].online(t, false, "alice")
		same(t, "news", n[1].told(), "[-alice]")
	})
}

// TestGhost checks that a user of a dead node is found to be offline even if the list of the node's users is lost.
func TestGhost(t *testing.T) {
	nodes(t, 2, func(t *testing.T, n []*node) {
		n[0].connect(t, "alice", "1", true)
		if err := n[1].client.Del(t.Context(), nodeKey(n[0].presence.lease.node)).Err(); err != nil {
			t.Fatal(err)
		}
		n[0].line.cut.Store(true)
		time.Sleep(12 * time.Second)
		n[1].online(t, false, "alice")
		time.Sleep(2 * time.Second)
		same(t, "news", n[1].told(), "[-alice]")
		n[1].connect(t, "alice", "2", true)
	})
}

// TestPresenceLeavesNothing checks that users who left cost nothing.
func TestPresenceLeavesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mini, client := bubble(t)
		n := newNode(t, client)
		for i := range 100 {
			n.connect(t, fmt.Sprint(i), "a", true)
			n.disconnect(t, fmt.Sprint(i), "a", true)
		}
		time.Sleep(2 * time.Minute)
		same(t, "keys", mini.Keys(), "[{parley:nodes} {parley:nodes}:gen]")
		n.presence.mu.Lock()
		defer n.presence.mu.Unlock()
		same(t, "users", len(n.presence.users)+len(n.presence.dirty)+len(n.presence.marks), 0)
	})
}

// TestTransitionsOfManyNodes checks that transitions are told once, whoever makes them.
func TestTransitionsOfManyNodes(t *testing.T) {
	server := newServer(t)
	var firsts, lasts atomic.Int64
	var wait sync.WaitGroup
	for i := range 3 {
		s := open(t, server.client(t), Options{})
		for j := range 4 {
			wait.Go(func() {
				socket := fmt.Sprint(i, "-", j)
				for range 50 {
					first, err := s.Connect(t.Context(), "alice", socket)
					if err != nil {
						t.Error(err)
					}
					last, err := s.Disconnect(t.Context(), "alice", socket)
					if err != nil {
						t.Error(err)
					}
					if first {
						firsts.Add(1)
					}
					if last {
						lasts.Add(1)
					}
				}
			})
		}
	}
	wait.Wait()
	if firsts.Load() != lasts.Load() || firsts.Load() == 0 {
		t.Fatalf("%d times first, %d times last", firsts.Load(), lasts.Load())
	}
}

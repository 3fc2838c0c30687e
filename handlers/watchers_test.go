package handlers

import (
	"cmp"
	"fmt"
	"maps"
	"math/rand/v2"
	"runtime"
	"slices"
	"testing"

	"parley/store"
)

// TestWatchers: a socket that has left is not brought back by what comes late for it.
func TestWatchers(t *testing.T) {
	var w watchers
	w.close("never")
	w.open("s1", "alice")
	w.open("s2", "alice")
	w.add("s1", 2, store.User{ID: "bob"}, store.User{ID: "bob"}, store.User{ID: "carol"}, store.User{ID: "dave"})
	if got := w.of("bob"); len(got) != 1 || len(w.of("dave")) != 0 {
		t.Errorf("bob is watched by %v, and dave past the limit by %v", got, w.of("dave"))
	}
	if got := w.missing("alice", "bob"); len(got) != 1 || got[0] != "s2" {
		t.Errorf("bob is missing in %v", got)
	}
	if !w.lacks("alice", []byte("bob")) || w.lacks("bob", []byte("alice")) {
		t.Error("a socket of alice lacks bob, and bob has none")
	}
	w.close("s2")
	if w.lacks("alice", []byte("bob")) || !w.lacks("alice", []byte("dave")) {
		t.Error("alice's other socket has bob, and lacks dave")
	}
	w.include([]string{"s1", "nobody's"}, 2, "erin")
	w.include([]string{"s1"}, 2, "frank")
	if list := &w.lists[w.sockets.numbers["s1"]]; list.users.size != 2 || len(w.missing("alice", "frank")) > 0 {
		t.Errorf("a full list has %d users, and is to have the latest", list.users.size)
	}
	w.close("s1")
	if w.any.Load() {
		t.Error("nobody watches any more")
	}
	w.add("s1", 2, store.User{ID: "bob"})
	if len(w.lists)+len(w.sockets.names)+len(w.users.names)+len(w.by)+len(w.owners) != 0 {
		t.Error("something is left")
	}
}

// plainWatchers is what watchers do, in the plainest way.
type plainWatchers map[string]plainList // by socket

type plainList struct {
	owner string
	users map[string]bool
}

func (p plainWatchers) add(socket string, limit int, users []store.User) {
	for _, u := range users {
		if list, open := p[socket]; open && len(list.users) < limit {
			list.users[u.ID] = true
		}
	}
}

func (p plainWatchers) which(f func(plainList) bool) (sockets []string) {
	for socket, list := range p {
		if f(list) {
			sockets = append(sockets, socket)
		}
	}
	return sockets
}

// TestWatchersRandomly compares the watchers with plain ones while sockets come, learn of users, and go.
func TestWatchersRandomly(t *testing.T) {
	random := rand.New(rand.NewPCG(7, 9))
	var w watchers
	want := plainWatchers{}
	const limit = 150
	sorted := func(s []string) string { return fmt.Sprint(slices.Sorted(slices.Values(s))) }
	for step := range 6000 {
		crowd := 20 + step%3*400 // some sets are dense, others are not
		socket, user := fmt.Sprint("s", random.IntN(200)), fmt.Sprint("u", random.IntN(crowd))
		owner := fmt.Sprint("u", random.IntN(9))
		switch list, open := want[socket]; {
		case step%1500 > 1400 && open, random.IntN(9) == 0: // now and then all leave
			w.close(socket)
			delete(want, socket)
		case !open && random.IntN(3) == 0:
			w.open(socket, owner)
			want[socket] = plainList{owner, make(map[string]bool)}
		default:
			users := make([]store.User, random.IntN(60))
			for i := range users {
				users[i].ID = fmt.Sprint("u", random.IntN(crowd))
			}
			w.add(socket, limit, users...)
			want.add(socket, limit, users)
			owner = cmp.Or(list.owner, owner)
		}
		if _, open := want[socket]; w.watches(socket) != open {
			t.Fatalf("step %d: %s watches: %v", step, socket, !open)
		}
		of := want.which(func(l plainList) bool { return l.users[user] })
		if got := w.of(user); sorted(got) != sorted(of) || w.watched(user) != (len(of) > 0) {
			t.Fatalf("step %d: %s is watched by %v, want %v", step, user, got, of)
		}
		missing := want.which(func(l plainList) bool { return l.owner == owner && !l.users[user] })
		if got := w.missing(owner, user); sorted(got) != sorted(missing) {
			t.Fatalf("step %d: %s is missing in %v, want %v", step, user, got, missing)
		}
	}
	for socket := range maps.Clone(want) {
		w.close(socket)
	}
	if len(w.lists)+len(w.sockets.names)+len(w.users.names)+len(w.by)+len(w.owners) != 0 {
		t.Error("something is left")
	}
}

// TestWatchersMemory: with thousands of users, each socket's list of a thousand is small. Where there are very many, of whom
// each list has others, it is bounded.
func TestWatchersMemory(t *testing.T) {
	for _, v := range []struct {
		name           string
		sockets, users int
		limit          uint64 // bytes for each socket
		choose         func(socket, i int) int
	}{
		{"the newest of 4,000 users", 8000, 4000, 2048, func(socket, i int) int { return (socket/2 + i) % 4000 }},
		{"any of 4,000 users", 4000, 4000, 2048, func(socket, i int) int { return (socket*7919 + i*13) % 4000 }},
		{"any of 50,000 users", 2000, 50_000, 14 << 10, func(socket, i int) int { return (socket*7919 + i*50) % 50_000 }},
	} {
		users := make([]store.User, v.users)
		for i := range users {
			users[i].ID = fmt.Sprintf("user%012d", i)
		}
		names := make([]string, v.sockets)
		for i := range names {
			names[i] = fmt.Sprintf("socket%014d", i)
		}
		before := heap()
		var w watchers
		list := make([]store.User, 1000)
		for socket, name := range names {
			for i := range list {
				list[i] = users[v.choose(socket, i)]
			}
			w.open(name, name)
			w.add(name, 2000, list...)
		}
		if size := (heap() - before) / uint64(v.sockets); size > v.limit {
			t.Errorf("%s: a list takes %d bytes, want %d at most", v.name, size, v.limit)
		}
		if n := testing.AllocsPerRun(100, func() { w.missing(names[1], users[v.choose(1, 0)].ID) }); n != 0 {
			t.Errorf("%v allocations to find that nobody is missing", n)
		}
		runtime.KeepAlive(&w)
	}
}

// heap returns how many bytes are in use.
func heap() uint64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

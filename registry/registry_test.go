package registry

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
)

func socket(namespace, id string) *Socket { return &Socket{Namespace: namespace, ID: id} }

// selected returns the ids that a selection names, in its order.
func selected(r *Registry, namespace string, rooms, except []string) []string {
	var ids []string
	r.Select(namespace, rooms, except, func(s *Socket) { ids = append(ids, s.ID) })
	return ids
}

func TestSelect(t *testing.T) {
	r := New()
	for id, rooms := range map[string][]string{
		"a": {"a", "red"},
		"b": {"b", "red", "blue"},
		"c": {"c", "blue"},
		"d": nil,
	} {
		s := socket("/", id)
		if err := r.Add(s); err != nil {
			t.Fatal(err)
		}
		for _, room := range rooms {
			r.Join(s, room)
		}
	}
	other := socket("/other", "x")
	if err := r.Add(other); err != nil {
		t.Fatal(err)
	}
	r.Join(other, "red")

	for _, test := range []struct {
		name          string
		namespace     string
		rooms, except []string
		want          []string
	}{
		{"everybody", "/", nil, nil, []string{"a", "b", "c", "d"}},
		{"everybody of another namespace", "/other", nil, nil, []string{"x"}},
		{"unknown namespace", "/none", nil, nil, nil},
		{"one room", "/", []string{"red"}, nil, []string{"a", "b"}},
		{"a room is of its namespace", "/other", []string{"red"}, nil, []string{"x"}},
		{"union, each once", "/", []string{"red", "blue", "b"}, nil, []string{"a", "b", "c"}},
		{"a room named twice", "/", []string{"red", "red"}, nil, []string{"a", "b"}},
		{"unknown room", "/", []string{"green"}, nil, nil},
		{"known and unknown room", "/", []string{"green", "c"}, nil, []string{"c"}},
		{"except a room", "/", nil, []string{"red"}, []string{"c", "d"}},
		{"except a socket", "/", []string{"red"}, []string{"a"}, []string{"b"}},
		{"except covers all", "/", []string{"red"}, []string{"red"}, nil},
		{"except an unknown room", "/", []string{"red"}, []string{"green"}, []string{"a", "b"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := selected(r, test.namespace, test.rooms, test.except)
			slices.Sort(got)
			if !slices.Equal(got, test.want) {
				t.Errorf("selected %q, want %q", got, test.want)
			}
		})
	}
}

func TestAddRefusesTakenID(t *testing.T) {
	r := New()
	first := socket("/", "a")
	if err := r.Add(first); err != nil {
		t.Fatal(err)
	}
	if r.Add(socket("/", "a")) == nil {
		t.Error("a taken id was accepted")
	}
	if r.Get("/", "a") != first || r.Len() != 1 {
		t.Error("the refused socket changed the registry")
	}
	if err := r.Add(socket("/other", "a")); err != nil {
		t.Errorf("the same id in another namespace: %v", err)
	}
}

func TestRemoveTellsEmptiedRooms(t *testing.T) {
	r := New()
	a, b := socket("/", "a"), socket("/", "b")
	for _, s := range []*Socket{a, b} {
		if err := r.Add(s); err != nil {
			t.Fatal(err)
		}
		if !r.Join(s, s.ID) {
			t.Error("the first member of a room is not told")
		}
	}
	if !r.Join(a, "both") || r.Join(b, "both") || r.Join(a, "both") {
		t.Error("only the first Join of a room is its first")
	}
	if emptied := r.Remove(a); !slices.Equal(emptied, []string{"a"}) {
		t.Errorf("emptied %q, want its own room", emptied)
	}
	if emptied := r.Remove(a); emptied != nil || r.Len() != 1 {
		t.Error("removing twice has an effect")
	}
	if a.RoomCount() != 0 || r.Leave(a, "both") {
		t.Error("a removed socket is in a room")
	}
	if emptied := r.Remove(b); !slices.Equal(emptied, []string{"b", "both"}) {
		t.Errorf("emptied %q, want all", emptied)
	}
	if len(r.spaces) != 0 || r.Count("/") != 0 {
		t.Error("a namespace without sockets is kept")
	}
}

// model is the registry as one would write it without care for speed.
type model map[*Socket]map[string]bool

func (m model) selected(namespace string, rooms, except []string) []string {
	var ids []string
	for s, in := range m {
		holds := func(room string) bool { return in[room] }
		if s.Namespace == namespace && (len(rooms) == 0 || slices.ContainsFunc(rooms, holds)) && !slices.ContainsFunc(except, holds) {
			ids = append(ids, s.ID)
		}
	}
	slices.Sort(ids)
	return ids
}

func (m model) count(namespace, room string) (n int) {
	for s, in := range m {
		if s.Namespace == namespace && (room == "" || in[room]) {
			n++
		}
	}
	return n
}

// TestAgainstModel does random things to a registry and a model, with rooms that grow and shrink across the
// size from which they are indexed.
func TestAgainstModel(t *testing.T) {
	for seed := range uint64(3) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { againstModel(t, rand.New(rand.NewPCG(seed, 1))) })
	}
}

func againstModel(t *testing.T, rnd *rand.Rand) {
	namespaces := []string{"/", "/socket"}
	rooms := []string{"r0", "r1", "r2", "r3", "r4", "r5"}
	some := func() []string {
		var picked []string
		for range rnd.IntN(4) {
			picked = append(picked, rooms[rnd.IntN(len(rooms))])
		}
		return picked
	}
	r, m := New(), model{}
	var sockets []*Socket // in the model
	for step := range 4000 {
		growing := (step/1000)%2 == 0 // so that rooms pass indexAbove both ways
		switch n := rnd.IntN(10); {
		case len(sockets) == 0 || growing && n < 3 || n < 1:
			s := socket(namespaces[rnd.IntN(2)], fmt.Sprint("s", step))
			if err := r.Add(s); err != nil {
				t.Fatal(err)
			}
			m[s] = map[string]bool{}
			sockets = append(sockets, s)
		case !growing && n < 3:
			i := rnd.IntN(len(sockets))
			s := sockets[i]
			var emptied []string
			for room := range m[s] {
				if m.count(s.Namespace, room) == 1 {
					emptied = append(emptied, room)
				}
			}
			delete(m, s)
			sockets = slices.Delete(sockets, i, i+1)
			got := r.Remove(s)
			slices.Sort(got)
			slices.Sort(emptied)
			if !slices.Equal(got, emptied) {
				t.Fatalf("step %d: Remove emptied %q, want %q", step, got, emptied)
			}
		case n < 7:
			s, room := sockets[rnd.IntN(len(sockets))], rooms[rnd.IntN(len(rooms))]
			want := m.count(s.Namespace, room) == 0
			m[s][room] = true
			if got := r.Join(s, room); got != want {
				t.Fatalf("step %d: Join says first %v, want %v", step, got, want)
			}
		case n < 8:
			s, room := sockets[rnd.IntN(len(sockets))], rooms[rnd.IntN(len(rooms))]
			want := m[s][room] && m.count(s.Namespace, room) == 1
			delete(m[s], room)
			if got := r.Leave(s, room); got != want {
				t.Fatalf("step %d: Leave says last %v, want %v", step, got, want)
			}
		default:
			namespace, in, except := namespaces[rnd.IntN(2)], some(), some()
			got := selected(r, namespace, in, except)
			slices.Sort(got)
			if want := m.selected(namespace, in, except); !slices.Equal(got, want) {
				t.Fatalf("step %d: Select(%q, %q, %q) = %q, want %q", step, namespace, in, except, got, want)
			}
		}
		if step%100 == 0 {
			check(t, r, m)
		}
	}
	for _, s := range sockets {
		r.Remove(s)
	}
	if len(r.spaces) != 0 {
		t.Error("an empty registry holds namespaces")
	}
}

// check compares everything, and looks into the registry for what must hold there.
func check(t *testing.T, r *Registry, m model) {
	t.Helper()
	if r.Len() != len(m) {
		t.Fatalf("%d sockets, want %d", r.Len(), len(m))
	}
	seen := 0
	r.Each(func(s *Socket) {
		seen++
		in := s.Rooms()
		slices.Sort(in)
		if want := slices.Sorted(maps.Keys(m[s])); !slices.Equal(in, want) {
			t.Fatalf("%s is in %q, want %q", s.ID, in, want)
		}
		if r.Get(s.Namespace, s.ID) != s {
			t.Fatalf("%s is not found by its id", s.ID)
		}
	})
	if seen != len(m) {
		t.Fatalf("Each visited %d sockets, want %d", seen, len(m))
	}
	for name, sp := range r.spaces {
		if r.Count(name) != m.count(name, "") || len(sp.sockets) == 0 {
			t.Fatalf("%s has %d sockets, want %d", name, r.Count(name), m.count(name, ""))
		}
		checkMembers(t, &sp.all)
		for room, set := range sp.rooms {
			if set.len() == 0 || set.len() != m.count(name, room) {
				t.Fatalf("room %s has %d members, want %d", room, set.len(), m.count(name, room))
			}
			checkMembers(t, set)
		}
	}
}

func checkMembers(t *testing.T, m *members) {
	t.Helper()
	if m.len() > indexAbove && m.index == nil || m.len() <= indexAbove/2 && m.index != nil {
		t.Fatalf("%d members, indexed: %v", m.len(), m.index != nil)
	}
	if m.index == nil {
		return
	}
	if len(m.index) != m.len() {
		t.Fatalf("index of %d for %d members", len(m.index), m.len())
	}
	for i, s := range m.list {
		if m.index[s] != i {
			t.Fatalf("member %d is indexed as %d", i, m.index[s])
		}
	}
}

func TestSelectAllocatesNothing(t *testing.T) {
	r := filled(t, 1000)
	n := 0
	count := func(*Socket) { n++ }
	rooms, except := []string{"room", "room"}, []string{"s1"}
	if allocs := testing.AllocsPerRun(100, func() { r.Select("/", rooms, except, count) }); allocs != 0 {
		t.Errorf("%v allocations for each selection", allocs)
	}
	if n != 999*101 {
		t.Errorf("selected %d sockets in all, want %d", n, 999*101)
	}
}

// filled returns a registry with n sockets, each in its own room and all in one.
func filled(tb testing.TB, n int) *Registry {
	r := New()
	for i := range n {
		s := socket("/", fmt.Sprint("s", i))
		if err := r.Add(s); err != nil {
			tb.Fatal(err)
		}
		r.Join(s, s.ID)
		r.Join(s, "room")
	}
	return r
}

func BenchmarkSelect(b *testing.B) {
	for _, n := range []int{1, 3, 1000, 10000} {
		b.Run(fmt.Sprintf("members=%d", n), func(b *testing.B) {
			r := filled(b, n)
			rooms := []string{"room"}
			visited := 0
			visit := func(*Socket) { visited++ }
			b.ReportAllocs()
			for b.Loop() {
				r.Select("/", rooms, nil, visit)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(visited), "ns/socket")
		})
	}
}

func BenchmarkJoinLeave(b *testing.B) {
	for _, n := range []int{3, 10000} {
		b.Run(fmt.Sprintf("members=%d", n), func(b *testing.B) {
			r := filled(b, n)
			s := r.Get("/", "s0")
			b.ReportAllocs()
			for b.Loop() {
				r.Leave(s, "room")
				r.Join(s, "room")
			}
		})
	}
}

func TestHas(t *testing.T) {
	r, other := New(), New()
	s, same := socket("/", "a"), socket("/", "a")
	if r.Has(s) {
		t.Error("has a socket that was never added")
	}
	if err := r.Add(s); err != nil {
		t.Fatal(err)
	}
	if err := r.Add(same); err == nil {
		t.Error("an id was given twice")
	}
	if !r.Has(s) || r.Has(same) || other.Has(s) {
		t.Errorf("has the socket: %v; another with its id: %v; another registry has it: %v", r.Has(s), r.Has(same), other.Has(s))
	}
	other.Remove(s)
	r.Remove(same)
	if !r.Has(s) {
		t.Error("removed by what it was not in, or as another")
	}
	r.Remove(s)
	if r.Has(s) || r.Get("/", "a") != nil {
		t.Error("still there")
	}
}

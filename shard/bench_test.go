package shard

import (
	"fmt"
	"testing"

	"parley/engineio"
	"parley/registry"
	"parley/store"
)

// discard is an Outbound for measurements.
type discard struct{ frames int }

func (d *discard) Enqueue(*engineio.Message, engineio.Flags) bool { d.frames++; return true }
func (d *discard) Flush()                                         {}
func (d *discard) Close(engineio.Reason)                          {}

// still returns a pool whose one shard runs on the caller's goroutine, so that its turns can be measured.
func still(tb testing.TB, o Options) *Shard {
	o.Shards = 1
	p, err := New(o)
	must(tb, err)
	p.Stop()
	return newShard(p, 0, Options{Inbox: 16})
}

// crowd fills a room with n sockets of the shard, which follow the box.
func crowd(tb testing.TB, s *Shard, n int, room string, box store.Box) {
	for i := range n {
		id := fmt.Sprint(room, "-", i)
		t := &registry.Socket{ID: id, Namespace: ns, Out: &discard{}}
		must(tb, s.registry.Add(t))
		s.join(t, id)
		s.join(t, room)
		if box != (store.Box{}) {
			c := &follow{socket: t, box: box}
			must(tb, s.follow(c))
		}
	}
}

func sealed(rooms ...string) *Envelope {
	e := event(`2["message",{"content":"hello","from":"a","to":"b"}]`, rooms...)
	e.seal()
	return e
}

var annsBox = store.Box{App: "chat", User: "ann"}

// mails returns a function that gives a box's next entry.
func mails(s *Shard) func() *deliver {
	m := Mail{Box: annsBox, Offset: store.Offset{Epoch: 1}, Message: message("2[]")}
	return func() *deliver {
		m.Offset.Seq++
		c := s.pool.delivers.Get().(*deliver)
		c.mail = m
		return c
	}
}

// The way from an event or a mail to its recipients must not allocate for each of them, nor at all.
func TestDeliveryAllocatesNothing(t *testing.T) {
	s := still(t, Options{})
	crowd(t, s, 100, "room", annsBox)
	c := &emit{envelope: sealed("room")}
	s.turn(c) // makes room for the touched sockets
	if allocs := testing.AllocsPerRun(100, func() { s.turn(c) }); allocs != 0 {
		t.Errorf("%v allocations to emit to 100 sockets", allocs)
	}
	next := mails(s)
	if allocs := testing.AllocsPerRun(100, func() { s.turn(next()) }); allocs != 0 {
		t.Errorf("%v allocations to deliver mail to 100 sockets", allocs)
	}
	logged := loggedEvent("x", "room")
	few := testing.AllocsPerRun(100, func() { s.turn(&emit{envelope: logged}) })
	if few > 10 {
		t.Errorf("%v allocations to log an event and emit it to 100 sockets", few)
	}
}

func BenchmarkTurnEmit(b *testing.B) {
	for _, n := range []int{2, 10_000} {
		b.Run(fmt.Sprintf("sockets=%d", n), func(b *testing.B) {
			s := still(b, Options{})
			crowd(b, s, n, "room", store.Box{})
			crowd(b, s, 10_000, "other", store.Box{})
			c := &emit{envelope: sealed("room")}
			b.ReportAllocs()
			for b.Loop() {
				s.turn(c)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*n), "ns/socket")
		})
	}
}

func BenchmarkTurnMail(b *testing.B) {
	for _, n := range []int{2, 100} {
		b.Run(fmt.Sprintf("followers=%d", n), func(b *testing.B) {
			s := still(b, Options{})
			crowd(b, s, n, "room", annsBox)
			next := mails(s)
			b.ReportAllocs()
			for b.Loop() {
				s.turn(next())
			}
		})
	}
}

// BenchmarkEmit is the whole way of an event of two sockets: encoding, directory, inbox, turn.
func BenchmarkEmit(b *testing.B) {
	for _, shards := range []int{1, 2} {
		b.Run(fmt.Sprintf("shards=%d", shards), func(b *testing.B) {
			p := start(b, Options{Shards: shards})
			user := userOn(p, 0)
			for i := range 2 {
				s := &registry.Socket{ID: fmt.Sprint(i), Namespace: ns, Key: user, Out: &discard{}}
				must(b, p.At(0).Register(b.Context(), s, []string{user}))
			}
			text, rooms := []byte(`2["message",{"content":"hello","from":"a","to":"b"}]`), []string{user}
			b.ReportAllocs()
			for b.Loop() {
				must(b, p.Emit(b.Context(), &Envelope{Selector: Selector{Namespace: ns, Rooms: rooms}, Text: text}))
			}
		})
	}
}

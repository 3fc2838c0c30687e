package shard

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"parley/registry"
)

func TestRegister(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		p := start(t, Options{Shards: 3})
		owner := p.Owner("u")
		s, w := newSocket("a", "u")
		must(t, owner.Register(ctx, s, []string{"a", "room", "a"}, message("first"), message("second")))
		must(t, p.Emit(ctx, event("third", "room")))
		synctest.Wait()
		expect(t, "sent", w.texts(), []string{"first", "second", "third"})

		twin, _ := newSocket("a", "u")
		if owner.Register(ctx, twin, []string{"twin"}) == nil {
			t.Error("a taken id was accepted")
		}
		must(t, p.Emit(ctx, event("for nobody", "twin")))

		must(t, owner.Unregister(ctx, s, message("last")))
		must(t, p.Emit(ctx, event("late", "room")))
		must(t, p.Emit(ctx, event("late")))
		synctest.Wait()
		expect(t, "sent", w.texts(), []string{"first", "second", "third", "last"})
		must(t, owner.Unregister(ctx, s))
		empty(t, p)
	})
}

func TestRegisterClosedConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := start(t, Options{Shards: 1})
		s, w := newSocket("a", "a")
		w.gone = true
		if err := p.At(0).Register(t.Context(), s, []string{"a"}, message("hello")); !errors.Is(err, ErrGone) {
			t.Errorf("error %v, want ErrGone", err)
		}
		empty(t, p)
	})
}

func TestEmitVisitsOnlyShardsWithMembers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		p := start(t, Options{Shards: 8})
		one, _ := join(t, p, "one", userOn(p, 1), "red", "both")
		two, _ := join(t, p, "two", userOn(p, 5), "blue", "both")
		for _, test := range []struct {
			rooms  []string
			shards []int
		}{
			{nil, []int{0, 1, 2, 3, 4, 5, 6, 7}},
			{[]string{"red"}, []int{1}},
			{[]string{"red", "blue"}, []int{1, 5}},
			{[]string{"both"}, []int{1, 5}},
			{[]string{"one"}, []int{1}},
			{[]string{"none"}, nil},
		} {
			set := p.visited(Selector{Namespace: ns, Rooms: test.rooms})
			if got := set.list(); !slices.Equal(got, test.shards) {
				t.Errorf("rooms %q visit %v, want %v", test.rooms, got, test.shards)
			}
			a := &answers{}
			e := event("x", test.rooms...)
			e.Acks, e.AckID = a, 1
			must(t, p.Emit(ctx, e))
			if a.visits != len(test.shards) {
				t.Errorf("rooms %q: %d visits announced, want %d", test.rooms, a.visits, len(test.shards))
			}
		}
		must(t, p.Owner(one.Key).Query(ctx, func(v *View) { v.Leave(one, "both"); v.Leave(one, "both") }))
		must(t, p.Owner(two.Key).Unregister(ctx, two))
		for room, want := range map[string][]int{"both": nil, "blue": nil, "red": {1}} {
			set := p.visited(Selector{Namespace: ns, Rooms: []string{room}})
			if got := set.list(); !slices.Equal(got, want) {
				t.Errorf("room %q visits %v after they left, want %v", room, got, want)
			}
		}
		must(t, p.Owner(one.Key).Unregister(ctx, one))
		empty(t, p)
	})
}

func TestExcept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := start(t, Options{Shards: 2})
		_, a := join(t, p, "a", userOn(p, 0), "room")
		_, b := join(t, p, "b", userOn(p, 1), "room")
		_, c := join(t, p, "c", userOn(p, 1), "room", "muted")
		e := event("hi", "room", "b")
		e.Except = []string{"a", "muted"}
		must(t, p.Emit(t.Context(), e))
		synctest.Wait()
		expect(t, "a", a.texts(), nil)
		expect(t, "b", b.texts(), []string{"hi"})
		expect(t, "c", c.texts(), nil)
	})
}

func TestSendReachesSocketInNoRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		p := start(t, Options{Shards: 1})
		s, w := join(t, p, "a", "u")
		owner := p.Owner("u")
		must(t, owner.Query(ctx, func(v *View) { v.Leave(s, "a") }))
		must(t, p.Emit(ctx, event("by room", "a")))
		must(t, owner.Send(ctx, s, event("direct")))
		must(t, owner.SendMessage(ctx, s, message("encoded")))
		must(t, owner.Unregister(ctx, s))
		must(t, owner.Send(ctx, s, event("late")))
		must(t, owner.SendMessage(ctx, s, message("late")))
		synctest.Wait()
		expect(t, "sent", w.texts(), []string{"direct", "encoded"})
	})
}

func TestRoomLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := start(t, Options{Shards: 1})
		s, _ := join(t, p, "a", "u", "one")
		must(t, p.At(0).Query(t.Context(), func(v *View) {
			if v.Join(s, "two", 2) == nil {
				t.Error("joined a third room of two")
			}
			if err := v.Join(s, "one", 2); err != nil {
				t.Errorf("a room that it is in already: %v", err)
			}
			if err := v.Join(s, "two", 0); err != nil {
				t.Errorf("without a limit: %v", err)
			}
		}))
	})
}

func TestOneFlushForEachTouchedSocketInATurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		p := start(t, Options{Shards: 1})
		_, a := join(t, p, "a", "u", "room")
		_, b := join(t, p, "b", "u", "room")
		_, idle := join(t, p, "c", "u")
		release := occupy(t, p.At(0))
		var want []string
		for i := range 10 {
			want = append(want, fmt.Sprint("m", i))
			must(t, p.Emit(ctx, event(want[i], "room", "a")))
		}
		release()
		synctest.Wait()
		for name, w := range map[string]*wire{"a": a, "b": b} {
			expect(t, name, w.texts(), want)
			if w.flushes != 1 {
				t.Errorf("%s was flushed %d times, want once", name, w.flushes)
			}
		}
		if idle.flushes != 0 {
			t.Errorf("a socket that was sent nothing was flushed %d times", idle.flushes)
		}
	})
}

// Under load the frames of turns that follow each other at once go out together, but none waits for long.
func TestTurnsUnderLoadGatherFrames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := start(t, Options{Shards: 1})
		_, w := join(t, p, "a", "u")
		s := p.At(0)
		<-s.token // the test has the turns now
		w.flushes = 0
		say := func() *emit {
			e := event("x", "a")
			e.seal()
			return &emit{envelope: e}
		}
		turns := func(n, flushes int) {
			t.Helper()
			for range n {
				s.gather(say())
			}
			if w.flushes != flushes {
				t.Errorf("flushed %d times, want %d", w.flushes, flushes)
			}
		}
		turns(3, 0)
		time.Sleep(flushAfter)
		turns(1, 1)
		if len(w.sent) != 4 {
			t.Errorf("sent %d frames, want all 4", len(w.sent))
		}
		turns(2, 1)
		if !s.work() || w.flushes != 2 || len(w.sent) != 6 {
			t.Errorf("%d frames in %d flushes when nothing else waits, want 6 in 2", len(w.sent), w.flushes)
		}
	})
}

func TestTurnEndsUnderFlood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := start(t, Options{Shards: 1})
		_, w := join(t, p, "a", "u")
		release := occupy(t, p.At(0))
		for range 3 * turnLimit {
			must(t, p.Emit(t.Context(), event("x", "a")))
		}
		release()
		synctest.Wait()
		if len(w.sent) != 3*turnLimit || w.flushes < 3 || w.flushes > 4 {
			t.Errorf("%d frames in %d flushes, want %d in 3 or 4", len(w.sent), w.flushes, 3*turnLimit)
		}
	})
}

// TestOrder has senders emit to rooms that overlap, on several shards, while sockets join and leave others:
// each socket sees what one sender sent to it in order and complete.
func TestOrder(t *testing.T) {
	const senders, events, sockets = 4, 200, 12
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		p := start(t, Options{Shards: 4, Inbox: 32})
		wires := make([]*wire, sockets)
		var entries []*registry.Socket
		for i := range wires {
			var s *registry.Socket
			s, wires[i] = join(t, p, fmt.Sprint("s", i), userOn(p, i%4), "x", "y")
			entries = append(entries, s)
		}
		var work sync.WaitGroup
		for sender := range senders {
			work.Go(func() {
				rnd := rand.New(rand.NewPCG(uint64(sender), 7))
				for n := range events {
					text := fmt.Sprintf("%d %d", sender, n)
					var err error
					switch rnd.IntN(4) {
					case 0:
						err = p.Emit(ctx, event(text))
					case 1:
						err = p.Emit(ctx, event(text, "x"))
					case 2:
						err = p.Emit(ctx, event(text, "y", "x"))
					case 3:
						for _, s := range entries {
							err = errors.Join(err, p.Owner(s.Key).Send(ctx, s, event(text)))
						}
					}
					if err != nil {
						t.Error(err)
					}
				}
			})
		}
		work.Go(func() { // other rooms come and go meanwhile
			for i := range events {
				s := entries[i%len(entries)]
				room := fmt.Sprint("room", i%3)
				if err := p.Owner(s.Key).Query(ctx, func(v *View) { _ = v.Join(s, room, 0) }); err != nil {
					t.Error(err)
				}
				if err := p.Owner(s.Key).Query(ctx, func(v *View) { v.Leave(s, room) }); err != nil {
					t.Error(err)
				}
			}
		})
		work.Wait()
		synctest.Wait()
		for i, w := range wires {
			var next [senders]int
			for _, text := range w.texts() {
				var sender, n int
				if _, err := fmt.Sscan(text, &sender, &n); err != nil {
					t.Fatal(err)
				}
				if n != next[sender] {
					t.Fatalf("socket %d got %d of sender %d, want %d", i, n, sender, next[sender])
				}
				next[sender]++
			}
			for sender, n := range next {
				if n != events {
					t.Errorf("socket %d got %d events of sender %d, want %d", i, n, sender, events)
				}
			}
		}
	})
}

// asking returns an event that wants an acknowledgement.
func asking(id uint64, rooms ...string) (*Envelope, *answers) {
	a := &answers{}
	e := event("q", rooms...)
	e.AckID, e.Acks = id, a
	return e, a
}

func TestAcks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		p := start(t, Options{Shards: 2})
		s1, w1 := join(t, p, "s1", userOn(p, 0), "room")
		s2, _ := join(t, p, "s2", userOn(p, 1), "room")
		s3, _ := join(t, p, "s3", userOn(p, 1), "room")
		acknowledge := func(s *registry.Socket, id uint64, data string) {
			must(t, p.Owner(s.Key).Acknowledge(ctx, s, id, []byte(data), nil))
		}

		e, a := asking(7, "room")
		must(t, p.Emit(ctx, e))
		acknowledge(s1, 7, "[1]")
		acknowledge(s1, 7, "[again]")
		acknowledge(s2, 8, "[unasked]")
		must(t, p.Owner(s3.Key).Unregister(ctx, s3))
		synctest.Wait()
		a.check(t, 2, 3, 1, "[1]")
		acknowledge(s2, 7, "[2]")
		synctest.Wait()
		a.check(t, 2, 3, 1, "[1]", "[2]")
		acknowledge(s3, 7, "[late]")

		// To one socket; a socket that is gone is lost at once.
		e, a = asking(9)
		must(t, p.Owner(s1.Key).Send(ctx, s1, e))
		e3, a3 := asking(10)
		must(t, p.Owner(s3.Key).Send(ctx, s3, e3))
		acknowledge(s1, 9, "[9]")
		synctest.Wait()
		a.check(t, 1, 1, 0, "[9]")
		a3.check(t, 1, 1, 1)
		expect(t, "s1", w1.texts(), []string{"q", "q"})

		// To nobody.
		e, a = asking(11, "nobody")
		must(t, p.Emit(ctx, e))
		a.check(t, 0, 0, 0)

		// Forgotten.
		e, a = asking(12, "room")
		must(t, p.Emit(ctx, e))
		must(t, p.Query(ctx, e.Selector, func(v *View) {
			v.Select(e.Selector, func(t *registry.Socket) { v.ForgetAck(t, 12) })
		}))
		acknowledge(s1, 12, "[late]")
		must(t, p.Owner(s1.Key).Unregister(ctx, s1))
		must(t, p.Owner(s2.Key).Unregister(ctx, s2))
		synctest.Wait()
		a.check(t, 2, 2, 0)
		empty(t, p)
	})
}

func TestPendingAcksAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		p := start(t, Options{Shards: 1, MaxPendingAcks: 3})
		s, w := join(t, p, "a", "u")
		all := make([]*answers, 5)
		for i := range all {
			var e *Envelope
			e, all[i] = asking(uint64(i), "a")
			must(t, p.Emit(ctx, e))
		}
		synctest.Wait()
		for i, a := range all {
			a.check(t, 1, 1, max(0, min(1, i-2)))
		}
		if len(w.sent) != 3 {
			t.Errorf("%d events were sent, want 3", len(w.sent))
		}
		must(t, p.At(0).Acknowledge(ctx, s, 1, []byte("[]"), nil))
		e, a := asking(99, "a")
		must(t, p.Emit(ctx, e))
		synctest.Wait()
		a.check(t, 1, 1, 0)
		must(t, p.At(0).Unregister(ctx, s))
		a.check(t, 1, 1, 1)
	})
}

func TestQueryVisitsShardsOfSelector(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := start(t, Options{Shards: 4})
		join(t, p, "a", userOn(p, 2), "room")
		join(t, p, "b", userOn(p, 3), "room")
		var visits int
		var found []string
		sel := Selector{Namespace: ns, Rooms: []string{"room"}, Except: []string{"b"}}
		must(t, p.Query(t.Context(), sel, func(v *View) {
			visits++
			v.Select(sel, func(t *registry.Socket) { found = append(found, t.ID) })
		}))
		if visits != 2 || strings.Join(found, " ") != "a" {
			t.Errorf("%d visits found %q", visits, found)
		}
	})
}

func TestNewChecksOptions(t *testing.T) {
	for _, n := range []int{-1, MaxShards + 1} {
		if _, err := New(Options{Shards: n}); err == nil {
			t.Errorf("%d shards were accepted", n)
		}
	}
	p, err := New(Options{})
	must(t, err)
	defer p.Stop()
	if p.Len() < 1 || p.At(-1) != nil || p.At(p.Len()) != nil || p.At(0).Index() != 0 {
		t.Error("the shards of a default pool are not what its length says")
	}
}

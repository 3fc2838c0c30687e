package shard

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"parley/engineio"
	"parley/registry"
	"parley/store"
)

// loggedEvent returns an event that is kept for clients that come back.
func loggedEvent(text string, rooms ...string) *Envelope {
	e := event(`2["`+text+`"]`, rooms...)
	e.Offset = LogOffset
	return e
}

// offsetOf returns the offset at the end of a packet, and the packet without it.
func offsetOf(t testing.TB, packet string) (offset, bare string) {
	t.Helper()
	i := strings.LastIndex(packet, `,"`)
	if i < 0 {
		t.Fatalf("packet %s has no offset", packet)
	}
	return strings.TrimSuffix(packet[i+2:], `"]`), packet[:i] + "]"
}

func bare(t testing.TB, packets []string) []string {
	var all []string
	for _, p := range packets {
		_, b := offsetOf(t, p)
		all = append(all, b)
	}
	return all
}

// away is a test's recoverable socket, on a pool of one shard.
type away struct {
	p *Pool
	s *registry.Socket
	w *wire
}

func recoverableSocket(t testing.TB, p *Pool, id string, rooms ...string) away {
	t.Helper()
	s, w := join(t, p, id, id, rooms...)
	must(t, p.Owner(id).Expect(t.Context(), s, "pid-"+id))
	return away{p, s, w}
}

func (a away) park(t testing.TB, d time.Duration) {
	t.Helper()
	must(t, a.p.Owner(a.s.Key).Park(t.Context(), a.s, "pid-"+a.s.ID, []byte("kept"), d))
}

// resume brings the client back with the offset.
func (a away) resume(t testing.TB, offset string) (away, bool) {
	t.Helper()
	s, w := newSocket(a.s.ID, a.s.Key)
	ok, err := a.p.Owner(a.s.Key).Resume(t.Context(), s, "pid-"+a.s.ID, offset, message("hello"))
	must(t, err)
	synctest.Wait()
	return away{a.p, s, w}, ok
}

func (a away) find(t testing.TB, offset string) (Returning, bool) {
	t.Helper()
	found, ok, err := a.p.Owner(a.s.Key).Find(t.Context(), ns, "pid-"+a.s.ID, offset)
	must(t, err)
	return found, ok
}

func TestParkAndResume(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		p := start(t, Options{Shards: 4})
		a := recoverableSocket(t, p, "a", "room")
		b := recoverableSocket(t, p, "b", "room", "muted")
		must(t, p.Emit(ctx, loggedEvent("one", "room")))
		must(t, p.Emit(ctx, event(`2["unlogged"]`, "room")))
		synctest.Wait()
		offset, _ := offsetOf(t, a.w.texts()[0])

		if found, ok := a.find(t, offset); !ok || found.Live != "a" || found.ID != "a" || !found.Known {
			t.Errorf("live: found %+v, %v", found, ok)
		}
		if _, ok := a.resume(t, offset); ok {
			t.Error("a live socket was taken over")
		}

		a.park(t, time.Minute)
		for _, e := range []*Envelope{
			loggedEvent("two", "room"), loggedEvent("other", "nowhere"), event(`2["unlogged"]`, "room"),
			loggedEvent("three"), loggedEvent("four", "a"),
			{Selector: Selector{Namespace: ns, Except: []string{"a"}}, Text: []byte(`2["others"]`), Offset: LogOffset},
			{Selector: Selector{Namespace: ns, Rooms: []string{"room"}, Except: []string{"muted"}}, Text: []byte(`2["five"]`), Offset: LogOffset},
		} {
			must(t, p.Emit(ctx, e))
		}
		if found, ok := a.find(t, offset); !ok || found.Live != nil || string(found.Data) != "kept" || !found.Known {
			t.Errorf("parked: found %+v, %v", found, ok)
		}
		for _, unknown := range []string{"", "x", offset + "0", "0" + offset, strings.Replace(offset, "-", "-+", 1)} {
			if found, ok := a.find(t, unknown); !ok || found.Known {
				t.Errorf("offset %q is known", unknown)
			}
			if _, ok := a.resume(t, unknown); ok {
				t.Errorf("resumed from offset %q", unknown)
			}
		}
		if _, ok, err := p.Owner("a").Find(ctx, "/other", "pid-a", offset); ok || err != nil {
			t.Error("found in another namespace")
		}

		time.Sleep(time.Minute - time.Second)
		back, ok := a.resume(t, offset)
		if !ok {
			t.Fatal("not resumed")
		}
		got := back.w.texts()
		expect(t, "replayed", bare(t, got[:len(got)-1]), []string{`2["two"]`, `2["three"]`, `2["four"]`, `2["five"]`})
		if got[len(got)-1] != "hello" {
			t.Errorf("the CONNECT packet is not last: %q", got)
		}
		if _, ok := a.resume(t, offset); ok {
			t.Error("the same private id was used twice")
		}
		rooms := back.s.Rooms()
		if slices.Sort(rooms); !slices.Equal(rooms, []string{"a", "room"}) {
			t.Errorf("back in rooms %q", rooms)
		}

		// Back in service, and able to come back once more. The old socket's end has no effect.
		must(t, p.Owner("a").Unregister(ctx, a.s))
		time.Sleep(time.Hour)
		must(t, p.Emit(ctx, loggedEvent("six", "room")))
		synctest.Wait()
		got = back.w.texts()
		offset, last := offsetOf(t, got[len(got)-1])
		if last != `2["six"]` {
			t.Errorf("after the return got %q", got)
		}
		back.park(t, time.Minute)
		again, ok := back.resume(t, offset)
		expect(t, "nothing was missed, so sent", again.w.texts(), []string{"hello"})
		if !ok {
			t.Error("not resumed a second time")
		}

		for _, x := range []away{again, b} {
			must(t, p.Owner(x.s.Key).Forget(ctx, "pid-"+x.s.ID))
			must(t, p.Owner(x.s.Key).Unregister(ctx, x.s))
		}
		empty(t, p)
	})
}

func TestParkedSocketIsNoTarget(t *testing.T) {
	mailTest(t, func(t *testing.T, p *Pool, b *fakeBox) {
		ctx := t.Context()
		s, w := device(t, p, "s", b, b.tail())
		owner := p.Owner("ann")
		must(t, owner.Expect(ctx, s, "pid-s"))
		pending, lost := asking(1, "s")
		must(t, p.Emit(ctx, pending))
		synctest.Wait()
		must(t, owner.Park(ctx, s, "pid-s", nil, time.Minute))
		lost.check(t, 1, 1, 1)

		inside(t, owner, func(s *Shard) {
			if len(s.streams) != 0 {
				t.Error("a parked socket holds a stream")
			}
		})
		e, a := asking(2, "s")
		must(t, p.Emit(ctx, e))
		deliverAll(t, p, b.append())
		a.check(t, 1, 0, 0)
		if len(w.sent) != 1 {
			t.Errorf("a parked socket was sent %q", w.texts())
		}
		must(t, p.Query(ctx, e.Selector, func(v *View) {
			v.Select(e.Selector, func(*registry.Socket) { t.Error("a query found a parked socket") })
		}))
		if _, err := owner.Follow(ctx, s, b.box, b.tail()); err == nil {
			t.Error("a parked socket follows a mailbox")
		}
		time.Sleep(2 * time.Minute)
		empty(t, p)
	})
}

func TestParkedSocketsExpire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		p := start(t, Options{Shards: 2})
		var parked []away
		for i := range 50 {
			a := recoverableSocket(t, p, fmt.Sprint("s", i), "room")
			parked = append(parked, a)
			must(t, p.Emit(ctx, loggedEvent("x", "room")))
			synctest.Wait()
			a.park(t, time.Minute)
			time.Sleep(100 * time.Millisecond)
		}
		offset, _ := offsetOf(t, parked[49].w.texts()[0])
		time.Sleep(time.Minute - 100*time.Millisecond + time.Nanosecond)
		synctest.Wait()
		// Where the registry still has a socket whose time is over, it can't come back.
		if _, ok := parked[49].resume(t, offset); ok {
			t.Error("resumed when its time was over")
		}
		time.Sleep(2 * expiryStep)
		synctest.Wait()
		for _, a := range parked {
			if _, ok := a.find(t, offset); ok {
				t.Errorf("%s is still remembered", a.s.ID)
			}
		}
		empty(t, p)
	})
}

func TestParkUnderAnUnknownPID(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := start(t, Options{Shards: 1})
		a := recoverableSocket(t, p, "a")
		b := recoverableSocket(t, p, "b")
		must(t, p.At(0).Park(t.Context(), a.s, "pid-b", nil, time.Minute))
		must(t, p.At(0).Forget(t.Context(), "pid-a"))
		b.park(t, time.Minute)
		must(t, p.At(0).Forget(t.Context(), "pid-b"))
		must(t, p.At(0).Forget(t.Context(), "pid-none"))
		must(t, p.At(0).Expect(t.Context(), a.s, "pid-a"))
		empty(t, p)
	})
}

func TestExpiredOffset(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		p := start(t, Options{Shards: 1})
		a := recoverableSocket(t, p, "a", "room")
		recoverableSocket(t, p, "b", "busy")
		for _, text := range []string{"one", "two"} {
			must(t, p.Emit(ctx, loggedEvent(text, "room")))
		}
		synctest.Wait()
		first, _ := offsetOf(t, a.w.texts()[0])
		second, _ := offsetOf(t, a.w.texts()[1])
		a.park(t, time.Minute)
		for range logPackets - 1 {
			must(t, p.Emit(ctx, loggedEvent("x", "busy")))
		}
		// The log holds packet 2 and those after it.
		if found, ok := a.find(t, first); !ok || !found.Known {
			t.Error("the offset before the oldest packet is unknown")
		}
		must(t, p.Emit(ctx, loggedEvent("x", "busy")))
		if found, ok := a.find(t, first); !ok || found.Known {
			t.Error("an offset is known though the packet after it is gone")
		}
		if _, ok := a.resume(t, first); ok {
			t.Error("resumed with a gap")
		}
		if back, ok := a.resume(t, second); !ok || len(back.w.texts()) != 1 {
			t.Error("not resumed from the oldest offset")
		}
	})
}

func TestLogIsBounded(t *testing.T) {
	log := &replayLog{prefix: "p-"}
	text := []byte(`["` + strings.Repeat("x", 1<<20) + `"]`)
	for range 20 {
		log.append(&Envelope{Text: text})
	}
	if log.bytes > logBytes || len(log.entries) == 0 {
		t.Errorf("%d bytes in %d packets", log.bytes, len(log.entries))
	}
	for range 2 * logPackets {
		log.append(&Envelope{Text: []byte("[]")})
	}
	size := 0
	for _, e := range log.entries {
		size += e.message.Size()
	}
	if len(log.entries) != logPackets || log.bytes != size || cap(log.entries) > 4*logPackets {
		t.Errorf("%d packets (room for %d) of %d bytes, counted as %d", len(log.entries), cap(log.entries), size, log.bytes)
	}
	huge := &Envelope{Text: []byte(`["` + strings.Repeat("x", logBytes) + `"]`)}
	if log.append(huge); len(log.entries) != 1 {
		t.Errorf("%d packets beside one that is over the bound", len(log.entries)-1)
	}
}

// A replay that its outbox can't take would close the connection, whose client would ask for it again.
func TestReplayFitsAnOutbox(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		p := start(t, Options{Shards: 1})
		a := recoverableSocket(t, p, "a", "room")
		must(t, p.Emit(ctx, loggedEvent("first", "room")))
		synctest.Wait()
		offset, _ := offsetOf(t, a.w.texts()[0])
		a.park(t, time.Minute)
		for range replayPackets {
			must(t, p.Emit(ctx, loggedEvent("x", "room")))
		}
		if found, _ := a.find(t, offset); !found.Known {
			t.Error("as much as fits is too much")
		}
		must(t, p.Emit(ctx, loggedEvent("x", "room")))
		if found, _ := a.find(t, offset); found.Known {
			t.Error("more than fits would be sent")
		}
	})
}

func TestLogGoesWithItsNamespace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		p := start(t, Options{Shards: 2})
		stays := recoverableSocket(t, p, "stays")
		for i := range 10 {
			s, _ := newSocket("s", "u")
			s.Namespace = fmt.Sprint("/dynamic", i)
			must(t, p.Owner("u").Register(ctx, s, []string{"s"}))
			e := loggedEvent("x")
			e.Namespace = s.Namespace
			must(t, p.Emit(ctx, e))
			must(t, p.Owner("u").Unregister(ctx, s))
			must(t, p.Emit(ctx, e))
		}
		synctest.Wait()
		must(t, p.Owner("stays").Forget(ctx, "pid-stays"))
		must(t, p.Owner("stays").Unregister(ctx, stays.s))
		empty(t, p)
	})
}

func TestCurrentOffset(t *testing.T) {
	current := func(text string, rooms ...string) *Envelope {
		e := event(`2["`+text+`"]`, rooms...)
		e.Offset, e.Flags = CurrentOffset, engineio.Volatile
		return e
	}
	t.Run("of the log", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			p := start(t, Options{Shards: 1})
			a := recoverableSocket(t, p, "a", "room")
			// Before anything is logged, too: the client must not take the event's own string for an offset.
			must(t, p.Emit(t.Context(), current("volatile", "room")))
			synctest.Wait()
			zero, _ := offsetOf(t, a.w.texts()[0])
			must(t, p.Emit(t.Context(), loggedEvent("logged", "room")))
			must(t, p.Emit(t.Context(), current("volatile", "room")))
			synctest.Wait()
			got := a.w.texts()
			one, _ := offsetOf(t, got[1])
			if same, _ := offsetOf(t, got[2]); same != one {
				t.Errorf("volatile event has offset %s, want %s", same, one)
			}
			a.park(t, time.Minute)
			if back, ok := a.resume(t, zero); !ok || len(back.w.texts()) != 2 {
				t.Errorf("from before the first logged event: %v, %q", ok, back.w.texts())
			}
		})
	})
	t.Run("of the mailbox", func(t *testing.T) {
		mailTest(t, func(t *testing.T, p *Pool, b *fakeBox) {
			b.appendN(2)
			_, behind := device(t, p, "behind", b, b.tail())
			synctest.Wait()
			mail := b.append()
			_, ahead := device(t, p, "ahead", b, b.tail())
			e := event(`2["volatile"]`)
			e.Offset = MailOffset
			must(t, p.Emit(t.Context(), e))
			deliverAll(t, p, mail)
			must(t, p.Emit(t.Context(), e))
			synctest.Wait()
			expect(t, "behind", behind.texts(), []string{`2["volatile","1-2"]`, "1-3", `2["volatile","1-3"]`})
			expect(t, "ahead", ahead.texts(), []string{`2["volatile","1-3"]`, `2["volatile","1-3"]`})
		})
	})
	t.Run("before it follows a mailbox", func(t *testing.T) {
		mailTest(t, func(t *testing.T, p *Pool, b *fakeBox) {
			b.appendN(5)
			e := event(`2["volatile"]`)
			e.Offset = MailOffset
			at := func(seq uint64) store.Offset { return store.Offset{Epoch: b.tail().Epoch, Seq: seq} }
			owner := p.Owner("u")
			fresh, new := join(t, p, "new", "u")
			back, returned := newSocket("returned", "u")
			must(t, owner.Return(t.Context(), back, nil, at(2), message("missed")))
			must(t, p.Emit(t.Context(), e))
			must(t, owner.SendAt(t.Context(), fresh, message("snapshot"), at(4)))
			must(t, owner.SendAt(t.Context(), back, message("snapshot"), at(4)))
			must(t, p.Emit(t.Context(), e))
			synctest.Wait()
			expect(t, "new", new.texts(), []string{`2["volatile",null]`, "snapshot", `2["volatile","1-4"]`})
			expect(t, "returned", returned.texts(), []string{"missed", `2["volatile","1-2"]`, "snapshot", `2["volatile","1-4"]`})
			must(t, owner.Unregister(t.Context(), fresh))
			must(t, owner.Unregister(t.Context(), back))
			must(t, owner.Return(t.Context(), back, nil, at(2), message("again")))
			must(t, owner.Unregister(t.Context(), back))
			inside(t, owner, func(s *Shard) {
				if len(s.places) != 0 {
					t.Errorf("%d places are kept of sockets that left", len(s.places))
				}
			})
		})
	})
}

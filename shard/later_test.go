package shard

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"parley/engineio"
)

func writes(w *wire) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.flushes
}

// What may wait leaves at once after a pause, and then with what else comes within a short time, in one write.
func TestLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		p := start(t, Options{Shards: 1})
		_, a := join(t, p, "a", "u", "room")
		_, b := join(t, p, "b", "u", "room")
		var want []string
		say := func(later bool, rooms ...string) {
			t.Helper()
			e := event(fmt.Sprint("m", len(want)), rooms...)
			e.Later = later
			want = append(want, string(e.Text))
			must(t, p.Emit(ctx, e))
			synctest.Wait()
		}
		check := func(w *wire, flushes int, texts []string) {
			t.Helper()
			expect(t, "sent", w.texts(), texts)
			if n := writes(w); n != flushes {
				t.Errorf("%d writes, want %d", n, flushes)
			}
		}
		say(true, "room")
		check(a, 1, want)
		check(b, 1, want)
		for range 3 {
			say(true, "room")
		}
		check(a, 1, want[:1])
		say(false, "a") // takes along what waits
		check(a, 2, want)
		check(b, 1, want[:1])
		time.Sleep(laterAfter)
		synctest.Wait()
		check(b, 2, want[:4])
		before := writes(a)
		time.Sleep(time.Minute)
		synctest.Wait()
		if writes(a) != before || writes(b) != 2 {
			t.Errorf("sockets that are sent nothing are flushed")
		}
		say(true, "a")
		check(a, before+1, want)
	})
}

// What may wait leaves in time while the shard is under load, and when nothing comes after it.
func TestLaterUnderLoad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := start(t, Options{Shards: 1})
		_, w := join(t, p, "a", "u")
		s := p.At(0)
		for _, n := range []int{1, 2} {
			e := event("x", "a")
			e.Later = true
			release := occupy(t, s)
			must(t, p.Emit(t.Context(), e)) // so that it is not the first of a turn by itself
			release()
			synctest.Wait()
			time.Sleep(laterAfter)
			synctest.Wait()
			if got := w.texts(); len(got) != n {
				t.Errorf("%d of %d left", len(got), n)
			}
		}
	})
}

// A volatile event is not dropped because others may wait, nor does a socket that leaves keep anything back.
func TestVolatileAfterLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		p := start(t, Options{Shards: 1})
		a, w := join(t, p, "a", "u")
		for range 2 {
			e := event("later", "a")
			e.Later = true
			must(t, p.Emit(ctx, e))
		}
		now := event("now", "a")
		now.Flags = engineio.Volatile
		synctest.Wait()
		before := writes(w)
		must(t, p.Emit(ctx, now))
		synctest.Wait()
		expect(t, "sent", w.texts(), []string{"later", "later", "now"})
		if n := writes(w) - before; n != 2 { // one before, so that the client is ready
			t.Errorf("%d writes", n)
		}
		must(t, p.At(0).Unregister(ctx, a))
		time.Sleep(laterAfter)
		synctest.Wait()
		inside(t, p.At(0), func(s *Shard) {
			if len(s.later) != 0 {
				t.Errorf("%d sockets wait", len(s.later))
			}
		})
		empty(t, p)
	})
}

// SendAll sends in order, and nothing to a socket that has left.
func TestSendAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		p := start(t, Options{Shards: 1})
		a, w := join(t, p, "a", "u")
		var all []*Envelope
		for _, text := range []string{"one", "two"} {
			all = append(all, &Envelope{Selector: Selector{Namespace: ns}, Text: []byte(text), Message: message(text)})
		}
		must(t, p.At(0).SendAll(ctx, a, all))
		synctest.Wait()
		expect(t, "sent", w.texts(), []string{"one", "two"})
		must(t, p.At(0).Unregister(ctx, a))
		must(t, p.At(0).SendAll(ctx, a, all))
		synctest.Wait()
		expect(t, "sent", w.texts(), []string{"one", "two"})
	})
}

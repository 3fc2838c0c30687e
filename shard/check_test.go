package shard

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"parley/engineio"
	"parley/metrics"
	"parley/store"
)

// Tails implements Tailer.
func (b *fakeBox) Tails(_ context.Context, boxes []store.Box) ([]store.Offset, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.failing > 0 {
		b.failing--
		return nil, store.ErrUnavailable
	}
	tails := make([]store.Offset, len(boxes))
	for i, box := range boxes {
		if box == b.box {
			tails[i] = store.Offset{Epoch: b.epoch, Seq: b.last}
		}
	}
	return tails, nil
}

// Mail that nobody announced is found by the next check, and by one that is asked for.
func TestCheckFindsLostMail(t *testing.T) {
	mailTest(t, func(t *testing.T, p *Pool, b *fakeBox) {
		now := make(chan struct{}, 1)
		p.Watch(10*time.Second, now, func(err error) { t.Error(err) })
		_, w := device(t, p, "s", b, store.Offset{})
		synctest.Wait()
		b.appendN(3)
		time.Sleep(9 * time.Second)
		synctest.Wait()
		expect(t, "before the check", w.texts(), nil)
		time.Sleep(time.Second + gapGrace + time.Millisecond)
		synctest.Wait()
		expect(t, "after the check", w.texts(), offsets(1, 1, 3))

		b.appendN(2)
		now <- struct{}{}
		time.Sleep(gapGrace + time.Millisecond)
		synctest.Wait()
		expect(t, "asked for", w.texts(), offsets(1, 1, 5))

		reads := b.readCount()
		time.Sleep(time.Minute)
		synctest.Wait()
		if got := b.readCount(); got != reads {
			t.Errorf("%d reads while nothing was amiss", got-reads)
		}
		if got := p.metrics.Value(metrics.MailGaps, "found by a check"); got != 2 {
			t.Errorf("%v counted, want 2", got)
		}
	})
}

// A check that fails is not left until the next is due.
func TestCheckIsMadeAgain(t *testing.T) {
	mailTest(t, func(t *testing.T, p *Pool, b *fakeBox) {
		now := make(chan struct{}, 1)
		failures := 0
		p.Watch(10*time.Second, now, func(error) { failures++ })
		_, w := device(t, p, "s", b, store.Offset{})
		synctest.Wait()
		b.appendN(3)
		b.mu.Lock()
		b.failing = 2
		b.mu.Unlock()
		now <- struct{}{}
		time.Sleep(2*time.Second + gapGrace + time.Millisecond)
		synctest.Wait()
		expect(t, "after the third try", w.texts(), offsets(1, 1, 3))
		if failures != 2 {
			t.Errorf("%d failures, want 2", failures)
		}
	})
}

// A mailbox that began anew unheard is followed into its new life.
func TestCheckFindsANewLife(t *testing.T) {
	mailTest(t, func(t *testing.T, p *Pool, b *fakeBox) {
		_, w := device(t, p, "s", b, store.Offset{})
		deliverAll(t, p, b.append())
		b.renew()
		b.appendN(2)
		must(t, p.Check(t.Context()))
		time.Sleep(gapGrace + time.Millisecond)
		synctest.Wait()
		expect(t, "both lives", w.texts(), append(offsets(1, 1, 1), offsets(2, 1, 2)...))
	})
}

// Redis may fail over to a replica that lacks the newest entries, and their numbers are given again.
func TestCheckFindsWhatTheStoreLost(t *testing.T) {
	mailTest(t, func(t *testing.T, p *Pool, b *fakeBox) {
		_, w := device(t, p, "s", b, store.Offset{})
		deliverAll(t, p, b.append(), b.append(), b.append())
		must(t, p.Check(t.Context()))
		if len(w.closed) != 0 {
			t.Errorf("closed %v, though nothing was lost", w.closed)
		}
		b.mu.Lock()
		b.last = 1
		b.mu.Unlock()
		must(t, p.Check(t.Context()))
		synctest.Wait()
		if !slices.Equal(w.closed, []engineio.Reason{engineio.ForcedClose}) {
			t.Errorf("closed %v, want once", w.closed)
		}
	})
}

func TestCheckReportsFailure(t *testing.T) {
	mailTest(t, func(t *testing.T, p *Pool, b *fakeBox) {
		device(t, p, "s", b, store.Offset{})
		synctest.Wait()
		b.mu.Lock()
		b.failing = 1
		b.mu.Unlock()
		if err := p.Check(t.Context()); !errors.Is(err, store.ErrUnavailable) {
			t.Errorf("got %v", err)
		}
	})
}

func TestWatchRooms(t *testing.T) {
	p, err := New(Options{Shards: 2})
	must(t, err)
	t.Cleanup(p.Stop)
	type change struct {
		room    string
		present bool
	}
	changes := make(chan change, 100)
	p.WatchRooms(func(_, room string, present bool) { changes <- change{room, present} })
	a, _ := join(t, p, "a", userOn(p, 0), "r")
	b, _ := join(t, p, "b", userOn(p, 1), "r")
	must(t, p.Owner(a.Key).Unregister(t.Context(), a))
	must(t, p.Owner(b.Key).Unregister(t.Context(), b))
	var got []change
	for len(changes) > 0 {
		if c := <-changes; c.room == "r" {
			got = append(got, c)
		}
	}
	if want := []change{{"r", true}, {"r", false}}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// A shard that is busy keeps nobody else's mail from being found.
func TestCheckGoesOnAfterABusyShard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := start(t, Options{Shards: 2, Inbox: 1})
		b := newBox(userOn(p, 1))
		p.HandleMail("chat", b)
		_, w := device(t, p, "s", b, store.Offset{})
		synctest.Wait()
		b.appendN(3)
		release := occupy(t, p.shards[0])
		must(t, p.shards[0].put(t.Context(), commandFunc(func(*Shard) {}))) // its inbox is full
		if err := p.Check(t.Context()); !errors.Is(err, ErrBusy) {
			t.Errorf("got %v, want ErrBusy", err)
		}
		release()
		time.Sleep(gapGrace + time.Millisecond)
		synctest.Wait()
		expect(t, "after the check", w.texts(), offsets(1, 1, 3))
	})
}

package shard

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"parley/engineio"
	"parley/metrics"
	"parley/registry"
	"parley/store"
)

func TestPanicRestartsTheShard(t *testing.T) {
	mailTest(t, func(t *testing.T, p *Pool, b *fakeBox) {
		ctx := t.Context()
		owner := p.Owner("ann")
		other, ow := join(t, p, "other", userOn(p, 1-owner.Index()), "room")
		s, w := device(t, p, "s", b, b.tail())
		_, w2 := join(t, p, "s2", "ann", "room")
		parked, _ := join(t, p, "parked", "ann", "room")
		must(t, owner.Expect(ctx, parked, "pid"))
		must(t, p.Emit(ctx, loggedEvent("x", "room")))
		must(t, owner.Park(ctx, parked, "pid", nil, time.Minute))
		e, a := asking(1, "s")
		must(t, p.Emit(ctx, e))

		if err := owner.Query(ctx, func(*View) { panic("query") }); !errors.Is(err, ErrRestarted) {
			t.Fatalf("the panicking query returned %v, want ErrRestarted", err)
		}
		// Commands that come while it is down are run when it is up again, not lost.
		must(t, p.Emit(ctx, event("late", "room")))
		must(t, owner.Acknowledge(ctx, s, 1, []byte("[late]"), nil))
		must(t, owner.Query(ctx, func(v *View) {
			if v.Get(ns, "s") != nil {
				t.Error("the shard still has its sockets")
			}
		}))
		synctest.Wait()
		for name, w := range map[string]*wire{"s": w, "s2": w2} {
			if len(w.closed) != 1 || w.closed[0] != engineio.ForcedClose {
				t.Errorf("%s was closed %v, want once", name, w.closed)
			}
		}
		if len(ow.closed) != 0 {
			t.Error("a socket of another shard was closed")
		}
		expect(t, "other", bare(t, ow.texts()[:1]), []string{`2["x"]`})
		expect(t, "other", ow.texts()[1:], []string{"late"})
		a.check(t, 1, 1, 1)
		set := p.visited(Selector{Namespace: ns, Rooms: []string{"s", "s2", "room", "parked"}})
		if got := set.list(); len(got) != 1 || got[0] == owner.Index() {
			t.Errorf("the directory names shards %v, want the other one", got)
		}
		if got := p.metrics.Value(metrics.ShardPanics, "turn"); got != 1 {
			t.Errorf("%v panics counted, want 1", got)
		}

		// The end of its sockets is harmless, and its acknowledgements are lost once.
		must(t, owner.Unregister(ctx, s, message("last")))
		must(t, owner.Park(ctx, parked, "pid", nil, time.Minute))
		a.check(t, 1, 1, 1)
		if _, ok, err := owner.Find(ctx, ns, "pid", ""); ok || err != nil {
			t.Errorf("a parked socket outlived its shard: %v", err)
		}

		// The clients are back.
		s, w = device(t, p, "s", b, b.tail())
		deliverAll(t, p, b.append())
		expect(t, "back", w.texts(), []string{"1-1"})
		must(t, owner.Unregister(ctx, s))
		must(t, p.Owner(other.Key).Unregister(ctx, other))
		empty(t, p)
	})
}

// What panics may be the connection or the acknowledgement that a burial has to do with.
func TestPanicsInABurial(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		p := start(t, Options{Shards: 1})
		_, w1 := join(t, p, "s1", "u", "room")
		_, w2 := join(t, p, "s2", "u", "room")
		w1.onClose = func() { panic("close") }
		w2.onClose = w1.onClose
		e := event("q", "room")
		e.Acks, e.AckID = panicking{}, 1
		must(t, p.Emit(ctx, e))
		synctest.Wait()
		if len(w1.closed) != 1 || len(w2.closed) != 1 {
			t.Error("not all connections were closed")
		}
		must(t, p.At(0).Query(ctx, func(*View) {}))
		empty(t, p)
	})
}

// panicking is an AckCollector.
type panicking struct{}

func (panicking) Visit(int)                    {}
func (panicking) Expect(int)                   { panic("expect") }
func (panicking) Lost()                        { panic("lost") }
func (panicking) Acknowledge([]byte, [][]byte) { panic("acknowledge") }

func TestEveryKindOfCommandSurvivesAPanic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		p := start(t, Options{Shards: 1})
		s := p.At(0)
		bad := func() *registry.Socket { // its nil Out is a pointer that panics when used
			return &registry.Socket{ID: "bad", Namespace: ns, Out: (*wire)(nil)}
		}
		if err := s.Register(ctx, bad(), nil, message("x")); !errors.Is(err, ErrRestarted) {
			t.Errorf("Register: %v", err)
		}
		if err := s.Unregister(ctx, bad(), message("x")); !errors.Is(err, ErrRestarted) {
			t.Errorf("Unregister: %v", err)
		}
		broken, _ := join(t, p, "broken", "u")
		must(t, s.Expect(ctx, broken, "pid"))
		must(t, s.do(ctx, func(*Shard) { broken.Acks = map[uint64]registry.Ack{1: panicking{}} }))
		if err := s.Park(ctx, broken, "pid", nil, time.Minute); !errors.Is(err, ErrRestarted) {
			t.Errorf("Park: %v", err)
		}
		broken, _ = join(t, p, "broken", "u")
		must(t, s.do(ctx, func(s *Shard) { s.streams = nil }))
		if _, err := s.Follow(ctx, broken, store.Box{App: "chat", User: "u"}, store.Offset{}); !errors.Is(err, ErrRestarted) {
			t.Errorf("Follow: %v", err)
		}
		// An event whose turn dies midway tells its sender whom to expect.
		join(t, p, "one", "u", "room")
		join(t, p, "two", "u", "room")
		must(t, s.do(ctx, func(s *Shard) { s.registry.Get(ns, "two").Out = (*wire)(nil) }))
		e, a := asking(1, "room")
		must(t, p.Emit(ctx, e))
		must(t, s.Query(ctx, func(*View) {}))
		a.check(t, 1, 2, 2)
		empty(t, p)
	})
}

func TestBackOffGrows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		p := start(t, Options{Shards: 1})
		s := p.At(0)
		down := func() time.Duration { // how long a panic keeps the shard from running commands
			t.Helper()
			began := time.Now()
			if err := s.Query(ctx, func(*View) { panic("again") }); !errors.Is(err, ErrRestarted) {
				t.Fatal(err)
			}
			must(t, s.Query(ctx, func(*View) {}))
			return time.Since(began)
		}
		want := restartPause
		for range 12 {
			if got := down(); got != want {
				t.Errorf("down for %v, want %v", got, want)
			}
			want = min(2*want, restartPauseMax)
		}
		time.Sleep(restartCalm + time.Second)
		if got := down(); got != restartPause {
			t.Errorf("down for %v after a calm time, want %v", got, restartPause)
		}
	})
}

func TestStopWhileAShardIsDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := start(t, Options{Shards: 1})
		_ = p.At(0).Query(t.Context(), func(*View) { panic("down") })
		waiting := make(chan error, 1)
		go func() { waiting <- p.At(0).Query(context.Background(), func(*View) { t.Error("ran") }) }()
		synctest.Wait()
		p.Stop()
		if err := <-waiting; !errors.Is(err, ErrStopped) {
			t.Errorf("error %v, want ErrStopped", err)
		}
	})
}

func TestFullInbox(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := start(t, Options{Shards: 1, Inbox: 4})
		s := p.At(0)
		socket, _ := join(t, p, "a", "u")
		release := occupy(t, s)
		for range 4 {
			must(t, p.Emit(t.Context(), event("x", "a")))
		}

		began := time.Now()
		if err := p.Emit(t.Context(), event("refused", "a")); !errors.Is(err, ErrBusy) || time.Since(began) != postTimeout {
			t.Errorf("error %v after %v, want ErrBusy after %v", err, time.Since(began), postTimeout)
		}
		began = time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		ran := false
		err := s.Query(ctx, func(*View) { ran = true })
		if !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != time.Second {
			t.Errorf("error %v after %v, want the context's after 1s", err, time.Since(began))
		}
		if got := p.metrics.Value(metrics.InboxRefused, "full"); got != 1 {
			t.Errorf("%v refusals counted, want 1", got)
		}

		// What ends something is not refused: it would leak.
		left := make(chan error, 1)
		go func() { left <- s.Unregister(context.Background(), socket) }()
		time.Sleep(3 * postTimeout)
		select {
		case err := <-left:
			t.Fatalf("Unregister did not wait: %v", err)
		default:
		}
		release()
		must(t, <-left)
		if ran {
			t.Error("a query ran after its caller had given up")
		}
		empty(t, p)
	})
}

func TestStopFreesAllWhoWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := start(t, Options{Shards: 2, Inbox: 4})
		release := occupy(t, p.At(0))
		socket, _ := newSocket("a", userOn(p, 0))
		var work sync.WaitGroup
		var stopped, made atomic.Int32
		waits := []func() error{
			func() error { return p.At(0).Query(context.Background(), func(*View) {}) },
			func() error {
				s, _ := newSocket(fmt.Sprint("s", made.Add(1)), socket.Key)
				return p.At(0).Register(context.Background(), s, nil)
			},
			func() error { return p.At(0).Unregister(context.Background(), socket) },
			func() error { return p.At(0).Send(context.Background(), socket, event("x")) },
			func() error { return p.Emit(context.Background(), event("x")) },
			func() error { return p.Query(context.Background(), Selector{Namespace: ns}, func(*View) {}) },
		}
		for range 5 { // more than the inbox takes
			for _, wait := range waits {
				work.Go(func() {
					if err := wait(); errors.Is(err, ErrStopped) {
						stopped.Add(1)
					} else if err != nil {
						t.Error(err)
					}
				})
			}
		}
		synctest.Wait()
		ended := make(chan struct{})
		go func() { p.Stop(); close(ended) }()
		synctest.Wait()
		release()
		<-ended
		work.Wait()
		if n := stopped.Load(); n < 5*6-4 {
			t.Errorf("%d callers heard of the stop", n)
		}
		p.Stop()
		for i, wait := range waits {
			if err := wait(); !errors.Is(err, ErrStopped) {
				t.Errorf("call %d after Stop: %v", i, err)
			}
		}
		if err := p.Deliver(context.Background(), Mail{}); !errors.Is(err, ErrStopped) {
			t.Errorf("Deliver after Stop: %v", err)
		}
	})
}

// A caller that is freed by Stop may use what its query wrote: the race detector checks this one.
func TestStopDuringAQuery(t *testing.T) {
	for range 50 {
		p, err := New(Options{Shards: 1})
		must(t, err)
		began := make(chan struct{})
		var work sync.WaitGroup
		work.Go(func() {
			var found []int
			err := p.At(0).Query(context.Background(), func(*View) {
				close(began)
				for i := range 1000 {
					found = append(found, i)
				}
			})
			if err != nil || len(found) != 1000 {
				t.Errorf("%v: %d found", err, len(found))
			}
		})
		<-began
		p.Stop()
		work.Wait()
	}
}

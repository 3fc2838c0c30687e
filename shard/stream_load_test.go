package shard

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"parley/registry"
	"parley/store"
)

// TestFollowersSeeEveryNumberOnce has appenders hand in mail late, twice or not at all, from a store that is
// slow and at times fails, to followers that come and go.
func TestFollowersSeeEveryNumberOnce(t *testing.T) {
	for seed := range uint64(4) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			mailTest(t, func(t *testing.T, p *Pool, b *fakeBox) { everyNumberOnce(t, p, b, seed) })
		})
	}
}

func everyNumberOnce(t *testing.T, p *Pool, b *fakeBox, seed uint64) {
	const appenders, entries, followers, rounds = 6, 150, 10, 6
	ctx := t.Context()
	owner := p.Owner(b.box.User)
	pause := func(rnd *rand.Rand, most time.Duration) { time.Sleep(time.Duration(rnd.Int64N(int64(most)))) }

	var appending, following sync.WaitGroup
	for i := range appenders {
		appending.Go(func() {
			rnd := rand.New(rand.NewPCG(seed, uint64(i)))
			for range entries {
				m := b.append()
				copies := 1
				switch rnd.IntN(10) {
				case 0:
					copies = 0 // lost on the bus
				case 1:
					copies = 2
				}
				if rnd.IntN(4) == 0 {
					pause(rnd, 2*gapGrace) // others overtake
				}
				for range copies {
					if err := p.Deliver(ctx, m); err != nil {
						t.Error(err)
					}
				}
				if rnd.IntN(50) == 0 {
					b.mu.Lock()
					b.failing++
					b.latency = time.Duration(rnd.IntN(30)) * time.Millisecond
					b.mu.Unlock()
				}
				pause(rnd, 5*time.Millisecond)
			}
		})
	}

	type view struct {
		id    string
		after uint64
		w     *wire
		left  bool
	}
	views := make([][]view, followers)
	for i := range followers {
		following.Go(func() {
			rnd := rand.New(rand.NewPCG(seed, uint64(100+i)))
			for round := range rounds {
				pause(rnd, 200*time.Millisecond)
				id := fmt.Sprintf("f%d.%d", i, round)
				s, w := newSocket(id, b.box.User)
				if err := owner.Register(ctx, s, []string{id}); err != nil {
					t.Error(err)
					return
				}
				after := b.tail()
				if after.Seq > 0 {
					after.Seq = uint64(rnd.Int64N(int64(after.Seq + 1)))
				}
				v := view{id: id, after: after.Seq, w: w, left: round < rounds-1}
				if after.Seq == 0 && rnd.IntN(2) == 0 {
					after = store.Offset{}
				}
				if !catchUp(t, p, b, s, after) {
					return
				}
				if v.left {
					pause(rnd, 300*time.Millisecond)
					if err := owner.Unregister(ctx, s); err != nil {
						t.Error(err)
					}
				}
				views[i] = append(views[i], v)
			}
		})
	}
	appending.Wait()
	following.Wait()
	deliverAll(t, p, b.append()) // the last one was not lost
	time.Sleep(time.Minute)
	synctest.Wait()

	tail := b.tail().Seq
	if tail != appenders*entries+1 {
		t.Fatalf("%d entries, want %d", tail, appenders*entries+1)
	}
	for _, v := range slices.Concat(views...) {
		got := v.w.texts()
		want := offsets(1, v.after+1, tail)
		if v.left && len(got) <= len(want) {
			want = want[:len(got)]
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s after %d got %d entries, want %d: %q", v.id, v.after, len(got), len(want), got)
		}
		if len(v.w.closed) != 0 {
			t.Errorf("%s was closed", v.id)
		}
	}
	if reads := b.readCount(); reads > 4*appenders*entries {
		t.Errorf("%d reads for %d entries", reads, tail)
	}
}

// catchUp follows the box as package socketio does: from the store until the stream is reached.
func catchUp(t *testing.T, p *Pool, b *fakeBox, s *registry.Socket, after store.Offset) bool {
	owner := p.Owner(b.box.User)
	for range 100 {
		behind, err := owner.Follow(t.Context(), s, b.box, after)
		if err != nil {
			t.Error(err)
			return false
		}
		if !behind {
			return true
		}
		mail, err := b.Mail(t.Context(), b.box, after, 100)
		if errors.Is(err, store.ErrUnavailable) {
			continue
		}
		if err != nil || len(mail) == 0 {
			t.Errorf("behind %v, but the store has %d entries after it, %v", after, len(mail), err)
			return false
		}
		for _, m := range mail {
			if err := owner.SendMessage(t.Context(), s, m.Message); err != nil {
				t.Error(err)
			}
			after = m.Offset
		}
	}
	t.Errorf("%s never caught up", s.ID)
	return false
}

// TestGapIsReadUnderLoad: a shard that is never idle still looks after what is due.
func TestGapIsReadUnderLoad(t *testing.T) {
	p := start(t, Options{Shards: 1})
	b := newBox("ann")
	p.HandleMail("chat", b)
	_, w := device(t, p, "s", b, store.Offset{})
	s := p.Owner("ann")
	for reading := true; reading; { // the first look at the box
		must(t, s.Query(t.Context(), func(v *View) { reading = v.shard.streams[b.box].reading }))
	}
	ctx, stop := context.WithCancel(t.Context())
	var flood sync.WaitGroup
	defer flood.Wait()
	defer stop()
	work := commandFunc(func(*Shard) {
		for until := time.Now().Add(20 * time.Microsecond); time.Now().Before(until); {
		}
	})
	for range 8 {
		flood.Go(func() {
			for ctx.Err() == nil {
				if err := s.post(t.Context(), work); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	b.appendN(2)
	must(t, p.Deliver(t.Context(), b.at(2))) // the first is missing
	for until := time.Now().Add(10 * time.Second); len(w.texts()) < 2; runtime.Gosched() {
		if time.Now().After(until) {
			t.Fatalf("got %q while the shard is busy", w.texts())
		}
	}
}

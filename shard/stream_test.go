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

	"parley/engineio"
	"parley/metrics"
	"parley/registry"
	"parley/store"
)

// fakeBox is a mailbox in a store, and a Source. It is safe for concurrent use.
type fakeBox struct {
	box store.Box

	mu      sync.Mutex
	epoch   uint64
	first   uint64 // the oldest number that is kept
	last    uint64
	failing int           // reads that fail
	latency time.Duration // of a read
	reads   []store.Offset
}

func newBox(user string) *fakeBox {
	return &fakeBox{box: store.Box{App: "chat", User: user}, epoch: 1, first: 1}
}

// at returns the mail with that number; its text is its offset.
func (b *fakeBox) at(seq uint64) Mail {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.mailLocked(seq)
}

func (b *fakeBox) mailLocked(seq uint64) Mail {
	at := store.Offset{Epoch: b.epoch, Seq: seq}
	return Mail{Box: b.box, Offset: at, Message: message(at.String())}
}

// append adds the next entry.
func (b *fakeBox) append() Mail {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.last++
	return b.mailLocked(b.last)
}

func (b *fakeBox) tail() store.Offset {
	b.mu.Lock()
	defer b.mu.Unlock()
	return store.Offset{Epoch: b.epoch, Seq: b.last}
}

// renew makes the mailbox expire and begin anew.
func (b *fakeBox) renew() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.epoch, b.first, b.last = b.epoch+1, 1, 0
}

// Mail implements Source. What it returns is old by the latency.
func (b *fakeBox) Mail(_ context.Context, box store.Box, after store.Offset, limit int) ([]Mail, error) {
	mail, latency, err := b.read(box, after, limit)
	time.Sleep(latency)
	return mail, err
}

func (b *fakeBox) read(box store.Box, after store.Offset, limit int) ([]Mail, time.Duration, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.reads = append(b.reads, after)
	if b.failing > 0 {
		b.failing--
		return nil, b.latency, store.ErrUnavailable
	}
	if after.IsZero() {
		after = store.Offset{Epoch: b.epoch, Seq: b.first - 1}
	}
	if box != b.box || after.Epoch != b.epoch || after.Seq > b.last || after.Seq+1 < b.first {
		return nil, b.latency, fmt.Errorf("after %s: %w", after, store.ErrUnknownOffset)
	}
	var mail []Mail
	for seq := after.Seq + 1; seq <= b.last && len(mail) < limit; seq++ {
		mail = append(mail, b.mailLocked(seq))
	}
	return mail, b.latency, nil
}

func (b *fakeBox) readCount() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.reads)
}

// offsets returns what a socket gets that is sent the numbers from and to of an epoch, and all between.
func offsets(epoch, from, to uint64) (texts []string) {
	for seq := from; seq <= to; seq++ {
		texts = append(texts, store.Offset{Epoch: epoch, Seq: seq}.String())
	}
	return texts
}

// device is a socket that follows a box from an offset.
func device(t testing.TB, p *Pool, id string, b *fakeBox, after store.Offset) (*registry.Socket, *wire) {
	t.Helper()
	s, w := join(t, p, id, b.box.User)
	if behind, err := p.Owner(b.box.User).Follow(t.Context(), s, b.box, after); err != nil || behind {
		t.Fatalf("Follow: behind %v, %v", behind, err)
	}
	return s, w
}

// mailTest runs f in a bubble, with a pool whose chat mail comes from b.
func mailTest(t *testing.T, f func(t *testing.T, p *Pool, b *fakeBox)) {
	synctest.Test(t, func(t *testing.T) {
		p := start(t, Options{Shards: 2})
		b := newBox("ann")
		p.HandleMail("chat", b)
		f(t, p, b)
	})
}

func deliverAll(t testing.TB, p *Pool, mail ...Mail) {
	t.Helper()
	for _, m := range mail {
		must(t, p.Deliver(t.Context(), m))
	}
	synctest.Wait()
}

func (b *fakeBox) appendN(n int) (mail []Mail) {
	for range n {
		mail = append(mail, b.append())
	}
	return mail
}

func TestMailIsDeliveredInOrderOnce(t *testing.T) {
	mailTest(t, func(t *testing.T, p *Pool, b *fakeBox) {
		s1, w1 := device(t, p, "s1", b, store.Offset{})
		_, w2 := device(t, p, "s2", b, store.Offset{})
		synctest.Wait()
		reads := b.readCount()
		mail := b.appendN(40)
		mail[4].Origin = "s1"
		order := rand.New(rand.NewPCG(3, 4)).Perm(len(mail))
		for _, i := range order {
			must(t, p.Deliver(t.Context(), mail[i]))
			must(t, p.Deliver(t.Context(), mail[order[0]]))
		}
		synctest.Wait()
		expect(t, "s2", w2.texts(), offsets(1, 1, 40))
		expect(t, "s1, which sent 5,", w1.texts(), slices.Delete(offsets(1, 1, 40), 4, 5))
		time.Sleep(time.Minute)
		if got := b.readCount(); got != reads {
			t.Errorf("%d reads of the store, though nothing was missing", got-reads)
		}
		must(t, p.Owner("ann").Unregister(t.Context(), s1))
		deliverAll(t, p, b.append())
		if len(w1.sent) != 39 {
			t.Error("a socket that left was sent mail")
		}
	})
}

func TestGapIsReadAfterTheGrace(t *testing.T) {
	mailTest(t, func(t *testing.T, p *Pool, b *fakeBox) {
		_, w := device(t, p, "s", b, store.Offset{})
		synctest.Wait()
		reads := b.readCount()
		mail := b.appendN(5)
		deliverAll(t, p, mail[0], mail[3])
		time.Sleep(gapGrace - time.Millisecond)
		synctest.Wait()
		expect(t, "before the grace is over", w.texts(), offsets(1, 1, 1))
		if got := b.readCount(); got != reads {
			t.Errorf("%d reads within the grace", got-reads)
		}
		time.Sleep(2 * time.Millisecond)
		synctest.Wait()
		expect(t, "after", w.texts(), offsets(1, 1, 5))
		if got := b.readCount(); got != reads+1 {
			t.Errorf("%d reads for one gap", got-reads)
		}
		if got := p.metrics.Value(metrics.MailGaps, "read"); got != 1 {
			t.Errorf("%v gaps counted, want 1", got)
		}
	})
}

func TestLongGapIsReadInPages(t *testing.T) {
	mailTest(t, func(t *testing.T, p *Pool, b *fakeBox) {
		_, w := device(t, p, "s", b, store.Offset{})
		synctest.Wait()
		const n = 3*gapReadLimit + 7
		mail := b.appendN(n)
		deliverAll(t, p, mail[n-1])
		time.Sleep(2 * gapGrace)
		synctest.Wait()
		expect(t, "sent", w.texts(), offsets(1, 1, n))
	})
}

// More arrives ahead of a gap than is kept, while the store is read: what was dropped is read later.
func TestMoreEarlyMailThanIsKept(t *testing.T) {
	mailTest(t, func(t *testing.T, p *Pool, b *fakeBox) {
		_, w := device(t, p, "s", b, store.Offset{})
		synctest.Wait()
		b.appendN(2)
		b.latency = time.Second
		deliverAll(t, p, b.at(2))
		time.Sleep(2 * gapGrace) // the read has begun
		for range earlyLimit + 50 {
			must(t, p.Deliver(t.Context(), b.append()))
		}
		synctest.Wait()
		inside(t, p.Owner("ann"), func(s *Shard) {
			if got := len(s.streams[b.box].early); got != earlyLimit {
				t.Errorf("%d early entries are kept, want the limit of %d", got, earlyLimit)
			}
		})
		time.Sleep(10 * time.Second)
		synctest.Wait()
		expect(t, "sent", w.texts(), offsets(1, 1, earlyLimit+52))
	})
}

func TestFailedReadIsRetried(t *testing.T) {
	mailTest(t, func(t *testing.T, p *Pool, b *fakeBox) {
		b.appendN(5)
		b.failing = 3
		_, w := device(t, p, "s", b, store.Offset{Epoch: 1, Seq: 2})
		// Mail that is in order does not make the failed read unnecessary.
		deliverAll(t, p, b.at(3))
		expect(t, "before the retry", w.texts(), offsets(1, 3, 3))
		time.Sleep(3*gapRetry - time.Millisecond)
		synctest.Wait()
		expect(t, "before the third retry", w.texts(), offsets(1, 3, 3))
		time.Sleep(2 * time.Millisecond)
		synctest.Wait()
		expect(t, "sent", w.texts(), offsets(1, 3, 5))
	})
}

func TestPanickingSourceIsAFailedRead(t *testing.T) {
	mailTest(t, func(t *testing.T, p *Pool, b *fakeBox) {
		panics := 2
		p.HandleMail("chat", sourceFunc(func(ctx context.Context, box store.Box, after store.Offset, limit int) ([]Mail, error) {
			if panics > 0 {
				panics--
				panic("source")
			}
			return b.Mail(ctx, box, after, limit)
		}))
		b.appendN(2)
		_, w := device(t, p, "s", b, store.Offset{})
		time.Sleep(3 * gapRetry)
		synctest.Wait()
		expect(t, "sent", w.texts(), offsets(1, 1, 2))
	})
}

func TestNoSource(t *testing.T) {
	mailTest(t, func(t *testing.T, p *Pool, b *fakeBox) {
		b.box.App = "unheard"
		_, w := device(t, p, "s", b, store.Offset{})
		deliverAll(t, p, b.append())
		time.Sleep(3 * gapRetry)
		synctest.Wait()
		expect(t, "sent", w.texts(), offsets(1, 1, 1))
	})
}

func TestReadsThatBringNothingSlowDown(t *testing.T) {
	mailTest(t, func(t *testing.T, p *Pool, b *fakeBox) {
		_, w := device(t, p, "s", b, store.Offset{})
		synctest.Wait()
		deliverAll(t, p, b.at(2)) // which the store does not have
		time.Sleep(time.Minute)
		if got := b.readCount(); got > 70 {
			t.Errorf("%d reads in a minute", got)
		}
		deliverAll(t, p, b.at(1))
		expect(t, "sent", w.texts(), offsets(1, 1, 2))
		before := b.readCount()
		time.Sleep(time.Minute)
		if got := b.readCount(); got != before {
			t.Errorf("%d reads after the gap was closed", got-before)
		}
	})
}

func TestEntryToPassOver(t *testing.T) {
	mailTest(t, func(t *testing.T, p *Pool, b *fakeBox) {
		_, w := device(t, p, "s", b, store.Offset{})
		synctest.Wait() // what it reads of the mailbox is read, and has all messages
		mail := b.appendN(3)
		mail[1].Message = nil
		deliverAll(t, p, mail...)
		expect(t, "sent", w.texts(), []string{"1-1", "1-3"})
	})
}

// TestUnreadMail has an entry that is only told of read after the grace, and those behind it wait for it.
func TestUnreadMail(t *testing.T) {
	mailTest(t, func(t *testing.T, p *Pool, b *fakeBox) {
		_, w := device(t, p, "s", b, store.Offset{})
		synctest.Wait()
		mail := b.appendN(3)
		mail[0].Message, mail[0].Unread = nil, true
		deliverAll(t, p, mail...)
		expect(t, "sent", w.texts(), nil)
		before := b.readCount()
		time.Sleep(gapGrace)
		synctest.Wait()
		expect(t, "sent", w.texts(), offsets(1, 1, 3))
		mail[0].Offset.Seq = 1 // told of once more
		deliverAll(t, p, mail[0])
		time.Sleep(time.Second)
		synctest.Wait()
		if reads := b.readCount() - before; reads != 1 {
			t.Errorf("read %d times", reads)
		}
	})
}

func TestMailboxBeginsAnew(t *testing.T) {
	mailTest(t, func(t *testing.T, p *Pool, b *fakeBox) {
		_, w := device(t, p, "s", b, store.Offset{})
		old := b.appendN(3)
		deliverAll(t, p, old...)
		b.renew()
		renewed := b.appendN(4)
		deliverAll(t, p, renewed[0], old[2], old[1])
		want := append(offsets(1, 1, 3), offsets(2, 1, 1)...)
		expect(t, "in the new life", w.texts(), want)

		// It begins anew once more, and its first entries don't come here.
		b.renew()
		b.appendN(2)
		deliverAll(t, p, b.at(2))
		time.Sleep(2 * gapGrace)
		synctest.Wait()
		expect(t, "in the third life", w.texts(), append(want, offsets(3, 1, 2)...))
	})
}

func TestFollowFromANewerLife(t *testing.T) {
	mailTest(t, func(t *testing.T, p *Pool, b *fakeBox) {
		_, w1 := device(t, p, "s1", b, store.Offset{})
		deliverAll(t, p, b.append())
		b.renew()
		b.appendN(3)
		_, w2 := device(t, p, "s2", b, store.Offset{Epoch: 2, Seq: 2})
		synctest.Wait()
		expect(t, "s1", w1.texts(), append(offsets(1, 1, 1), offsets(2, 1, 3)...))
		expect(t, "s2", w2.texts(), offsets(2, 3, 3))
	})
}

// The mailbox begins anew while its old life is read; what the store says of that life is no use any more.
func TestMailboxBeginsAnewDuringARead(t *testing.T) {
	for _, test := range []struct {
		name   string
		before bool // the new life began before the read did, so the read fails
	}{{"after the read", false}, {"before the read", true}} {
		t.Run(test.name, func(t *testing.T) {
			mailTest(t, func(t *testing.T, p *Pool, b *fakeBox) {
				_, w1 := device(t, p, "s1", b, store.Offset{})
				deliverAll(t, p, b.appendN(2)...)
				b.appendN(2)
				b.latency = time.Second
				deliverAll(t, p, b.at(4))
				if !test.before {
					time.Sleep(2 * gapGrace)
				}
				b.renew()
				b.appendN(3)
				time.Sleep(2 * gapGrace)
				_, w2 := device(t, p, "s2", b, store.Offset{Epoch: 2, Seq: 1})
				time.Sleep(5 * time.Second)
				synctest.Wait()
				expect(t, "s1", w1.texts(), append(offsets(1, 1, 2), offsets(2, 1, 3)...))
				expect(t, "s2", w2.texts(), offsets(2, 2, 3))
				if len(w1.closed)+len(w2.closed) != 0 {
					t.Error("a follower was closed for the old life's end")
				}
			})
		})
	}
}

// A follower tells of entries that were stored after the read under way began, and whose mail got lost.
func TestFollowDuringAReadThatIsTooOld(t *testing.T) {
	mailTest(t, func(t *testing.T, p *Pool, b *fakeBox) {
		b.latency = time.Second
		_, w1 := device(t, p, "s1", b, store.Offset{})
		synctest.Wait()
		b.appendN(3)
		_, w2 := device(t, p, "s2", b, store.Offset{Epoch: 1, Seq: 2})
		b.appendN(1)
		_, w3 := device(t, p, "s3", b, store.Offset{Epoch: 1, Seq: 4})
		time.Sleep(5 * time.Second)
		synctest.Wait()
		expect(t, "s1", w1.texts(), offsets(1, 1, 4))
		expect(t, "s2", w2.texts(), offsets(1, 3, 4))
		expect(t, "s3", w3.texts(), nil)
	})
}

func TestFollowFromTheOldestEntryKept(t *testing.T) {
	mailTest(t, func(t *testing.T, p *Pool, b *fakeBox) {
		b.appendN(700)
		b.first = 100
		b.latency = time.Second
		_, w := device(t, p, "s", b, store.Offset{})
		deliverAll(t, p, b.append()) // while that is read
		time.Sleep(10 * time.Second)
		synctest.Wait()
		expect(t, "sent", w.texts(), offsets(1, 100, 701))
		if len(w.closed) != 0 {
			t.Error("the follower was closed")
		}
	})
}

func TestUnknownOffsetClosesFollowers(t *testing.T) {
	mailTest(t, func(t *testing.T, p *Pool, b *fakeBox) {
		s1, w1 := device(t, p, "s1", b, store.Offset{})
		_, w2 := device(t, p, "s2", b, store.Offset{})
		synctest.Wait()
		b.appendN(20)
		b.first = 10
		deliverAll(t, p, b.at(20))
		time.Sleep(2 * gapGrace)
		synctest.Wait()
		for name, w := range map[string]*wire{"s1": w1, "s2": w2} {
			if !slices.Equal(w.closed, []engineio.Reason{engineio.ForcedClose}) {
				t.Errorf("%s was closed %v, want once", name, w.closed)
			}
			expect(t, name, w.texts(), nil)
		}
		// A client that is back before its old socket is gone gets a stream of its own.
		_, w3 := device(t, p, "s3", b, store.Offset{Epoch: 1, Seq: 15})
		synctest.Wait()
		expect(t, "s3", w3.texts(), offsets(1, 16, 20))
		if len(w3.closed) != 0 {
			t.Error("the new follower was closed")
		}
		must(t, p.Owner("ann").Unregister(t.Context(), s1))
		deliverAll(t, p, b.append())
		expect(t, "s3", w3.texts(), offsets(1, 16, 21))
	})
}

func TestUnknownOffsetOfAFreshStream(t *testing.T) {
	mailTest(t, func(t *testing.T, p *Pool, b *fakeBox) {
		b.appendN(3)
		s, w := device(t, p, "s", b, store.Offset{Epoch: 1, Seq: 9})
		synctest.Wait()
		if len(w.closed) != 1 {
			t.Errorf("closed %v, want once", w.closed)
		}
		must(t, p.Owner("ann").Unregister(t.Context(), s))
		empty(t, p)
	})
}

func TestFollow(t *testing.T) {
	mailTest(t, func(t *testing.T, p *Pool, b *fakeBox) {
		ctx := t.Context()
		owner := p.Owner("ann")
		b.appendN(3)
		s1, w1 := device(t, p, "s1", b, store.Offset{Epoch: 1, Seq: 1})
		synctest.Wait()
		expect(t, "fresh", w1.texts(), offsets(1, 2, 3))

		s2, w2 := join(t, p, "s2", "ann")
		for _, after := range []store.Offset{{}, {Epoch: 1, Seq: 2}} {
			if behind, err := owner.Follow(ctx, s2, b.box, after); !behind || err != nil {
				t.Errorf("Follow after %v: behind %v, %v", after, behind, err)
			}
		}
		if behind, err := owner.Follow(ctx, s2, b.box, b.tail()); behind || err != nil {
			t.Errorf("Follow at the stream's position: behind %v, %v", behind, err)
		}
		if _, err := owner.Follow(ctx, s2, b.box, b.tail()); err == nil {
			t.Error("a socket followed a box twice")
		}

		// Ahead of the stream, because mail is on its way or got lost.
		mail := b.appendN(3)
		_, w3 := device(t, p, "s3", b, store.Offset{Epoch: 1, Seq: 5})
		deliverAll(t, p, mail[0])
		expect(t, "ahead", w3.texts(), nil)
		time.Sleep(2 * gapGrace)
		deliverAll(t, p, b.append())
		expect(t, "first", w1.texts(), offsets(1, 2, 7))
		expect(t, "second", w2.texts(), offsets(1, 4, 7))
		expect(t, "ahead", w3.texts(), offsets(1, 6, 7))

		stranger, _ := newSocket("gone", "ann")
		if _, err := owner.Follow(ctx, stranger, b.box, store.Offset{}); !errors.Is(err, ErrGone) {
			t.Errorf("Follow of a socket that is not registered: %v", err)
		}
		if _, err := p.At(1-owner.Index()).Follow(ctx, s1, b.box, store.Offset{}); err == nil {
			t.Error("a shard followed a box of another's user")
		}
	})
}

func TestStreamEndsWithItsLastFollower(t *testing.T) {
	mailTest(t, func(t *testing.T, p *Pool, b *fakeBox) {
		s1, _ := device(t, p, "s1", b, store.Offset{})
		s2, _ := device(t, p, "s2", b, store.Offset{})
		other := newBox("ann")
		other.box.App = "notify"
		p.HandleMail("notify", other)
		_, err := p.Owner("ann").Follow(t.Context(), s1, other.box, store.Offset{})
		must(t, err)
		synctest.Wait()
		b.appendN(3)
		b.latency = time.Second
		deliverAll(t, p, b.at(3))
		time.Sleep(2 * gapGrace) // reading
		for _, s := range []*registry.Socket{s1, s2} {
			must(t, p.Owner("ann").Unregister(t.Context(), s))
		}
		empty(t, p)
		// What was read for a stream that is gone does not reach its successor.
		s3, w3 := device(t, p, "s3", b, store.Offset{Epoch: 1, Seq: 2})
		time.Sleep(5 * time.Second)
		synctest.Wait()
		expect(t, "s3", w3.texts(), offsets(1, 3, 3))
		must(t, p.Owner("ann").Unregister(t.Context(), s3))
		empty(t, p)
	})
}

// A box that ends where its first follower is costs no read, and what comes at the same time is not lost.
func TestFollowAtTheEndReadsNothing(t *testing.T) {
	mailTest(t, func(t *testing.T, p *Pool, b *fakeBox) {
		b.appendN(3)
		_, w := device(t, p, "s", b, b.tail())
		time.Sleep(time.Minute)
		if got := b.readCount(); got != 0 {
			t.Errorf("%d reads", got)
		}
		deliverAll(t, p, b.append())
		synctest.Wait()
		expect(t, "sent", w.texts(), offsets(1, 4, 4))
		if got := b.readCount(); got != 0 {
			t.Errorf("%d reads", got)
		}
	})
}

// An entry that was stored after its client read where the box ends, and delivered before it followed, is read.
func TestFollowBehindTheEndReads(t *testing.T) {
	mailTest(t, func(t *testing.T, p *Pool, b *fakeBox) {
		b.appendN(3)
		_, w := device(t, p, "s", b, store.Offset{Epoch: 1, Seq: 2})
		synctest.Wait()
		expect(t, "sent", w.texts(), offsets(1, 3, 3))
	})
}

func TestFailedReadOfAStreamThatEnded(t *testing.T) {
	mailTest(t, func(t *testing.T, p *Pool, b *fakeBox) {
		b.latency, b.failing = time.Second, 100
		s, _ := device(t, p, "s", b, store.Offset{})
		time.Sleep(gapRetry + b.latency/2) // Follow could not be told where the box ends: it is being read
		must(t, p.Owner("ann").Unregister(t.Context(), s))
		time.Sleep(time.Minute)
		empty(t, p)
		if got := b.readCount(); got != 1 {
			t.Errorf("%d reads for nobody", got-1)
		}
	})
}

func TestStopDuringARead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := start(t, Options{Shards: 1})
		p.HandleMail("chat", sourceFunc(func(ctx context.Context, _ store.Box, _ store.Offset, _ int) ([]Mail, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}))
		device(t, p, "s", newBox("ann"), store.Offset{})
		synctest.Wait()
		began := time.Now()
		p.Stop()
		if waited := time.Since(began); waited > 0 {
			t.Errorf("Stop waited %v for a read", waited)
		}
	})
}

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

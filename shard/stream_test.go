package shard

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"parley/engineio"
	"parley/metrics"
	"parley/registry"
	"parley/store"
)

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

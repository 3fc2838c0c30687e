package shard

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

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

package memory

import (
	"container/list"
	"context"
	"fmt"
	"hash/maphash"
	"math"
	"math/bits"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"parley/store"
)

// stripes is the number of locks that the users and mailboxes are spread over: many more than cores.
const stripes = 256

// moveEvery is how often a mailbox is moved in its stripe's list. To remove an expired one that much later costs less
// than to touch its neighbors for each message.
const moveEvery = time.Minute

// mailboxes implements [store.Mailboxes].
type mailboxes struct {
	opts    store.Options
	seeds   [2]maphash.Seed
	closed  atomic.Bool
	epoch   atomic.Uint64 // the latest given to a mailbox
	stripes [stripes]stripe
}

// stripe holds the mailboxes that hash to it.
type stripe struct {
	mu    sync.Mutex
	boxes map[boxKey]*mailbox
	idle  list.List // of *mailbox, the one that was moved first first, which is about the one without an entry for longest
}

func (m *mailboxes) init(opts store.Options) {
	m.opts = opts
	m.seeds = [2]maphash.Seed{maphash.MakeSeed(), maphash.MakeSeed()}
	for i := range m.stripes {
		m.stripes[i].boxes = map[boxKey]*mailbox{}
	}
}

func (m *mailboxes) boxKey(box store.Box) boxKey {
	return boxKey{maphash.Comparable(m.seeds[0], box), maphash.Comparable(m.seeds[1], box)}
}

func (m *mailboxes) stripe(key boxKey) *stripe { return &m.stripes[key[0]%stripes] }

// lock returns the stripe of a mailbox, locked.
func (m *mailboxes) lock(key boxKey) *stripe {
	s := m.stripe(key)
	s.mu.Lock()
	return s
}

func (m *mailboxes) key(sender, id string) messageKey {
	pair := [2]string{sender, id}
	return messageKey{maphash.Comparable(m.seeds[0], pair), maphash.Comparable(m.seeds[1], pair)}
}

// findLocked returns the mailbox, or nil if there is none or it has expired.
func (m *mailboxes) findLocked(s *stripe, key boxKey, now time.Time) *mailbox {
	b := s.boxes[key]
	if b == nil {
		return nil
	}
	if m.expired(b, now) {
		s.removeLocked(b)
		return nil
	}
	return b
}

func (m *mailboxes) expired(b *mailbox, now time.Time) bool {
	return now.Sub(b.touched) >= m.opts.MessageTTL
}

func (s *stripe) removeLocked(b *mailbox) {
	delete(s.boxes, b.key)
	s.idle.Remove(b.idle)
}

// makeLocked adds a mailbox that is not there.
func (m *mailboxes) makeLocked(s *stripe, key boxKey, now time.Time) *mailbox {
	b := newMailbox(key, m.nextEpoch(now))
	b.idle, b.moved = s.idle.PushBack(b), now
	s.boxes[key] = b
	return b
}

// nextEpoch returns one later than all before.
func (m *mailboxes) nextEpoch(now time.Time) uint64 {
	for {
		last := m.epoch.Load()
		next := max(uint64(now.UnixNano()), last+1)
		if m.epoch.CompareAndSwap(last, next) {
			return next
		}
	}
}

// sweep removes mailboxes that have expired.
func (m *mailboxes) sweep() {
	for i := range m.stripes {
		for m.sweepStripe(&m.stripes[i]) {
		}
	}
}

// sweepStripe removes some, and reports whether there may be more.
func (m *mailboxes) sweepStripe(s *stripe) (more bool) {
	now := m.opts.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	for range sweepLimit {
		oldest := s.idle.Front()
		if oldest == nil || !m.expired(oldest.Value.(*mailbox), now) {
			return false
		}
		s.removeLocked(oldest.Value.(*mailbox))
	}
	return true
}

// Append implements [store.Mailboxes].
func (m *mailboxes) Append(ctx context.Context, post store.Post) (store.Receipt, error) {
	if err := post.Validate(); err != nil {
		return store.Receipt{}, err
	}
	if err := usable(ctx, &m.closed); err != nil {
		return store.Receipt{}, err
	}
	now := m.opts.Now()
	if post.At.IsZero() {
		post.At = now
	}
	key := m.key(post.Sender, post.ID)
	keys := make([]boxKey, len(post.To))
	for i, to := range post.To {
		keys[i] = m.boxKey(to.Box)
	}
	set := newStripeSet(keys)
	m.lockAll(&set)
	defer m.unlockAll(&set)

	// The time of the first post is looked for in all mailboxes before it is given to those that lack the message.
	receipt := store.Receipt{ID: post.ID, Offsets: make([]store.Offset, len(post.To)), Duplicate: true}
	first := int64(math.MaxInt64)
	boxes := make([]*mailbox, len(post.To))
	for i, k := range keys {
		b := m.findLocked(m.stripe(k), k, now)
		if boxes[i] = b; b == nil {
			continue
		}
		if seq, ok := b.index.find(b, key); ok {
			receipt.Offsets[i] = store.Offset{Epoch: b.epoch, Seq: seq}
			first = min(first, b.message(seq).at())
		}
	}
	if first == math.MaxInt64 {
		first = post.At.UnixMilli()
	}
	receipt.At = time.UnixMilli(first).UTC()
	kept := newPost(&post, first)
	for i := range post.To {
		if !receipt.Offsets[i].IsZero() {
			continue
		}
		if j := slices.Index(keys[:i], keys[i]); j >= 0 {
			receipt.Offsets[i] = receipt.Offsets[j]
			continue
		}
		s, b := m.stripe(keys[i]), boxes[i]
		if b == nil {
			b = m.makeLocked(s, keys[i], now)
		}
		seq := b.append(kept, &post.To[i], key)
		if len(b.messages) > m.opts.MailboxLimit {
			b.trim()
		}
		b.touched = now
		if now.Sub(b.moved) > moveEvery {
			b.moved = now
			s.idle.MoveToBack(b.idle)
		}
		receipt.Offsets[i] = store.Offset{Epoch: b.epoch, Seq: seq}
		receipt.Duplicate = false
	}
	return receipt, nil
}

// stripeSet is a set of stripes.
type stripeSet [stripes / 64]uint64

func newStripeSet(keys []boxKey) (set stripeSet) {
	for _, k := range keys {
		i := k[0] % stripes
		set[i/64] |= 1 << (i % 64)
	}
	return set
}

// each calls f for the stripes of the set, in one order for all who do.
func (m *mailboxes) each(set *stripeSet, f func(*stripe)) {
	for word, rest := range set {
		for ; rest != 0; rest &= rest - 1 {
			f(&m.stripes[word*64+bits.TrailingZeros64(rest)])
		}
	}
}

func (m *mailboxes) lockAll(set *stripeSet)   { m.each(set, func(s *stripe) { s.mu.Lock() }) }
func (m *mailboxes) unlockAll(set *stripeSet) { m.each(set, func(s *stripe) { s.mu.Unlock() }) }

// read calls f with the mailbox, or nil, under its lock.
func (m *mailboxes) read(ctx context.Context, box store.Box, f func(b *mailbox) error) error {
	if err := box.Validate(); err != nil {
		return err
	}
	if err := usable(ctx, &m.closed); err != nil {
		return err
	}
	now := m.opts.Now()
	key := m.boxKey(box)
	s := m.lock(key)
	defer s.mu.Unlock()
	return f(m.findLocked(s, key, now))
}

// After implements [store.Mailboxes].
func (m *mailboxes) After(ctx context.Context, box store.Box, offset store.Offset, limit int) (entries []store.Entry, err error) {
	err = m.read(ctx, box, func(b *mailbox) error {
		if b == nil {
			if !offset.IsZero() {
				return fmt.Errorf("offset %v: no mailbox: %w", offset, store.ErrUnknownOffset)
			}
			return nil
		}
		if offset.IsZero() {
			offset = store.Offset{Epoch: b.epoch, Seq: b.first - 1}
		}
		if offset.Epoch != b.epoch || offset.Seq > b.last() || offset.Seq+1 < b.first {
			return fmt.Errorf("offset %v: mailbox has %d to %d of %v: %w", offset, b.first, b.last(),
				store.Offset{Epoch: b.epoch}, store.ErrUnknownOffset)
		}
		for seq := offset.Seq + 1; seq <= b.last() && len(entries) < limit; seq++ {
			entries = append(entries, b.entry(seq))
		}
		return nil
	})
	return entries, err
}

// Tail implements [store.Mailboxes].
func (m *mailboxes) Tail(ctx context.Context, box store.Box) (tail store.Offset, err error) {
	err = m.read(ctx, box, func(b *mailbox) error {
		if b != nil {
			tail = store.Offset{Epoch: b.epoch, Seq: b.last()}
		}
		return nil
	})
	return tail, err
}

// Conversation implements [store.Mailboxes].
func (m *mailboxes) Conversation(ctx context.Context, box store.Box, peer string, before uint64, limit int) (entries []store.Entry, err error) {
	err = m.read(ctx, box, func(b *mailbox) error {
		if b != nil && b.conversations[peer] != nil {
			entries = b.page(b.conversations[peer], before, limit)
		}
		return nil
	})
	return entries, err
}

// Overview implements [store.Mailboxes].
func (m *mailboxes) Overview(ctx context.Context, box store.Box, peers, perPeer int) (overview store.Overview, err error) {
	err = m.read(ctx, box, func(b *mailbox) error {
		if b != nil {
			overview = b.overview(peers, perPeer)
		}
		return nil
	})
	return overview, err
}

package memory

import (
	"bytes"
	"container/list"
	"context"
	"fmt"
	"hash/maphash"
	"sync"
	"sync/atomic"
	"time"

	"parley/store"
)

// stripes is the number of locks that the users and mailboxes are spread over: many more than cores.
const stripes = 256

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
	boxes map[store.Box]*mailbox
	idle  list.List // of *mailbox, the one without an entry for longest first
}

func (m *mailboxes) init(opts store.Options) {
	m.opts = opts
	m.seeds = [2]maphash.Seed{maphash.MakeSeed(), maphash.MakeSeed()}
	for i := range m.stripes {
		m.stripes[i].boxes = map[store.Box]*mailbox{}
	}
}

// lock returns the stripe of box, locked.
func (m *mailboxes) lock(box store.Box) *stripe {
	s := &m.stripes[maphash.Comparable(m.seeds[0], box)%stripes]
	s.mu.Lock()
	return s
}

func (m *mailboxes) key(sender, id string) messageKey {
	pair := [2]string{sender, id}
	return messageKey{maphash.Comparable(m.seeds[0], pair), maphash.Comparable(m.seeds[1], pair)}
}

// findLocked returns the mailbox, or nil if there is none or it has expired.
func (m *mailboxes) findLocked(s *stripe, box store.Box, now time.Time) *mailbox {
	b := s.boxes[box]
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
	delete(s.boxes, b.box)
	s.idle.Remove(b.idle)
}

// makeLocked adds a mailbox that is not there.
func (m *mailboxes) makeLocked(s *stripe, box store.Box, now time.Time) *mailbox {
	b := newMailbox(box, m.nextEpoch(now))
	b.idle = s.idle.PushBack(b)
	s.boxes[box] = b
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
	post.At = post.At.Truncate(time.Millisecond).UTC()
	post.Data = bytes.Clone(post.Data)
	key := m.key(post.Sender, post.ID)

	// The time of the first post is looked for in all mailboxes before it is given to those that lack the message.
	receipt := store.Receipt{ID: post.ID, Offsets: make([]store.Offset, len(post.To)), Duplicate: true}
	for i, to := range post.To {
		s := m.lock(to.Box)
		if b := m.findLocked(s, to.Box, now); b != nil {
			if seq, ok := b.seqs[key]; ok {
				receipt.Offsets[i] = store.Offset{Epoch: b.epoch, Seq: seq}
				if at := b.entry(seq).At; at.Before(post.At) || receipt.At.IsZero() {
					receipt.At = at
				}
			}
		}
		s.mu.Unlock()
	}
	if receipt.At.IsZero() {
		receipt.At = post.At
	}
	for i, to := range post.To {
		if !receipt.Offsets[i].IsZero() {
			continue
		}
		s := m.lock(to.Box)
		b := m.findLocked(s, to.Box, now)
		if b == nil {
			b = m.makeLocked(s, to.Box, now)
		}
		seq, ok := b.seqs[key]
		if !ok {
			e := store.Entry{ID: post.ID, At: receipt.At, Peer: to.Peer, Origin: post.Origin, Data: post.Data}
			seq = b.append(message{Entry: e, key: key})
			if len(b.messages) > m.opts.MailboxLimit {
				b.trim()
			}
			b.touched = now
			s.idle.MoveToBack(b.idle)
			receipt.Duplicate = false
		}
		receipt.Offsets[i] = store.Offset{Epoch: b.epoch, Seq: seq}
		s.mu.Unlock()
	}
	return receipt, nil
}

// read calls f with the mailbox, or nil, under its lock.
func (m *mailboxes) read(ctx context.Context, box store.Box, f func(b *mailbox) error) error {
	if err := box.Validate(); err != nil {
		return err
	}
	if err := usable(ctx, &m.closed); err != nil {
		return err
	}
	now := m.opts.Now()
	s := m.lock(box)
	defer s.mu.Unlock()
	return f(m.findLocked(s, box, now))
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
			entries = append(entries, copied(b.entry(seq)))
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

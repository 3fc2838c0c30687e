package file

import (
	"bytes"
	"context"
	"time"

	"parley/store"
	"parley/store/internal/row"
)

// posting is one Append that waits for its group. They are used again.
type posting struct {
	ctx        context.Context // it is not done when that is over
	message    *logged
	fresh      bool // see store.Post
	deliveries []delivery
	place      []int // of each of the post's deliveries in deliveries
	size       int   // bytes that it takes until it is folded, roughly
	done       chan error
	slow       *time.Timer
	scratch    []byte
}

// delivery is a mailbox that a post goes to, once.
type delivery struct {
	key   string // of the mailbox
	peer  string
	sent  bool      // see store.Delivery
	box   stagedBox // as it was before
	found bool
	seq   uint64 // of the entry; 0 if it is not there yet
	added bool   // by this post
}

const (
	// slowAfter is how long an Append waits before it heeds the end of its context: a timer for each context would cost
	// more than the wait, which is nearly always much shorter.
	slowAfter = 50 * time.Millisecond
	// fewDeliveries is how many are told apart by looking through them.
	fewDeliveries = 8
)

// newPosting returns a posting of post, which is not kept but for its strings.
func (s *Store) newPosting(ctx context.Context, post *store.Post) *posting {
	p, ok := s.spare.Get().(*posting)
	if !ok {
		p = &posting{done: make(chan error, 1), slow: time.NewTimer(slowAfter)}
		p.slow.Stop()
	}
	var key messageKey
	key, p.scratch = newMessageKey(p.scratch, post.Sender, post.ID)
	p.ctx, p.message, p.fresh = ctx, newLogged(len(post.To)), post.Fresh
	*p.message = logged{
		known: key, at: row.Millis(post.At), id: post.ID, origin: post.Origin, data: bytes.Clone(post.Data), to: p.message.to,
	}
	p.size = messageBytes + len(post.Data) + len(post.ID) + len(post.Origin)
	var seen map[store.Box]int
	if len(post.To) > fewDeliveries {
		seen = make(map[store.Box]int, len(post.To))
	}
	for i := range post.To {
		p.deliver(post.To, i, seen)
	}
	return p
}

// deliver adds one of the deliveries, unless an earlier one is to the same mailbox.
func (p *posting) deliver(all []store.Delivery, i int, seen map[store.Box]int) {
	to := &all[i]
	if seen == nil {
		for j := range i {
			if all[j].Box == to.Box {
				p.place = append(p.place, p.place[j])
				return
			}
		}
	} else if n, ok := seen[to.Box]; ok {
		p.place = append(p.place, n)
		return
	} else {
		seen[to.Box] = len(p.deliveries)
	}
	p.place = append(p.place, len(p.deliveries))
	p.scratch = appendBoxKey(p.scratch[:0], to.Box)
	p.deliveries = append(p.deliveries, delivery{key: string(p.scratch), peer: to.Peer, sent: to.Sent})
	p.size += deliveryBytes + len(p.scratch) + len(to.Peer) + len(p.message.data)
}

// wait returns what the appender answers, or the error of ctx if that is over first.
func (p *posting) wait(ctx context.Context) error {
	p.slow.Reset(slowAfter)
	defer p.slow.Stop()
	select {
	case err := <-p.done:
		return err
	case <-p.slow.C:
	}
	select {
	case err := <-p.done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// reuse keeps a posting that the appender has answered.
func (s *Store) reuse(p *posting) {
	if cap(p.deliveries) > fewDeliveries || cap(p.scratch) > 2*store.MaxIDBytes {
		return // a large one need not be kept
	}
	clear(p.deliveries)
	p.ctx, p.message, p.deliveries, p.place = nil, nil, p.deliveries[:0], p.place[:0]
	s.spare.Put(p)
}

// Append implements [store.Mailboxes].
func (s *Store) Append(ctx context.Context, post store.Post) (store.Receipt, error) {
	if err := post.Validate(); err != nil {
		return store.Receipt{}, err
	}
	if post.At.IsZero() {
		post.At = s.opts.Now()
	}
	p := s.newPosting(ctx, &post)
	if err := enqueue(ctx, s, s.postings, p); err != nil {
		return store.Receipt{}, err
	}
	if err := p.wait(ctx); err != nil {
		return store.Receipt{}, err // it is not known whether the appender is done with it
	}
	receipt := store.Receipt{
		ID: post.ID, At: row.Time(p.message.at), Offsets: make([]store.Offset, len(p.place)), Duplicate: len(p.message.to) == 0,
	}
	for i, n := range p.place {
		receipt.Offsets[i] = p.deliveries[n].box.offset(p.deliveries[n].seq)
	}
	s.reuse(p)
	return receipt, nil
}

package file

import (
	"bytes"
	"context"
	"math"
	"time"

	"parley/store"
	"parley/store/internal/row"
)

const (
	// foldBytes and foldInterval say when the journal is folded into the tables: the more at once, the less there is
	// to write, but the longer it takes to open the store after a crash.
	foldBytes    = 4 << 20
	foldInterval = time.Second
	// journalBytes bounds a turn of the journal. Senders wait while the tables are behind by that much.
	journalBytes = 32 << 20
)

// posting is one Append that waits for its group.
type posting struct {
	ctx        context.Context // it is not done when that is over
	message    logged
	deliveries []delivery
	size       int // bytes in the journal, roughly
	added      int // entries
	done       chan error
}

// delivery is a mailbox that a post goes to, once.
type delivery struct {
	key   string // of the mailbox
	peer  string
	sent  bool // see store.Delivery
	box   mailbox
	found bool
	seq   uint64 // of the entry; 0 if it is not there yet
}

// Append implements [store.Mailboxes].
func (s *Store) Append(ctx context.Context, post store.Post) (store.Receipt, error) {
	if err := post.Validate(); err != nil {
		return store.Receipt{}, err
	}
	if post.At.IsZero() {
		post.At = s.opts.Now()
	}
	p := &posting{
		ctx: ctx, size: len(post.Data) + len(post.ID) + len(post.Origin),
		message: logged{
			known: newMessageKey(post.Sender, post.ID), at: row.Millis(post.At),
			id: post.ID, origin: post.Origin, data: bytes.Clone(post.Data),
		},
		deliveries: make([]delivery, 0, len(post.To)),
		done:       make(chan error, 1),
	}
	place := make([]int, len(post.To)) // of each of post.To in deliveries
	seen := make(map[store.Box]int, len(post.To))
	for i, to := range post.To {
		n, ok := seen[to.Box]
		if !ok {
			n = len(p.deliveries)
			seen[to.Box] = n
			p.deliveries = append(p.deliveries, delivery{key: string(boxKey(to.Box)), peer: to.Peer, sent: to.Sent})
			p.size += len(p.deliveries[n].key) + len(to.Peer)
		}
		place[i] = n
	}
	if err := enqueue(ctx, s, s.postings, p); err != nil {
		return store.Receipt{}, err
	}
	select {
	case err := <-p.done:
		if err != nil {
			return store.Receipt{}, err
		}
	case <-ctx.Done():
		return store.Receipt{}, ctx.Err()
	}
	receipt := store.Receipt{
		ID: post.ID, At: row.Time(p.message.at), Offsets: make([]store.Offset, len(place)), Duplicate: p.added == 0,
	}
	for i, n := range place {
		receipt.Offsets[i] = p.deliveries[n].box.offset(p.deliveries[n].seq)
	}
	return receipt, nil
}

// appender writes group after group to the journal, until the queue is closed and empty, and hands the journal to the
// writer to be folded into the tables. It is the only one that gives numbers.
type appender struct {
	*Store
	epoch   uint64     // the latest given to a mailbox
	fold    *fold      // what is left to be done of folding, or nil
	next    *fold      // what is left after the step that the writer has
	folded  chan error // answers the step that the writer has, if any
	foldErr error      // of the last step, if it failed
}

func (a *appender) run() {
	defer faultsPanic()()
	ticker := time.NewTicker(foldInterval)
	defer ticker.Stop()
	for open := true; open; {
		due := false
		select {
		case p, ok := <-a.postings:
			if !ok {
				open = false
				break
			}
			var group []*posting
			group, open = gather(a.postings, p, func(p *posting) int { return p.size })
			a.appendGroup(group)
		case err := <-a.folded:
			a.endStep(err)
		case <-ticker.C:
			due = true
		}
		if due || a.active.bytes >= foldBytes && a.foldErr == nil {
			a.startFold()
		}
		for a.active.bytes >= journalBytes && a.folded != nil {
			a.endStep(<-a.folded)
		}
	}
	for range 2 { // what is being folded, and what came since
		a.startFold()
		for a.folded != nil {
			a.endStep(<-a.folded)
		}
	}
}

// startFold starts to fold the active generation, or goes on where it failed, unless it is under way.
func (a *appender) startFold() {
	if a.folded != nil || a.broken.Load() != nil {
		return
	}
	if a.fold == nil {
		if len(a.active.order) == 0 {
			return
		}
		a.fold = newFold(a.active)
		a.journal.next()
		a.mu.Lock()
		a.folding, a.active = a.active, newGeneration(a.journal.turn)
		a.mu.Unlock()
	}
	a.startStep()
}

// startStep hands the writer a step of the fold.
func (a *appender) startStep() {
	from, next := *a.fold, new(fold)
	a.next, a.folded = next, make(chan error, 1)
	a.queue <- &request{ctx: context.Background(), done: a.folded, apply: func(t *txn) (err error) {
		*next, err = from.step(t)
		return err
	}}
}

// endStep goes on after a step of the fold. If it failed, the next tick tries again.
func (a *appender) endStep(err error) {
	a.folded, a.foldErr = nil, err
	if err != nil {
		return
	}
	if a.fold = a.next; len(a.fold.order) > 0 {
		a.startStep()
	} else {
		a.fold = nil
		a.mu.Lock()
		a.folding = nil
		a.mu.Unlock()
	}
}

// appendGroup gives the messages of a group their numbers, writes them with one sync, and answers each.
func (a *appender) appendGroup(group []*posting) {
	answers := make([]error, len(group))
	err := a.ready()
	if err == nil {
		err = a.writeMessages(group, answers)
		a.warn(err)
	}
	for i, p := range group {
		if err != nil && answers[i] == nil {
			answers[i] = err
		}
		p.done <- answers[i]
	}
}

// writeMessages sets the answers of those that cannot be written, and returns an error if the others were not.
func (a *appender) writeMessages(group []*posting, answers []error) error {
	staged := newGeneration(a.active.turn)
	var messages []*logged
	err := a.view(context.Background(), func(t *txn) error {
		for i, p := range group {
			if answers[i] = p.ctx.Err(); answers[i] != nil {
				continue
			}
			if answers[i] = a.number(t, p, staged); answers[i] == nil && p.added > 0 {
				messages = append(messages, &p.message)
				staged.bytes += p.size
			}
		}
		return nil
	})
	if err != nil || len(messages) == 0 {
		return err
	}
	a.groups.Add(1)
	a.grouped.Add(int64(len(messages)))
	if err := a.journal.write(messages); err != nil {
		return a.unwritten(err)
	}
	a.mu.Lock()
	a.active.merge(staged)
	a.mu.Unlock()
	return nil
}

// ready returns why nothing can be appended now, if so.
func (a *appender) ready() error {
	if broken := a.broken.Load(); broken != nil {
		return *broken
	}
	if a.active.bytes >= journalBytes {
		return a.foldErr
	}
	return nil
}

// number adds a message to those of its mailboxes that lack it, in staged. On an error it has added nothing.
func (a *appender) number(t *txn, p *posting, staged *generation) error {
	if err := a.lookUp(t, p, staged); err != nil {
		return err
	}
	p.message.touched = t.now
	for i := range p.deliveries {
		d := &p.deliveries[i]
		if d.seq != 0 {
			continue
		}
		if !d.found {
			a.epoch = max(uint64(t.now)*uint64(time.Millisecond), a.epoch+1)
			d.box = mailbox{epoch: a.epoch, first: 1}
		}
		r := staged.recent(d.key, d.box)
		r.add(p.message.entry(d.peer, d.sent), p.message.touched, a.opts.MailboxLimit)
		d.seq = r.last
		p.message.to = append(p.message.to, loggedDelivery{d.key, d.peer, d.sent, d.box.epoch, d.seq})
		p.added++
	}
	return nil
}

// lookUp finds the mailboxes of a message, and where it is there already. If it is, its time becomes that of the first
// post, for the mailboxes that lack it too.
func (a *appender) lookUp(t *txn, p *posting, staged *generation) (err error) {
	defer recovered(&err)
	first := int64(math.MaxInt64)
	for i := range p.deliveries {
		d := &p.deliveries[i]
		v, err := t.box(d.key, staged.box(d.key), a.active.box(d.key), a.folding.box(d.key))
		if err != nil {
			return err
		}
		if d.found = v != nil; !d.found {
			continue
		}
		d.box = v.mailbox
		if d.seq, err = v.numberOf(p.message.known); err != nil {
			return err
		}
		if d.seq != 0 {
			e, err := v.entry(d.seq)
			if err != nil {
				return err
			}
			first = min(first, e.at)
		}
	}
	if first != math.MaxInt64 {
		p.message.at = first
	}
	return nil
}

// box returns what g has of a mailbox, if anything. The generation may be nil.
func (g *generation) box(key string) *recent {
	if g == nil {
		return nil
	}
	return g.boxes[key]
}

func (m *logged) entry(peer string, sent bool) entry {
	return entry{at: m.at, known: m.known, id: m.id, peer: peer, sent: sent, origin: m.origin, data: m.data}
}

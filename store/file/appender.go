package file

import (
	"context"
	"math"
	"time"

	"parley/internal/batch"
)

const (
	// The journal is folded into the tables when a turn has foldBytes or is foldTicks old: the more at once, the less
	// there is to write, but the longer it takes to open the store after a crash.
	foldBytes = 32 << 20
	foldTicks = 5
	foldTick  = time.Second // also the time between attempts after one that failed
	// journalBytes bounds a turn of the journal. Senders wait while the tables are behind by that much.
	journalBytes = 64 << 20
	// messageBytes and deliveryBytes are what a message and each of its deliveries take besides what they say: somewhat
	// more in memory, until they are folded, than in the journal.
	messageBytes  = 160
	deliveryBytes = 160
	// groupPatience is how long a group waits until it has as many messages as the one before (see [batch.Collector]).
	// A sync takes about 200 µs of CPU time, however many share it.
	groupPatience = 2 * time.Millisecond
	// maxRoom bounds the entries that a new turn has room for at once: an idle store keeps it.
	maxRoom = 1 << 14
)

// appender writes group after group to the journal, until the queue is closed and empty, and hands the journal to the
// writer to be folded into the tables. It is the only one that gives numbers.
type appender struct {
	*Store
	epoch   uint64     // the latest given to a mailbox
	fold    *fold      // what is left to be done of folding, or nil
	next    *fold      // what is left after the step that the writer has
	folded  chan error // answers the step that the writer has, if any
	foldErr error      // of the last step, if it failed
	ticks   int        // since the active generation began
	staged  stage
	// collector gathers groups, in group.
	collector batch.Collector[*posting]
	group     []*posting
}

// stage is what a group is about to add to the active generation: nobody sees it until it is durable.
type stage struct {
	boxes    map[string]stagedBox // by key, as they will be
	known    map[copyKey]*logged
	messages []*logged
	bytes    int
}

// stagedBox is a mailbox whose entries up to stored are in the tables; at least one beyond it is not yet.
type stagedBox struct {
	mailbox
	stored uint64
}

// clear makes the stage ready for the next group.
func (s *stage) clear() {
	if len(s.boxes)+len(s.known) <= 4*groupLength {
		clear(s.boxes)
		clear(s.known)
	} else { // one large group need not be paid for ever after
		s.boxes, s.known = map[string]stagedBox{}, map[copyKey]*logged{}
	}
	clear(s.messages)
	s.messages, s.bytes = s.messages[:0], 0
}

func newAppender(s *Store, epoch uint64) *appender {
	return &appender{
		Store: s, epoch: epoch, staged: stage{boxes: map[string]stagedBox{}, known: map[copyKey]*logged{}},
		collector: batch.Collector[*posting]{
			Queue: s.postings, Limit: groupBytes, Patience: groupPatience,
			Size: func(p *posting) int { return max(p.size, groupBytes/groupLength) },
		},
	}
}

func (a *appender) run() {
	defer faultsPanic()()
	ticker := time.NewTicker(foldTick)
	defer ticker.Stop()
	for open := true; open; {
		due := false
		select {
		case p, ok := <-a.postings:
			if !ok {
				open = false
				break
			}
			a.group = a.collector.Collect(a.group[:0], p)
			a.appendGroup(a.group)
			clear(a.group)
		case err := <-a.folded:
			a.endStep(err)
		case <-ticker.C:
			a.ticks++
			due = a.ticks >= foldTicks || a.foldErr != nil
		}
		if due || a.active.bytes >= foldBytes && a.foldErr == nil {
			a.startFold()
		}
		for a.active.bytes >= journalBytes && a.folded != nil {
			a.endStep(<-a.folded)
		}
	}
	until := time.Now().Add(a.closeFor)
	for range 2 { // what is being folded, and what came since
		a.startFold()
		for a.folded != nil && time.Now().Before(until) {
			a.endStep(<-a.folded)
		}
	} // the writer still does a step that it has
}

// startFold starts to fold the active generation, or goes on where it failed, unless it is under way.
func (a *appender) startFold() {
	if a.folded != nil || a.broken.Load() != nil {
		return
	}
	if a.fold == nil {
		if len(a.active.order) == 0 {
			a.ticks = 0
			return
		}
		a.fold, a.ticks = newFold(a.active), 0
		a.journal.next()
		active := newGeneration(a.journal.turn, min(len(a.active.known), maxRoom))
		a.mu.Lock()
		a.folding, a.active = a.active, active
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
		a.fold, a.next = nil, nil // the memory is free
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
	a.numbering.Lock()
	defer a.numbering.Unlock()
	defer a.staged.clear() // at once: nobody knows when the next group comes
	err := a.view(context.Background(), func(t *txn) error {
		for i, p := range group {
			if answers[i] = p.ctx.Err(); answers[i] == nil {
				answers[i] = a.number(t, p)
			}
		}
		return nil
	})
	if err != nil || len(a.staged.messages) == 0 {
		return err
	}
	a.groups.Add(1)
	a.grouped.Add(int64(len(a.staged.messages)))
	if err := a.journal.write(a.staged.messages); err != nil {
		return a.unwritten(err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, p := range group {
		a.publish(p)
	}
	a.active.bytes += a.staged.bytes
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

// number adds a message to those of its mailboxes that lack it, in the stage. On an error it has added nothing.
func (a *appender) number(t *txn, p *posting) error {
	if err := a.lookUp(t, p); err != nil {
		return err
	}
	m := p.message
	m.touched = t.now
	for i := range p.deliveries {
		d := &p.deliveries[i]
		if d.seq != 0 {
			continue
		}
		if !d.found {
			a.epoch = max(uint64(t.now)*uint64(time.Millisecond), a.epoch+1)
			d.box = stagedBox{mailbox: mailbox{epoch: a.epoch, first: 1}}
		}
		b := d.box
		b.grow(m.touched, a.opts.MailboxLimit)
		d.seq, d.added = b.last, true
		m.to = append(m.to, loggedDelivery{d.key, d.peer, d.sent, b.epoch, b.last})
		a.staged.boxes[d.key] = b
		a.staged.known[copyKey{m.known, b.epoch}] = m
	}
	if len(m.to) > 0 {
		a.staged.messages = append(a.staged.messages, m)
		a.staged.bytes += p.size
	}
	return nil
}

// publish adds what number has added to the active generation, once it is durable.
func (a *appender) publish(p *posting) {
	n := 0
	for i := range p.deliveries {
		if d := &p.deliveries[i]; d.added {
			to, r := &p.message.to[n], a.active.recent(d.key, d.box.mailbox)
			to.boxKey = r.key // one string for all
			a.active.add(r, delivered{p.message, to}, a.opts.MailboxLimit)
			n++
		}
	}
}

// lookUp finds the mailboxes of a message, and where it is there already. If it is, its time becomes that of the first
// post, for the mailboxes that lack it too.
func (a *appender) lookUp(t *txn, p *posting) (err error) {
	defer recovered(&err)
	first := int64(math.MaxInt64)
	for i := range p.deliveries {
		d := &p.deliveries[i]
		if err := a.find(t, d); err != nil {
			return err
		}
		if !d.found || p.fresh {
			continue
		}
		at, err := a.duplicate(t, d, p.message.known)
		if err != nil {
			return err
		}
		if d.seq != 0 {
			first = min(first, at)
		}
	}
	if first != math.MaxInt64 {
		p.message.at = first
	}
	return nil
}

// find looks for the mailbox of a delivery, which is not found if it has expired.
func (a *appender) find(t *txn, d *delivery) (err error) {
	b, ok := a.staged.boxes[d.key]
	for _, g := range [...]*generation{a.active, a.folding} {
		if r := g.box(d.key); r != nil && !ok {
			b, ok = stagedBox{r.mailbox, r.base - 1}, true
		} else if r != nil && r.epoch == b.epoch {
			b.stored = min(b.stored, r.base-1)
		}
	}
	if !ok {
		if b.mailbox, ok, err = t.find([]byte(d.key)); err != nil {
			return err
		}
		b.stored = b.last
	}
	d.box, d.found = b, ok && !t.expired(b.touched)
	return nil
}

// duplicate sets the number of a delivery if its mailbox has the message, and returns when that was posted.
func (a *appender) duplicate(t *txn, d *delivery, message messageKey) (at int64, err error) {
	key := copyKey{message, d.box.epoch}
	m, staged := a.staged.known[key]
	if !staged {
		if m, d.seq = a.active.find(d.key, key); m == nil {
			m, d.seq = a.folding.find(d.key, key)
		}
	} else {
		d.seq = m.in(key.epoch)
	}
	if m == nil && d.box.stored >= d.box.first {
		if d.seq, err = readNumber(t.lookUp(knownKey(key.epoch, message))); err != nil {
			return 0, err
		}
	}
	switch {
	case d.seq < d.box.first || d.seq > d.box.last:
		d.seq = 0
		return 0, nil
	case m != nil:
		return m.at, nil
	}
	e, err := t.entryOf(key.epoch, d.seq)
	return e.at, err
}

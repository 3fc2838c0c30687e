package shard

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"time"

	"parley/engineio"
	"parley/metrics"
	"parley/registry"
	"parley/store"
)

const (
	// gapGrace is how long a shard waits for a number that is missing before it reads the store: senders
	// that were numbered one after the other may hand in their entries in another order.
	gapGrace = 20 * time.Millisecond
	// gapRetry is the pause after a read that failed, and the longest after reads that did not bring what is
	// missing; those start at gapGrace and double.
	gapRetry = time.Second
	// gapReadTimeout bounds one read.
	gapReadTimeout = 5 * time.Second
	// gapReadLimit bounds the entries of one read; what is left is read next.
	gapReadLimit = 512
	// earlyLimit bounds the entries that wait for a missing number; more are dropped and read later.
	earlyLimit = 1024
	// failingEvery is how often reads that fail are logged: a store that is away fails all of them.
	failingEvery = 10 * time.Second
)

// Mail is one entry of a mailbox on its way to the sockets that follow it.
type Mail struct {
	Box     store.Box
	Offset  store.Offset
	Origin  string            // the socket that sent it, which is not given it back
	Message *engineio.Message // the event with its offset, as it goes to the wire; nil to pass the entry over
	Unread  bool              // the mailbox has the entry, but what is in it has to be read from the source

	// What other processes need of it, for whom the sender does not add the offset.

	Namespace   string
	Text        []byte // the EVENT or BINARY_EVENT packet without the offset; nil if they are not to be told
	Attachments [][]byte
}

// Source reads the mail of one application that a shard missed, as Mailboxes.After does: all entries that
// follow, without a gap, up to the limit. It is called from goroutines that may block, but must return when ctx
// ends: a pool waits for them when it stops.
type Source interface {
	Mail(ctx context.Context, box store.Box, after store.Offset, limit int) ([]Mail, error)
}

// HandleMail names the source for boxes of app. Call it before the first Follow.
func (p *Pool) HandleMail(app string, src Source) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.sources[app] = src
}

func (p *Pool) source(app string) Source {
	p.mu.RLock()
	defer p.mu.RUnlock()
	return p.sources[app]
}

// Deliver hands mail to the followers of its box. The numbers decide the order, not the order of calls: what
// was delivered already is ignored, and what is missing in between is read from the source.
func (p *Pool) Deliver(ctx context.Context, m Mail) error {
	c := p.delivers.Get().(*deliver)
	c.mail = m
	return p.Owner(m.Box.User).post(ctx, c)
}

// Offer is Deliver for somebody who may neither wait nor work for others: it takes the shard's turn for this entry alone. If
// there is more to do, that is left to the shard's own goroutine. Ended is a context that is over.
func (p *Pool) Offer(ended context.Context, m Mail) error {
	s := p.Owner(m.Box.User)
	c := p.delivers.Get().(*deliver)
	c.mail = m
	if err := s.put(ended, c); err != nil || !s.tryTake() {
		return err
	}
	waiting := len(s.inbox)
	done := waiting == 0 // somebody else has run it
	if waiting == 1 && len(s.later) == 0 {
		s.attempt(func() {
			s.run(<-s.inbox)
			s.flush()
		})
		done = !s.died
	}
	if !done || s.release() {
		s.handed <- struct{}{}
	}
	return nil
}

// stream is one followed mailbox. It exists while it has followers.
type stream struct {
	box       store.Box
	at        store.Offset // the last entry that was delivered
	newest    uint64       // the largest number heard of; above at.Seq while some are missing
	followers []follower
	early     map[uint64]Mail // arrived ahead of a missing number

	stale     bool      // the store may hold entries that were not heard of: it has to be read
	due       time.Time // when to read it; zero if it needn't be, or is being read
	reading   bool
	fruitless int // reads in a row that did not move at
}

// follower is one socket of a stream.
type follower struct {
	socket *registry.Socket
	at     store.Offset // what the socket has: entries up to here are skipped
}

// deliver is a command. Each message takes two of them, so they are pooled.
type deliver struct{ mail Mail }

func (c *deliver) run(s *Shard) {
	if st := s.streams[c.mail.Box]; st != nil {
		s.deliver(st, &c.mail)
	}
	c.mail = Mail{}
	s.pool.delivers.Put(c)
}

func (s *Shard) deliver(st *stream, m *Mail) {
	if m.Offset.Epoch < st.at.Epoch {
		return // from a mailbox that has expired since
	}
	if m.Offset.Epoch > st.at.Epoch {
		st.restart(m.Offset.Epoch)
	}
	st.newest = max(st.newest, m.Offset.Seq)
	switch {
	case m.Offset.Seq <= st.at.Seq:
	case m.Unread: // stays missing until it has been read, and what is behind it waits
	case m.Offset.Seq == st.at.Seq+1:
		s.hand(st, m)
		for next, ok := st.early[st.at.Seq+1]; ok; next, ok = st.early[st.at.Seq+1] {
			delete(st.early, next.Offset.Seq)
			s.hand(st, &next)
		}
	case len(st.early) < earlyLimit:
		if st.early == nil {
			st.early = make(map[uint64]Mail)
		}
		st.early[m.Offset.Seq] = *m
	}
	s.settle(st)
}

// restart follows the mailbox into a new life: it expired, and its numbers begin again.
func (st *stream) restart(epoch uint64) {
	st.at = store.Offset{Epoch: epoch}
	st.newest, st.early, st.fruitless = 0, nil, 0
}

// hand gives the next entry to the followers.
func (s *Shard) hand(st *stream, m *Mail) {
	st.at = m.Offset
	for i := range st.followers {
		f := &st.followers[i]
		if m.Offset.Epoch == f.at.Epoch && m.Offset.Seq <= f.at.Seq {
			continue
		}
		f.at = m.Offset
		if m.Message != nil && m.Origin != f.socket.ID {
			s.offer(f.socket, m.Message, 0)
		}
	}
}

// settle plans a read of the store if st misses something, and drops the plan if it does not.
func (s *Shard) settle(st *stream) {
	switch {
	case !st.stale && st.newest <= st.at.Seq:
		st.early, st.fruitless = nil, 0
		s.plan(st, time.Time{})
	case !st.reading && st.due.IsZero():
		s.plan(st, time.Now().Add(min(gapGrace<<min(st.fruitless, 8), gapRetry)))
	}
}

// plan has st read at due; zero is never.
func (s *Shard) plan(st *stream, due time.Time) {
	switch {
	case !due.IsZero():
		s.waiting[st] = struct{}{}
		s.wake(due)
	case !st.due.IsZero():
		delete(s.waiting, st)
	}
	st.due = due
}

// Follow attaches t to box: it is given every entry after the offset, in order, each once. A socket that is
// behind what the shard delivers is not attached; the caller brings it up from the store and calls again. A
// socket follows a box once, t must be registered, and after must have come from the store. The box's user must
// be one whose sockets this shard owns.
func (s *Shard) Follow(ctx context.Context, t *registry.Socket, box store.Box, after store.Offset) (behind bool, err error) {
	if s.pool.Owner(box.User) != s {
		return false, errors.New("mailbox belongs to another shard: a socket follows boxes of its own user")
	}
	c := &follow{outcome: newOutcome(), socket: t, box: box, after: after}
	if err := s.post(ctx, c); err != nil {
		return false, err
	}
	if err := c.wait(s); err != nil {
		return false, err
	}
	if c.fresh {
		return false, s.begin(ctx, box, after)
	}
	return c.behind, nil
}

// begin has a stream read that is new here: what was stored between its position and now was delivered to nobody. Nearly
// always that is nothing. A source that can tell is asked for that first, which costs less than a read.
func (s *Shard) begin(ctx context.Context, box store.Box, at store.Offset) error {
	c := &reread{box: box}
	if tailer, ok := s.pool.source(box.App).(Tailer); ok {
		tails, err := tailer.Tails(ctx, []store.Box{box})
		if err == nil && tails[0] == at {
			return nil
		}
		c.later = err != nil
	}
	return s.postSurely(s.pool.ctx, c)
}

// reread has a stream read, later if the store did not answer just now.
type reread struct {
	box   store.Box
	later bool
}

func (c *reread) run(s *Shard) {
	st := s.streams[c.box]
	switch {
	case st == nil: // nobody follows it any more
	case !c.later:
		s.read(st)
	case !st.reading:
		st.stale = true
		s.plan(st, time.Now().Add(gapRetry))
	}
}

type follow struct {
	outcome
	socket *registry.Socket
	box    store.Box
	after  store.Offset

	// Set before the outcome.

	behind bool
	fresh  bool // the stream is new
}

func (c *follow) run(s *Shard) { c.reply <- s.follow(c) }

func (s *Shard) follow(c *follow) error {
	if !s.registry.Has(c.socket) || c.socket.Out == nil {
		return ErrGone
	}
	st := s.streams[c.box]
	if slices.Contains(s.followers[c.socket], st) {
		return errors.New("socket follows this mailbox already")
	}
	switch {
	case st == nil:
		c.fresh = true
		st = &stream{box: c.box, at: c.after}
		s.streams[c.box] = st
	case c.after.Epoch > st.at.Epoch:
		c.fresh = true // for the shard it is: the caller saw a new life of the mailbox before it did
		st.restart(c.after.Epoch)
	case c.after.Epoch < st.at.Epoch || c.after.Seq < st.at.Seq:
		c.behind = true
		return nil
	case c.after.Seq > st.at.Seq:
		// The entries up to there are on their way here; if they got lost, a read brings them.
		st.stale = true
		s.settle(st)
	}
	st.followers = append(st.followers, follower{socket: c.socket, at: c.after})
	delete(s.places, c.socket) // its follower knows better
	s.followers[c.socket] = append(s.followers[c.socket], st)
	return nil
}

// unfollow detaches t from every stream.
func (s *Shard) unfollow(t *registry.Socket) {
	for _, st := range s.followers[t] {
		st.followers = slices.DeleteFunc(st.followers, func(f follower) bool { return f.socket == t })
		if len(st.followers) == 0 {
			s.drop(st)
		}
	}
	delete(s.followers, t)
	delete(s.places, t)
}

// abandon ends a stream that can't go on, because entries after its position are gone. Its followers connect
// anew and get the history that is left.
func (s *Shard) abandon(st *stream) {
	for _, f := range st.followers {
		f.socket.Out.Close(engineio.ForcedClose)
		rest := slices.DeleteFunc(s.followers[f.socket], func(other *stream) bool { return other == st })
		if len(rest) > 0 {
			s.followers[f.socket] = rest
		} else {
			delete(s.followers, f.socket)
		}
	}
	s.drop(st)
}

func (s *Shard) drop(st *stream) {
	delete(s.streams, st.box)
	delete(s.waiting, st)
}

// Return is Register for a socket whose client is back: first brings it up to that offset of its mailbox.
func (s *Shard) Return(ctx context.Context, t *registry.Socket, rooms []string, at store.Offset, first ...*engineio.Message) error {
	c := &comeback{register{newOutcome(), t, rooms, first}, at}
	if err := s.post(ctx, c); err != nil {
		return err
	}
	return c.wait(s)
}

type comeback struct {
	register
	at store.Offset
}

func (c *comeback) run(s *Shard) {
	s.places[c.socket] = c.at
	c.register.run(s)
	if !s.registry.Has(c.socket) {
		delete(s.places, c.socket)
	}
}

// SendAt gives one socket a message that is encoded already and brings it up to that offset of the mailbox which it is
// about to follow.
func (s *Shard) SendAt(ctx context.Context, t *registry.Socket, m *engineio.Message, at store.Offset) error {
	return s.post(ctx, &sendAt{t, m, at})
}

type sendAt struct {
	socket  *registry.Socket
	message *engineio.Message
	at      store.Offset
}

func (c *sendAt) run(s *Shard) {
	t := c.socket
	if !s.registry.Has(t) {
		return
	}
	if s.followers[t] == nil {
		s.places[t] = c.at
	}
	s.offer(t, c.message, 0)
}

// place returns where t is in the mailbox that it follows or is about to, if it was brought anywhere yet.
func (s *Shard) place(t *registry.Socket) (at store.Offset, ok bool) {
	for _, st := range s.followers[t] {
		for _, f := range st.followers {
			if f.socket == t {
				return f.at, true
			}
		}
	}
	at, ok = s.places[t]
	return at, ok
}

// withCurrent returns e's wire form with the offset that t is at. A client that was given none yet is given null, which
// it does not take for one: it has missed everything, whatever it is told of now.
func (s *Shard) withCurrent(e *Envelope, t *registry.Socket) *engineio.Message {
	if e.Offset == CurrentOffset {
		return e.withOffset(s.logFor(t.Namespace).current())
	}
	at, ok := s.place(t)
	if !ok {
		return e.withoutOffset()
	}
	return e.withOffset(at.String())
}

// checkStreams reads the streams that are due.
func (s *Shard) checkStreams(now time.Time) {
	for st := range s.waiting {
		if st.due.After(now) {
			s.wake(st.due)
			continue
		}
		s.pool.metrics.Count(metrics.MailGaps, "read")
		s.read(st)
	}
}

// read fetches what follows the stream's position, in a goroutine that ends within gapReadTimeout and puts
// its result into the inbox.
func (s *Shard) read(st *stream) {
	if st.reading {
		st.stale = true // the read under way may be too old: another follows it
		return
	}
	s.plan(st, time.Time{})
	st.reading, st.stale = true, false
	c := &fill{stream: st, box: st.box, after: st.at}
	s.pool.running.Go(func() {
		if c.mail, c.err = s.pool.readMail(c.box, c.after); c.err != nil && s.pool.ctx.Err() == nil {
			s.pool.failing.Do(func() {
				s.log.Warn().Err(c.err).Str("app", c.box.App).Msg("reading missed mail failed")
			})
		}
		_ = s.postSurely(s.pool.ctx, c) // fails only when the pool stops
	})
}

// readMail asks the box's source. A panic of the source is an error.
func (p *Pool) readMail(box store.Box, after store.Offset) (mail []Mail, err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("source of mail panicked: %v\n%s", v, debug.Stack())
		}
	}()
	src := p.source(box.App)
	if src == nil {
		return nil, fmt.Errorf("no source for mail of %q: HandleMail comes before the first Follow", box.App)
	}
	ctx, cancel := context.WithTimeout(p.ctx, gapReadTimeout)
	defer cancel()
	return src.Mail(ctx, box, after, gapReadLimit)
}

// fill brings what was read.
type fill struct {
	stream *stream
	box    store.Box
	after  store.Offset // where the read began
	mail   []Mail
	err    error
}

func (c *fill) run(s *Shard) {
	st := c.stream
	if s.streams[c.box] != st {
		return // nobody follows it any more
	}
	switch {
	case errors.Is(c.err, store.ErrUnknownOffset) && st.at == c.after:
		s.pool.metrics.Count(metrics.MailGaps, "expired")
		s.abandon(st)
		return
	case c.err != nil: // which may be an offset that we have left behind meanwhile
		st.reading, st.stale = false, true
		s.plan(st, time.Now().Add(gapRetry))
		return
	}
	if c.after.IsZero() && st.at.Seq == 0 && len(c.mail) > 0 {
		// From the oldest entry that is kept, whatever its number.
		first := c.mail[0].Offset
		if first.Epoch > st.at.Epoch {
			st.restart(first.Epoch)
		}
		if first.Epoch == st.at.Epoch {
			st.at.Seq = first.Seq - 1
		}
	}
	for i := range c.mail {
		s.deliver(st, &c.mail[i])
	}
	st.reading = false
	moved := st.at != c.after
	if moved {
		st.fruitless = 0
	} else {
		st.fruitless++
	}
	if moved && len(c.mail) >= gapReadLimit {
		s.read(st)
	} else {
		s.settle(st)
	}
}

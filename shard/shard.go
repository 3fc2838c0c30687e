package shard

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"
	"time"

	"github.com/rs/zerolog"

	"parley/engineio"
	"parley/metrics"
	"parley/registry"
	"parley/store"
)

const (
	// flushAfter is for how long, under load, frames are kept so that those of the following turns leave with them: the
	// first turn that ends later writes them all.
	flushAfter = time.Millisecond
	// turnLimit bounds the commands of one turn, so that the first frame of a turn is not kept back by a
	// flood behind it.
	turnLimit = 1024
	// restartPause is the wait before a shard that died starts again, doubled for each death that follows
	// within restartCalm, up to restartPauseMax.
	restartPause    = 10 * time.Millisecond
	restartPauseMax = 5 * time.Second
	restartCalm     = time.Minute
)

// Shard is one worker of a Pool. Its exported methods may be called from any goroutine but its own, and from
// none that holds a lock which a command may ask for.
type Shard struct {
	pool  *Pool
	index int
	log   zerolog.Logger
	inbox chan command
	done  chan struct{} // closed when the shard has ended and runs nothing any more

	// Whoever takes the value out of token runs the shard and owns all that is below, until they put it back. If work is
	// left, or the shard has died, they put a value into handed instead: the token is supervise's then.
	token  chan struct{}
	handed chan struct{}

	state           // made anew after a panic
	current command // the command that runs, so that a panic can fail it
	died    bool    // of a panic; nobody has restarted it yet
	timer   *time.Timer
	armed   time.Time // when the timer rings
}

// state is what a shard loses when it dies.
type state struct {
	registry  *registry.Registry
	touched   []*registry.Socket // sockets with frames that are not flushed yet
	gathering time.Time          // under load: since when touched has had some
	later     []*registry.Socket // sockets with frames that may wait for others (later.go)
	left      time.Time          // when frames of later were written last
	streams   map[store.Box]*stream
	waiting   map[*stream]struct{}              // streams with a due time, at which they are to be read
	followers map[*registry.Socket][]*stream    // what each socket follows
	places    map[*registry.Socket]store.Offset // how far sockets are in a mailbox that they do not follow yet
	logs      map[string]*replayLog             // by namespace
	returning map[string]*recoverable           // by private id
	expiry    time.Time                         // when to look for clients that did not return; zero if none is away
	alarm     time.Time                         // when the next timed work is due; zero if none is
}

// command is something for a shard to do in its turn.
type command interface{ run(*Shard) }

// failer is a command that is told when the shard dies of it.
type failer interface{ fail(error) }

func newShard(p *Pool, index int, o Options) *Shard {
	s := &Shard{
		pool:  p,
		index: index,
		log:   o.Log.With().Int("shard", index).Logger(),
		inbox: make(chan command, o.Inbox),
		done:  make(chan struct{}),

		token:  make(chan struct{}, 1),
		handed: make(chan struct{}, 1),
		timer:  time.NewTimer(time.Hour),
	}
	s.timer.Stop()
	s.reset()
	s.token <- struct{}{}
	return s
}

// Index returns the shard's place in its pool.
func (s *Shard) Index() int { return s.index }

func (s *Shard) reset() {
	s.state = state{
		registry:  registry.New(),
		streams:   make(map[store.Box]*stream),
		waiting:   make(map[*stream]struct{}),
		followers: make(map[*registry.Socket][]*stream),
		places:    make(map[*registry.Socket]store.Offset),
		logs:      make(map[string]*replayLog),
		returning: make(map[string]*recoverable),
	}
}

// post puts c into the inbox, and takes the turn itself if nobody else does: an idle shard costs its sender no
// wake-up of another goroutine. It waits while the inbox is full, within postTimeout and ctx.
func (s *Shard) post(ctx context.Context, c command) error {
	if err := s.put(ctx, c); err != nil {
		return err
	}
	if s.tryTake() {
		s.runInline()
	}
	return nil
}

// tryTake takes the token if nobody has it.
func (s *Shard) tryTake() bool {
	select {
	case <-s.token:
		return true
	default:
		return false
	}
}

// take waits for the token. It is for supervise, to which it may have been handed.
func (s *Shard) take() {
	select {
	case <-s.token:
	case <-s.handed:
	}
}

// release puts the token back, and takes it again if somebody posted between the last look into the inbox and
// then: they saw it taken.
func (s *Shard) release() (again bool) {
	s.token <- struct{}{}
	return len(s.inbox) > 0 && s.tryTake()
}

func (s *Shard) put(ctx context.Context, c command) error {
	if s.pool.ctx.Err() != nil {
		return ErrStopped
	}
	select {
	case s.inbox <- c:
		return nil
	default:
	}
	timer := time.NewTimer(postTimeout)
	defer timer.Stop()
	select {
	case s.inbox <- c:
		return nil
	case <-s.pool.ctx.Done():
		return ErrStopped
	case <-ctx.Done():
		return fmt.Errorf("waiting for a shard's inbox: %w", ctx.Err())
	case <-timer.C:
		s.pool.metrics.Count(metrics.InboxRefused, "full")
		return ErrBusy
	}
}

// runInline takes one turn with the token, which the caller has taken. What came meanwhile is a sign of load: it
// is left to the shard's own goroutine, which waits for more.
func (s *Shard) runInline() {
	select {
	case c := <-s.inbox:
		s.turn(c)
	default:
	}
	if s.died || s.release() {
		s.handed <- struct{}{}
	}
}

// postSurely is post for what ends something that the shard holds: giving up would leak it, so a full inbox
// is waited for as long as ctx and the pool last.
func (s *Shard) postSurely(ctx context.Context, c command) error {
	for {
		if err := s.post(ctx, c); !errors.Is(err, ErrBusy) {
			return err
		}
	}
}

// outcome is the part of a command whose sender waits for it. A shard sets it once, by run or by fail.
type outcome struct{ reply chan error }

func newOutcome() outcome { return outcome{make(chan error, 1)} }

func (o outcome) fail(err error) { o.reply <- err }

// wait returns the outcome of a command that s took. It always comes: a shard runs or fails every command,
// unless the pool stops. No context ends this wait: a command may use memory of its sender, who must not go on
// before it has run or never will.
func (o outcome) wait(s *Shard) error {
	select {
	case err := <-o.reply:
		return err
	case <-s.done:
	}
	select {
	case err := <-o.reply: // it ran last
		return err
	default:
		return ErrStopped
	}
}

// supervise is the shard's own goroutine: it takes the turns that are handed to it and those of the timer, and
// restarts the shard after a panic, until the pool stops.
func (s *Shard) supervise() {
	defer close(s.done)
	pause, started := restartPause, time.Now()
	for {
		select {
		case <-s.handed:
		case <-s.timer.C:
			s.take()
			s.alarmed()
		case <-s.pool.ctx.Done():
			s.take() // and keep it: nothing runs from here on
			s.timer.Stop()
			if s.died {
				s.bury()
			}
			return
		}
		if s.work() {
			continue
		}
		s.bury()
		if time.Since(started) > restartCalm {
			pause = restartPause
		}
		select {
		case <-time.After(pause):
		case <-s.pool.ctx.Done():
			return
		}
		pause, started = min(2*pause, restartPauseMax), time.Now()
		s.handed <- struct{}{} // what waited meanwhile comes first
	}
}

// work takes turns until the inbox is empty, flushes, gives up the token and returns true. If the shard dies it returns
// false and keeps the token. Before each turn it lets everybody else run, so that under load a turn has what all of
// them post, and the frames of each socket go out together.
func (s *Shard) work() bool {
	for !s.died {
		runtime.Gosched()
		select {
		case <-s.timer.C: // which a flood of posts must not keep waiting
			s.alarmed()
			continue
		default:
		}
		select {
		case c := <-s.inbox:
			s.gather(c)
			continue
		default:
		}
		if len(s.touched) > 0 {
			s.attempt(s.flush)
			continue
		}
		if !s.release() {
			return true
		}
	}
	return false
}

// gather is turn under load. It keeps the frames for the turns that follow at once, so that they leave together, unless the
// turn was full or frames have been kept for flushAfter already.
func (s *Shard) gather(first command) {
	s.attempt(func() {
		if len(s.touched) == 0 {
			s.gathering = time.Now()
		}
		if full := s.drain(first); full || time.Since(s.gathering) >= flushAfter {
			s.flush()
		} else {
			s.flushLater()
		}
	})
}

// turn runs first and what else waits, then flushes.
func (s *Shard) turn(first command) {
	s.attempt(func() {
		s.drain(first)
		s.flush()
	})
}

// drain runs first and what else waits, or as much of it as a turn may have: then it is full.
func (s *Shard) drain(first command) (full bool) {
	s.run(first)
	for range turnLimit {
		select {
		case c := <-s.inbox:
			s.run(c)
		default:
			return false
		}
	}
	return true
}

// attempt runs f, which may panic, and then sets the timer.
func (s *Shard) attempt(f func()) {
	defer func() {
		if v := recover(); v != nil {
			s.died = true
			s.pool.metrics.Count(metrics.ShardPanics, "turn")
			s.log.Error().Str("panic", fmt.Sprint(v)).Bytes("stack", debug.Stack()).
				Int("sockets", s.registry.Len()).
				Msg("shard died: closing its connections, their clients reconnect; please report this fault")
			return
		}
		s.arm()
	}()
	f()
}

// alarmed is the turn of the timer, whose value was taken.
func (s *Shard) alarmed() {
	s.armed = time.Time{}
	s.attempt(func() { s.ring(); s.flush() })
}

// arm sets the timer to the alarm.
func (s *Shard) arm() {
	if s.alarm.Equal(s.armed) {
		return
	}
	s.armed = s.alarm
	s.timer.Stop()
	if !s.armed.IsZero() {
		s.timer.Reset(time.Until(s.armed))
	}
}

func (s *Shard) run(c command) {
	s.current = c
	c.run(s)
	s.current = nil
}

// offer queues m for one socket, and reports whether the socket's connection is open.
func (s *Shard) offer(t *registry.Socket, m *engineio.Message, flags engineio.Flags) bool {
	if t.Out == nil {
		return false
	}
	if len(s.later) > 0 && flags&engineio.Volatile != 0 {
		t.Out.Flush() // or it would be dropped behind what waits, for this socket or another of its client
	}
	if !t.Out.Enqueue(m, flags) {
		return false
	}
	if !t.Touched {
		t.Touched = true
		s.touched = append(s.touched, t)
	}
	return true
}

// flush writes the turn's frames, once for each touched socket, and those that have waited long enough.
func (s *Shard) flush() {
	for i, t := range s.touched {
		t.Touched = false
		s.touched[i] = nil
		if t.Out != nil {
			t.Out.Flush()
		}
	}
	s.touched = s.touched[:0]
	s.flushLater()
}

// wake sets the alarm to at, unless it rings sooner.
func (s *Shard) wake(at time.Time) {
	if s.alarm.IsZero() || at.Before(s.alarm) {
		s.alarm = at
	}
}

// ring does the timed work that is due and sets the alarm for the next.
func (s *Shard) ring() {
	now := time.Now()
	s.alarm = time.Time{}
	s.checkStreams(now)
	s.checkReturning(now)
}

// bury fails the command that killed the shard and closes its connections. Restarting with empty maps alone
// would leave sockets connected and deaf.
func (s *Shard) bury() {
	if f, ok := s.current.(failer); ok {
		s.contain(func() { f.fail(ErrRestarted) })
	}
	s.current = nil
	s.registry.Each(func(t *registry.Socket) {
		acks := t.Acks
		t.Acks = nil // the socket's end, which is still to come, must not lose them again
		if t.Out != nil {
			s.contain(func() { t.Out.Close(engineio.ForcedClose) })
		}
		for _, ack := range acks {
			s.contain(ack.Lost)
		}
	})
	s.pool.directory.forget(s.index)
	s.reset()
	s.arm()
	s.died = false
}

// contain runs f, which may be what has panicked already, and keeps its panic from the rest of a burial.
func (s *Shard) contain(f func()) {
	defer func() {
		if v := recover(); v != nil {
			s.pool.metrics.Count(metrics.ShardPanics, "burial")
			s.log.Error().Str("panic", fmt.Sprint(v)).Bytes("stack", debug.Stack()).
				Msg("closing a connection of a shard that died failed; please report this fault")
		}
	}()
	f()
}

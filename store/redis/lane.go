package redisstore

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"parley/internal/batch"
	"parley/internal/redisslot"
	"parley/store"
)

const (
	// manyLanes is how many pipelines are under way at the same time where one that is slow must not delay the others:
	// reads, which may be large, and everything in a Cluster, where each lane mostly has a server of its own. Writes of one
	// server have one lane: Redis does one thing at a time, and the more calls a pipeline carries the less each costs both
	// sides.
	manyLanes = 4
	// writePatience is how long writes wait for as many as there were in the pipeline before (see [batch.Collector]).
	writePatience = 4 * time.Millisecond
	// queueLength bounds the calls that wait, in all lanes. Who finds a lane full waits, as long as their context allows.
	queueLength = 2048
	// pipelineBytes bounds a pipeline, so that nobody waits long for the others. A command counts as commandBytes more than
	// it has, which is what its work is worth.
	pipelineBytes = 1 << 20
	commandBytes  = 2 << 10
	// pipelineTimeout bounds a pipeline with all its retries.
	pipelineTimeout = 5 * time.Second
	// drainTimeout bounds what is left to do when the lanes are closed.
	drainTimeout = 5 * time.Second
	// keptCalls, keptBytes and keptFor bound the calls that nobody waits for and that wait for Redis, in all lanes, and
	// keptPause is between two attempts, if nothing else is to be sent.
	keptCalls = 4096
	keptBytes = 4 << 20
	keptFor   = 2 * time.Minute
	keptPause = 250 * time.Millisecond
)

// lanes send calls in pipelines. A lane has a goroutine that takes all that waits, sends it, hands out the replies, and
// starts again. Calls for the same slot use the same lane and are done in their order. In a Cluster a lane's slots are
// mostly of one server, so that a server that is slow or gone delays few others.
type lanes struct {
	client redis.UniversalClient
	queues []chan *call
	lanes  sync.WaitGroup // the goroutines, which end when the queues are closed

	// ctx ends, with cancel, when closing has taken too long.
	ctx    context.Context
	cancel context.CancelFunc

	hurry *hurry
	joins atomic.Bool // additions to several mailboxes may be one call

	closing sync.RWMutex // held for writing to close the queues
	closed  bool         // guarded by closing
}

// call is one or more commands that are sent together.
type call struct {
	ctx      context.Context // who waits for it; it is not sent when that is over
	commands []*command
	size     int
	done     chan error  // with room for the answer; nil if nobody waits
	failed   func(error) // instead, told of a failure
	since    time.Time   // when it failed first and was kept
	sent     bool
}

// newLanes returns count lanes, in which calls wait for others like them as long as patience says.
func newLanes(client redis.UniversalClient, h *hurry, count int, patience time.Duration) *lanes {
	l := &lanes{client: client, queues: make([]chan *call, count), hurry: h}
	l.ctx, l.cancel = context.WithCancel(context.Background())
	for i := range l.queues {
		l.queues[i] = make(chan *call, queueLength/count)
		l.lanes.Go(func() { l.work(l.queues[i], patience) })
	}
	return l
}

// do sends commands and waits for the replies. The commands belong to the lane until do returns without an error; after an
// error their replies must not be looked at. The error is that of the first command that failed. Key decides the lane.
func (l *lanes) do(ctx context.Context, key string, commands ...*command) error {
	ctx, over, cancel := l.hurry.bound(ctx)
	defer cancel()
	c := &call{ctx: ctx, commands: commands, done: make(chan error, 1)}
	if err := l.enqueue(ctx, key, c); err != nil {
		return err
	}
	select {
	case err := <-c.done:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-over:
		return errHurried
	}
}

// later sends commands some time soon, after all that was given to the same lane before and ahead of all that is given to
// it afterwards. It waits only for room. While Redis is away they are kept, within bounds.
func (l *lanes) later(ctx context.Context, key string, failed func(error), commands ...*command) error {
	return l.enqueue(ctx, key, &call{ctx: context.WithoutCancel(ctx), commands: commands, failed: failed})
}

func (l *lanes) enqueue(ctx context.Context, key string, c *call) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	for _, command := range c.commands {
		c.size += command.size()
	}
	l.closing.RLock()
	defer l.closing.RUnlock()
	if l.closed {
		return store.ErrClosed
	}
	select {
	case l.queue(key) <- c: // its goroutine empties the queue until it is closed
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// queue returns the lane of a key.
func (l *lanes) queue(key string) chan<- *call {
	if len(l.queues) == 1 {
		return l.queues[0]
	}
	return l.queues[redisslot.Of(key)*len(l.queues)/redisslot.Count]
}

// size returns the bytes of the command, roughly.
func (c *command) size() int {
	if c.add != nil {
		return c.add.size()
	}
	n := 0
	for _, arg := range c.args {
		switch v := arg.(type) {
		case string:
			n += len(v)
		case []byte:
			n += len(v)
		}
	}
	return n
}

// weight is what the call counts for in a pipeline.
func (c *call) weight() int { return c.size + commandBytes*len(c.commands) }

// close finishes all calls that were accepted.
func (l *lanes) close() {
	l.closing.Lock()
	if !l.closed {
		l.closed = true
		for _, queue := range l.queues {
			close(queue)
		}
	}
	l.closing.Unlock()
	patience := drainTimeout
	if l.hurry.on() {
		patience = hurriedTimeout
	}
	late := time.AfterFunc(patience, l.cancel)
	l.lanes.Wait()
	late.Stop()
	l.cancel()
}

func (l *lanes) work(queue <-chan *call, patience time.Duration) {
	collector := &batch.Collector[*call]{Queue: queue, Size: (*call).weight, Limit: pipelineBytes, Patience: patience}
	var kept []*call
	for {
		calls, open := next(collector, kept)
		if len(calls) == 0 {
			return
		}
		kept = l.send(calls, open)
	}
}

// next waits for calls. Those that were kept are ahead of them, and are tried again by themselves. When the queue is
// closed and empty it reports that it is not open any more, with what was kept at last.
func next(collector *batch.Collector[*call], kept []*call) (calls []*call, open bool) {
	var again <-chan time.Time
	if len(kept) > 0 {
		timer := time.NewTimer(keptPause)
		defer timer.Stop()
		again = timer.C
	}
	select {
	case first, ok := <-collector.Queue:
		if !ok {
			return kept, false
		}
		return collector.Collect(kept, first), true
	case <-again:
		return kept, true
	}
}

// send sends the calls in one pipeline and answers each. If it may, it returns those that are kept for the next time.
func (l *lanes) send(calls []*call, mayKeep bool) (kept []*call) {
	var commands []*command
	for _, c := range calls {
		if c.sent = c.ctx.Err() == nil; c.sent {
			commands = append(commands, c.commands...)
		}
	}
	if len(commands) > 0 {
		ctx, cancel := context.WithTimeout(l.ctx, pipelineTimeout)
		l.transmit(ctx, commands)
		cancel()
	}
	size := 0
	for _, c := range calls {
		err := c.answer()
		switch {
		case c.done != nil:
			c.done <- err
		case err == nil:
		case mayKeep && len(kept) < keptCalls/len(l.queues) && size+c.size <= keptBytes/len(l.queues) && c.keep():
			kept, size = append(kept, c), size+c.size
		default:
			c.failed(err)
		}
	}
	return kept
}

// keep reports whether a call that failed may be sent again later: Redis was not there to do it, and not for too long.
func (c *call) keep() bool {
	if refusal(firstFailure(c.commands)) {
		return false
	}
	if c.since.IsZero() {
		c.since = time.Now()
	}
	return time.Since(c.since) < keptFor
}

// notNow are the replies of a Redis that is there, but not ready.
var notNow = []string{"LOADING", "READONLY", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "BUSY"}

// answer returns what the caller is told.
func (c *call) answer() error {
	if !c.sent {
		return c.ctx.Err() // it was over before
	}
	if err := firstFailure(c.commands); err != nil {
		return unavailable(err)
	}
	return nil
}

package redisstore

import (
	"context"
	"runtime"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"parley/store"
)

const (
	// laneCount is how many pipelines are under way at the same time: enough to keep Redis busy while replies are
	// read, few enough that each carries many calls.
	laneCount = 4
	// laneQueue bounds the calls that wait in a lane. Who finds it full waits, as long as their context allows.
	laneQueue = 512
	// pipelineCommands and pipelineBytes bound a pipeline, so that nobody waits long for the others.
	pipelineCommands = 512
	pipelineBytes    = 1 << 20
	// pipelineTimeout bounds a pipeline with all its retries.
	pipelineTimeout = 5 * time.Second
	// drainTimeout bounds what is left to do when the lanes are closed.
	drainTimeout = 5 * time.Second
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
}

func newLanes(client redis.UniversalClient, h *hurry) *lanes {
	l := &lanes{client: client, queues: make([]chan *call, laneCount), hurry: h}
	l.ctx, l.cancel = context.WithCancel(context.Background())
	for i := range l.queues {
		l.queues[i] = make(chan *call, laneQueue)
		l.lanes.Go(func() { l.work(l.queues[i]) })
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

// later sends commands some time soon, after all that was given to the same lane before. It waits only for room.
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
	case l.queues[slot(key)*laneCount/slots] <- c: // its goroutine empties the queue until it is closed
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// size returns the bytes of the command, roughly.
func (c *command) size() int {
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

func (l *lanes) work(queue chan *call) {
	for first := range queue {
		l.send(gather(queue, first))
	}
}

// gather returns first and what waits behind it, up to the bounds of a pipeline.
func gather(queue chan *call, first *call) []*call {
	calls, commands, size := []*call{first}, len(first.commands), first.size
	yielded := false
	for commands < pipelineCommands && size < pipelineBytes {
		select {
		case c, ok := <-queue:
			if !ok {
				return calls
			}
			calls, commands, size = append(calls, c), commands+len(c.commands), size+c.size
			yielded = false
		default:
			if yielded {
				return calls
			}
			// Those who were just answered are about to call again: without letting them run, they would always miss
			// this pipeline.
			runtime.Gosched()
			yielded = true
		}
	}
	return calls
}

// send sends the calls in one pipeline and answers each.
func (l *lanes) send(calls []*call) {
	var commands []*command
	for _, c := range calls {
		if c.ctx.Err() == nil {
			commands = append(commands, c.commands...)
		}
	}
	if len(commands) > 0 {
		ctx, cancel := context.WithTimeout(l.ctx, pipelineTimeout)
		pipeline(ctx, l.client, commands)
		cancel()
	}
	for _, c := range calls {
		if err := c.answer(); c.done != nil {
			c.done <- err
		} else if err != nil {
			c.failed(err)
		}
	}
}

// answer returns what the caller is told.
func (c *call) answer() error {
	if len(c.commands) > 0 && c.commands[0].Cmd == nil {
		return c.ctx.Err() // it was over before it was sent
	}
	if err := firstFailure(c.commands); err != nil {
		return unavailable(err)
	}
	return nil
}

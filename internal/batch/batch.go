// Package batch takes what waits in a queue, to be sent together.
package batch

import (
	"runtime"
	"time"
)

// Collector makes batches of what comes through Queue. One goroutine uses it; whoever puts into Queue may be any.
//
// A batch waits until there are as many as in the one before, at most Patience (0: not at all). So it is neither a delay nor
// a fixed window: who is alone and sends one thing at a time never waits, a crowd that sends again once it was answered is
// waited for until it is complete, and what comes at random times, but often, settles at what comes within Patience.
// Sending costs several calls to the kernel, and wakes somebody, on each side and for each batch, however small it is.
type Collector[T any] struct {
	Queue    <-chan T
	Size     func(T) int // in the unit of Limit
	Limit    int         // a batch ends with the element that reaches it
	Patience time.Duration

	last  int
	timer *time.Timer
}

// Collect appends first, which was just taken from Queue, and what comes behind it to batch. It returns early when Queue is
// closed.
func (c *Collector[T]) Collect(batch []T, first T) []T {
	have := len(batch)
	batch = append(batch, first)
	size := c.Size(first)
	defer func() { c.last = len(batch) - have }()
	var over <-chan time.Time
	yielded := false
	for size < c.Limit {
		var next T
		var open bool
		select {
		case next, open = <-c.Queue:
		default:
			if !yielded {
				// Those who were just answered are about to come again: without letting them run, they would always
				// miss this batch.
				runtime.Gosched()
				yielded = true
				continue
			}
			if len(batch)-have >= c.last || c.Patience <= 0 {
				return batch
			}
			if over == nil {
				over = c.start()
				defer c.timer.Stop()
			}
			select {
			case next, open = <-c.Queue:
			case <-over:
				return batch
			}
		}
		if !open {
			return batch
		}
		batch, size = append(batch, next), size+c.Size(next)
		yielded = false
	}
	return batch
}

func (c *Collector[T]) start() <-chan time.Time {
	if c.timer == nil {
		c.timer = time.NewTimer(c.Patience)
	} else {
		c.timer.Reset(c.Patience)
	}
	return c.timer.C
}

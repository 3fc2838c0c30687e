package main

import (
	"context"
	"errors"
	"slices"
	"syscall"
	"time"
)

// fault is something that goes wrong, with how often it does in relation to the others.
type fault struct {
	name   string
	weight int
	redis  bool // only with Redis
	strike func(context.Context, *crowd) error
}

// faults are all there are. A process, or Redis, is ended or frozen by one of them at a time; others go on, or
// suffer others. With Redis some last longer than a process's lease.
var faults = []fault{
	{"kill", 3, false, func(_ context.Context, c *crowd) error { return c.process().restart(syscall.SIGKILL, c.down()) }},
	{"terminate", 3, false, func(_ context.Context, c *crowd) error {
		return c.process().restart(syscall.SIGTERM, c.down())
	}},
	{"freeze", 2, false, func(_ context.Context, c *crowd) error {
		return c.process().freeze(c.between(50*time.Millisecond, 4*time.Second))
	}},
	{"kill for long", 1, true, func(_ context.Context, c *crowd) error {
		return c.process().restart(syscall.SIGKILL, c.between(10*time.Second, 14*time.Second))
	}},
	{"freeze for long", 1, true, func(_ context.Context, c *crowd) error {
		return c.process().freeze(c.between(8*time.Second, 14*time.Second))
	}},
	{"kill Redis", 1, true, func(_ context.Context, c *crowd) error {
		return c.database.restart(syscall.SIGKILL, c.between(0, 3*time.Second))
	}},
	{"pause Redis", 1, true, func(_ context.Context, c *crowd) error {
		return c.database.freeze(c.between(time.Second, 4*time.Second))
	}},
	{"drop pub/sub", 6, true, func(ctx context.Context, c *crowd) error {
		c.database.dropSubscribers(ctx)
		return nil
	}},
	{"cut", 20, false, func(_ context.Context, c *crowd) error {
		if conn := c.device().connected(); conn != nil {
			conn.Cut()
		}
		return nil
	}},
	{"leave", 5, false, func(_ context.Context, c *crowd) error {
		if conn := c.device().connected(); conn != nil {
			conn.Leave()
		}
		return nil
	}},
	{"reset", 10, false, func(_ context.Context, c *crowd) error {
		if line := c.device().lines.current(); line != nil {
			line.reset()
		}
		return nil
	}},
	{"abandon", 10, false, func(_ context.Context, c *crowd) error {
		if line := c.device().lines.current(); line != nil {
			line.abandon(c.between(time.Millisecond, 8*time.Second))
		}
		return nil
	}},
	{"stop reading", 10, false, func(ctx context.Context, c *crowd) error {
		if line := c.device().lines.current(); line != nil {
			line.stall()
			pause(ctx, c.between(10*time.Millisecond, 6*time.Second))
			line.resume()
		}
		return nil
	}},
}

// down chooses how long a process is away. Alone it comes back at once.
func (c *crowd) down() time.Duration {
	if c.database == nil {
		return 0
	}
	return c.between(0, 2*time.Second)
}

func (c *crowd) device() *device {
	all := c.deviceList()
	return all[c.choose(len(all))]
}

// afflict lets faults happen, one every interval on average, until ctx ends and they are all over.
func (c *crowd) afflict(ctx context.Context, interval time.Duration) error {
	total := 0
	faults := slices.DeleteFunc(slices.Clone(faults), func(f fault) bool { return f.redis && c.database == nil })
	for _, f := range faults {
		total += f.weight
	}
	striking, ctx := newGroup(ctx)
	for ctx.Err() == nil {
		pause(ctx, c.between(0, 2*interval))
		n := c.choose(total)
		for _, f := range faults {
			if n -= f.weight; n < 0 {
				striking.run(func() error {
					err := f.strike(ctx, c)
					if errors.Is(err, errSuffering) {
						return nil
					}
					c.count(f.name)
					return err
				})
				break
			}
		}
	}
	return striking.wait()
}

func (r *run) count(fault string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.faults[fault]++
}

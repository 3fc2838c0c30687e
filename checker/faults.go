package main

import (
	"context"
	"syscall"
	"time"
)

// fault is something that goes wrong, with how often it does in relation to the others.
type fault struct {
	name   string
	weight int
	strike func(context.Context, *crowd) error
}

// faults are all there are. What ends or freezes a process waits for its turn, so that one process suffers
// one of them at a time.
var faults = []fault{
	{"kill", 3, func(_ context.Context, c *crowd) error { return c.process().restart(syscall.SIGKILL) }},
	{"terminate", 3, func(_ context.Context, c *crowd) error { return c.process().restart(syscall.SIGTERM) }},
	{"freeze", 2, func(_ context.Context, c *crowd) error {
		return c.process().freeze(c.between(50*time.Millisecond, 4*time.Second))
	}},
	{"cut", 20, func(_ context.Context, c *crowd) error {
		if conn := c.device().connected(); conn != nil {
			conn.Cut()
		}
		return nil
	}},
	{"leave", 5, func(_ context.Context, c *crowd) error {
		if conn := c.device().connected(); conn != nil {
			conn.Leave()
		}
		return nil
	}},
	{"reset", 10, func(_ context.Context, c *crowd) error {
		if line := c.device().lines.current(); line != nil {
			line.reset()
		}
		return nil
	}},
	{"abandon", 10, func(_ context.Context, c *crowd) error {
		if line := c.device().lines.current(); line != nil {
			line.abandon(c.between(time.Millisecond, 8*time.Second))
		}
		return nil
	}},
	{"stop reading", 10, func(ctx context.Context, c *crowd) error {
		if line := c.device().lines.current(); line != nil {
			line.stall()
			pause(ctx, c.between(10*time.Millisecond, 6*time.Second))
			line.resume()
		}
		return nil
	}},
}

func (c *crowd) process() *process { return c.processes[c.choose(len(c.processes))] }

func (c *crowd) device() *device {
	all := c.deviceList()
	return all[c.choose(len(all))]
}

// afflict lets faults happen, one every interval on average, until ctx ends and they are all over.
func (c *crowd) afflict(ctx context.Context, interval time.Duration) error {
	total := 0
	for _, f := range faults {
		total += f.weight
	}
	striking, ctx := newGroup(ctx)
	for ctx.Err() == nil {
		pause(ctx, c.between(0, 2*interval))
		n := c.choose(total)
		for _, f := range faults {
			if n -= f.weight; n < 0 {
				c.count(f.name)
				striking.run(func() error { return f.strike(ctx, c) })
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

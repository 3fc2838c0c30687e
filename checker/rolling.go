package main

import (
	"context"
	"strconv"
	"syscall"
	"time"
)

// How the rolling scenario goes on.
const (
	rollingCalm = 5 * time.Second // before, between and after the restarts
	rollingRate = 500             // messages per second
	rollingTick = 10 * time.Millisecond
)

// playRolling restarts all processes one after the other, as an update does, while users chat.
func playRolling(ctx context.Context, r *run) (*History, error) {
	if err := r.launch("DRAIN_TIMEOUT=2s"); err != nil {
		return nil, err
	}
	r.addUsers(r.maxUsers, r.someDevices)
	var times latencies
	for _, d := range r.deviceList() {
		d.onLive = times.add
	}
	c, err := r.open(ctx)
	if err != nil {
		return nil, err
	}
	during, cancel := context.WithCancel(ctx)
	defer cancel()
	begin := time.Now()
	work, sending := newGroup(ctx)
	work.run(func() error {
		ticker := time.NewTicker(rollingTick)
		defer ticker.Stop()
		for due := 0; ; {
			select {
			case <-during.Done():
				return nil
			case <-ticker.C:
			}
			for ; due < int(time.Since(begin).Seconds()*rollingRate); due++ {
				d, to := c.device(), r.users[r.choose(len(r.users))]
				work.run(func() error {
					d.say(sending, to, strconv.FormatInt(time.Now().UnixNano(), 10))
					return nil
				})
			}
		}
	})
	work.run(func() error {
		defer cancel()
		pause(sending, rollingCalm)
		r.note("before the restarts:  acks %d, %v", r.stats.acks.Load(), times.report())
		times.reset()
		for _, p := range r.processes {
			r.count("terminate")
			if err := p.restart(syscall.SIGTERM, 0); err != nil {
				return err
			}
			pause(sending, rollingCalm)
		}
		r.note("during the restarts:  acks %d, %v", r.stats.acks.Load(), times.report())
		return nil
	})
	if err := work.wait(); err != nil {
		return nil, err
	}
	r.note("%d messages acked, %.0f per second", r.stats.acks.Load(), float64(r.stats.acks.Load())/time.Since(begin).Seconds())
	h, err := c.settle(ctx)
	if err != nil {
		return nil, err
	}
	if n := r.stats.unrecovered.Load(); n > 0 {
		r.trouble.report(RuleRecovered, "%d of %d connections that were closed by a restart were not recovered", n, n+r.stats.recovered.Load())
	}
	return h, nil
}

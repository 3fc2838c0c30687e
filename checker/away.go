package main

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"
)

// awayCalm is how long Redis serves between two outages.
const awayCalm = 8 * time.Second

// playAway takes Redis away from processes under load: killed and frozen, for moments and for long. No process stops, no
// connection is lost for it, and in the end everybody has everything.
func playAway(ctx context.Context, r *run) (*History, error) {
	if err := r.launch(); err != nil {
		return nil, err
	}
	r.addUsers(r.maxUsers, r.someDevices)
	c, err := r.open(ctx)
	if err != nil {
		return nil, err
	}
	connects := r.stats.connects.Load()
	during, cancel := context.WithCancel(ctx)
	defer cancel()
	work, sending := c.chat(ctx, during)
	work.run(func() error {
		defer cancel()
		for _, outage := range []struct {
			name string
			away time.Duration
			do   func(time.Duration) error
		}{
			{"kill Redis", 3 * time.Second, func(d time.Duration) error { return r.database.restart(syscall.SIGKILL, d) }},
			{"pause Redis", 3 * time.Second, r.database.freeze},
			{"kill Redis", time.Minute, func(d time.Duration) error { return r.database.restart(syscall.SIGKILL, d) }},
		} {
			pause(sending, awayCalm)
			r.count(outage.name)
			acks := r.stats.acks.Load()
			if err := outage.do(outage.away); err != nil {
				return err
			}
			back := time.Now()
			answered := func() bool { return r.stats.acks.Load() > acks+int64(len(c.deviceList())) }
			if err := await(sending, settleWithin, answered); err != nil {
				return errors.Join(fmt.Errorf("%s for %s: nobody can send any more", outage.name, outage.away), err)
			}
			r.note("%s for %s: messages are acked again after %s", outage.name, outage.away, time.Since(back).Round(10*time.Millisecond))
		}
		pause(sending, awayCalm)
		return nil
	})
	if err := work.wait(); err != nil {
		return nil, err
	}
	r.note("connections lost: %d", r.stats.connects.Load()-connects)
	return c.settle(ctx)
}

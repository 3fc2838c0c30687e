//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"time"

	"parley/bench/load"
)

// traffic is one of package load's.
type traffic interface {
	Prepare(l *load.Loop, seed uint64)
	Connect(ports []int, atOnce int, d time.Duration) error
	Saturate(inFlight int, d time.Duration) error
	Pace(perSecond float64, d time.Duration) error
	Drain(d time.Duration) error
	Reset()
	Total() *load.Counts
}

// phase is one measurement on connections that are open already.
type phase struct {
	name     string
	inFlight int     // events, if the loop is closed
	rate     float64 // events a second, if it is open
	first    bool    // no warm-up and no fixed time: the first message of each device to each of its partners
}

const (
	connectLimit  = 5 * time.Minute
	acquaintLimit = 2 * time.Minute
	drainLimit    = 20 * time.Second
)

// session is a started target with a loop to drive it.
type session struct {
	*running
	loop *load.Loop
}

// with starts a target and has something done to it. What servers said last is added to errors.
func (b *bench) with(ctx context.Context, t target, app string, do func(s *session) error) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	l, err := load.NewLoop()
	if err != nil {
		return err
	}
	defer l.CloseAll()
	r, err := b.start(ctx, t, app)
	if err != nil {
		return err
	}
	defer r.stop()
	if err := do(&session{r, l}); err != nil {
		return withLog(r, err)
	}
	return r.alive()
}

// events is a workload of events that are delivered: the phases one after the other on the same connections.
func events(name, app string, make func(b *bench) traffic, phases ...phase) workload {
	return workload{name: name, run: func(ctx context.Context, b *bench, t target) (all []result, err error) {
		err = b.with(ctx, t, app, func(s *session) error {
			tr := make(b)
			tr.Prepare(s.loop, 1)
			if err := tr.Connect(s.ports, 8, connectLimit); err != nil {
				return err
			}
			for _, ph := range phases {
				v, err := b.measure(s.running, tr, ph)
				if err != nil {
					return fmt.Errorf("%s: %w", ph.name, err)
				}
				all = append(all, result{workload: name, phase: ph.name, target: t, values: v})
			}
			return nil
		})
		return all, err
	}}
}

// private is private messages between random pairs of users with two devices each.
func private(users, senders int, acks bool) func(b *bench) traffic {
	return func(b *bench) traffic {
		return &load.Private{Users: users, Devices: 2, Partners: min(8, users-1), ContentBytes: b.contentBytes, Acks: acks, Senders: senders}
	}
}

func (b *bench) measure(r *running, tr traffic, ph phase) (values, error) {
	drive := func(d time.Duration) error {
		switch p, ok := tr.(*load.Private); {
		case ok && ph.first:
			return p.Acquaint(ph.inFlight, acquaintLimit)
		case ph.rate > 0:
			return tr.Pace(ph.rate, d)
		}
		return tr.Saturate(ph.inFlight, d)
	}
	if !ph.first {
		if err := drive(b.warmUp); err != nil {
			return nil, err
		}
	}
	if err := tr.Drain(drainLimit); err != nil {
		return nil, err
	}
	tr.Reset()
	before, err := r.cost()
	if err != nil {
		return nil, err
	}
	if err := drive(b.duration); err != nil {
		return nil, err
	}
	elapsed, inTime := time.Since(before.at), *tr.Total()
	if err := tr.Drain(drainLimit); err != nil {
		return nil, err
	}
	after, err := r.cost() // with what the last events cost, as they count
	if err != nil {
		return nil, err
	}
	if tr.Total().Delivered == 0 {
		return nil, errors.New("nothing was delivered")
	}
	v := perEvent(tr.Total(), after.since(before), r.redis != nil)
	v[eventsPerSec] = float64(inTime.Delivered) / elapsed.Seconds()
	v[donePerSec] = float64(inTime.Done) / elapsed.Seconds()
	v[generatorShare] = after.since(before).self.Seconds() / after.at.Sub(before.at).Seconds() * 100
	return v, nil
}

// perEvent divides what a measurement cost by what it delivered.
func perEvent(counts *load.Counts, c cost, redis bool) values {
	delivered := float64(counts.Delivered)
	v := values{
		cpuPerEvent: micros(c.servers) / delivered,
		p50:         micros(counts.Latency.Quantile(0.5)),
		p99:         micros(counts.Latency.Quantile(0.99)),
		p999:        micros(counts.Latency.Quantile(0.999)),
	}
	if redis {
		v[redisPerEvent] = micros(c.redis) / delivered
		v[allPerEvent] = v[cpuPerEvent] + v[redisPerEvent]
	}
	if counts.AckLatency.Count() > 0 {
		v[ackP50] = micros(counts.AckLatency.Quantile(0.5))
		v[ackP99] = micros(counts.AckLatency.Quantile(0.99))
	}
	if counts.Last.Count() > 0 {
		v[lastP50] = micros(counts.Last.Quantile(0.5))
	}
	return v
}

func micros(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e3 }

// withLog adds what the servers said last.
func withLog(r *running, err error) error {
	if dead := r.alive(); dead != nil {
		return fmt.Errorf("%w; %w", err, dead)
	}
	for _, p := range r.servers {
		if log := p.Log(); log != "" {
			err = fmt.Errorf("%w\n%s says:\n%s", err, p.Name, log)
		}
	}
	return err
}

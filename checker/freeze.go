package main

import (
	"context"
	"slices"
	"sync"
	"time"
)

// Rules of the freeze scenario.
const (
	RuleDelayed Rule = "delayed" // a process that is frozen delays nobody else, and no request of the others fails for it
	RuleOnce    Rule = "once"    // its users are announced offline when its lease ends, once to each device
)

// How the freeze scenario goes on.
const (
	freezeCalm    = 5 * time.Second // before the freeze, to compare with
	freezeFor     = 15 * time.Second
	freezeVictims = 5               // users who are connected to the process that is frozen, and to no other
	ackSlow       = time.Second     // an ack takes longer than that only if somebody waits for the frozen process
	leaseWithin   = presenceWithin  // users of a frozen process are announced offline within
	thawedWithin  = 5 * time.Second // what was held back by the freeze is over
)

// departures counts how often one device was told that a user is offline, when first, and how often again with no word of
// their being online in between.
type departures struct {
	mu      sync.Mutex
	count   map[string]int
	first   map[string]time.Time
	offline map[string]bool
	again   int
}

func (d *departures) hear(user string, connected bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if connected {
		d.offline[user] = false
		return
	}
	if d.count[user]++; d.count[user] == 1 {
		d.first[user] = time.Now()
	}
	if d.offline[user] {
		d.again++
	}
	d.offline[user] = true
}

// playFreeze freezes a process for longer than its lease while users of the others chat, with each other and with those
// of the frozen one.
func playFreeze(ctx context.Context, r *run) (*History, error) {
	if err := r.launch(); err != nil {
		return nil, err
	}
	r.addUsers(freezeVictims, func() int { return 1 })
	r.addUsers(r.maxUsers, r.someDevices)
	frozen, others := r.processes[1], slices.Concat(r.processes[:1], r.processes[2:])
	victims, crowd := r.users[:freezeVictims], r.users[freezeVictims:]
	for _, u := range victims {
		u.devices[0].url = frozen.url
	}
	var acks latencies
	heard := make(map[*device]*departures)
	for _, u := range crowd {
		for i, d := range u.devices {
			d.url = others[i%len(others)].url
			d.onAcked = acks.took
			heard[d] = &departures{count: make(map[string]int), first: make(map[string]time.Time), offline: make(map[string]bool)}
		}
	}
	c, err := r.open(ctx)
	if err != nil {
		return nil, err
	}
	during, cancel := context.WithCancel(ctx)
	defer cancel()
	work, sending := c.chat(ctx, during)
	work.run(func() error {
		defer cancel()
		pause(sending, freezeCalm)
		before := acks.report()
		acks.reset()
		refused, lost := r.stats.errors.Load(), c.connections(crowd)
		for d, of := range heard {
			d.watch(of.hear)
		}
		r.count("freeze for long")
		start := time.Now()
		if err := frozen.freeze(freezeFor); err != nil {
			return err
		}
		now := acks.report()
		r.note("acks before the freeze: %v", before)
		r.note("acks during the freeze: %v", now)
		if now.count == 0 || now.p99 > ackSlow {
			r.trouble.report(RuleDelayed, "while a process was frozen, acks of the others took %v", now)
		}
		if n := r.stats.errors.Load() - refused; n > 0 {
			r.trouble.report(RuleDelayed, "while a process was frozen, %d messages to the others were refused", n)
		}
		if n := c.connections(crowd) - lost; n > 0 {
			r.trouble.report(RuleDelayed, "while a process was frozen, %d connections to the others were lost", n)
		}
		r.judgeDepartures(heard, victims, start)
		pause(sending, thawedWithin)
		again := 0
		for d, of := range heard {
			d.watch(nil)
			of.mu.Lock()
			again += of.again
			of.mu.Unlock()
		}
		if again > 0 {
			r.trouble.report(RuleOnce, "devices were told again %d times of users who they knew are offline, when their process was thawed", again)
		}
		return nil
	})
	if err := work.wait(); err != nil {
		return nil, err
	}
	return c.settle(ctx)
}

// connections is how often the devices of users connected.
func (c *crowd) connections(users []*user) (n int) {
	for _, u := range users {
		for _, d := range u.devices {
			n += d.recorder.connections()
		}
	}
	return n
}

// judgeDepartures sees what devices were told of the victims while their process was frozen.
func (r *run) judgeDepartures(heard map[*device]*departures, victims []*user, start time.Time) {
	var latest time.Duration
	for d, of := range heard {
		of.mu.Lock()
		for _, u := range victims {
			id, _ := u.session()
			n, after := of.count[id], of.first[id].Sub(start)
			switch {
			case n != 1:
				r.trouble.report(RuleOnce, "%s was told %d times that %s is offline, whose process was frozen for %s", d.name, n, u.name, freezeFor)
			case after > leaseWithin:
				r.trouble.report(RuleOnce, "%s was told after %s that %s is offline", d.name, after.Round(time.Millisecond), u.name)
			}
			latest = max(latest, after)
		}
		of.mu.Unlock()
	}
	r.note("the frozen process' users were announced offline after %s at the latest", latest.Round(10*time.Millisecond))
}

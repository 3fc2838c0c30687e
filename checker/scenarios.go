package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"parley/internal/client"
)

// scenario is a way to use and hurt Parley.
type scenario struct {
	about string
	run   func(context.Context, *run) (*History, error)
	reach reach
}

// reach says how many processes a scenario is for.
type reach int

const (
	anyNumber reach = iota
	onlyOne         // it measures the process
	several         // it needs Redis
)

var scenarios = map[string]*scenario{
	"faults":   {"users with several devices chat while all kinds of faults happen, for --duration", playFaults, anyNumber},
	"durable":  {"20 clients send as fast as acks allow, while a process is killed --kills times", playDurable, anyNumber},
	"order":    {"two users with three devices each, both sending 2,000 messages at once over all devices", playOrder, anyNumber},
	"rolling":  {"processes are restarted by SIGTERM one after the other, under 500 messages per second", playRolling, several},
	"recovery": {"a client is cut 200 times while it is sent 5,000 messages, and a process restarted now and then", playRecovery, anyNumber},
	"slow":     {"a client stops reading: it is disconnected, and the others do not notice", playSlow, onlyOne},
	"away":     {"Redis goes away for 3 s and for 60 s while users chat, killed and frozen, and nothing else happens", playAway, several},
	"freeze":   {"a process is frozen for longer than its lease: the others do not notice, and its users are offline", playFreeze, several},
	"churn":    {"--sockets connect and leave: nothing of them stays", playChurn, onlyOne},
}

// Texts that a careless encoder would change.
var texts = []string{
	"hello", "", "<b>\"quotes\" & 'such'</b>", "a\u2028b\u2029c", "zażółć 漢字 👩‍👩‍👧", "\\ \\u0041 \x00\x1f\x1e\x7f",
	`42["private message",{}]`, strings.Repeat("long ", 500),
}

func (r *run) text() string { return texts[r.choose(len(texts))] }

func playFaults(ctx context.Context, r *run) (*History, error) {
	if err := r.launch(); err != nil {
		return nil, err
	}
	r.addUsers(r.maxUsers, r.someDevices)
	c, err := r.open(ctx)
	if err != nil {
		return nil, err
	}
	c.hard = true
	during, cancel := context.WithTimeout(ctx, r.duration)
	defer cancel()
	work, _ := c.chat(ctx, during)
	work.run(func() error {
		return c.afflict(during, r.duration/time.Duration(max(1, int(r.duration/(300*time.Millisecond)))))
	})
	if err := work.wait(); err != nil {
		return nil, err
	}
	return c.settle(ctx)
}

// chat has all devices send to anybody, at the rate that was asked for, until during ends. What they have begun to say
// then they say to its end.
func (c *crowd) chat(ctx, during context.Context) (*group, context.Context) {
	devices := c.deviceList()
	mean := time.Duration(float64(len(devices)) * senders / c.rate * float64(time.Second))
	work, sending := newGroup(ctx)
	for _, d := range devices {
		for range senders {
			work.run(func() error {
				for during.Err() == nil && sending.Err() == nil {
					pause(during, c.between(0, 2*mean))
					d.say(sending, c.users[c.choose(len(c.users))], c.text())
				}
				return nil
			})
		}
	}
	return work, sending
}

// senders is how many messages a device sends at a time.
const senders = 2

func playDurable(ctx context.Context, r *run) (*History, error) {
	if err := r.launch(); err != nil {
		return nil, err
	}
	r.addUsers(20, func() int { return 1 })
	c, err := r.open(ctx)
	if err != nil {
		return nil, err
	}
	during, cancel := context.WithCancel(ctx)
	defer cancel()
	work, sending := newGroup(ctx)
	for i, u := range r.users {
		work.run(func() error {
			for n := 0; during.Err() == nil; n++ {
				u.devices[0].say(sending, r.users[(i+n)%len(r.users)], r.text())
			}
			return nil
		})
	}
	work.run(func() error {
		defer cancel()
		for range r.kills {
			pause(ctx, r.between(20*time.Millisecond, 600*time.Millisecond))
			r.count("kill")
			if err := r.process().restart(syscall.SIGKILL, 0); err != nil {
				return err
			}
			// A kill that finds nobody connected proves nothing.
			acks := r.stats.acks.Load()
			if err := await(ctx, settleWithin, func() bool { return r.stats.acks.Load() > acks+20 }); err != nil {
				return fmt.Errorf("after a restart the clients can't send: %w", err)
			}
		}
		return nil
	})
	if err := work.wait(); err != nil {
		return nil, err
	}
	return c.settle(ctx)
}

func playOrder(ctx context.Context, r *run) (*History, error) {
	const each = 2000 // messages of a user
	if err := r.launch(); err != nil {
		return nil, err
	}
	r.addUsers(2, func() int { return 3 })
	c, err := r.open(ctx)
	if err != nil {
		return nil, err
	}
	begin := time.Now()
	work, sending := newGroup(ctx)
	for i, u := range r.users {
		for n := range each {
			work.run(func() error {
				u.devices[n%3].say(sending, r.users[1-i], r.text())
				return nil
			})
		}
	}
	if err := work.wait(); err != nil {
		return nil, err
	}
	r.note("all %d messages acked after %s", 2*each, time.Since(begin).Round(time.Millisecond))
	h, err := c.settle(ctx)
	if err != nil {
		return nil, err
	}
	for user, box := range h.Mailboxes {
		if len(box) != 2*each {
			r.trouble.report(RuleLost, "the mailbox of %s has %d messages, not %d", user, len(box), 2*each)
		}
		var first []string
		for _, d := range h.Devices {
			if d.User != user {
				continue
			}
			sequence := d.sequence()
			if first == nil {
				first = sequence
			}
			if !slices.Equal(first, sequence) {
				r.trouble.report(RuleOrder, "%s has another sequence than the user's first device", d.Name)
			}
		}
	}
	r.note("the sequences of each user's devices were compared, of %d messages each", 2*each)
	return h, nil
}

// sequence is what the device has been given as events or acks, in the order of the numbers.
func (d *DeviceHistory) sequence() []string {
	type placed struct {
		seq      uint64
		from, id string
	}
	var all []placed
	for _, step := range d.Steps {
		switch step := step.(type) {
		case Live:
			m := step.Message.Value()
			all = append(all, placed{step.Seq, m.From, m.ID})
		case Acked:
			all = append(all, placed{step.Seq, d.User, step.ID})
		}
	}
	slices.SortFunc(all, func(a, b placed) int { return int(a.seq) - int(b.seq) })
	sequence := make([]string, len(all))
	for i, p := range all {
		sequence[i] = fmt.Sprint(p.seq, p.from, p.id)
	}
	return sequence
}

func playRecovery(ctx context.Context, r *run) (*History, error) {
	const (
		cuts     = 200
		perCut   = 25
		perStart = 20 // cuts between two restarts of the process
		speakers = 4
	)
	if err := r.launch(); err != nil {
		return nil, err
	}
	r.addUsers(1+speakers, func() int { return 1 })
	c, err := r.open(ctx)
	if err != nil {
		return nil, err
	}
	listener := r.users[0].devices[0]
	var heard atomic.Int64
	listener.onLive = func(Given) { heard.Add(1) }
	orders := make(chan struct{}, cuts*perCut)
	work, sending := newGroup(ctx)
	for _, u := range r.users[1:] {
		work.run(func() error {
			for range orders {
				u.devices[0].say(sending, r.users[0], r.text())
			}
			return nil
		})
	}
	work.run(func() error {
		defer close(orders)
		for n := 1; n <= cuts; n++ {
			conn, err := listener.online(sending)
			if err != nil {
				return err
			}
			// The cut comes at a random place among the messages, which wait for nobody.
			until := heard.Load() + int64(r.choose(perCut))
			for range perCut {
				orders <- struct{}{}
			}
			_ = await(ctx, time.Second, func() bool { return heard.Load() >= until }) // it may be cut off from them already
			pause(ctx, r.between(0, 3*time.Millisecond))
			r.cutOff(listener, conn, n)
			if n%perStart == 0 {
				signal, name := syscall.SIGKILL, "kill"
				if n%(2*perStart) == 0 {
					signal, name = syscall.SIGTERM, "terminate"
				}
				r.count(name)
				if err := r.process().restart(signal, 0); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err := work.wait(); err != nil {
		return nil, err
	}
	h, err := c.settle(ctx)
	if err != nil {
		return nil, err
	}
	id, _ := r.users[0].session()
	if n := len(h.Mailboxes[id]); n != cuts*perCut {
		r.trouble.report(RuleLost, "the client has %d messages in its mailbox, not %d", n, cuts*perCut)
	}
	r.note("the client was given %d messages, %d of them as events", len(h.Mailboxes[id]), heard.Load())
	return h, nil
}

// cutOff breaks a device's connection, the n-th time, in one of several ways, and waits for its end.
func (r *run) cutOff(d *device, conn *client.Client, n int) {
	switch n % 4 {
	case 0:
		r.count("abandon")
		d.lines.current().abandon(r.between(0, 2*time.Second))
	case 1:
		r.count("reset")
		d.lines.current().reset()
	default:
		r.count("cut")
		conn.Cut()
	}
	select {
	case <-conn.Done():
	case <-time.After(100 * time.Millisecond):
		conn.Cut() // it was polling, and that connection was not the one it waits on
		<-conn.Done()
	}
}

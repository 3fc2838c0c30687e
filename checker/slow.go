package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// How the slow scenario measures.
const (
	slowPairs  = 10
	slowRounds = 3
	slowPhase  = 6 * time.Second
	slowSize   = 48 << 10 // bytes of a message of the flood
	floodRate  = 60       // per second
	chatRate   = 20       // per second and pair
	tolerance  = 10 * time.Millisecond
)

// playSlow measures how long messages take between other users, while one user is flooded: in turns one that
// reads, and one that does not. The flood is the same, so the difference is what not reading costs others.
// The best of several rounds is compared, as what else the machine does makes single ones worse.
func playSlow(ctx context.Context, r *run) (*History, error) {
	r.transports = "websocket"
	if err := r.launch("PING_INTERVAL=25s", "PING_TIMEOUT=20s"); err != nil {
		return nil, err
	}
	r.addUsers(2+2*slowPairs, func() int { return 1 })
	victim := r.users[0].devices[0]
	// A small receive buffer keeps the kernel from hiding that nothing is read.
	victim.lines.dialer.Control = smallBuffer
	var times latencies
	for _, u := range r.users[2:] {
		u.devices[0].onLive = times.add
	}
	c, err := r.open(ctx)
	if err != nil {
		return nil, err
	}
	var reads, stalls []report
	for range slowRounds {
		reads = append(reads, c.chatAndFlood(ctx, &times, func() bool { return true }))
		conn, err := victim.online(ctx)
		if err != nil {
			return nil, err
		}
		before, err := r.closedAsSlow(ctx)
		if err != nil {
			return nil, err
		}
		r.count("stop reading")
		line := victim.lines.current()
		line.stall()
		now := before
		stalls = append(stalls, c.chatAndFlood(ctx, &times, func() bool {
			now, err = r.closedAsSlow(ctx)
			return err == nil && now > before
		}))
		if now != before+1 {
			r.trouble.report(RuleSlow, "%.0f connections were closed as slow, not 1 (%v)", now-before, err)
		}
		line.resume()
		select {
		case <-conn.Done():
		case <-time.After(settleWithin):
			r.trouble.report(RuleSlow, "the client that stopped reading still has its connection")
		}
		if err := await(ctx, settleWithin, victim.settled); err != nil {
			r.trouble.report(RuleSlow, "the client that was disconnected does not catch up")
		}
	}
	read, stalled := best(reads), best(stalls)
	r.note("latency while the flooded client reads:         %v", read)
	r.note("latency while the flooded client does not read: %v", stalled)
	if stalled.p99 > read.p99+tolerance {
		r.trouble.report(RuleSlow, "others wait %s at the 99th percentile, %s longer than else", stalled.p99, stalled.p99-read.p99)
	}
	return c.settle(ctx)
}

// chatAndFlood lets the pairs chat and the second user flood the first, for a phase and until enough says so,
// and returns how long the messages of the pairs took.
func (c *crowd) chatAndFlood(ctx context.Context, times *latencies, enough func() bool) report {
	during, cancel := context.WithCancel(ctx)
	defer cancel()
	times.reset()
	var work sync.WaitGroup
	every := func(rate int, do func()) {
		work.Go(func() {
			ticker := time.NewTicker(time.Second / time.Duration(rate))
			defer ticker.Stop()
			for during.Err() == nil {
				do()
				select {
				case <-ticker.C:
				case <-during.Done():
				}
			}
		})
	}
	flood := strings.Repeat("x", slowSize)
	every(floodRate, func() { c.users[1].devices[0].say(ctx, c.users[0], flood) })
	for i := 2; i < len(c.users); i += 2 {
		every(chatRate, func() {
			c.users[i].devices[0].say(ctx, c.users[i+1], strconv.FormatInt(time.Now().UnixNano(), 10))
		})
	}
	pause(ctx, slowPhase)
	_ = await(ctx, settleWithin, enough) // the caller looks
	cancel()
	work.Wait()
	return times.report()
}

// closedAsSlow returns how many connections the process has closed because they were slow.
func (r *run) closedAsSlow(ctx context.Context) (float64, error) {
	return r.processes[0].metric(ctx, `parley_connections_closed_total{reason="slow client"}`)
}

// best returns the report with the smallest 99th percentile.
func best(all []report) report {
	return slices.MinFunc(all, func(a, b report) int { return cmp.Compare(a.p99, b.p99) })
}

// RuleSlow is broken when a client that does not read is kept, or others wait for it.
const RuleSlow Rule = "slow"

// smallBuffer sets a small receive buffer before a connection is made.
func smallBuffer(_, _ string, raw syscall.RawConn) error {
	var err error
	return errors.Join(raw.Control(func(fd uintptr) {
		err = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, 32<<10)
	}), err)
}

// latencies collects how long messages take whose text is the time at which they were sent.
type latencies struct {
	mu    sync.Mutex
	times []time.Duration
}

func (l *latencies) add(g Given) {
	sent, err := strconv.ParseInt(g.Message.Value().Content, 10, 64)
	if err != nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.times = append(l.times, time.Since(time.Unix(0, sent)))
}

// took adds a time that was measured.
func (l *latencies) took(d time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.times = append(l.times, d)
}

func (l *latencies) reset() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.times = nil
}

// report says how long messages took.
type report struct {
	count               int
	p50, p99, p999, max time.Duration
}

func (r report) String() string {
	return fmt.Sprintf("p50 %s, p99 %s, p99.9 %s, longest %s, of %d messages", r.p50, r.p99, r.p999, r.max, r.count)
}

func (l *latencies) report() report {
	l.mu.Lock()
	defer l.mu.Unlock()
	slices.Sort(l.times)
	n := len(l.times)
	if n == 0 {
		return report{}
	}
	at := func(q float64) time.Duration {
		return l.times[min(n-1, int(float64(n)*q))].Round(10 * time.Microsecond)
	}
	return report{n, at(0.5), at(0.99), at(0.999), at(1)}
}

package redisstore

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"time"

	"parley/store"
)

// lease is a process's right to count its sockets: its name as a node, and until when it holds. A name is never given
// again, so that what is known of the dead stays true.
type lease struct {
	node string
	// ends is when it ends by the clock of Redis (ms), and until by ours. Scripts compare ends, so that a call that was
	// on its way for too long is refused.
	ends  string
	until time.Time
	since time.Time // when it began, by our clock

	// The living, when the lease was renewed last, and the newest generation then (presence.lua).
	horizon string
	living  []string
}

// beats is how often a lease is renewed in its length.
const beats = 20

// graceBeats is for how many beats a process leaves the dead to others after it got its lease. When Redis was away for
// longer than a lease, everyone's lease is over, and everyone needs a moment to come back before they are taken for dead.
const graceBeats = 6

// nodeLife bounds how long the list of a node's users outlives it, if nobody should clean up after it.
const nodeLife = time.Hour

func nodeKey(node string) string { return prefixNode + node }

// keep holds the lease until the store is closed.
func (p *presence) keep() {
	ticker := time.NewTicker(p.opts.Lease / beats)
	defer ticker.Stop()
	ok := true
	for {
		select {
		case <-p.ctx.Done():
			return
		case <-p.rejoin:
		case <-ticker.C:
		}
		err := p.beat()
		if p.ctx.Err() != nil {
			return
		}
		p.health.Store(&err)
		if (err == nil) != ok {
			if ok = err == nil; ok {
				p.log.Info().Stringer("store", p.Store).Msg("Redis answers again")
			} else {
				p.log.Error().Err(err).Stringer("store", p.Store).Msg("Redis does not answer: messages are refused until it does")
			}
		}
	}
}

// beat renews the lease, or gets a new one, and has the rest of the presence mended.
func (p *presence) beat() error {
	ctx, cancel := context.WithTimeout(p.ctx, max(p.opts.Lease/beats, ioTimeout))
	defer cancel()
	err := p.renew(ctx)
	if err != nil {
		return err
	}
	p.wake()
	return nil
}

func (p *presence) renew(ctx context.Context) error {
	p.mu.Lock()
	held := p.heldLocked()
	old, cleaning := p.lease, p.cleaning
	p.mu.Unlock()
	if !held {
		return p.join(ctx)
	}
	claim := "0"
	if time.Since(old.since) >= graceBeats*p.opts.Lease/beats {
		claim = "1"
	}
	began := time.Now()
	renew := scriptRenew.run(leaseKeys, p.opts.Lease.Milliseconds(), old.node, cleaning, claim)
	if err := do(ctx, p.client, renew, plain("PEXPIRE", nodeKey(old.node), nodeLife.Milliseconds())); err != nil {
		return err
	}
	reply := renew.list()
	ok, isNumber := number(reply, 0)
	if !isNumber || len(reply) < 4 {
		return errReply
	}
	if ok != 1 {
		p.lose(old.node)
		return p.join(ctx)
	}
	l := old
	l.ends, l.until, l.horizon, l.living = text(reply, 1), began.Add(p.opts.Lease), text(reply, 2), nil
	for i := range reply[4:] {
		l.living = append(l.living, text(reply, 4+i))
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.lease.node == l.node && p.held {
		p.lease = l
	}
	if dead := text(reply, 3); dead != "" {
		p.cleaning = dead
	}
	return nil
}

// join gets a lease under a new name. All users who have sockets here are entered anew under it.
func (p *presence) join(ctx context.Context) error {
	var random [6]byte
	_, _ = rand.Read(random[:]) // it never fails
	began := time.Now()
	c := scriptJoin.run(leaseKeys, p.opts.Lease.Milliseconds(), hex.EncodeToString(random[:]))
	if err := do(ctx, p.client, c); err != nil {
		return err
	}
	reply := c.list()
	l := lease{node: text(reply, 0), ends: text(reply, 1), until: began.Add(p.opts.Lease), since: began, horizon: "0"}
	if l.node == "" || l.ends == "" {
		return errReply
	}
	p.mu.Lock()
	again := p.lease.node != ""
	p.lease, p.held = l, true
	close(p.ready)
	for user := range p.users {
		p.dirty[user] = struct{}{}
	}
	p.mu.Unlock()
	if again {
		p.log.Warn().Str("node", l.node).Msg("the lease was lost: users are counted anew under a new one")
	}
	return nil
}

// lose notes that the lease of node is over.
func (p *presence) lose(node string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.lease.node == node && p.held {
		p.loseLocked()
	}
}

func (p *presence) loseLocked() {
	p.held = false
	p.ready = make(chan struct{})
	select {
	case p.rejoin <- struct{}{}:
	default: // keep was told already
	}
}

// heldLocked reports whether the lease holds, by our clock.
func (p *presence) heldLocked() bool {
	if p.held && !time.Now().Before(p.lease.until) {
		p.loseLocked()
	}
	return p.held
}

// leaseTimeout bounds how long a call waits for a lease.
const leaseTimeout = 3 * time.Second

// current returns the lease, and waits for one if there is none.
func (p *presence) current(ctx context.Context) (lease, error) {
	ctx, over, cancel := p.hurry.bound(ctx)
	defer cancel()
	timer := time.NewTimer(leaseTimeout)
	defer timer.Stop()
	for {
		p.mu.Lock()
		held := p.heldLocked()
		l, ready := p.lease, p.ready
		p.mu.Unlock()
		if held {
			return l, nil
		}
		select {
		case <-ready:
		case <-ctx.Done():
			return lease{}, context.Cause(ctx)
		case <-over:
			return lease{}, errHurried
		case <-p.ctx.Done():
			return lease{}, store.ErrClosed
		case <-timer.C:
			return lease{}, fmt.Errorf("redis: this process has no lease: %w", store.ErrUnavailable)
		}
	}
}

// end gives the lease back. Users who still have sockets here are left to the others, who need not wait for the lease.
func (p *presence) end() error {
	p.mu.Lock()
	held := p.heldLocked()
	l, nothing := p.lease, "1"
	for _, u := range p.users {
		if u.node != "" {
			nothing = "0"
		}
	}
	p.mu.Unlock()
	if !held {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), ioTimeout)
	defer cancel()
	commands := []*command{scriptEnd.run(leaseKeys, p.opts.Lease.Milliseconds(), l.node, nothing)}
	if nothing == "1" {
		commands = append(commands, plain("DEL", nodeKey(l.node)))
	}
	if err := do(ctx, p.client, commands...); err != nil {
		// It ends by itself.
		p.log.Warn().Err(err).Msg("the lease was not given back: others see it end later")
	}
	return nil
}

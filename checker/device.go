package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"parley/internal/client"
)

// How devices behave.
const (
	connectWithin  = 12 * time.Second // a process that waits for its store answers within
	ackWithin      = 3 * time.Second
	sayWithin      = 100 * time.Second // with all attempts, over the longest outage
	firstBackoff   = 20 * time.Millisecond
	longestBackoff = 500 * time.Millisecond
	historyLimit   = 20 // newest messages of a conversation in a roster; the processes are told the same
	pageLimit      = 200
)

// stats counts what the clients did and saw.
type stats struct {
	sends, acks, errors    atomic.Int64 // attempts to send, and how they were answered
	deliveries             atomic.Int64
	connects               atomic.Int64
	recovered, unrecovered atomic.Int64 // connections that asked for recovery
	pages                  atomic.Int64
	presences, repeated    atomic.Int64 // announcements of presence, and those that said what the device knew
}

// user is who several devices belong to.
type user struct {
	name    string
	devices []*device

	mu            sync.Mutex
	id, sessionID string
	top           uint64 // the largest number that any device has seen
}

func (u *user) session() (id, sessionID string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.id, u.sessionID
}

// introduced takes note of the identity that a session event tells; the first one is to be kept for ever.
func (u *user) introduced(id, sessionID string) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.id == "" {
		u.id, u.sessionID = id, sessionID
	}
	if u.id != id || u.sessionID != sessionID {
		return fmt.Errorf("%s was user %s, and is now %s: its session was lost", u.name, u.id, id)
	}
	return nil
}

func (u *user) saw(seq uint64) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.top = max(u.top, seq)
}

func (u *user) highest() uint64 {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.top
}

// device is a client of a user. It behaves as a good one does: it keeps what it needs to recover, comes back
// by itself, and sends again until it knows that a message is stored.
type device struct {
	name      string
	user      *user
	url       func() string // where to connect this time
	transport func() client.Transport
	recorder  *recorder
	stats     *stats
	trouble   *trouble
	lines     lines
	onLive    func(Given)         // called for every event with a message, in the reading goroutine; may be nil
	onAcked   func(time.Duration) // called with the time that each acknowledgement took; may be nil

	work sync.WaitGroup // the connection loop, and reading history

	mu      sync.Mutex
	at      string         // where it connected last
	conn    *client.Client // nil while there is none
	changed chan struct{}  // closed when conn changes
	state   client.State
	inventory
	rostered bool
	gaps     map[string]gap // by peer: history that is still to be read
	presence map[string]bool
	watcher  func(user string, connected bool) // see watch
	sent     int
}

// gap is a part of a conversation that the device lacks: numbers below before, down to floor.
type gap struct{ before, floor uint64 }

func newDevice(name string, u *user, r *run) *device {
	d := &device{
		name: name, user: u, url: r.url, transport: r.transport, recorder: newRecorder(name, ""), stats: &r.stats, trouble: &r.trouble,
		changed: make(chan struct{}), gaps: make(map[string]gap), presence: make(map[string]bool),
	}
	u.devices = append(u.devices, d)
	return d
}

// open keeps the device connected until ctx ends; then it leaves in the way of the protocol. wait waits for
// that.
func (d *device) open(ctx context.Context) {
	d.work.Go(func() {
		wait := firstBackoff
		for ctx.Err() == nil {
			c, err := d.connect(ctx)
			var refused *client.ConnectError
			switch {
			case err == nil:
				wait = firstBackoff
				d.attend(ctx, c)
			case errors.As(err, &refused):
				// The official client would stop here. This one goes on, to find what else is wrong.
				d.trouble.report(RuleRefused, "%s could not connect: %s", d.name, refused.Message)
			}
			// Everybody at once would be a storm: each waits for a different time.
			pause(ctx, jitter(wait))
			wait = min(2*wait, longestBackoff)
		}
	})
}

func (d *device) wait() { d.work.Wait() }

// jitter returns a time around d.
func jitter(d time.Duration) time.Duration {
	return d/2 + rand.N(d) // #nosec G404 -- it spreads retries
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

func (d *device) connect(ctx context.Context) (*client.Client, error) {
	ctx, cancel := context.WithTimeout(ctx, connectWithin)
	defer cancel()
	auth := map[string]string{"username": d.user.name}
	if _, session := d.user.session(); session != "" {
		auth = map[string]string{"sessionID": session}
	}
	at := d.url()
	d.mu.Lock()
	state := d.state
	d.at = at
	d.mu.Unlock()
	c, err := client.Connect(ctx, client.Options{
		URL: at, Auth: auth, State: state, Transport: d.transport(), Dial: d.lines.dial, OnEvent: d.event,
	})
	if err == nil {
		d.adopt(c)
	}
	return c, err
}

// adopt takes c for the connection from now on. The first event may come before Connect returns.
func (d *device) adopt(c *client.Client) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.conn == c {
		return
	}
	d.stats.connects.Add(1)
	switch {
	case c.Recovered():
		d.stats.recovered.Add(1)
	case d.state.PID != "":
		d.stats.unrecovered.Add(1)
	}
	d.recorder.add(Connected{SID: c.SID(), Recovered: c.Recovered()})
	d.become(c)
}

func (d *device) become(c *client.Client) {
	d.conn = c
	close(d.changed)
	d.changed = make(chan struct{})
}

// attend waits for the end of a connection.
func (d *device) attend(ctx context.Context, c *client.Client) {
	select {
	case <-c.Done():
		if errors.Is(c.Err(), client.ErrServerDisconnect) { // the official client does not come back by itself
			d.trouble.report(RuleRefused, "%s was disconnected for good", d.name)
		}
	case <-ctx.Done():
		if line := d.lines.current(); line != nil {
			line.resume()
		}
		c.Close()
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.state = c.State()
	d.become(nil)
}

// online returns the connection, and waits for one.
func (d *device) online(ctx context.Context) (*client.Client, error) {
	for {
		d.mu.Lock()
		c, changed := d.conn, d.changed
		d.mu.Unlock()
		if c != nil {
			return c, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// connected returns the connection, or nil.
func (d *device) connected() *client.Client {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.conn
}

// say sends a message until it is acked, ctx ends, or patience does.
func (d *device) say(ctx context.Context, to *user, content string) {
	d.mu.Lock()
	d.sent++
	id := d.name + "-" + strconv.Itoa(d.sent)
	d.mu.Unlock()
	from, _ := d.user.session()
	recipient, _ := to.session()
	send := Send{ID: id, From: from, To: recipient, Content: content}
	ctx, cancel := context.WithTimeout(ctx, sayWithin)
	defer cancel()
	for ctx.Err() == nil {
		c, err := d.online(ctx)
		if err != nil {
			return
		}
		if d.try(ctx, c, send) {
			return
		}
		pause(ctx, jitter(firstBackoff))
	}
}

// try makes one attempt to send and tells whether that is the end of it.
func (d *device) try(ctx context.Context, c *client.Client, send Send) bool {
	d.recorder.tried(send, c.SID())
	d.stats.sends.Add(1)
	begin := time.Now()
	ctx, cancel := context.WithTimeout(ctx, ackWithin)
	defer cancel()
	args, err := c.EmitWithAck(ctx, "private message", map[string]string{"content": send.Content, "to": send.To, "id": send.ID})
	if err != nil {
		return false
	}
	var reply struct {
		ID    string
		Seq   uint64
		At    int64
		Error *struct{ Code, Message string }
	}
	err = args.Decode(0, &reply)
	switch {
	case err == nil && reply.Error == nil && reply.ID == send.ID && reply.Seq > 0:
		d.stats.acks.Add(1)
		d.recorder.acked(Acked{ID: send.ID, Seq: reply.Seq, At: reply.At})
		d.has(reply.Seq)
		if d.onAcked != nil {
			d.onAcked(time.Since(begin))
		}
		return true
	case err == nil && reply.Error != nil && (reply.Error.Code == "unavailable" || reply.Error.Code == "rate_limited"):
		d.stats.errors.Add(1)
		return false
	}
	d.trouble.report(RuleRefused, "%s: %s was answered with %s, %v", d.name, send.ID, args.Values, err)
	return true
}

// settled tells whether the device has everything up to the largest number that a device of its user has seen.
func (d *device) settled() bool {
	top := d.user.highest()
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.conn != nil && d.complete >= top
}

// inventory is a set of numbers from one. The zero value is empty.
type inventory struct {
	complete uint64 // everything up to here
	beyond   map[uint64]struct{}
}

func (i *inventory) add(seq uint64) {
	if seq <= i.complete {
		return
	}
	if i.beyond == nil {
		i.beyond = make(map[uint64]struct{})
	}
	i.beyond[seq] = struct{}{}
	for {
		if _, ok := i.beyond[i.complete+1]; !ok {
			return
		}
		i.complete++
		delete(i.beyond, i.complete)
	}
}

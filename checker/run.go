package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"parley/internal/client"
)

// options are the command's flags.
type options struct {
	scenario   string
	seed       uint64
	duration   time.Duration
	maxUsers   int
	maxDevices int
	rate       float64
	kills      int
	sockets    int
	copies     int // how many processes
	redis      bool
	binary     string
	race       bool
	keep       bool
	transports string
	out        io.Writer
}

// settleWithin is how long everybody has to be given everything when the faults are over. It has to allow
// for a connection that was abandoned, which the server takes for open until the heartbeat says otherwise.
const settleWithin = 30 * time.Second

// presenceWithin is how long presence may be wrong when the faults are over: as long as the lease of a process
// that is gone, and a second. Without Redis it is the heartbeat that finds out who is gone.
const presenceWithin = 11 * time.Second

// environment is what the processes are told. The heartbeat is quick, so that a broken connection is found
// out within the run; nothing expires.
var environment = []string{
	"PING_INTERVAL=2s", "PING_TIMEOUT=3s", "DRAIN_TIMEOUT=500ms", "MAILBOX_LIMIT=1000000",
	fmt.Sprintf("HISTORY_LIMIT=%d", historyLimit), "LOG_FORMAT=json", "LOG_LEVEL=info",
}

// run is one execution of a scenario.
type run struct {
	options
	dir       string // of the logs and data
	processes []*process
	database  *process // Redis, or nil
	users     []*user
	stats     stats
	trouble   trouble
	summary   []string // what a scenario found out beyond the counts
	started   time.Time

	mu     sync.Mutex
	random *rand.Rand // guarded by mu; all choices that a seed decides
	faults map[string]int
}

// execute runs a scenario and returns what is wrong. The error is for a run that could not be judged.
func execute(ctx context.Context, o options) (r *run, found []Violation, err error) {
	play := scenarios[o.scenario]
	if play == nil {
		return nil, nil, fmt.Errorf("there is no scenario %q: see --help", o.scenario)
	}
	random := rand.New(rand.NewPCG(o.seed, 0)) // #nosec G404 -- it has to be predictable
	r = &run{options: o, started: time.Now(), random: random, faults: make(map[string]int)}
	if r.dir, err = os.MkdirTemp("", "parley-checker-"); err != nil {
		return nil, nil, fmt.Errorf("make a directory for logs and data: %w", err)
	}
	if r.binary == "" {
		if r.binary, err = build(ctx, r.dir, r.race); err != nil {
			return r, nil, err
		}
	} else if r.binary, err = filepath.Abs(r.binary); err != nil {
		return r, nil, fmt.Errorf("--binary: %w", err)
	}
	defer r.end()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go r.progress(ctx)
	r.started = time.Now()
	history, err := play.run(ctx, r)
	if err != nil {
		return r, r.trouble.all(), err
	}
	cancel()
	r.end()
	if history != nil {
		found = judge(history)
	}
	return r, append(r.trouble.all(), found...), nil
}

// end ends the processes, as they should be ended, and looks into their logs.
func (r *run) end() {
	for _, p := range r.processes {
		if err := p.stop(syscall.SIGTERM); err != nil {
			r.trouble.report(RuleProcess, "%v", err)
		}
		if warnings, errs := p.logReport(); warnings+errs > 0 {
			r.note("log of %s: %d warnings, %d errors", p.name, warnings, errs)
		}
	}
	r.processes = nil
	if r.database != nil {
		if err := r.database.stop(syscall.SIGTERM); err != nil {
			r.trouble.report(RuleProcess, "%v", err)
		}
	}
	r.database = nil
}

// launch starts Redis, if there is to be one, and the processes.
func (r *run) launch(settings ...string) (err error) {
	env := append(slices.Clone(environment), settings...)
	if r.redis {
		if r.database, err = newRedis(r.dir, &r.trouble); err != nil {
			return err
		}
		if err := r.database.start(); err != nil {
			return err
		}
		env = append(env, "STORE=redis", "REDIS_URL=redis://"+addressOf(r.database.port))
	} else {
		env = append(env, "STORE=file", "REDIS_URL=")
	}
	for i := range r.copies {
		p, err := newProcess(i, r.binary, r.dir, env, &r.trouble)
		if err != nil {
			return err
		}
		r.processes = append(r.processes, p)
		if err := p.start(); err != nil {
			return err
		}
	}
	return nil
}

// process chooses a process.
func (r *run) process() *process { return r.processes[r.choose(len(r.processes))] }

// url chooses a process to connect to.
func (r *run) url() string { return r.process().url() }

// transport chooses how to connect.
func (r *run) transport() client.Transport {
	all := strings.Split(r.transports, ",")
	return client.Transport(all[r.choose(len(all))])
}

// choose returns a number below n.
func (r *run) choose(n int) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.random.IntN(n)
}

// between returns a time in [a, b).
func (r *run) between(a, b time.Duration) time.Duration {
	return a + time.Duration(r.choose(int(b-a)))
}

func (r *run) note(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.summary = append(r.summary, fmt.Sprintf(format, args...))
}

// addUsers adds n users, each with as many devices as count says.
func (r *run) addUsers(n int, count func() int) {
	for range n {
		u := &user{name: fmt.Sprintf("user%d", len(r.users))}
		for i := range count() {
			newDevice(fmt.Sprintf("%s.%d", u.name, i), u, r)
		}
		r.users = append(r.users, u)
	}
}

// someDevices chooses how many devices a user has: two at least, unless that is too many.
func (r *run) someDevices() int {
	least := min(2, r.maxDevices)
	return least + r.choose(r.maxDevices-least+1)
}

// crowd is the users' devices while they are open.
type crowd struct {
	*run
	close map[*user]context.CancelFunc
	hard  bool // in the end users leave while Redis is away, if there is one
}

// open connects all devices, of each user one first, from whose session the others are.
func (r *run) open(ctx context.Context) (*crowd, error) {
	c := &crowd{run: r, close: make(map[*user]context.CancelFunc)}
	ready := func(d *device) bool {
		d.mu.Lock()
		defer d.mu.Unlock()
		return d.rostered
	}
	open := make(map[*user]context.Context)
	for _, u := range r.users {
		open[u], c.close[u] = context.WithCancel(ctx)
		u.devices[0].open(open[u])
	}
	first := func() bool {
		return !slices.ContainsFunc(r.users, func(u *user) bool { return !ready(u.devices[0]) })
	}
	if err := await(ctx, settleWithin, first); err != nil {
		return nil, fmt.Errorf("connect one device of each user: %w", err)
	}
	for _, u := range r.users {
		for _, d := range u.devices[1:] {
			d.open(open[u])
		}
	}
	all := func() bool {
		return !slices.ContainsFunc(r.deviceList(), func(d *device) bool { return !ready(d) })
	}
	if err := await(ctx, settleWithin, all); err != nil {
		return nil, fmt.Errorf("connect all devices: %w", err)
	}
	return c, nil
}

func (r *run) deviceList() (all []*device) {
	for _, u := range r.users {
		all = append(all, u.devices...)
	}
	return all
}

var errNotInTime = errors.New("it did not come to pass in time")

// await waits until a condition holds.
func await(ctx context.Context, within time.Duration, condition func() bool) error {
	ctx, cancel := context.WithTimeoutCause(ctx, within, errNotInTime)
	defer cancel()
	for !condition() {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(10 * time.Millisecond):
		}
	}
	return nil
}

// settle waits until every device has everything, looks at presence and the mailboxes with fresh eyes, closes
// all, and returns the history.
func (c *crowd) settle(ctx context.Context) (*History, error) {
	over := time.Now()
	for _, d := range c.deviceList() {
		if line := d.lines.current(); line != nil {
			line.resume()
		}
	}
	if c.database != nil {
		c.judgePresence(ctx, "everybody is there", presenceWithin, c.everybody())
	}
	// What no device has been given yet, its user's devices still have to be.
	for _, u := range c.users {
		_, session := u.session()
		box, err := readMailbox(ctx, c.url(), session)
		if err != nil {
			return nil, fmt.Errorf("read the mailbox of %s: %w", u.name, err)
		}
		for _, given := range box {
			u.saw(given.Seq)
		}
	}
	settled := func() bool {
		return !slices.ContainsFunc(c.deviceList(), func(d *device) bool { return !d.settled() })
	}
	if err := await(ctx, settleWithin, settled); err != nil {
		for _, d := range c.deviceList() {
			if !d.settled() {
				d.mu.Lock()
				c.trouble.report(RuleMissed, "%s has everything up to %d only, of %d (connected: %t), %s after the faults ended",
					d.name, d.complete, d.user.highest(), d.conn != nil, time.Since(over).Round(time.Second))
				d.mu.Unlock()
			}
		}
	}
	want, err := c.dismissHard(ctx)
	if err != nil {
		return nil, err
	}
	within := settleWithin
	if c.database != nil {
		within = presenceWithin
	}
	c.judgePresence(ctx, "half of the users left", within, want)
	h := &History{Mailboxes: make(map[string][]Given, len(c.users))}
	for _, u := range c.users {
		id, session := u.session()
		box, err := readMailbox(ctx, c.url(), session)
		if err != nil {
			return nil, fmt.Errorf("read the mailbox of %s: %w", u.name, err)
		}
		h.Mailboxes[id] = box
	}
	for _, u := range c.users {
		c.close[u]()
	}
	for _, d := range c.deviceList() {
		d.wait()
		history := d.recorder.finished()
		history.User, _ = d.user.session()
		h.Devices = append(h.Devices, history)
	}
	return h, nil
}

// everybody is the presence of all users while they are open.
func (c *crowd) everybody() map[string]bool {
	want := make(map[string]bool, len(c.users))
	for _, u := range c.users {
		id, _ := u.session()
		want[id] = true
	}
	return want
}

// dismiss closes all devices of about half of the users, and returns who is there then.
func (c *crowd) dismiss() map[string]bool {
	want := c.everybody()
	for i, u := range c.users {
		if i == 0 || c.choose(2) == 0 {
			continue
		}
		id, _ := u.session()
		want[id] = false
		c.close[u]()
		for _, d := range u.devices {
			d.wait()
		}
	}
	return want
}

// dismissHard is dismiss while Redis is away, if this is to be hard. Redis is back when it returns.
func (c *crowd) dismissHard(ctx context.Context) (want map[string]bool, err error) {
	if c.database == nil || !c.hard {
		return c.dismiss(), nil
	}
	c.count("kill Redis")
	hurting, ctx := newGroup(ctx)
	hurting.run(func() error { return c.database.restart(syscall.SIGKILL, c.between(time.Second, 4*time.Second)) })
	away := func() bool { return c.database.ready(ctx) != nil }
	if err := await(ctx, settleWithin, away); err != nil {
		return nil, errors.Join(fmt.Errorf("kill Redis: %w", err), hurting.wait())
	}
	want = c.dismiss()
	return want, hurting.wait()
}

// judgePresence sees whether everybody gets to know who is there, in time: whoever connects anew to any
// process, and the devices that are open.
func (c *crowd) judgePresence(ctx context.Context, when string, within time.Duration, want map[string]bool) {
	deadline := time.Now().Add(within)
	wrong := func(has map[string]bool) (list []string) {
		for _, u := range c.users {
			id, _ := u.session()
			if has[id] != want[id] {
				list = append(list, fmt.Sprintf("%s (%s) is %t", u.name, id, has[id]))
			}
		}
		return list
	}
	for _, p := range c.processes {
		var fresh []string
		err := await(ctx, time.Until(deadline), func() bool {
			roster, err := readRoster(ctx, p.url())
			if err != nil {
				fresh = []string{err.Error()}
			} else {
				fresh = wrong(roster)
			}
			if len(fresh) > 0 {
				pause(ctx, 100*time.Millisecond) // every look adds a user
			}
			return len(fresh) == 0
		})
		if err != nil {
			c.trouble.report(RulePresence, "%s: %s after, a fresh roster of %s: %s", when, within, p.name, strings.Join(fresh, ", "))
		}
	}
	// What devices were told has to come to the same. The last roster may have taken all the time.
	deadline = later(deadline, time.Now().Add(time.Second))
	for _, u := range c.users {
		if id, _ := u.session(); !want[id] {
			continue
		}
		for _, d := range u.devices {
			var told []string
			var at string
			err := await(ctx, time.Until(deadline), func() bool {
				d.mu.Lock()
				defer d.mu.Unlock()
				told, at = wrong(d.presence), d.at
				return len(told) == 0
			})
			if err != nil {
				c.trouble.report(RulePresence, "%s: %s after, %s at %s was told: %s", when, within, d.name, at, strings.Join(told, ", "))
			}
		}
	}
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// readRoster connects as a new user and returns who is connected.
func readRoster(ctx context.Context, url string) (map[string]bool, error) {
	users, c, err := visit(ctx, url, map[string]string{"username": "observer"})
	if err != nil {
		return nil, err
	}
	defer c.Close()
	roster := make(map[string]bool, len(users))
	for _, u := range users {
		roster[u.UserID] = u.Connected
	}
	return roster, nil
}

// readMailbox connects anew and returns all messages of a user.
func readMailbox(ctx context.Context, url, session string) ([]Given, error) {
	users, c, err := visit(ctx, url, map[string]string{"sessionID": session})
	if err != nil {
		return nil, err
	}
	defer c.Close()
	var all []Given
	for _, u := range users {
		for before := uint64(0); ; {
			page, more, err := history(c, u.UserID, before)
			if err != nil {
				return nil, err
			}
			all = append(all, page...)
			if !more || len(page) == 0 {
				break
			}
			before = page[0].Seq
		}
	}
	return all, nil
}

// visit connects once and waits for the roster.
func visit(ctx context.Context, url string, auth any) ([]rosterUser, *client.Client, error) {
	ctx, cancel := context.WithTimeout(ctx, settleWithin)
	defer cancel()
	rosters := make(chan []rosterUser, 1)
	c, err := client.Connect(ctx, client.Options{URL: url, Auth: auth, OnEvent: func(_ *client.Client, e client.Event) {
		var users []rosterUser
		if e.Name == "users" && e.Decode(0, &users) == nil {
			select {
			case rosters <- users:
			default:
			}
		}
	}})
	if err != nil {
		return nil, nil, err
	}
	select {
	case users := <-rosters:
		return users, c, nil
	case <-c.Done():
		return nil, nil, c.Err()
	case <-ctx.Done():
		c.Cut()
		return nil, nil, errors.New("no roster came")
	}
}

// progress says every few seconds how things are.
func (r *run) progress(ctx context.Context) {
	ticker := time.NewTicker(5 * time.Second)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			tell(r.out, "%s", r.counts())
		}
	}
}

// counts says in a line what has happened so far.
func (r *run) counts() string {
	s := &r.stats
	r.mu.Lock()
	defer r.mu.Unlock()
	var faults []string
	for name, n := range r.faults {
		faults = append(faults, fmt.Sprintf("%s %d", name, n))
	}
	slices.Sort(faults)
	return fmt.Sprintf("%4.0fs  sends %d (not yet: %d)  acks %d  deliveries %d  connects %d  recovered %d, not %d  history pages %d  presence %d (repeated: %d)  faults: %s",
		time.Since(r.started).Seconds(), s.sends.Load(), s.errors.Load(), s.acks.Load(), s.deliveries.Load(), s.connects.Load(),
		s.recovered.Load(), s.unrecovered.Load(), s.pages.Load(), s.presences.Load(), s.repeated.Load(), cmp.Or(strings.Join(faults, ", "), "none"))
}

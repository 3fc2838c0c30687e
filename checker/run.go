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
	binary     string
	race       bool
	keep       bool
	transports string
	out        io.Writer
}

// settleWithin is how long everybody has to be given everything when the faults are over. It has to allow
// for a connection that was abandoned, which the server takes for open until the heartbeat says otherwise.
const settleWithin = 30 * time.Second

// environment is what the processes are told. The heartbeat is quick, so that a broken connection is found
// out within the run; nothing expires.
var environment = []string{
	"STORE=file", "PING_INTERVAL=2s", "PING_TIMEOUT=3s", "DRAIN_TIMEOUT=500ms", "MAILBOX_LIMIT=1000000",
	fmt.Sprintf("HISTORY_LIMIT=%d", historyLimit), "LOG_FORMAT=json", "LOG_LEVEL=info",
}

// run is one execution of a scenario.
type run struct {
	options
	dir       string // of the logs and data
	processes []*process
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
			r.note("log of process %d: %d warnings, %d errors", p.index, warnings, errs)
		}
	}
	r.processes = nil
}

// launch starts the processes. One is all there can be as long as processes share nothing.
func (r *run) launch(settings ...string) error {
	p, err := newProcess(0, r.binary, r.dir, append(slices.Clone(environment), settings...), &r.trouble)
	if err != nil {
		return err
	}
	r.processes = append(r.processes, p)
	return p.start()
}

// url chooses a process to connect to.
func (r *run) url() string { return r.processes[r.choose(len(r.processes))].url() }

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

// crowd is the users' devices while they are open.
type crowd struct {
	*run
	close map[*user]context.CancelFunc
}

// open connects all devices, of each user one first, from whose session the others are.
func (r *run) open(ctx context.Context) (*crowd, error) {
	c := &crowd{r, make(map[*user]context.CancelFunc)}
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
	for _, d := range c.deviceList() {
		if line := d.lines.current(); line != nil {
			line.resume()
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
					d.name, d.complete, d.user.highest(), d.conn != nil, settleWithin)
				d.mu.Unlock()
			}
		}
	}
	c.judgePresence(ctx)
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

// judgePresence closes all devices of about half of the users and sees whether everybody gets to know.
func (c *crowd) judgePresence(ctx context.Context) {
	want := make(map[string]bool, len(c.users))
	var open []*device
	for i, u := range c.users {
		id, _ := u.session()
		want[id] = i == 0 || c.choose(2) == 0
		if want[id] {
			open = append(open, u.devices...)
			continue
		}
		c.close[u]()
		for _, d := range u.devices {
			d.wait()
		}
	}
	wrong := func(has map[string]bool) (list []string) {
		for id, online := range want {
			if has[id] != online {
				list = append(list, fmt.Sprintf("%s is %t", id, has[id]))
			}
		}
		return list
	}
	var fresh []string
	err := await(ctx, settleWithin, func() bool {
		roster, err := readRoster(ctx, c.url())
		if err != nil {
			fresh = []string{err.Error()}
			return false
		}
		fresh = wrong(roster)
		return len(fresh) == 0
	})
	if err != nil {
		c.trouble.report(RulePresence, "a fresh roster: %s", strings.Join(fresh, ", "))
	}
	// What devices were told has to come to the same.
	for _, d := range open {
		var told []string
		err := await(ctx, settleWithin/6, func() bool {
			d.mu.Lock()
			defer d.mu.Unlock()
			told = wrong(d.presence)
			return len(told) == 0
		})
		if err != nil {
			c.trouble.report(RulePresence, "%s was told: %s", d.name, strings.Join(told, ", "))
		}
	}
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
	return fmt.Sprintf("%4.0fs  sends %d (not yet: %d)  acks %d  deliveries %d  connects %d  recovered %d, not %d  history pages %d  faults: %s",
		time.Since(r.started).Seconds(), s.sends.Load(), s.errors.Load(), s.acks.Load(), s.deliveries.Load(), s.connects.Load(),
		s.recovered.Load(), s.unrecovered.Load(), s.pages.Load(), cmp.Or(strings.Join(faults, ", "), "none"))
}

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"parley/internal/client"
)

// RuleLeak is broken when a process keeps something of clients that are gone.
const RuleLeak Rule = "leak"

// footprint is what a process holds at a moment.
type footprint struct {
	goroutines, files, connections float64
	heap, resident                 float64 // bytes; resident is what is not backed by a file
}

func (f footprint) String() string {
	return fmt.Sprintf("%.0f goroutines, %.0f open files, %.0f connections, heap %.1f MB, resident %.1f MB",
		f.goroutines, f.files, f.connections, f.heap/1e6, f.resident/1e6)
}

// within tells whether f is back at a baseline. Goroutines and files come and go by a few; memory that the
// runtime keeps for the next time is allowed for.
func (f footprint) within(base footprint) bool {
	return f.goroutines <= base.goroutines+10 && f.files <= base.files+5 && f.connections <= base.connections &&
		f.heap <= base.heap+16e6 && f.resident <= 2*base.resident+64e6
}

// playChurn connects the sockets, all open at once, and lets them leave in different ways, twice: what stays
// of the first time may be a cache, what the second adds is a leak.
func playChurn(ctx context.Context, r *run) (*History, error) {
	const (
		users   = 200
		warmup  = 500
		returns = time.Minute // a minute later all is as before
	)
	if err := r.launch("PING_INTERVAL=5s", "PING_TIMEOUT=20s"); err != nil {
		return nil, err
	}
	sessions, err := r.churn(ctx, warmup, nil, users)
	if err != nil {
		return nil, err
	}
	pause(ctx, 10*time.Second)
	base, err := r.processes[0].footprint(ctx)
	if err != nil {
		return nil, err
	}
	r.note("before:      %v", base)
	for round := range 2 {
		begin := time.Now()
		if _, err := r.churn(ctx, r.sockets, sessions, users); err != nil {
			return nil, err
		}
		r.note("round %d: %d sockets came and went in %s", round+1, r.sockets, time.Since(begin).Round(time.Second))
		left := time.Now()
		var now footprint
		for {
			if now, err = r.processes[0].footprint(ctx); err != nil {
				return nil, err
			}
			if now.within(base) || time.Since(left) > returns {
				break
			}
			pause(ctx, time.Second)
		}
		r.note("%2.0fs later:   %v", time.Since(left).Seconds(), now)
		if !now.within(base) {
			r.trouble.report(RuleLeak, "a minute later the process has %v; it had %v", now, base)
		}
	}
	return nil, nil
}

// churn opens n connections as the users of those sessions, or as new users, and lets them all leave. It
// returns the sessions.
func (r *run) churn(ctx context.Context, n int, sessions []string, users int) ([]string, error) {
	const parallel = 32
	open := make([]*client.Client, n)
	introduced := make([]chan string, n)
	for i := range introduced {
		introduced[i] = make(chan string, 1)
	}
	connecting, ctx := newGroup(ctx)
	type visit struct {
		i    int
		auth map[string]string
	}
	next := make(chan visit)
	for range parallel {
		connecting.run(func() (err error) {
			for v := range next {
				if open[v.i], err = r.welcomed(ctx, v.i, v.auth, introduced[v.i]); err != nil {
					return fmt.Errorf("connection %d of %d %w", v.i+1, n, err)
				}
			}
			return nil
		})
	}
	for i := range n {
		if len(sessions) == 0 && i == users { // the others come back as these
			sessions = make([]string, users)
			for k := range sessions {
				select {
				case sessions[k] = <-introduced[k]:
				case <-ctx.Done():
					close(next)
					return nil, connecting.wait()
				case <-time.After(settleWithin):
					close(next)
					return nil, errors.Join(fmt.Errorf("connection %d was told no session", k+1), connecting.wait())
				}
			}
		}
		v := visit{i, map[string]string{"username": fmt.Sprintf("user%d", i)}}
		if len(sessions) > 0 {
			v.auth = map[string]string{"sessionID": sessions[i%len(sessions)]}
		}
		select {
		case next <- v:
		case <-ctx.Done():
		}
	}
	close(next)
	if err := connecting.wait(); err != nil {
		return nil, err
	}
	if now, err := r.processes[0].footprint(context.WithoutCancel(ctx)); err == nil && n == r.sockets {
		r.note("all open:    %v", now)
	}
	depart(open)
	return sessions, nil
}

// depart ends connections in turns in each way there is, and waits for their ends.
func depart(open []*client.Client) {
	for i, c := range open {
		switch i % 3 {
		case 0:
			c.Close()
		case 1:
			c.Leave()
		case 2:
			c.Cut()
		}
	}
	for _, c := range open {
		<-c.Done()
	}
}

// welcomed connects a visitor and waits for its roster. The error goes on from "connection 1 of 2".
func (r *run) welcomed(ctx context.Context, i int, auth any, introduced chan<- string) (*client.Client, error) {
	rostered := make(chan struct{}, 1)
	c, err := r.visitor(ctx, i, auth, introduced, rostered)
	if err != nil {
		return nil, fmt.Errorf("failed: %w", err)
	}
	select {
	case <-rostered:
	case <-c.Done():
		return c, fmt.Errorf("ended: %w", c.Err())
	case <-time.After(settleWithin):
		return c, errors.New("got no roster")
	}
	r.stats.connects.Add(1)
	return c, nil
}

// visitor connects from one of several addresses, as one address has neither enough ports nor the permission
// for all.
func (r *run) visitor(ctx context.Context, i int, auth any, introduced chan<- string, rostered chan<- struct{}) (*client.Client, error) {
	ctx, cancel := context.WithTimeout(ctx, settleWithin)
	defer cancel()
	from := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 1, byte(1+i/900))}}
	return client.Connect(ctx, client.Options{
		URL: r.url(), Auth: auth, Dial: from.DialContext,
		OnEvent: func(_ *client.Client, e client.Event) {
			switch e.Name {
			case "session":
				var s struct{ SessionID string }
				if e.Decode(0, &s) == nil {
					introduced <- s.SessionID
				}
			case "users":
				rostered <- struct{}{}
			}
		},
	})
}

// footprint reads what the process holds, from its metrics and from the system.
func (p *process) footprint(ctx context.Context) (f footprint, err error) {
	for name, v := range map[string]*float64{
		"go_goroutines": &f.goroutines, "parley_connections": &f.connections, "go_memstats_heap_alloc_bytes": &f.heap,
	} {
		if *v, err = p.metric(ctx, name); err != nil {
			return f, err
		}
	}
	proc := filepath.Join("/proc", strconv.Itoa(p.pid()))
	files, err := os.ReadDir(filepath.Join(proc, "fd"))
	if err != nil {
		return f, fmt.Errorf("open files of %s: %w", p.name, err)
	}
	f.files = float64(len(files))
	status, err := os.ReadFile(filepath.Join(proc, "status"))
	if err != nil {
		return f, fmt.Errorf("memory of %s: %w", p.name, err)
	}
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, "RssAnon:"); ok {
			kilobytes, err := strconv.ParseFloat(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 64)
			if err != nil {
				return f, fmt.Errorf("memory of %s: %w", p.name, err)
			}
			f.resident = kilobytes * 1024
		}
	}
	return f, nil
}

// metric reads one value of the process's metrics; one that is not there yet is zero.
func (p *process) metric(ctx context.Context, name string) (float64, error) {
	ctx, cancel := context.WithTimeout(ctx, settleWithin)
	defer cancel()
	text, err := p.get(ctx, "/metrics")
	if err != nil {
		return 0, fmt.Errorf("metrics of %s: %w", p.name, err)
	}
	for line := range strings.Lines(text) {
		if value, ok := strings.CutPrefix(line, name+" "); ok {
			return strconv.ParseFloat(strings.TrimSpace(value), 64)
		}
	}
	return 0, nil
}

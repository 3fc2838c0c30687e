//go:build linux

package main

import (
	"fmt"
	"strconv"
	"strings"

	"parley/bench/plot"
)

// bar is what a measurement must reach.
type bar struct {
	about           string
	workload, phase string
	metric          metric
	reference       string  // a server, or none for a plain number
	limit           float64 // of the metric, or of its ratio to the reference's
	least           bool    // the limit is to be reached, not to be kept
	or              *bar    // which will do as well
}

var bars = []bar{
	{about: "private messages at saturation, to bare gws", workload: "private", phase: "saturation", metric: cpuPerEvent, reference: "gws", limit: 1.35},
	{about: "private messages at 2,000/s, to bare gws", workload: "private", phase: "2000/s", metric: cpuPerEvent, reference: "gws", limit: 1.45},
	{about: "p99 latency at 2,000/s, to bare gws", workload: "private", phase: "2000/s", metric: p99, reference: "gws", limit: 2},
	{about: "private messages at saturation, to Node", workload: "private", phase: "saturation", metric: cpuPerEvent, reference: "node", limit: 0.5},
	{about: "private messages at 2,000/s, to Node", workload: "private", phase: "2000/s", metric: cpuPerEvent, reference: "node", limit: 1},
	{about: "thousands of messages in flight, to bare gws", workload: "private", phase: "deep", metric: cpuPerEvent, reference: "gws", limit: 1},
	{about: "few hot connections, to bare gws", workload: "hot", phase: "2048 in flight", metric: cpuPerEvent, reference: "gws", limit: 0.75},
	{about: "one event to 10,000 sockets, to bare gws", workload: "broadcast", phase: "10000 sockets", metric: cpuPerEvent, reference: "gws", limit: 1.15},
	{about: "last of 10,000 receivers, to bare gws", workload: "broadcast", phase: "10000 sockets", metric: lastP50, reference: "gws", limit: 1.5},
	{about: "durable acknowledgements a second, 64 senders", workload: "durable", phase: "64 senders", metric: donePerSec, limit: 10_000, least: true,
		or: &bar{workload: "durable", phase: "64 senders", metric: syncShare, limit: 2. / 3, least: true}},
	{about: "two processes and Redis at 2,000/s, to Node's two", workload: "cluster", phase: "2000/s", metric: allPerEvent, reference: "node", limit: 0.65},
	{about: "two processes and Redis at saturation, to Node's two", workload: "cluster", phase: "saturation", metric: allPerEvent, reference: "node", limit: 0.45},
	{about: "resident bytes of an idle connection", workload: "idle", metric: rssPerConn, limit: 10 << 10},
	{about: "CPU µs a second of an idle connection", workload: "idle", metric: idleCPU, limit: 4},
	{about: "connects for CPU time on notify, to Node", workload: "storm", metric: cpuPerConnect, reference: "node", limit: 1. / 3},
	{about: "connects for CPU time on chat with 300 users, to Node", workload: "storm-chat", metric: cpuPerConnect, reference: "node", limit: 1. / 8},
	{about: "failed connects of 5,000 at once", workload: "storm", metric: failures, limit: 0},
}

// doubling is what a delivery may cost when there are twice as many users, relative to before.
const doubling = 1.05

// verdict is a bar and what was measured.
type verdict struct {
	about    string
	measured float64
	limit    float64
	least    bool
	met      bool
}

func (v verdict) String() string {
	relation, word := "at most", "met"
	if v.least {
		relation = "at least"
	}
	if !v.met {
		word = "**missed**"
	}
	return fmt.Sprintf("| %s | %s | %s %s | %s |", v.about, plot.Number(v.measured), relation, plot.Number(v.limit), word)
}

// judge holds the results against the bars. Those of which nothing was measured are left out; those measured at
// several sizes are judged at each.
func judge(all []summary) []verdict {
	var verdicts []verdict
	for _, b := range bars {
		for _, s := range all {
			if !ours(s) || s.Workload != b.workload || b.phase != "" && s.Phase != b.phase {
				continue
			}
			v, ok := b.judge(all, s)
			if !ok {
				continue
			}
			if b.or != nil && !v.met {
				if other, ok := b.or.judge(all, s); ok && other.met {
					v.met = true
				}
			}
			if s.Server != "parley" {
				v.about += " [" + s.Target + "]"
			}
			if b.phase == "" {
				v.about += " (" + s.Phase + ")"
			}
			verdicts = append(verdicts, v)
		}
	}
	return append(append(verdicts, judgeScale(all)...), judgeProcesses(all)...)
}

// ours says whether a summary is of a build of Parley.
func ours(s summary) bool { return strings.HasPrefix(s.Server, "parley") }

func (b *bar) judge(all []summary, s summary) (verdict, bool) {
	m, ok := s.Metrics[b.metric]
	if !ok {
		return verdict{}, false
	}
	v := verdict{about: b.about, measured: m.Median, limit: b.limit, least: b.least}
	if b.reference != "" {
		ref, ok := find(all, s, b.reference, b.metric)
		if !ok || ref.Median == 0 {
			return verdict{}, false
		}
		v.measured /= ref.Median
	}
	v.met = v.measured <= v.limit
	if v.least {
		v.met = v.measured >= v.limit
	}
	return v, true
}

// find returns a reference server's metric in the phase that a summary is of, with as many processes.
func find(all []summary, of summary, server string, m metric) (spread, bool) {
	for _, s := range all {
		if s.Server == server && s.Workload == of.Workload && s.Phase == of.Phase && s.Processes == of.Processes {
			found, ok := s.Metrics[m]
			return found, ok
		}
	}
	return spread{}, false
}

func judgeProcesses(all []summary) (verdicts []verdict) {
	var last *summary
	for i := range all {
		s := &all[i]
		if s.Workload != "processes" || s.Server != "parley" {
			continue
		}
		if last != nil && s.Processes == 2*last.Processes {
			v := verdict{about: fmt.Sprintf("CPU of a private message with Redis', %d to %d processes", last.Processes, s.Processes), limit: doubling,
				measured: s.Metrics[allPerEvent].Median / last.Metrics[allPerEvent].Median}
			v.met = v.measured <= v.limit
			verdicts = append(verdicts, v)
		}
		last = s
	}
	return verdicts
}

// judgeScale holds each size against the one before it, with as many messages in flight and with as many for each user.
func judgeScale(all []summary) []verdict {
	return append(judgeSizes(all, " users", ""), judgeSizes(all, " in flight", ", as many in flight for each")...)
}

// judgeSizes is judgeScale for the phases with an ending. Beside what Parley took more it says what is left of that beside
// bare gws in the same rounds: the machine itself takes more for a frame as more connections share its caches.
func judgeSizes(all []summary, ending, note string) (verdicts []verdict) {
	var last *summary
	for i := range all {
		s := &all[i]
		if s.Workload != "scale" || s.Server != "parley" || !strings.HasSuffix(s.Phase, ending) {
			continue
		}
		if last != nil && sizeOf(*s) == 2*sizeOf(*last) {
			v := verdict{about: fmt.Sprintf("CPU of a private message, %d to %d users%s", sizeOf(*last), sizeOf(*s), note), limit: doubling,
				measured: s.Metrics[cpuPerEvent].Median / last.Metrics[cpuPerEvent].Median}
			v.met = v.measured <= v.limit
			verdicts = append(verdicts, v)
			before, known := find(all, *last, "gws", cpuPerEvent)
			after, ok := find(all, *s, "gws", cpuPerEvent)
			if known && ok {
				v.about += ", beside gws"
				v.measured = spreadOf(quotients(quotients(s.Metrics[cpuPerEvent].Runs, last.Metrics[cpuPerEvent].Runs),
					quotients(after.Runs, before.Runs))).Median
				v.met = v.measured <= v.limit
				verdicts = append(verdicts, v)
			}
		}
		last = s
	}
	return verdicts
}

// sizeOf is the number of users in a phase of scale.
func sizeOf(s summary) int {
	text, _, _ := strings.Cut(s.Phase, " users")
	n, _ := strconv.Atoi(text) // this program made it
	return n
}

// quotients divides run by run: what else the machine does changes slowly, so the runs of one round are alike.
func quotients(of, by []float64) (all []float64) {
	for i := range min(len(of), len(by)) {
		all = append(all, of[i]/by[i])
	}
	return all
}

//go:build linux

package main

import (
	"cmp"
	"slices"
)

// metric names what is measured.
type metric string

const (
	cpuPerEvent    metric = "cpu_us_per_event"
	redisPerEvent  metric = "redis_us_per_event"
	allPerEvent    metric = "cpu_and_redis_us_per_event"
	eventsPerSec   metric = "events_per_second"
	p50            metric = "latency_p50_us"
	p99            metric = "latency_p99_us"
	p999           metric = "latency_p999_us"
	ackP50         metric = "ack_p50_us"
	ackP99         metric = "ack_p99_us"
	donePerSec     metric = "done_per_second"
	lastP50        metric = "last_receiver_p50_us"
	syncsPerSec    metric = "disk_syncs_per_second"
	syncShare      metric = "of_disk_sync_rate"
	rssPerConn     metric = "rss_bytes_per_connection"
	pssPerConn     metric = "pss_bytes_per_connection"
	idleCPU        metric = "idle_cpu_us_per_connection_second"
	idleMinute     metric = "idle_cpu_us_per_connection_minute"
	cpuPerConnect  metric = "cpu_us_per_connect"
	connectsPerSec metric = "connects_per_second"
	connectP50     metric = "connect_p50_ms"
	connectMax     metric = "connect_max_ms"
	failures       metric = "failed_connects"
	generatorShare metric = "generator_cpu_percent"
)

// metrics is every metric in the order of the tables.
var metrics = []struct {
	metric metric
	title  string
	digits int
}{
	{cpuPerEvent, "CPU µs/event", 2},
	{redisPerEvent, "Redis µs/event", 2},
	{allPerEvent, "all µs/event", 2},
	{eventsPerSec, "events/s", 0},
	{donePerSec, "done/s", 0},
	{p50, "p50 µs", 0},
	{p99, "p99 µs", 0},
	{p999, "p99.9 µs", 0},
	{ackP50, "ack p50 µs", 0},
	{ackP99, "ack p99 µs", 0},
	{lastP50, "last receiver p50 µs", 0},
	{syncsPerSec, "disk syncs/s", 0},
	{syncShare, "of 64 × syncs/s", 2},
	{rssPerConn, "RSS B/conn", 0},
	{pssPerConn, "PSS B/conn", 0},
	{idleCPU, "CPU µs/conn/s", 2},
	{idleMinute, "CPU µs/conn/min", 0},
	{cpuPerConnect, "CPU µs/connect", 0},
	{connectsPerSec, "connects/s", 0},
	{connectP50, "connect p50 ms", 1},
	{connectMax, "connect max ms", 0},
	{failures, "failed", 0},
	{generatorShare, "generator %", 0},
}

type values map[metric]float64

// result is what one run of one workload's phase gave for one target.
type result struct {
	workload, phase string
	target          target
	values          values
}

// summary is the runs of one phase and target.
type summary struct {
	Workload  string            `json:"workload"`
	Phase     string            `json:"phase"`
	Target    string            `json:"target"`
	Server    string            `json:"server"`
	Store     string            `json:"store"`
	Processes int               `json:"processes"`
	Metrics   map[metric]spread `json:"metrics"`
}

// spread is a metric over all runs.
type spread struct {
	Median float64   `json:"median"`
	Min    float64   `json:"min"`
	Max    float64   `json:"max"`
	Runs   []float64 `json:"runs"`
}

func spreadOf(runs []float64) spread {
	sorted := slices.Sorted(slices.Values(runs))
	n := len(sorted)
	if n == 0 {
		return spread{}
	}
	return spread{Median: (sorted[(n-1)/2] + sorted[n/2]) / 2, Min: sorted[0], Max: sorted[n-1], Runs: runs}
}

// summarize puts the runs of each phase and target together, in the order in which they first came, phases
// side by side.
func summarize(results []result) []summary {
	type key struct {
		workload, phase string
		target          target
	}
	runs := map[key]map[metric][]float64{}
	var keys []key
	var order []string
	for _, r := range results {
		k := key{r.workload, r.phase, r.target}
		if runs[k] == nil {
			runs[k] = map[metric][]float64{}
			keys = append(keys, k)
		}
		if name := r.workload + "\x00" + r.phase; !slices.Contains(order, name) {
			order = append(order, name)
		}
		for m, v := range r.values {
			runs[k][m] = append(runs[k][m], v)
		}
	}
	slices.SortStableFunc(keys, func(a, b key) int {
		return cmp.Compare(slices.Index(order, a.workload+"\x00"+a.phase), slices.Index(order, b.workload+"\x00"+b.phase))
	})
	var all []summary
	for _, k := range keys {
		s := summary{
			Workload: k.workload, Phase: k.phase, Target: k.target.String(), Server: k.target.server, Store: k.target.store,
			Processes: k.target.processes, Metrics: map[metric]spread{},
		}
		for m, v := range runs[k] {
			s.Metrics[m] = spreadOf(v)
		}
		all = append(all, s)
	}
	return all
}

//go:build linux

package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"parley/bench/load"
)

// options is what the command line says about what to run.
type options struct {
	servers, stores    string
	processes          int
	workloads          []string
	users              int
	window, deep       int
	rate               float64
	sockets, scale     string
	conns              string
	storm, rosterUsers int
	json, data         string
	report, from       string
}

func parse(args []string, b *bench) (*options, error) {
	o := &options{}
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.SetOutput(os.Stdout)
	f.Usage = func() {
		_, _ = fmt.Fprint(f.Output(), usage())
		f.PrintDefaults()
	}
	f.StringVar(&o.servers, "servers", "", "servers to compare, with commas between: parley, gws, gws-handoff, node, bun; parley=PATH is another build of Parley (default: what the workload's bars name)")
	f.StringVar(&o.stores, "stores", "memory", "with --servers: stores of Parley and Node: memory, file, redis")
	f.IntVar(&o.processes, "processes", 1, "with --servers: processes of each server; several need the redis store")
	f.IntVar(&b.repeat, "repeat", 5, "rounds: everything is run once in each")
	f.DurationVar(&b.duration, "time", 4*time.Second, "length of one measurement")
	f.DurationVar(&b.warmUp, "warm-up", 1500*time.Millisecond, "length of what goes before it and does not count")
	f.DurationVar(&b.idle, "idle-time", 50*time.Second, "length of the measurement of idle connections; best a multiple of the heartbeat's 25 s")
	f.DurationVar(&b.settle, "settle", 5*time.Second, "length of the pause before it")
	f.IntVar(&b.contentBytes, "content", 64, "bytes of a message's content")
	f.IntVar(&o.users, "users", 500, "users of private messages and notifications, with two devices each")
	f.IntVar(&o.window, "window", 128, "events in flight at saturation, over all connections")
	f.IntVar(&o.deep, "deep", 4096, "private messages in flight with deep queues")
	f.Float64Var(&o.rate, "rate", 2000, "events a second at the fixed rate")
	f.StringVar(&o.sockets, "sockets", "1000,10000", "sockets that one event goes to")
	f.StringVar(&o.scale, "scale", "250,500,1000,2000,4000", "users of the workload scale, with two devices each")
	f.StringVar(&o.conns, "connections", "5000,20000", "idle connections; 100000 need 3 GB of memory for both sides' sockets and buffers")
	f.IntVar(&o.storm, "storm", 5000, "connections made at once")
	f.IntVar(&o.rosterUsers, "roster", 1000, "users in the roster")
	f.StringVar(&o.json, "json", "", "write the results to this `file`")
	f.StringVar(&o.report, "report", "", "write plots into this `directory` and the tables into the file of the same name with .md, between its markers")
	f.StringVar(&o.from, "from", "", "run nothing: take the results from these files of --json, with commas between")
	f.StringVar(&o.data, "data", "", "`directory` whose disk the file store is measured on (default: that of temporary files)")
	quick := f.Bool("quick", false, "two short rounds: a first look")
	if err := f.Parse(args); err != nil {
		return nil, err
	}
	if *quick {
		b.repeat, b.duration, b.warmUp, b.idle = 2, 2*time.Second, time.Second, 25*time.Second
	}
	switch {
	case b.contentBytes < 8:
		return nil, fmt.Errorf("--content %d: a message needs 8 bytes for its number", b.contentBytes)
	case b.repeat < 1:
		return nil, errors.New("--repeat must be 1 or more")
	case o.users < 2, o.rosterUsers < 1:
		return nil, errors.New("--users must be 2 or more, --roster 1 or more")
	}
	if o.workloads = f.Args(); len(o.workloads) == 0 {
		o.workloads = []string{"private"}
	}
	return o, nil
}

// choice is a workload by the name that it has on the command line.
type choice struct {
	name, about string
	targets     []target // by default
	make        func(o *options) ([]workload, error)
}

func on(store string, processes int, servers ...string) (all []target) {
	for _, s := range servers {
		all = append(all, target{s, store, processes})
	}
	return all
}

var choices = []choice{
	{"private", "private messages between random pairs, two devices each, acknowledged: saturation, a fixed rate, deep queues",
		on("memory", 1, "parley", "gws", "gws-handoff", "node", "bun"),
		one(func(o *options) workload { return events("private", "chat", private(o.users, 0, true), o.phases()...) })},
	{"private-no-ack", "the same without acknowledgements",
		on("memory", 1, "parley", "gws", "node", "bun"),
		one(func(o *options) workload {
			return events("private-no-ack", "chat", private(o.users, 0, false), o.phases()...)
		})},
	{"cluster", "private messages, two processes and Redis",
		on("redis", 2, "parley", "node"),
		one(func(o *options) workload {
			return events("cluster", "chat", private(o.users, 0, true), o.phases()[:2]...)
		})},
	{"stores", "private messages with each store",
		slices.Concat(on("memory", 1, "parley"), on("file", 1, "parley"), on("redis", 1, "parley", "node")),
		one(func(o *options) workload {
			return events("stores", "chat", private(o.users, 0, true), o.phases()[:2]...)
		})},
	{"processes", "private messages at a fixed rate as processes double",
		slices.Concat(on("redis", 1, "parley"), on("redis", 2, "parley"), on("redis", 4, "parley")),
		one(func(o *options) workload {
			return events("processes", "chat", private(o.users, 0, true), o.phases()[1])
		})},
	{"hot", "many private messages on few connections",
		on("memory", 1, "parley", "gws", "node"),
		one(func(*options) workload {
			return events("hot", "chat", private(4, 0, true), phase{name: "2048 in flight", inFlight: 2048})
		})},
	{"durable", "acknowledged private messages of 64 senders, one at a time each, and the disk's own sync rate",
		on("file", 1, "parley"),
		one(func(*options) workload { return durable(64) })},
	{"user", "notifications to both devices of a user",
		on("memory", 1, "parley", "gws", "node"),
		one(func(o *options) workload {
			return events("user", "chat", func(*bench) traffic { return &load.Notify{Users: o.users, Devices: 2} }, o.phases()[:2]...)
		})},
	{"broadcast", "one event to all sockets, one at a time",
		on("memory", 1, "parley", "gws", "node"),
		func(o *options) ([]workload, error) {
			return each(o.sockets, 1, func(n int) workload {
				return events("broadcast", "broadcast", func(b *bench) traffic { return &load.Broadcast{Sockets: n, ContentBytes: b.contentBytes} },
					phase{name: fmt.Sprint(n, " sockets"), inFlight: 1})
			})
		}},
	{"idle", "idle connections: memory, and CPU time for heartbeats",
		on("memory", 1, "parley", "gws", "node"),
		func(o *options) ([]workload, error) { return each(o.conns, 1, idle) }},
	{"storm", "connects to the notify namespace, all at once",
		on("memory", 1, "parley", "gws", "node"),
		one(func(o *options) workload { return storm(o.storm) })},
	{"storm-chat", "300 users of a chat come back at once",
		on("memory", 1, "parley", "node"),
		one(func(*options) workload { return stormChat(300) })},
	{"roster", "devices that connect to a chat of many users, one after the other",
		on("memory", 1, "parley", "node"),
		one(func(o *options) workload { return roster(o.rosterUsers) })},
	{"scale", "private messages at saturation as users double, and so connections: the first ones, then all others, then with as many in flight for each user",
		on("memory", 1, "parley", "gws"),
		func(o *options) ([]workload, error) {
			return each(o.scale, 2, func(n int) workload {
				// Who have not met are introduced by their first message, past the size of the roster. What goes on between those
				// who have is the curve; what the first message costs is beside it, and what a message costs if each user has as
				// many in flight whatever their number: with fewer, fewer frames of a connection leave together.
				name := fmt.Sprint(n, " users")
				inFlight := max(1, o.window*n/scaleUsers)
				return events("scale", "chat", private(n, 0, true),
					phase{name: name + firstMessages, inFlight: o.window, first: true}, phase{name: name, inFlight: o.window},
					phase{name: fmt.Sprintf("%s, %d in flight", name, inFlight), inFlight: inFlight})
			})
		}},
}

// scaleUsers is the number of users who have o.window messages in flight where that grows with them.
const scaleUsers = 500

// firstMessages ends the names of phases of scale that are no part of its curve.
const firstMessages = ", first messages"

func one(make func(o *options) workload) func(o *options) ([]workload, error) {
	return func(o *options) ([]workload, error) { return []workload{make(o)}, nil }
}

// each makes a workload for each number of a list.
func each(list string, least int, make func(n int) workload) (all []workload, err error) {
	for _, text := range strings.Split(list, ",") {
		n, err := strconv.Atoi(text)
		if err != nil || n < least {
			return nil, fmt.Errorf("%q is not a list of numbers from %d on", list, least)
		}
		all = append(all, make(n))
	}
	return all, nil
}

func (o *options) phases() []phase {
	return []phase{
		{name: "saturation", inFlight: o.window}, {name: fmt.Sprintf("%g/s", o.rate), rate: o.rate}, {name: "deep", inFlight: o.deep},
	}
}

func usage() string {
	var s strings.Builder
	s.WriteString(`Measures Parley beside other servers: CPU time, throughput, latency, memory. Each server is a process of its own
that is built and started here, driven with the same traffic, and checked: a delivery that is lost, doubled, out of
order, altered or with the wrong user fails the run.

  go run ./bench [flags] [workload...]

Workloads (default: private; all: every one):
`)
	for _, c := range choices {
		fmt.Fprintf(&s, "  %-15s %s\n", c.name, c.about)
	}
	s.WriteString("\nFlags:\n")
	return s.String()
}

// jobs are the workloads on their targets.
func (o *options) jobs() ([]job, error) {
	names := o.workloads
	if slices.Contains(names, "all") {
		names = nil
		for _, c := range choices {
			names = append(names, c.name)
		}
	}
	var jobs []job
	for _, name := range names {
		i := slices.IndexFunc(choices, func(c choice) bool { return c.name == name })
		if i < 0 {
			return nil, fmt.Errorf("there is no workload %q: see --help", name)
		}
		workloads, err := choices[i].make(o)
		if err != nil {
			return nil, err
		}
		targets := choices[i].targets
		if o.servers != "" {
			targets = o.targets()
		}
		for _, w := range workloads {
			for _, t := range targets {
				jobs = append(jobs, job{w, t})
			}
		}
	}
	return jobs, nil
}

// targets are the servers that the command line names, with the stores that each can have.
func (o *options) targets() []target {
	var all []target
	for _, server := range strings.Split(o.servers, ",") {
		for _, store := range strings.Split(o.stores, ",") {
			name, _, _ := strings.Cut(server, "=")
			if strings.HasPrefix(name, "gws") && store != "memory" || name != "parley" && store == "file" {
				continue
			}
			all = append(all, target{server, store, o.processes})
		}
	}
	return all
}

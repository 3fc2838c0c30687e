// Command checker tries to make Parley break its promises. It drives clients against real processes of the
// built binary, lets faults happen, records every send, acknowledgement and delivery, and judges the whole.
//
//	go run ./checker --help
//	go run ./checker --duration 2m
//	go run ./checker --scenario durable --kills 50
//	go run ./checker --redis --processes 3 --duration 2m
//	go run ./checker --scenario rolling
//	go run ./checker --scenario away
//	go run ./checker --scenario freeze
//
// Run it within the repository, so that it can build the binary, or name one with --binary. What a run
// chooses at random depends on --seed alone; how that falls together with the machine's timing does not, so
// that a seed which found something finds it again often, not always.
//
// It exits with 1 if something is wrong, with 2 if it could not be found out.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

func main() {
	os.Exit(check(os.Args[1:], os.Stdout, os.Stderr))
}

// check is the whole command; it returns the exit code.
func check(args []string, out, errs io.Writer) int {
	o := options{out: out}
	flags := flag.NewFlagSet("checker", flag.ContinueOnError)
	flags.SetOutput(errs)
	flags.StringVar(&o.scenario, "scenario", "faults", "what to do; see below")
	flags.Uint64Var(&o.seed, "seed", 0, "decides what happens; 0 for a new one")
	flags.DurationVar(&o.duration, "duration", 2*time.Minute, "how long the faults scenario sends and hurts")
	flags.IntVar(&o.maxUsers, "users", 12, "users of the faults and rolling scenarios")
	flags.IntVar(&o.maxDevices, "devices", 4, "largest number of devices of a user in those")
	flags.Float64Var(&o.rate, "rate", 150, "messages per second of the faults scenario")
	flags.IntVar(&o.kills, "kills", 50, "how often the durable scenario kills the process")
	flags.IntVar(&o.sockets, "sockets", 10_000, "connections of the churn scenario")
	flags.IntVar(&o.copies, "processes", 0, "copies of Parley; more than one need --redis; 0 for 1, or 3 with --redis")
	flags.BoolVar(&o.redis, "redis", false, "start a Redis for the processes to share, and hurt it too; needs redis-server on the PATH")
	flags.StringVar(&o.transports, "transports", "websocket,websocket,polling,upgrade", "what devices choose their transport from, each time")
	flags.StringVar(&o.binary, "binary", "", "the parley binary; empty to build it")
	flags.BoolVar(&o.race, "race", false, "build the binary with the race detector")
	flags.BoolVar(&o.keep, "keep", false, "keep logs and data even if all is well")
	flags.Usage = func() {
		tell(errs, "Usage: go run ./checker [flags]\n\nFlags:")
		flags.PrintDefaults()
		tell(errs, "\nScenarios:")
		for _, name := range slices.Sorted(maps.Keys(scenarios)) {
			tell(errs, "  %-10s%s", name, scenarios[name].about)
		}
	}
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return 0
		}
		return 2
	}
	if err := o.validate(flags.Args()); err != nil {
		tell(errs, "checker: %v", err)
		return 2
	}
	o.complete()
	if o.seed == 0 {
		o.seed = rand.Uint64N(1_000_000) + 1 // #nosec G404 -- it is no secret
	}
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer cancel()
	again := "go run ./checker " + strings.Join(append(slices.DeleteFunc(slices.Clone(args), isSeed), fmt.Sprintf("--seed=%d", o.seed)), " ")
	tell(out, "scenario %s, seed %d", o.scenario, o.seed)
	r, found, err := execute(ctx, o)
	return verdict(r, found, err, again, out, errs)
}

// validate returns an error that names the flag which can't be used.
func (o *options) validate(rest []string) error {
	switch {
	case len(rest) > 0:
		return fmt.Errorf("%q is no flag: see --help", rest[0])
	case scenarios[o.scenario] == nil:
		return fmt.Errorf("--scenario: there is no %q: see --help", o.scenario)
	case o.duration < time.Second:
		return errors.New("--duration: a second is the least")
	case o.maxUsers < 2:
		return errors.New("--users: two is the least")
	case o.maxDevices < 1:
		return errors.New("--devices: one is the least")
	case o.rate <= 0:
		return errors.New("--rate: has to be above zero")
	case o.copies < 0:
		return errors.New("--processes: one is the least")
	case o.copies > 1 && !o.redis && scenarios[o.scenario].reach != several:
		return errors.New("--processes: several share nothing without --redis")
	case o.copies > 1 && scenarios[o.scenario].reach == onlyOne:
		return fmt.Errorf("--processes: %s is for one", o.scenario)
	case o.copies == 1 && scenarios[o.scenario].reach == several:
		return fmt.Errorf("--processes: %s is for several", o.scenario)
	case o.kills < 1:
		return errors.New("--kills: one is the least")
	case o.sockets < 100:
		return errors.New("--sockets: 100 is the least")
	}
	for _, t := range strings.Split(o.transports, ",") {
		if t != "websocket" && t != "polling" && t != "upgrade" {
			return fmt.Errorf("--transports: there is no %q, only websocket, polling and upgrade", t)
		}
	}
	return nil
}

// complete sets what depends on the scenario and was left open.
func (o *options) complete() {
	reach := scenarios[o.scenario].reach
	o.redis = o.redis || reach == several
	if o.copies == 0 {
		o.copies = 1
		if o.redis && reach != onlyOne {
			o.copies = 3
		}
	}
}

func isSeed(arg string) bool {
	return strings.HasPrefix(arg, "--seed=") || strings.HasPrefix(arg, "-seed=")
}

// shown is how many violations of a rule are printed.
const shown = 8

// verdict prints the outcome and returns the exit code.
func verdict(r *run, found []Violation, err error, again string, out, errs io.Writer) int {
	code := 0
	switch {
	case err != nil:
		tell(errs, "checker: %v", err)
		code = 2
	case len(found) == 0:
		tell(out, "nothing is wrong")
	}
	if len(found) > 0 {
		code = max(code, 1)
		byRule := make(map[Rule][]Violation)
		for _, v := range found {
			byRule[v.Rule] = append(byRule[v.Rule], v)
		}
		for _, rule := range slices.Sorted(maps.Keys(byRule)) {
			list := byRule[rule]
			for _, v := range list[:min(len(list), shown)] {
				tell(errs, "%v", v)
			}
			if len(list) > shown {
				tell(errs, "%-9s and %d more", rule, len(list)-shown)
			}
		}
	}
	if r == nil {
		return code
	}
	tell(out, "%s", r.counts())
	for _, line := range r.summary {
		tell(out, "%s", line)
	}
	if code == 0 && !r.keep {
		if err := os.RemoveAll(r.dir); err != nil {
			tell(errs, "checker: %v", err)
		}
		return 0
	}
	if len(found) > 0 {
		if err := writeViolations(r.dir, found); err != nil {
			tell(errs, "checker: %v", err)
		}
	}
	tell(out, "logs and data are in %s\nto run it again: %s", r.dir, again)
	return code
}

// writeViolations keeps all of what is wrong beside the logs.
func writeViolations(dir string, found []Violation) error {
	var b strings.Builder
	for _, v := range found {
		fmt.Fprintln(&b, v)
	}
	return os.WriteFile(filepath.Join(dir, "violations.txt"), []byte(b.String()), 0o600)
}

// tell prints a line. One that can't be printed has nobody to be told.
func tell(w io.Writer, format string, args ...any) {
	_, _ = fmt.Fprintf(w, format+"\n", args...)
}

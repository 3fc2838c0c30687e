//go:build linux

// Command bench measures Parley beside the servers that it is compared with. It builds and starts each one as a
// process of its own, drives it with the same traffic, checks every delivery, and prints what it cost.
//
//	go run ./bench --help
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// bench is a whole run's settings.
type bench struct {
	*builder
	repeat       int
	duration     time.Duration
	warmUp       time.Duration
	idle, settle time.Duration
	files        int // that a process may have open
	contentBytes int
	progress     io.Writer
}

// workload is something to do to a server.
type workload struct {
	name string
	run  func(ctx context.Context, b *bench, t target) ([]result, error)
}

func main() {
	do := run
	if len(os.Args) > 1 && os.Args[1] == holdCommand {
		do = hold
	}
	if err := do(os.Args[1:]); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer cancel()
	b := &bench{progress: os.Stderr}
	o, err := parse(args, b)
	if err != nil {
		return err
	}
	if b.files, err = raiseFiles(); err != nil {
		return err
	}
	if b.builder, err = newBuilder(ctx, o.data); err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(b.dir) }()
	if o.from != "" {
		records, err := readRecords(o.from)
		if err != nil {
			return err
		}
		return o.show(records)
	}
	jobs, err := o.jobs()
	if err != nil {
		return err
	}
	results, err := b.runAll(ctx, jobs)
	all := summarize(results)
	if len(all) == 0 {
		return err
	}
	r := newRecord(context.WithoutCancel(ctx), b.root, args, all)
	return errors.Join(err, r.write(o.json), o.show([]record{r}))
}

// show prints the records, and writes the report that was asked for.
func (o *options) show(records []record) error {
	var all []summary
	for _, r := range records {
		all = append(all, r.Results...)
	}
	if err := table(os.Stdout, all); err != nil || o.report == "" {
		return err
	}
	return report(strings.TrimSuffix(o.report, "/"), records)
}

// job is a workload on one target.
type job struct {
	workload workload
	target   target
}

// runAll runs every job once, then every job again, and so on: what the machine does meanwhile hits all alike.
func (b *bench) runAll(ctx context.Context, jobs []job) ([]result, error) {
	var results []result
	var failures error
	begin := time.Now()
	failed := map[int]bool{}
	for round := range b.repeat {
		for i, j := range jobs {
			if ctx.Err() != nil {
				return results, errors.Join(failures, ctx.Err())
			}
			if failed[i] {
				continue
			}
			done := round*len(jobs) + i
			b.say("[%s] %d/%d round %d: %s, %s … ", time.Since(begin).Round(time.Second), done+1, b.repeat*len(jobs), round+1,
				j.workload.name, j.target)
			some, err := j.workload.run(ctx, b, j.target)
			if err != nil {
				failed[i] = true
				failures = errors.Join(failures, fmt.Errorf("%s, %s: %w", j.workload.name, j.target, err))
				b.say("FAILED: %v\n", err)
				continue
			}
			for _, r := range some {
				b.say("%s %s  ", r.phase, headline(r.values))
			}
			b.say("\n")
			results = append(results, some...)
		}
	}
	return results, failures
}

// say tells who waits how it goes.
func (b *bench) say(format string, args ...any) { _, _ = fmt.Fprintf(b.progress, format, args...) }

// headline is the one number of a run to show while the others are still to come.
func headline(v values) string {
	for _, m := range comparable {
		if x, ok := v[m]; ok {
			return fmt.Sprintf("%.2f", x)
		}
	}
	return "done"
}

func newBuilder(ctx context.Context, data string) (*builder, error) {
	root, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}").Output()
	if err == nil && len(strings.TrimSpace(string(root))) == 0 {
		err = errors.New("this is not a module")
	}
	if err != nil {
		return nil, fmt.Errorf("find the module: %w: run it inside the repository", err)
	}
	dir, err := os.MkdirTemp("", "parley-bench-")
	if err != nil {
		return nil, err
	}
	if data == "" {
		data = dir
	} else if data, err = filepath.Abs(data); err != nil {
		return nil, err
	}
	return &builder{root: strings.TrimSpace(string(root)), dir: dir, data: data, made: map[string]string{}}, nil
}

// raiseFiles asks for as many open files as the system gives, for this process and those it starts, and returns
// how many that is.
func raiseFiles() (int, error) {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return 0, fmt.Errorf("open files: %w", err)
	}
	const wanted = 1 << 18
	if limit.Max < wanted {
		raised := syscall.Rlimit{Cur: wanted, Max: wanted}
		if syscall.Setrlimit(syscall.RLIMIT_NOFILE, &raised) == nil { // some may
			return wanted, nil
		}
	}
	limit.Cur = limit.Max
	return int(limit.Max), syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit)
}

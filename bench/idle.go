//go:build linux

package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"time"

	"parley/bench/load"
	"parley/bench/proc"
)

// idle is connections of authenticated users, each in its user's room on the notify namespace, that do nothing
// but answer heartbeats. In the end some of the users are sent a notification, to see that they are what they
// seem. A process may have only so many open files, so the clients of each server process are in a process of
// their own, and more connections than one process can have are spread over several.
func idle(conns int) workload {
	name := "idle"
	return workload{name: name, run: func(ctx context.Context, b *bench, t target) (all []result, err error) {
		t = spreadOut(t, conns, b.files)
		err = b.with(ctx, t, "chat", func(s *session) error {
			if err := pause(ctx, time.Second); err != nil {
				return err
			}
			empty, err := s.memory()
			if err != nil {
				return err
			}
			holders, err := startHolders(ctx, s.ports, conns)
			defer holders.stop()
			if err != nil {
				return err
			}
			if err := pause(ctx, b.settle); err != nil {
				return err
			}
			before, err := s.cost()
			if err != nil {
				return err
			}
			if err := pause(ctx, b.idle); err != nil {
				return err
			}
			after, err := s.cost()
			if err != nil {
				return err
			}
			full, err := s.memory()
			if err != nil {
				return err
			}
			all = append(all, result{workload: name, phase: fmt.Sprint(conns), target: t,
				values: perConnection(conns, empty, full, after.since(before).servers, after.at.Sub(before.at))})
			return holders.check()
		})
		return all, err
	}}
}

// spareFiles is what a process needs beside its connections.
const spareFiles = 200

// spreadOut gives a target as many processes as the connections need.
func spreadOut(t target, conns, files int) target {
	each := max(files-spareFiles, 1)
	if need := (conns + each - 1) / each; need > t.processes {
		t.processes = need
		if strings.HasPrefix(t.server, "parley") {
			t.store = "redis" // which several processes share
		}
	}
	return t
}

func perConnection(conns int, empty, full proc.Memory, spent, elapsed time.Duration) values {
	n := float64(conns)
	second := micros(spent) / n / elapsed.Seconds()
	return values{
		rssPerConn: float64(full.RSS-empty.RSS) / n, pssPerConn: float64(full.PSS-empty.PSS) / n,
		idleCPU: second, idleMinute: 60 * second,
	}
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// holdCommand makes this program a process that holds connections.
const holdCommand = "hold"

// holding is what such a process is told.
type holding struct{ Port, First, Conns, Sources int }

// holder is one such process. It reports each thing that it has done with a line.
type holder struct {
	cmd   *exec.Cmd
	input io.WriteCloser
	lines *bufio.Reader
}

type holders []*holder

// startHolders has one process for each port connect its share.
func startHolders(ctx context.Context, ports []int, conns int) (all holders, err error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	first := 0
	for i, port := range ports {
		share := conns*(i+1)/len(ports) - first
		text, err := json.Marshal(holding{port, first, share, 1 + share/20_000})
		if err != nil {
			return all, err
		}
		first += share
		h := &holder{cmd: exec.CommandContext(ctx, self, holdCommand, string(text))} // #nosec G204 -- this program
		h.cmd.Stderr = os.Stderr
		if h.input, err = h.cmd.StdinPipe(); err != nil {
			return all, err
		}
		out, err := h.cmd.StdoutPipe()
		if err != nil {
			return all, err
		}
		h.lines = bufio.NewReader(out)
		if err := h.cmd.Start(); err != nil {
			return all, err
		}
		all = append(all, h)
		if err := h.wait(); err != nil { // one after the other: the machine is busy enough
			return all, err
		}
	}
	return all, nil
}

var errHolder = errors.New("the process that holds connections failed")

func (h *holder) wait() error {
	if line, err := h.lines.ReadString('\n'); err != nil || line != "done\n" {
		return fmt.Errorf("%w: %q %w", errHolder, line, err)
	}
	return nil
}

// check has each holder try its connections.
func (hs holders) check() error {
	for _, h := range hs {
		if _, err := io.WriteString(h.input, "check\n"); err != nil {
			return fmt.Errorf("%w: %w", errHolder, err)
		}
		if err := h.wait(); err != nil {
			return err
		}
	}
	return nil
}

func (hs holders) stop() {
	for _, h := range hs {
		_ = h.input.Close() // ends it
		_ = h.cmd.Wait()    // what failed was told before
	}
}

// hold is such a process: it connects, answers heartbeats, and tries its connections whenever a line comes.
func hold(args []string) error {
	runtime.LockOSThread()
	var o holding
	if len(args) != 2 {
		return errors.New("hold is for bench itself")
	}
	if err := json.Unmarshal([]byte(args[1]), &o); err != nil {
		return err
	}
	if _, err := raiseFiles(); err != nil {
		return err
	}
	l, err := load.NewLoop()
	if err != nil {
		return err
	}
	tr := &load.Notify{Users: o.Conns, Devices: 1, First: o.First, Sources: o.Sources}
	tr.Prepare(l, 1)
	if err := tr.Connect([]int{o.Port}, 64, connectLimit); err != nil {
		return err
	}
	fmt.Println("done")
	lines := make(chan struct{})
	go func() {
		defer close(lines)
		for in := bufio.NewScanner(os.Stdin); in.Scan(); {
			lines <- struct{}{}
		}
	}()
	for {
		select {
		case _, ok := <-lines:
			if !ok {
				return nil
			}
			if err := tr.Pace(500, time.Second); err != nil {
				return err
			}
			if err := tr.Drain(drainLimit); err != nil {
				return err
			}
			fmt.Println("done")
		default:
			if err := l.For(100 * time.Millisecond); err != nil {
				return err
			}
		}
	}
}

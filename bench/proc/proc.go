//go:build linux

// Package proc runs the processes that are measured and reads what they cost from the kernel.
package proc

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unsafe"
)

// Process is a running server with the processes it started.
type Process struct {
	Name string
	Port int
	cmd  *exec.Cmd
	done chan struct{}
	log  tail
}

// Start runs a command, which inherits env, and waits until it accepts connections on port.
func Start(ctx context.Context, name string, port int, env []string, command string, args ...string) (*Process, error) {
	p := &Process{Name: name, Port: port, done: make(chan struct{})}
	p.cmd = exec.Command(command, args...) // #nosec G204 -- it is what the user wants measured
	p.cmd.Env = append(os.Environ(), env...)
	p.cmd.Stdout, p.cmd.Stderr = &p.log, &p.log
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	go func() {
		_ = p.cmd.Wait() // how it ended is in its log
		close(p.done)
	}()
	for deadline := time.Now().Add(20 * time.Second); ; {
		conn, err := net.DialTimeout("tcp", fmt.Sprint("127.0.0.1:", port), time.Second)
		if err == nil {
			return p, conn.Close()
		}
		select {
		case <-p.done:
			return nil, fmt.Errorf("%s ended at its start:\n%s", name, p.log.String())
		case <-ctx.Done():
			p.Stop()
			return nil, ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			p.Stop()
			return nil, fmt.Errorf("%s does not listen on port %d after 20 s:\n%s", name, port, p.log.String())
		}
	}
}

// FreePort returns a port that nobody listens on.
func FreePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	port := l.Addr().(*net.TCPAddr).Port
	return port, l.Close()
}

// Stop kills the process and those that it started.
func (p *Process) Stop() {
	_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL) // it may be gone
	<-p.done
}

// Alive says whether the process still runs; if not, what it said last.
func (p *Process) Alive() error {
	select {
	case <-p.done:
		return fmt.Errorf("%s died:\n%s", p.Name, p.log.String())
	default:
		return nil
	}
}

// Log is the end of what the process wrote.
func (p *Process) Log() string { return p.log.String() }

// CPU is the user and system time of the process and its living descendants so far, to the nanosecond: the
// kernel's per-process clock counts threads that have ended too.
func (p *Process) CPU() (time.Duration, error) {
	var sum time.Duration
	pids, err := tree(p.cmd.Process.Pid)
	if err != nil {
		return 0, err
	}
	for _, pid := range pids {
		t, err := cpu(pid)
		if err != nil {
			return 0, fmt.Errorf("CPU time of %s: %w", p.Name, err)
		}
		sum += t
	}
	return sum, nil
}

func cpu(pid int) (time.Duration, error) {
	const schedulerClock = 2 // CPUCLOCK_SCHED of linux/posix-timers.h
	clock := ^pid<<3 | schedulerClock
	var t syscall.Timespec
	_, _, errno := syscall.Syscall(syscall.SYS_CLOCK_GETTIME, uintptr(clock), uintptr(unsafe.Pointer(&t)), 0) // #nosec G103 -- as the call wants it
	if errno != 0 {
		return 0, errno
	}
	return time.Duration(t.Nano()), nil
}

// tree lists a process and its living descendants.
func tree(root int) ([]int, error) {
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return nil, err
	}
	children := map[int][]int{}
	for _, path := range stats {
		stat, err := os.ReadFile(path)
		if err != nil {
			continue // it ended
		}
		pid, parent, err := parents(stat)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		children[parent] = append(children[parent], pid)
	}
	all := []int{root}
	for i := 0; i < len(all); i++ {
		all = append(all, children[all[i]]...)
	}
	return all, nil
}

// parents reads a line of /proc/PID/stat. The name in parentheses may hold anything.
func parents(stat []byte) (pid, parent int, err error) {
	head, rest, ok := bytes.Cut(stat, []byte(" ("))
	end := bytes.LastIndexByte(rest, ')')
	if !ok || end < 0 {
		return 0, 0, errors.New("not a line of stat")
	}
	fields := strings.Fields(string(rest[end+1:]))
	if len(fields) < 2 {
		return 0, 0, errors.New("a short line of stat")
	}
	if pid, err = strconv.Atoi(string(head)); err != nil {
		return 0, 0, err
	}
	parent, err = strconv.Atoi(fields[1])
	return pid, parent, err
}

// Memory is what a process holds, in bytes.
type Memory struct{ RSS, PSS int64 }

// Memory adds up the process and its descendants.
func (p *Process) Memory() (Memory, error) {
	var sum Memory
	pids, err := tree(p.cmd.Process.Pid)
	if err != nil {
		return sum, err
	}
	for _, pid := range pids {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
		if err != nil {
			return sum, err
		}
		m := rollup(text)
		sum.RSS += m.RSS
		sum.PSS += m.PSS
	}
	return sum, nil
}

func rollup(text []byte) (m Memory) {
	lines := bufio.NewScanner(bytes.NewReader(text))
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) != 3 {
			continue
		}
		kb, err := strconv.ParseInt(fields[1], 10, 64)
		switch {
		case err != nil:
		case fields[0] == "Rss:":
			m.RSS = kb << 10
		case fields[0] == "Pss:":
			m.PSS = kb << 10
		}
	}
	return m
}

// Self is the CPU time of this process so far.
func Self() (time.Duration, error) { return cpu(os.Getpid()) }

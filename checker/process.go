package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// How long a process may take. One that starts waits for Redis, which may suffer itself.
const (
	startWithin = 40 * time.Second
	stopWithin  = 20 * time.Second
)

// process is a copy of Parley, or Redis. It can be ended and started again.
type process struct {
	name    string
	port    int
	command []string // with arguments
	env     []string
	logPath string
	ready   func(context.Context) error // tells whether it serves
	trouble *trouble

	// turn is held by whoever starts, ends or freezes the process.
	turn sync.Mutex

	mu       sync.Mutex
	cmd      *exec.Cmd
	exited   chan struct{} // closed when cmd has ended
	expected bool          // that it ends
	starts   int
}

// newProcess prepares a copy of Parley; settings are its environment beside PORT.
func newProcess(index int, binary, dir string, settings []string, t *trouble) (*process, error) {
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	env := append(os.Environ(), settings...)
	env = append(env, "PORT="+strconv.Itoa(port), "DATA_DIR="+filepath.Join(dir, "data-"+strconv.Itoa(index)))
	p := &process{
		name: fmt.Sprintf("process %d", index), port: port, command: []string{binary}, env: env,
		logPath: filepath.Join(dir, fmt.Sprintf("process-%d.log", index)), trouble: t,
	}
	p.ready = func(ctx context.Context) error {
		_, err := p.get(ctx, "/healthz") // one that is degraded serves too
		return err
	}
	return p, nil
}

// freePort returns a port that nobody listens on. It is below those that the system gives to connections: such
// a one could be taken while the process that it belongs to is down.
func freePort() (port int, err error) {
	for range 100 {
		port = 15_000 + rand.IntN(15_000) // #nosec G404 -- it is no secret
		var l net.Listener
		if l, err = net.Listen("tcp", addressOf(port)); err == nil {
			return port, l.Close()
		}
	}
	return 0, fmt.Errorf("find a free port: %w", err)
}

func addressOf(port int) string { return fmt.Sprintf("127.0.0.1:%d", port) }

// url is where clients connect.
func (p *process) url() string { return "http://" + addressOf(p.port) }

// start runs the binary and waits until it serves.
func (p *process) start() error {
	out, err := os.OpenFile(p.logPath, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("log of %s: %w", p.name, err)
	}
	defer func() { _ = out.Close() }()                  // the process has it too
	cmd := exec.Command(p.command[0], p.command[1:]...) // #nosec G204 -- it is what the user wants checked
	cmd.Env, cmd.Stdout, cmd.Stderr = p.env, out, out
	cmd.SysProcAttr = sysProcAttr()
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", p.name, err)
	}
	exited := make(chan struct{})
	p.mu.Lock()
	p.cmd, p.exited, p.expected = cmd, exited, false
	p.starts++
	p.mu.Unlock()
	go func() {
		err := cmd.Wait()
		p.mu.Lock()
		defer p.mu.Unlock()
		if !p.expected {
			p.trouble.report(RuleProcess, "%s ended by itself: %v: %s", p.name, err, p.lastLine())
		}
		close(exited)
	}()
	return p.awaitReady(exited)
}

func (p *process) awaitReady(exited <-chan struct{}) error {
	ctx, cancel := context.WithTimeout(context.Background(), startWithin)
	defer cancel()
	for {
		err := p.ready(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-exited:
			return fmt.Errorf("%s ended while starting: %s", p.name, p.lastLine())
		case <-ctx.Done():
			return fmt.Errorf("%s did not serve within %s: %w", p.name, startWithin, err)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// get fetches a page of the process.
func (p *process) get(ctx context.Context, path string) (string, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, p.url()+path, nil)
	if err != nil {
		return "", err
	}
	request.Close = true
	reply, err := http.DefaultClient.Do(request)
	if err != nil {
		return "", err
	}
	defer func() { _ = reply.Body.Close() }()
	var body bytes.Buffer
	if _, err := body.ReadFrom(reply.Body); err != nil {
		return "", err
	}
	if reply.StatusCode != http.StatusOK {
		return "", fmt.Errorf("%s: %s", path, reply.Status)
	}
	return body.String(), nil
}

// stop ends the process with a signal and waits. One that is killed may end in whatever way; one that was
// asked to end has to end well, also while Redis is away.
func (p *process) stop(signal syscall.Signal) error {
	p.mu.Lock()
	cmd, exited := p.cmd, p.exited
	p.expected = true
	p.mu.Unlock()
	if cmd == nil {
		return nil
	}
	if err := cmd.Process.Signal(signal); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("signal %s: %w", p.name, err)
	}
	select {
	case <-exited:
	case <-time.After(stopWithin):
		p.trouble.report(RuleProcess, "%s did not end within %s of %s", p.name, stopWithin, signal)
		_ = cmd.Process.Kill() // fails if it ended just now
		<-exited
	}
	if signal == syscall.SIGTERM && cmd.ProcessState.ExitCode() != 0 {
		p.trouble.report(RuleProcess, "%s ended with %s after SIGTERM: %s", p.name, cmd.ProcessState, p.lastLine())
	}
	return nil
}

// errSuffering means that a fault found its process suffering from another.
var errSuffering = errors.New("the process is down or frozen already")

// restart ends the process with a signal and starts it again, after it was down for that time. It fails with
// errSuffering if that can't be now.
func (p *process) restart(signal syscall.Signal, down time.Duration) error {
	if !p.turn.TryLock() {
		return errSuffering
	}
	defer p.turn.Unlock()
	if err := p.stop(signal); err != nil {
		return err
	}
	time.Sleep(down)
	return p.start()
}

// freeze stops the process for that time. It fails with errSuffering if that can't be now.
func (p *process) freeze(d time.Duration) error {
	if !p.turn.TryLock() {
		return errSuffering
	}
	defer p.turn.Unlock()
	if err := p.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		return fmt.Errorf("freeze %s: %w", p.name, err)
	}
	time.Sleep(d)
	if err := p.cmd.Process.Signal(syscall.SIGCONT); err != nil {
		return fmt.Errorf("thaw %s: %w", p.name, err)
	}
	return nil
}

func (p *process) pid() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.cmd.Process.Pid
}

// lastLine returns the end of the log, where a process says why it stops.
func (p *process) lastLine() string {
	data, err := os.ReadFile(p.logPath)
	if err != nil {
		return err.Error()
	}
	data = bytes.TrimSpace(data)
	return string(data[bytes.LastIndexByte(data, '\n')+1:])
}

// logReport returns how many lines of the log are warnings and errors, and reports panics and races.
func (p *process) logReport() (warnings, errs int) {
	f, err := os.Open(p.logPath)
	if err != nil {
		return 0, 0
	}
	defer func() { _ = f.Close() }()
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		line := lines.Text()
		switch {
		case strings.HasPrefix(line, "panic:"), strings.HasPrefix(line, "fatal error:"), strings.Contains(line, "DATA RACE"),
			strings.Contains(line, `"level":"error"`) && strings.Contains(line, "panic"):
			p.trouble.report(RuleProcess, "%s: %.300s", p.name, line)
		case strings.Contains(line, `"level":"error"`):
			errs++
		case strings.Contains(line, `"level":"warn"`):
			warnings++
		}
	}
	return warnings, errs
}

// build makes the binary from the source in the current directory's module.
func build(ctx context.Context, dir string, race bool) (string, error) {
	binary := filepath.Join(dir, "parley")
	args := []string{"build", "-o", binary}
	if race {
		args = append(args, "-race")
	}
	cmd := exec.CommandContext(ctx, "go", append(args, "parley")...) // #nosec G204 -- fixed arguments
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build parley: %w: run this within the repository, or name a --binary\n%s", err, out)
	}
	return binary, nil
}

// trouble collects what is found wrong while the scenario runs.
type trouble struct {
	mu    sync.Mutex
	found []Violation
}

func (t *trouble) report(rule Rule, format string, args ...any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.found = append(t.found, Violation{rule, fmt.Sprintf(format, args...)})
}

func (t *trouble) all() []Violation {
	t.mu.Lock()
	defer t.mu.Unlock()
	return append([]Violation(nil), t.found...)
}

//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"parley/bench/proc"
)

// target is one way to serve a workload: a server, its store and its number of processes.
type target struct {
	server    string // parley, gws, gws-handoff, node, bun, or parley=PATH for another build of Parley
	store     string // memory, file or redis; peers know memory and redis
	processes int
}

func (t target) String() string {
	name := t.server
	if build, path, ok := strings.Cut(name, "="); ok {
		name = build + "=" + filepath.Base(path)
	}
	if t.store != "memory" {
		name += " " + t.store
	}
	if t.processes > 1 {
		name += fmt.Sprint(" ×", t.processes)
	}
	return name
}

// running is a started target.
type running struct {
	ports   []int
	servers []*proc.Process
	redis   *proc.Process
	dir     string
}

// builder has what targets are started from.
type builder struct {
	root string // of the module
	dir  string // for what is built
	data string // where the file store's directories are made
	made map[string]string
}

// command builds a package of this module, once.
func (b *builder) command(ctx context.Context, pkg string) (string, error) {
	if path, ok := b.made[pkg]; ok {
		return path, nil
	}
	path := filepath.Join(b.dir, strings.ReplaceAll(strings.Trim(pkg, "./"), "/", "-")+"-bin")
	build := exec.CommandContext(ctx, "go", "build", "-o", path, pkg) // #nosec G204 -- fixed arguments
	build.Dir = b.root
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build %s: %w\n%s", pkg, err, out)
	}
	b.made[pkg] = path
	return path, nil
}

// start starts a target for an application: chat (which has notify too) or broadcast.
func (b *builder) start(ctx context.Context, t target, app string) (_ *running, err error) {
	r := &running{}
	defer func() {
		if err != nil {
			r.stop()
		}
	}()
	if r.dir, err = os.MkdirTemp(b.data, "parley-bench-"); err != nil {
		return nil, err
	}
	var env []string
	if t.store == "redis" {
		port, err := proc.FreePort()
		if err != nil {
			return nil, err
		}
		r.redis, err = proc.Start(ctx, "redis-server", port, nil, "redis-server", "--port", fmt.Sprint(port), "--bind", "127.0.0.1",
			"--save", "", "--appendonly", "no", "--dir", r.dir)
		if err != nil {
			return nil, err
		}
		env = append(env, fmt.Sprintf("REDIS_URL=redis://127.0.0.1:%d", port))
	}
	for i := range t.processes {
		port, err := proc.FreePort()
		if err != nil {
			return nil, err
		}
		command, args, more, err := b.line(ctx, t, app)
		if err != nil {
			return nil, err
		}
		more = append(append(more, env...), fmt.Sprint("PORT=", port), "DATA_DIR="+filepath.Join(r.dir, fmt.Sprint("data", i)))
		p, err := proc.Start(ctx, t.String(), port, more, command, args...)
		if err != nil {
			return nil, err
		}
		r.servers, r.ports = append(r.servers, p), append(r.ports, port)
	}
	return r, nil
}

var errNoServer = errors.New("there is no such server; known are parley, parley=PATH, gws, gws-handoff, node and bun")

// line is the command that serves an application, and its environment.
func (b *builder) line(ctx context.Context, t target, app string) (command string, args, env []string, err error) {
	name, path, _ := strings.Cut(t.server, "=")
	switch name {
	case "parley":
		env = []string{"HOST=127.0.0.1", "STORE=" + t.store, "LOG_LEVEL=warn", "RATE_LIMIT=0", "DRAIN_TIMEOUT=0"}
		if t.processes > 1 {
			// Its part of the machine, which a process in a container finds by itself. Node's have one thread each.
			env = append(env, fmt.Sprint("GOMAXPROCS=", max(1, runtime.NumCPU()/t.processes)))
		}
		pkg := "."
		switch {
		case app == "broadcast":
			pkg = "./bench/peer/parley" // of this checkout, whatever build was named
		case path != "":
			return path, nil, env, nil
		}
		command, err = b.command(ctx, pkg)
		return command, nil, env, err
	case "gws", "gws-handoff":
		env = []string{"APP=" + app}
		if name == "gws-handoff" {
			env = append(env, "HANDOFF=1")
		}
		command, err = b.command(ctx, "./bench/peer/gws")
		return command, nil, env, err
	case "node", "bun":
		dir := filepath.Join(b.root, "bench", "peer", "node")
		if err := b.install(ctx, dir); err != nil {
			return "", nil, nil, err
		}
		command = "node"
		if name == "bun" {
			command = filepath.Join(dir, "node_modules", ".bin", "bun")
		}
		return command, []string{filepath.Join(dir, app+".mjs")}, []string{"NODE_ENV=production", "ENGINE=" + name}, nil
	}
	return "", nil, nil, fmt.Errorf("%q: %w", t.server, errNoServer)
}

// install fetches what the Node servers need.
func (b *builder) install(ctx context.Context, dir string) error {
	if _, err := os.Stat(filepath.Join(dir, "node_modules", "socket.io")); err == nil {
		return nil
	}
	install := exec.CommandContext(ctx, "npm", "ci", "--no-audit", "--no-fund")
	install.Dir = dir
	if out, err := install.CombinedOutput(); err != nil {
		return fmt.Errorf("npm ci in %s: %w\n%s", dir, err, out)
	}
	return nil
}

func (r *running) stop() {
	for _, p := range r.servers {
		p.Stop()
	}
	if r.redis != nil {
		r.redis.Stop()
	}
	if r.dir != "" {
		_ = os.RemoveAll(r.dir) // it is temporary anyway
	}
}

// alive says which process died, if one did.
func (r *running) alive() error {
	for _, p := range r.servers {
		if err := p.Alive(); err != nil {
			return err
		}
	}
	return nil
}

// cost is CPU time spent so far.
type cost struct {
	at             time.Time
	servers, redis time.Duration
	self           time.Duration
}

func (r *running) cost() (c cost, err error) {
	for _, p := range r.servers {
		t, err := p.CPU()
		if err != nil {
			return c, err
		}
		c.servers += t
	}
	if r.redis != nil {
		if c.redis, err = r.redis.CPU(); err != nil {
			return c, err
		}
	}
	c.self, err = proc.Self()
	c.at = time.Now()
	return c, err
}

func (c cost) since(before cost) cost {
	return cost{at: c.at, servers: c.servers - before.servers, redis: c.redis - before.redis, self: c.self - before.self}
}

// memory adds up the servers, without Redis.
func (r *running) memory() (sum proc.Memory, err error) {
	for _, p := range r.servers {
		m, err := p.Memory()
		if err != nil {
			return sum, err
		}
		sum.RSS += m.RSS
		sum.PSS += m.PSS
	}
	return sum, nil
}

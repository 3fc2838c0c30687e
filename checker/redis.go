package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"
)

// silent is a logger of the Redis client's that says nothing: that Redis is away is the checker's own doing.
type silent struct{}

// Printf implements the client's logger.
func (silent) Printf(context.Context, string, ...any) {}

// newRedis prepares a Redis of the run's own, which has on disk what it has acknowledged.
func newRedis(dir string, t *trouble) (*process, error) {
	binary, err := exec.LookPath("redis-server")
	if err != nil {
		return nil, fmt.Errorf("--redis needs redis-server on the PATH: install Redis: %w", err)
	}
	redis.SetLogger(silent{})
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	data := filepath.Join(dir, "redis")
	if err := os.MkdirAll(data, 0o700); err != nil {
		return nil, fmt.Errorf("make a directory for Redis: %w", err)
	}
	p := &process{
		name: "Redis", port: port, env: os.Environ(), logPath: filepath.Join(dir, "redis.log"), trouble: t,
		command: []string{
			binary, "--port", strconv.Itoa(port), "--bind", "127.0.0.1", "--dir", data,
			"--appendonly", "yes", "--appendfsync", "always", "--save", "",
		},
	}
	p.ready = func(ctx context.Context) error {
		return p.ask(ctx, func(ctx context.Context, c *redis.Client) error { return c.Ping(ctx).Err() })
	}
	return p, nil
}

// dropSubscribers makes Redis close all connections that have subscriptions. Without Redis there are none.
func (p *process) dropSubscribers(ctx context.Context) {
	_ = p.ask(ctx, func(ctx context.Context, c *redis.Client) error {
		return c.ClientKillByFilter(ctx, "TYPE", "pubsub").Err()
	})
}

// ask uses a connection to Redis for one command.
func (p *process) ask(ctx context.Context, do func(context.Context, *redis.Client) error) error {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	c := redis.NewClient(&redis.Options{Addr: addressOf(p.port), MaxRetries: -1, PoolSize: 1, ContextTimeoutEnabled: true})
	defer func() { _ = c.Close() }()
	return do(ctx, c)
}

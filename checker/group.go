package main

import (
	"context"
	"errors"
	"sync"
)

// group is goroutines that are waited for together. The first that fails ends the context of all.
type group struct {
	running sync.WaitGroup
	cancel  context.CancelFunc

	mu   sync.Mutex
	errs error
}

func newGroup(ctx context.Context) (*group, context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	return &group{cancel: cancel}, ctx
}

func (g *group) run(f func() error) {
	g.running.Go(func() {
		if err := f(); err != nil {
			g.mu.Lock()
			defer g.mu.Unlock()
			g.errs = errors.Join(g.errs, err)
			g.cancel()
		}
	})
}

// err returns what has gone wrong so far.
func (g *group) err() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.errs
}

func (g *group) wait() error {
	g.running.Wait()
	g.cancel()
	return g.err()
}

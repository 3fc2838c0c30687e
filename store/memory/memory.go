// Package memory keeps everything in the memory of the process. It is for tests, and for running without a place on
// disk: what it calls durable lasts as long as the process.
//
// Mailboxes are spread over stripes, each under its own mutex; sessions are under another, and so are recoveries; presence
// is spread over stripes too. No locks of two kinds are held at the same time.
package memory

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"parley/store"
	"parley/store/internal/ordered"
	"parley/store/internal/records"
)

// Store is a [store.Store] in memory. Make one with [New].
type Store struct {
	Presence
	mailboxes
	recoveries

	opts store.Options

	mu   sync.RWMutex
	rows ordered.Map // guarded by mu

	closed atomic.Bool
	stop   chan struct{}
	swept  sync.WaitGroup // the sweeper, which ends when stop is closed
}

var _ store.Store = (*Store)(nil)

const (
	// sweepInterval is how often expired things are looked for. They are out of sight before.
	sweepInterval = time.Second
	// sweepLimit bounds what one step of the sweeper removes under one lock.
	sweepLimit = 256
)

// New returns an empty store. Close ends its one goroutine.
func New(opts store.Options) *Store {
	s := &Store{opts: opts.WithDefaults(), stop: make(chan struct{})}
	s.mailboxes.init(s.opts)
	s.recoveries.init(s.opts)
	s.Presence.init()
	s.swept.Go(s.sweeper)
	return s
}

// String implements [store.Store].
func (s *Store) String() string { return "memory (lost on exit)" }

// Close implements [store.Store].
func (s *Store) Close() error {
	if s.closed.Swap(true) {
		return nil
	}
	s.mailboxes.closed.Store(true)
	s.recoveries.closed.Store(true)
	_ = s.Presence.Close() // can't fail
	close(s.stop)
	s.swept.Wait()
	return nil
}

// sweeper removes what has expired, until the store is closed.
func (s *Store) sweeper() {
	ticker := time.NewTicker(sweepInterval)
	defer ticker.Stop()
	for {
		select {
		case <-s.stop:
			return
		case <-ticker.C:
			s.sweep()
		}
	}
}

// sweep removes what has expired, in steps.
func (s *Store) sweep() {
	s.mailboxes.sweep()
	s.recoveries.sweep()
	for more := true; more && !s.closed.Load(); {
		// Rows in memory are never damaged: there is no error to report.
		_ = s.update(context.Background(), func(r records.Records) (err error) {
			more, err = r.Sweep(sweepLimit)
			return err
		})
	}
}

// view lets f read the records. It looks at the context first.
func (s *Store) view(ctx context.Context, f func(records.Records) error) error {
	if err := usable(ctx, &s.closed); err != nil {
		return err
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	return f(s.records())
}

// update lets f change the records. It looks at the context first.
func (s *Store) update(ctx context.Context, f func(records.Records) error) error {
	if err := usable(ctx, &s.closed); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return f(s.records())
}

func (s *Store) records() records.Records {
	return records.Records{Rows: &s.rows, Now: s.opts.Now(), TTL: s.opts.SessionTTL}
}

// usable returns an error if the store is closed or the context over.
func usable(ctx context.Context, closed *atomic.Bool) error {
	if closed.Load() {
		return store.ErrClosed
	}
	return ctx.Err()
}

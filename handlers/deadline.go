package handlers

import (
	"context"
	"sync"
	"time"
)

// storeTimeout bounds what a handler waits for the store.
const storeTimeout = 10 * time.Second

// bounded gives work on the store its deadline. It outlives the connection: what a client sent before it left
// is still done.
func bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	d := &deadline{Context: context.WithoutCancel(ctx), at: time.Now().Add(storeTimeout)}
	return d, d.cancel
}

// deadline is a context.WithTimeout that starts its timer when somebody waits for it. A store in memory answers at
// once, and every message would pay for a timer that nobody looks at.
type deadline struct {
	context.Context
	at time.Time

	mu    sync.Mutex
	timed context.Context // nil until it is waited for
	stop  context.CancelFunc
	err   error // once it was canceled
}

// Deadline implements context.Context.
func (d *deadline) Deadline() (time.Time, bool) { return d.at, true }

// Done implements context.Context.
func (d *deadline) Done() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.timed == nil {
		d.timed, d.stop = context.WithDeadline(d.Context, d.at)
		if d.err != nil {
			d.stop()
		}
	}
	return d.timed.Done()
}

// Err implements context.Context.
func (d *deadline) Err() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case d.timed != nil:
		return d.timed.Err()
	case d.err == nil && !time.Now().Before(d.at):
		d.err = context.DeadlineExceeded
	}
	return d.err
}

func (d *deadline) cancel() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.err == nil {
		d.err = context.Canceled
	}
	if d.stop != nil {
		d.stop()
	}
}

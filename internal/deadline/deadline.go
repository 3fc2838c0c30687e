// Package deadline has contexts with a deadline, for work that seldom has to wait.
package deadline

import (
	"context"
	"sync"
	"time"
)

// Context is [context.WithTimeout], but starts its timer when somebody waits for it: a store in memory answers at once,
// and every message would pay for a timer that nobody looks at. Cancel it as any other. Those who wait also see the parent
// end.
func Context(parent context.Context, timeout time.Duration) (context.Context, context.CancelFunc) {
	d := &deadline{Context: parent, at: time.Now().Add(timeout)}
	return d, d.cancel
}

type deadline struct {
	context.Context
	at time.Time

	mu    sync.Mutex
	timed context.Context // nil until it is waited for
	stop  context.CancelFunc
	err   error // once it was canceled, or its time was found to be over
}

// Deadline implements context.Context.
func (d *deadline) Deadline() (time.Time, bool) {
	if at, ok := d.Context.Deadline(); ok && at.Before(d.at) {
		return at, true
	}
	return d.at, true
}

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
	case d.err != nil:
	case d.timed != nil:
		d.err = d.timed.Err()
	case !time.Now().Before(d.at):
		d.err = context.DeadlineExceeded
	default:
		d.err = d.Context.Err()
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

package memory

import (
	"bytes"
	"container/heap"
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"parley/store"
)

// recoveries implements [store.Recoveries].
type recoveries struct {
	now    func() time.Time
	closed atomic.Bool

	mu    sync.Mutex
	byPID map[string]*recovery
	due   dueHeap // the same
}

// recovery is one that is kept.
type recovery struct {
	store.Recovery
	expires int64 // milliseconds since 1970
	place   int   // in the heap
}

func (r *recoveries) init(opts store.Options) {
	r.now, r.byPID = opts.Now, map[string]*recovery{}
}

// SaveRecovery implements [store.Recoveries].
func (r *recoveries) SaveRecovery(ctx context.Context, rec store.Recovery, ttl time.Duration) error {
	if err := rec.Validate(); err != nil {
		return err
	}
	if err := usable(ctx, &r.closed); err != nil {
		return err
	}
	rec.Rooms, rec.Data = slices.Clone(rec.Rooms), bytes.Clone(rec.Data)
	expires := r.now().Add(ttl).UnixMilli()
	r.mu.Lock()
	defer r.mu.Unlock()
	if kept := r.byPID[rec.PID]; kept != nil {
		kept.Recovery, kept.expires = rec, expires
		heap.Fix(&r.due, kept.place)
		return nil
	}
	kept := &recovery{Recovery: rec, expires: expires}
	r.byPID[rec.PID] = kept
	heap.Push(&r.due, kept)
	return nil
}

// TakeRecovery implements [store.Recoveries].
func (r *recoveries) TakeRecovery(ctx context.Context, pid string) (store.Recovery, error) {
	kept, err := r.remove(ctx, pid)
	if err != nil {
		return store.Recovery{}, err
	}
	if kept == nil || kept.expired(r.now()) {
		return store.Recovery{}, fmt.Errorf("recovery: %w", store.ErrNotFound)
	}
	return kept.Recovery, nil
}

// DeleteRecovery implements [store.Recoveries].
func (r *recoveries) DeleteRecovery(ctx context.Context, pid string) error {
	_, err := r.remove(ctx, pid)
	return err
}

// remove takes out what is kept under pid, expired or not, and returns nil if that is nothing.
func (r *recoveries) remove(ctx context.Context, pid string) (*recovery, error) {
	if err := store.CheckID("pid", pid); err != nil {
		return nil, err
	}
	if err := usable(ctx, &r.closed); err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	kept := r.byPID[pid]
	if kept != nil {
		delete(r.byPID, pid)
		heap.Remove(&r.due, kept.place)
	}
	return kept, nil
}

// sweep removes what has expired.
func (r *recoveries) sweep() {
	for r.sweepSome() {
	}
}

// sweepSome removes some, and reports whether there may be more.
func (r *recoveries) sweepSome() (more bool) {
	now := r.now()
	r.mu.Lock()
	defer r.mu.Unlock()
	for range sweepLimit {
		if len(r.due) == 0 || !r.due[0].expired(now) {
			return false
		}
		delete(r.byPID, r.due[0].PID)
		heap.Pop(&r.due)
	}
	return true
}

func (r *recovery) expired(now time.Time) bool { return r.expires <= now.UnixMilli() }

// dueHeap is a [heap.Interface] with what expires next at the top.
type dueHeap []*recovery

func (h dueHeap) Len() int           { return len(h) }
func (h dueHeap) Less(i, j int) bool { return h[i].expires < h[j].expires }

func (h dueHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].place, h[j].place = i, j
}

func (h *dueHeap) Push(x any) {
	r := x.(*recovery)
	r.place = len(*h)
	*h = append(*h, r)
}

func (h *dueHeap) Pop() any {
	last := len(*h) - 1
	r := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	return r
}

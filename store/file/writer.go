package file

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"syscall"
	"time"

	"parley/store"
)

const (
	// groupLength and groupBytes bound what is written with one sync, so that nobody waits long for the others.
	groupLength = 1024
	groupBytes  = 8 << 20
	// sweepInterval is how often the writer looks for what has expired.
	sweepInterval = time.Second
	// warnInterval is the least time between two warnings.
	warnInterval = 10 * time.Second
)

// request is one write that waits for its group.
type request struct {
	ctx   context.Context // who waits for it; it is not done when that is over
	size  int             // bytes that it will write, roughly
	apply func(*txn) error
	done  chan error // with room for the answer; nil if nobody waits
}

// update writes what apply does and waits until it is durable. What apply sets may be read if no error is returned.
func (s *Store) update(ctx context.Context, size int, apply func(*txn) error) error {
	r := &request{ctx: ctx, size: size, apply: apply, done: make(chan error, 1)}
	if err := enqueue(ctx, s, s.queue, r); err != nil {
		return err
	}
	select {
	case err := <-r.done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// updateLater writes what apply does some time soon, after all that was enqueued before. It waits only for room.
func (s *Store) updateLater(ctx context.Context, size int, apply func(*txn) error) error {
	return enqueue(ctx, s, s.queue, &request{ctx: context.WithoutCancel(ctx), size: size, apply: apply})
}

// enqueue waits for room in one of the queues of s.
func enqueue[T any](ctx context.Context, s *Store, queue chan<- T, r T) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.closing.RLock()
	defer s.closing.RUnlock()
	if s.closed {
		return store.ErrClosed
	}
	if err := s.Health(); err != nil {
		return err
	}
	select {
	case queue <- r: // nearly always; who asks for the end of a context starts a timer
		return nil
	default:
	}
	select {
	case queue <- r: // the queues are emptied until they are closed
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// write writes group after group to the tables until the queue is closed and empty, and what moved of the marks.
func (s *Store) write() {
	defer faultsPanic()()
	defer s.writeMarks() // the last
	ticker := time.NewTicker(sweepInterval)
	defer ticker.Stop()
	sweeping := s.sweepDue() // what expired while the store was closed
	for open := true; open; {
		var group []*request
		if sweeping {
			// A step of the sweep goes with what waits, and before what comes next.
			sweep := &request{ctx: context.Background(), apply: func(t *txn) (err error) {
				sweeping, err = t.sweep(sweepRows)
				return err
			}}
			group, open = gather(s.queue, sweep, sizeOf)
			sweeping = false // unless there is more
			select {
			case <-ticker.C:
				s.writeMarks()
			default:
			}
		} else {
			select {
			case r, ok := <-s.queue:
				if !ok {
					return
				}
				group, open = gather(s.queue, r, sizeOf)
			case <-ticker.C:
				s.writeMarks()
				sweeping = s.sweepDue()
				continue
			}
		}
		s.warn(s.writeGroup(group))
	}
}

// warn tells the log about trouble with the disk, if there is any, and not again right after.
func (s *Store) warn(err error) {
	now, last := time.Now().UnixNano(), s.warned.Load()
	if err != nil && time.Duration(now-last) >= warnInterval && s.warned.CompareAndSwap(last, now) {
		s.opts.Logger.Error().Err(err).Str("file", s.path).Msg("data was not written")
	}
}

func sizeOf(r *request) int { return r.size }

// gather returns first and all that waits behind it, up to the bounds of a group; open is false once the queue is closed
// and empty.
func gather[T any](queue <-chan T, first T, sizeOf func(T) int) (group []T, open bool) {
	group = append(group, first)
	size := sizeOf(first)
	yielded := false
	for len(group) < groupLength && size < groupBytes {
		select {
		case r, ok := <-queue:
			if !ok {
				return group, false
			}
			group, size = append(group, r), size+sizeOf(r)
			yielded = false
		default:
			if yielded {
				return group, true
			}
			// Those who were just answered are about to come again. Without letting them run, they would always miss
			// this group, and groups would be half of what they can be.
			runtime.Gosched()
			yielded = true
		}
	}
	return group, true
}

// answer tells the one who waits, if any.
func (r *request) answer(err error) {
	if r.done != nil {
		r.done <- err
	}
}

// writeGroup writes all requests of a group with one sync, and answers each. A request that cannot be applied is
// taken out of the group, and the others are written without it. The error is about the disk, for the log.
func (s *Store) writeGroup(group []*request) (trouble error) {
	if broken := s.broken.Load(); broken != nil {
		for _, r := range group {
			r.answer(*broken)
		}
		return *broken
	}
	for len(group) > 0 {
		answers := make([]error, len(group))
		failed, err := s.tryGroup(group, answers)
		switch {
		case failed >= 0:
			trouble = err
			group[failed].answer(err)
			group = append(group[:failed:failed], group[failed+1:]...)
			continue
		case err != nil:
			trouble = s.unwritten(err)
			for i := range answers {
				answers[i] = trouble
			}
		}
		for i, r := range group {
			r.answer(answers[i])
		}
		return trouble
	}
	return trouble
}

// tryGroup applies all requests in one transaction and commits it. If one fails, or panics, it changes nothing and
// tells which one; if the commit fails, failed is -1. Answers that are not failures, such as that something is not
// there, go to answers.
func (s *Store) tryGroup(group []*request, answers []error) (failed int, err error) {
	failed = -1
	tx, err := s.db.Begin(true)
	if err != nil {
		return failed, err
	}
	defer func() {
		// After a commit this does nothing; after a panic it gives the lock back.
		_ = tx.Rollback()
	}()
	defer recovered(&err)
	t := s.begin(tx)
	for i, r := range group {
		if answers[i] = r.ctx.Err(); answers[i] != nil {
			continue
		}
		failed = i
		answers[i] = r.apply(t)
		if err := answers[i]; err != nil && !errors.Is(err, store.ErrNotFound) && !errors.Is(err, store.ErrInvalid) {
			return failed, err
		}
	}
	failed = -1
	return failed, s.commit(tx)
}

// Health returns nil, or why nothing can be written until the process has started again. It costs nothing.
func (s *Store) Health() error {
	if broken := s.broken.Load(); broken != nil {
		return *broken
	}
	return nil
}

// unwritten returns what to tell those whose group was not written. Unless it was for want of room, it ends all
// writing: after a failed sync nobody knows what is on disk, until it is read again.
func (s *Store) unwritten(err error) error {
	_, unsynced := errors.AsType[syncError](err)
	if !unsynced && (errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)) {
		return fmt.Errorf("write %s: make room on the disk: %w: %w", s.path, err, store.ErrUnavailable)
	}
	err = fmt.Errorf("write %s: check the disk, then restart: %w: %w", s.path, err, store.ErrUnavailable)
	s.broken.CompareAndSwap(nil, &err)
	return err
}

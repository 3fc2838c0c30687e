package handlers

import (
	"context"
	"fmt"
	"runtime"
	"sync"

	"parley/store"
)

// newest is the users that were seen last, and who of them is connected, as of one moment. It does not change.
type newest struct {
	users  []store.User // one more than the roster limit at most
	ids    []string     // of users
	online []bool       // which of users are connected
	later  shared[[]bool]
}

// readNewest returns the newest users as of a moment that is not before the call. When all clients of a process come back
// at once, most of them share what one of them has read.
func (c *Chat) readNewest(ctx context.Context) (*newest, error) {
	return c.newest.get(ctx, func() (*newest, error) {
		ctx, cancel := bounded(ctx)
		defer cancel()
		users, err := c.store.Users(ctx, c.options.RosterLimit+1)
		if err != nil {
			return nil, fmt.Errorf("read users: %w", err)
		}
		n := &newest{users: users, ids: make([]string, len(users))}
		for i, u := range users {
			n.ids[i] = u.ID
		}
		n.online, err = c.presence(ctx, n.ids)
		return n, err
	})
}

// presenceLater returns which of the users of n are connected as of a moment that is not before the call.
func (c *Chat) presenceLater(ctx context.Context, n *newest) ([]bool, error) {
	return n.later.get(ctx, func() ([]bool, error) {
		ctx, cancel := bounded(ctx)
		defer cancel()
		return c.presence(ctx, n.ids)
	})
}

// readings bounds how many readings of a shared value are under way: one that is slow does not keep up the next.
const readings = 4

// shared gives all who ask the value that is read next, never one that was begun to be read before they asked, so that
// those who ask at the same time share one reading. Its zero value is ready for use.
type shared[T any] struct {
	mu      sync.Mutex
	next    *flight[T] // what who asks now will get; nil if nobody has asked
	reading int        // readings under way
}

// flight is one reading.
type flight[T any] struct {
	led   bool          // somebody was told to read
	lead  chan struct{} // by a value here
	done  chan struct{} // closed when value and err are set
	value T
	err   error
}

func (s *shared[T]) get(ctx context.Context, read func() (T, error)) (T, error) {
	s.mu.Lock()
	if s.next == nil {
		s.next = &flight[T]{lead: make(chan struct{}, 1), done: make(chan struct{}), err: context.Canceled}
		s.leadLocked()
	}
	f := s.next
	s.mu.Unlock()
	select {
	case <-f.done:
	case <-f.lead:
		runtime.Gosched() // who is about to ask can still join
		s.read(f, read)
	case <-ctx.Done(): // f stays for who comes next
		var none T
		return none, ctx.Err()
	}
	return f.value, f.err
}

// leadLocked has one of those who wait for next read it, if there may be another reading.
func (s *shared[T]) leadLocked() {
	if f := s.next; f != nil && !f.led && s.reading < readings {
		f.led = true
		f.lead <- struct{}{}
		s.reading++
	}
}

// read reads f, which is next.
func (s *shared[T]) read(f *flight[T], read func() (T, error)) {
	s.mu.Lock()
	s.next = nil
	s.mu.Unlock()
	defer func() {
		close(f.done)
		s.mu.Lock()
		defer s.mu.Unlock()
		s.reading--
		s.leadLocked()
	}()
	f.value, f.err = read()
}

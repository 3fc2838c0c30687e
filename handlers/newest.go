package handlers

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"time"

	"parley/socketio/packet"
	"parley/store"
)

// newest is the users that were seen last, and who of them is connected, as of one moment. It does not change.
type newest struct {
	users  []store.User // one more than the roster limit at most
	ids    []string     // of users
	online []bool       // which of users are connected
	since  uint64       // the changes that it may lack come after this one
	later  shared[[]bool]

	// The roster of these users without messages, made when somebody needs it.
	once  sync.Once
	text  []byte         // as JSON
	ends  []int          // where messages of the users go in text
	index map[string]int // place of a user in users
}

// roster returns the users as a roster with messages, by user, made from what all who get it share.
func (n *newest) roster(messages map[string][]json.RawMessage) packet.Appender {
	n.once.Do(n.encode)
	return sharedRoster{n, messages}
}

func (n *newest) encode() {
	n.ends, n.index = make([]int, len(n.users)), make(map[string]int, len(n.users))
	n.text = append(make([]byte, 0, 2+len(n.users)*(entryBytes+48)), '[')
	for i, u := range n.users {
		if i > 0 {
			n.text = append(n.text, ',')
		}
		n.text = rosterEntry{UserID: u.ID, Username: u.Username, Connected: n.online[i]}.appendJSON(n.text)
		n.ends[i], n.index[u.ID] = len(n.text)-len("]}"), i
	}
	n.text = append(n.text, ']')
}

// sharedRoster is what newest.roster returns.
type sharedRoster struct {
	*newest
	messages map[string][]json.RawMessage
}

// MarshalJSON implements json.Marshaler, for who listens to what is sent.
func (r sharedRoster) MarshalJSON() ([]byte, error) { return r.AppendJSON(nil) }

// AppendJSON implements packet.Appender.
func (r sharedRoster) AppendJSON(dst []byte) ([]byte, error) {
	size, with := len(r.text), make([]int, 0, len(r.messages))
	for user, messages := range r.messages {
		if i, ok := r.index[user]; ok {
			with = append(with, i)
			size += messagesBytes(messages)
		}
	}
	slices.Sort(with)
	// With room for what follows an argument, so that it is not copied for that.
	dst, from := slices.Grow(dst, size+64), 0
	for _, i := range with {
		dst = append(dst, r.text[from:r.ends[i]]...)
		dst, from = appendMessages(dst, r.messages[r.ids[i]]), r.ends[i]
	}
	return append(dst, r.text[from:]...), nil
}

// readNewest returns the newest users as of a moment that is not before the call. When all clients of a process come back
// at once, most of them share what one of them has read.
func (c *Chat) readNewest(ctx context.Context) (*newest, error) {
	return c.newest.get(ctx, func() (*newest, error) {
		ctx, cancel := bounded(ctx)
		defer cancel()
		since := c.changes.now()
		users, err := c.store.Users(ctx, c.options.RosterLimit+1)
		if err != nil {
			return nil, fmt.Errorf("read users: %w", err)
		}
		n := &newest{users: users, since: since, ids: idsOf(users)}
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

// readings bounds how many readings of a shared value are under way: one that is slow does not hold up the next.
const readings = 4

// shared gives all who ask the value that is read next, never one that was begun to be read before they asked, so that
// those who ask at the same time share one reading. Its zero value is ready for use.
type shared[T any] struct {
	mu      sync.Mutex
	next    *flight[T] // what who asks now will get; nil if nobody has asked
	reading int        // readings under way
	begun   time.Time  // when one was begun last
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
		s.gather(ctx)
		s.read(f, read)
	case <-ctx.Done(): // f stays for who comes next
		var none T
		return none, ctx.Err()
	}
	return f.value, f.err
}

// gatherFor is how long after the last reading the next one waits for who is about to ask.
const gatherFor = 3 * time.Millisecond

// gather waits for those who are about to ask and can still join: many, if the last reading was a moment ago.
func (s *shared[T]) gather(ctx context.Context) {
	s.mu.Lock()
	wait := time.Until(s.begun.Add(gatherFor))
	s.mu.Unlock()
	if wait <= 0 {
		return
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
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
	s.next, s.begun = nil, time.Now()
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

package handlers

import (
	"context"
	"sync"

	"parley/socketio"
)

// changesKept is how many changes of presence are remembered: what happens while a client is welcomed, however many come.
const changesKept = 512

// change is a change of a user's presence, and the event that tells of it.
type change struct {
	user   string
	online bool
	event  *socketio.Prepared
}

// changes are the newest changes of presence that were announced here. Its zero value is empty.
type changes struct {
	mu    sync.Mutex
	count uint64   // of all so far
	ring  []change // the newest, number n at n modulo changesKept
}

// add notes a change that is about to be announced. For each user they come in their order.
func (c *changes) add(ch change) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.count < changesKept {
		c.ring = append(c.ring, ch)
	} else {
		c.ring[c.count%changesKept] = ch
	}
	c.count++
}

// now is the number of changes so far.
func (c *changes) now() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.count
}

// since returns the changes after so many, and their number up to now. ok is false if they are not all remembered.
func (c *changes) since(from uint64) (missed []change, now uint64, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.count-from > changesKept {
		return nil, c.count, false
	}
	missed = make([]change, 0, c.count-from)
	for n := from; n < c.count; n++ {
		missed = append(missed, c.ring[n%changesKept])
	}
	return missed, c.count, true
}

// settleChanges is settle for a socket that was given latest. If more has changed since than is remembered, ok is false, and
// settle has to ask the store; said is what the socket was told here of users, and whether they are online.
func (c *Chat) settleChanges(ctx context.Context, s *socketio.Socket, latest *newest) (said map[string]bool, ok bool, err error) {
	latest.once.Do(latest.encode)
	said = make(map[string]bool)
	// What the socket was told last of a user, while that may have come after something newer: first the roster, then what is
	// said here.
	told := func(user string) (online, known bool) {
		i, known := latest.index[user]
		return known && latest.online[i], known
	}
	for from := latest.since; ; {
		missed, now, ok := c.changes.since(from)
		if !ok {
			return said, false, nil
		}
		last := make(map[string]*socketio.Prepared, len(missed))
		for _, ch := range missed {
			last[ch.user] = ch.event
		}
		var events []*socketio.Prepared
		for _, ch := range missed {
			if online, known := told(ch.user); known && ch.event == last[ch.user] && ch.online != online {
				said[ch.user] = ch.online
				events = append(events, ch.event)
			}
		}
		if len(events) == 0 {
			return said, true, nil
		}
		if err := s.EmitPrepared(ctx, events...); err != nil {
			return said, false, err
		}
		from, told = now, func(user string) (online, known bool) {
			online, known = said[user]
			return online, known
		}
	}
}

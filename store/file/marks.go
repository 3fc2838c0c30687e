package file

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"math"
	"sync"
	"time"

	"parley/store"
	"parley/store/internal/row"
)

// maxMarks bounds the marks that wait to be written. It is more than can be moved within a second.
const maxMarks = 1 << 16

// markTurns is the number of locks that conversations are spread over when their marks are moved.
const markTurns = 64

// marks are those that moved and are not in the tables yet. The writer puts them there about every second, so that a
// conversation that goes on costs one row then and not a sync for each message.
type marks struct {
	// turns are held while a mark is moved: nobody else moves it between the look and the move. The writer takes none.
	turns [markTurns]sync.Mutex
	seed  maphash.Seed

	mu      sync.Mutex // held for moments, never while the tables are read
	waiting map[markPlace]waitingMark
}

// markPlace is a conversation of a mailbox.
type markPlace struct {
	key  string // of the mailbox
	peer string
}

// waitingMark is a mark in one incarnation of the mailbox, without Newest and Unread.
type waitingMark struct {
	epoch uint64
	store.Mark
}

// turn returns the lock for moving a mark.
func (m *marks) turn(place markPlace) *sync.Mutex {
	return &m.turns[maphash.Comparable(m.seed, place)%markTurns]
}

// of returns what waits for conversations. It is asked before the tables: what is written in between is in both.
func (m *marks) of(key string, peers ...string) []waitingMark {
	found := make([]waitingMark, len(peers))
	m.mu.Lock()
	defer m.mu.Unlock()
	for i, peer := range peers {
		found[i] = m.waiting[markPlace{key, peer}]
	}
	return found
}

// put has a mark wait, and reports whether there is room.
func (m *marks) put(place markPlace, mark waitingMark) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.waiting) >= maxMarks {
		return false
	}
	m.waiting[place] = mark
	return true
}

// Advance implements [store.Marks].
func (s *Store) Advance(ctx context.Context, box store.Box, peer string, to store.Mark) (now store.Mark, moved bool, err error) {
	if err := store.CheckMarks(box, peer); err != nil {
		return store.Mark{}, false, err
	}
	// What gets past here is written before the store is closed.
	s.closing.RLock()
	defer s.closing.RUnlock()
	if s.closed {
		return store.Mark{}, false, store.ErrClosed
	}
	if err := s.Health(); err != nil {
		return store.Mark{}, false, err
	}
	place := markPlace{string(boxKey(box)), peer}
	turn := s.marks.turn(place)
	turn.Lock()
	defer turn.Unlock()
	waiting := s.marks.of(place.key, peer)
	err = s.read(ctx, box, func(v *mailboxView) error {
		before, err := v.mark(peer, waiting[0])
		switch {
		case err != nil:
			return err
		case before.Newest.IsZero() || to.Read.Epoch != 0 && to.Read.Epoch != v.epoch:
			return fmt.Errorf("mark: no such conversation: %w", store.ErrNotFound)
		}
		now = before.Merge(to)
		moved = now != before
		if moved && !s.marks.put(place, waitingMark{v.epoch, now}) {
			return fmt.Errorf("too many marks wait to be written: %w", store.ErrUnavailable)
		}
		now.Unread = v.unread(peer, now.Read.Seq, 0)
		return nil
	})
	if err != nil {
		return store.Mark{}, false, err
	}
	return now, moved, nil
}

// Marks implements [store.Marks].
func (s *Store) Marks(ctx context.Context, box store.Box, peers []string, before uint64) ([]store.Mark, error) {
	if err := store.CheckMarks(box, peers...); err != nil {
		return nil, err
	}
	found := make([]store.Mark, len(peers))
	waiting := s.marks.of(string(boxKey(box)), peers...)
	err := s.read(ctx, box, func(v *mailboxView) (err error) {
		if v == nil {
			return nil
		}
		v.sort()
		for i, peer := range peers {
			if found[i], err = v.mark(peer, waiting[i]); err != nil {
				return err
			}
			if !found[i].Newest.IsZero() {
				found[i].Unread = v.unread(peer, found[i].Read.Seq, before)
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return found, nil
}

// Reach implements [store.Marks].
func (s *Store) Reach(ctx context.Context, box store.Box, peer string, seq uint64) (at store.Offset, until time.Time, err error) {
	if err := store.CheckMarks(box, peer); err != nil {
		return store.Offset{}, time.Time{}, err
	}
	err = s.read(ctx, box, func(v *mailboxView) (err error) {
		if v == nil {
			return fmt.Errorf("mark: no mailbox: %w", store.ErrNotFound)
		}
		at = v.offset(seq)
		until, err = v.reach(peer, seq)
		return err
	})
	if err != nil {
		return store.Offset{}, time.Time{}, err
	}
	return at, until, nil
}

// reach returns what Reach does.
func (v *mailboxView) reach(peer string, to uint64) (until time.Time, err error) {
	found, near := false, 0
	for seq, sent := range v.talk(peer, to) {
		if !found && seq != to {
			break
		}
		found = true
		if sent {
			continue
		}
		e, err := v.entry(seq)
		if err != nil {
			return time.Time{}, err
		}
		if t := row.Time(e.at); t.After(until) {
			until = t
		}
		if near++; near == store.MarkSpan {
			break
		}
	}
	if !found {
		return time.Time{}, fmt.Errorf("mark: the conversation has no number %d: %w", to, store.ErrNotFound)
	}
	return until, nil
}

// mark returns the mark of a conversation, but for Unread, or none if the mailbox has no entry of it. The mailbox may
// be nil. What waits was asked for before v was made.
func (v *mailboxView) mark(peer string, waits waitingMark) (mark store.Mark, err error) {
	if v == nil {
		return mark, nil
	}
	newest := v.newest(peer)
	if newest == 0 {
		return mark, nil
	}
	if mark = waits.Mark; waits.epoch != v.epoch {
		if mark, err = v.t.mark(v.epoch, peer); err != nil {
			return store.Mark{}, err
		}
	}
	mark.Newest, mark.Unread = v.offset(newest), 0
	return mark, nil
}

// unread counts the entries of a conversation between two numbers that the owner has not sent, up to store.MaxUnread.
// 0 as before is one more than the largest.
func (v *mailboxView) unread(peer string, read, before uint64) (n int) {
	for seq, sent := range v.talk(peer, before-1) {
		if seq <= read || n == store.MaxUnread {
			break
		}
		if !sent {
			n++
		}
	}
	return n
}

// newest returns the number of the newest entry of a conversation, or 0.
func (v *mailboxView) newest(peer string) uint64 {
	for seq := range v.talk(peer, math.MaxUint64) {
		return seq
	}
	return 0
}

// mark returns what the tables have of a conversation's mark.
func (t *txn) mark(epoch uint64, peer string) (mark store.Mark, err error) {
	value := t.mail.Get(markKey(epoch, peer))
	if value == nil {
		return mark, nil
	}
	fields := row.Read(value)
	if read := fields.Uint(); read > 0 {
		mark.Read = store.Offset{Epoch: epoch, Seq: read}
	}
	mark.Received, mark.Seen = fields.Time(), fields.Time()
	return mark, fields.Err()
}

// writeMarks puts the marks that wait into the tables, in steps. It is for the writer.
func (s *Store) writeMarks() {
	for more := true; more; {
		var some map[markPlace]waitingMark
		some, more = s.marks.some(groupLength)
		if len(some) == 0 {
			return
		}
		r := &request{ctx: context.Background(), done: make(chan error, 1), apply: func(t *txn) error { return t.putMarks(some) }}
		s.warn(s.writeGroup([]*request{r}))
		if err := <-r.done; err != nil {
			return // they wait for the next time
		}
		s.marks.written(some)
	}
}

// some returns some of the marks that wait, and whether there are more.
func (m *marks) some(limit int) (some map[markPlace]waitingMark, more bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	some = make(map[markPlace]waitingMark, min(limit, len(m.waiting)))
	for place, mark := range m.waiting {
		if len(some) == limit {
			return some, true
		}
		some[place] = mark
	}
	return some, false
}

// written forgets marks that are in the tables, unless they have moved again.
func (m *marks) written(some map[markPlace]waitingMark) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for place, mark := range some {
		if m.waiting[place] == mark {
			delete(m.waiting, place)
		}
	}
}

// putMarks writes marks, but not those of conversations that are gone: nobody would remove them.
func (t *txn) putMarks(some map[markPlace]waitingMark) error {
	for place, mark := range some {
		t.mu.RLock()
		active, folding := t.active.snapshot(place.key), t.folding.snapshot(place.key)
		t.mu.RUnlock()
		v, err := t.box(place.key, active, folding)
		if errors.Is(err, row.ErrDamaged) {
			continue // a mailbox that cannot be read has no use for marks, and the others do not wait for it
		}
		if err != nil {
			return err
		}
		if v == nil || v.epoch != mark.epoch || v.newest(place.peer) == 0 {
			continue
		}
		value := row.AppendUint(make([]byte, 0, 24), mark.Read.Seq)
		value = row.AppendTime(row.AppendTime(value, mark.Received), mark.Seen)
		if err := t.mail.Put(markKey(mark.epoch, place.peer), value); err != nil {
			return err
		}
	}
	return nil
}

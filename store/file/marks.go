package file

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"parley/store"
	"parley/store/internal/row"
)

// maxMarks bounds the marks that wait to be written. It is more than can be moved within a second.
const maxMarks = 1 << 16

// marks are those that moved and are not in the tables yet. The writer puts them there about every second, so that a
// conversation that goes on costs one row then and not a sync for each message.
type marks struct {
	mu      sync.Mutex
	waiting map[markPlace]store.Mark
}

// markPlace is a conversation of one incarnation of a mailbox.
type markPlace struct {
	key   string // of the mailbox
	epoch uint64
	peer  string
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
	if broken := s.broken.Load(); broken != nil {
		return store.Mark{}, false, *broken
	}
	// Nobody else moves it between the look and the move. The writer takes this lock too, but never in a transaction.
	s.marks.mu.Lock()
	defer s.marks.mu.Unlock()
	err = s.read(ctx, box, func(v *mailboxView) error {
		before, err := v.markLocked(string(boxKey(box)), peer)
		switch {
		case err != nil:
			return err
		case before.Newest.IsZero() || to.Read.Epoch != 0 && to.Read.Epoch != v.epoch:
			return fmt.Errorf("mark: no such conversation: %w", store.ErrNotFound)
		}
		if now = before.Merge(to); now == before {
			return nil
		}
		if len(s.marks.waiting) >= maxMarks {
			return fmt.Errorf("too many marks wait to be written: %w", store.ErrUnavailable)
		}
		moved = true
		s.marks.waiting[markPlace{string(boxKey(box)), v.epoch, peer}] = now
		return nil
	})
	if err != nil {
		return store.Mark{}, false, err
	}
	return now, moved, nil
}

// Marks implements [store.Marks].
func (s *Store) Marks(ctx context.Context, box store.Box, peers []string) ([]store.Mark, error) {
	if err := store.CheckMarks(box, peers...); err != nil {
		return nil, err
	}
	found := make([]store.Mark, len(peers))
	s.marks.mu.Lock()
	defer s.marks.mu.Unlock()
	err := s.read(ctx, box, func(v *mailboxView) (err error) {
		for i, peer := range peers {
			if found[i], err = v.markLocked(string(boxKey(box)), peer); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return found, nil
}

// markLocked returns the mark of a conversation, or none if the mailbox has no entry of it. The mailbox may be nil; key is
// its key.
func (v *mailboxView) markLocked(key, peer string) (mark store.Mark, err error) {
	if v == nil {
		return mark, nil
	}
	newest := v.newest(peer)
	if newest == 0 {
		return mark, nil
	}
	mark, waits := v.t.marks.waiting[markPlace{key, v.epoch, peer}]
	if !waits {
		if mark, err = v.t.mark(v.epoch, peer); err != nil {
			return store.Mark{}, err
		}
	}
	mark.Newest = v.offset(newest)
	return mark, nil
}

// newest returns the number of the newest entry of a conversation, or 0.
func (v *mailboxView) newest(peer string) (newest uint64) {
	v.latest(func(seq uint64, e *entry) bool {
		if e.peer == peer {
			newest = seq
		}
		return newest == 0
	})
	if newest == 0 {
		newest = v.t.newest(v.epoch, peer)
	}
	if newest < v.first {
		return 0 // trimmed, but still in the tables
	}
	return newest
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
		var some map[markPlace]store.Mark
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
func (m *marks) some(limit int) (some map[markPlace]store.Mark, more bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	some = make(map[markPlace]store.Mark, min(limit, len(m.waiting)))
	for place, mark := range m.waiting {
		if len(some) == limit {
			return some, true
		}
		some[place] = mark
	}
	return some, false
}

// written forgets marks that are in the tables, unless they have moved again.
func (m *marks) written(some map[markPlace]store.Mark) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for place, mark := range some {
		if m.waiting[place] == mark {
			delete(m.waiting, place)
		}
	}
}

// putMarks writes marks, but not those of conversations that are gone: nobody would remove them.
func (t *txn) putMarks(some map[markPlace]store.Mark) error {
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
		if v == nil || v.epoch != place.epoch || v.newest(place.peer) == 0 {
			continue
		}
		value := row.AppendUint(make([]byte, 0, 24), mark.Read.Seq)
		value = row.AppendTime(row.AppendTime(value, mark.Received), mark.Seen)
		if err := t.mail.Put(markKey(place.epoch, place.peer), value); err != nil {
			return err
		}
	}
	return nil
}

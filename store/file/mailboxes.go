package file

import (
	"bytes"
	"context"
	"fmt"
	"iter"
	"math"
	"slices"

	"parley/store"
	"parley/store/internal/row"
)

// mailboxView is one mailbox at one moment: the rows of a snapshot, and what the journal has beyond them.
type mailboxView struct {
	mailbox
	t      *txn
	recent []recent            // the latest first; of one epoch, and without gaps
	stored uint64              // the last number that is read from the tables
	talks  map[string][]number // if it is made: what recent has of each conversation, the latest first
}

// box returns the mailbox with that key, or nil if there is none or it has expired. What the journal has is given with
// the latest first; some may be nil.
func (t *txn) box(key string, recents ...*recent) (*mailboxView, error) {
	v := &mailboxView{t: t}
	for _, r := range recents {
		if r == nil || len(v.recent) > 0 && r.epoch != v.epoch {
			continue
		}
		if len(v.recent) == 0 {
			v.mailbox = r.mailbox
		}
		v.recent = append(v.recent, *r)
		v.stored = r.base - 1
	}
	if len(v.recent) == 0 {
		b, ok, err := t.find([]byte(key))
		if err != nil || !ok {
			return nil, err
		}
		v.mailbox, v.stored = b, b.last
	}
	if t.expired(v.touched) {
		return nil, nil
	}
	return v, nil
}

// entry returns the entry with that number, which must be there.
func (v *mailboxView) entry(seq uint64) (entry, error) {
	for i := range v.recent {
		if r := &v.recent[i]; seq >= r.base {
			return r.entries[seq-r.base].entry(), nil
		}
	}
	return v.t.entryOf(v.epoch, seq)
}

// after returns the entries that follow the offset.
func (v *mailboxView) after(o store.Offset, limit int) (entries []store.Entry, err error) {
	if o.IsZero() {
		o = v.offset(v.first - 1)
	}
	if o.Epoch != v.epoch || o.Seq > v.last || o.Seq+1 < v.first {
		return nil, fmt.Errorf("offset %v: mailbox has %d to %d of %v: %w", o, v.first, v.last, v.offset(0), store.ErrUnknownOffset)
	}
	cursor := v.t.mail.Cursor()
	key, value := cursor.Seek(entryKey(v.epoch, o.Seq+1))
	for seq := o.Seq + 1; seq <= v.last && len(entries) < limit; seq++ {
		var e entry
		if seq > v.stored {
			e, err = v.entry(seq)
		} else if bytes.Equal(key, entryKey(v.epoch, seq)) {
			e, err = readEntry(value)
			key, value = cursor.Next()
		} else {
			err = row.ErrDamaged
		}
		if err != nil {
			return nil, err
		}
		entries = append(entries, e.export(v.offset(seq)))
	}
	return entries, nil
}

// latest calls yield for the entries that are not in the tables, the latest first, until it returns false.
func (v *mailboxView) latest(yield func(d delivered) bool) {
	for i := range v.recent {
		r := &v.recent[i]
		for n := len(r.entries) - 1; n >= 0; n-- {
			if d := r.entries[n]; d.seq < v.first || !yield(d) {
				return
			}
		}
	}
}

func (v *mailboxView) export(d delivered) store.Entry {
	e := d.entry()
	return e.export(v.offset(d.seq))
}

// conversation returns the newest entries of a conversation below before, at most limit, the latest first.
func (v *mailboxView) conversation(peer string, before uint64, limit int) (entries []store.Entry, err error) {
	if before == 0 {
		before = math.MaxUint64
	}
	v.latest(func(d delivered) bool {
		if len(entries) >= limit {
			return false
		}
		if d.peer == peer && d.seq < before {
			entries = append(entries, v.export(d))
		}
		return true
	})
	return v.older(entries, peer, min(before, v.stored+1), limit)
}

// older adds to entries what the tables have of a conversation below before, the latest first, until there are limit.
func (v *mailboxView) older(entries []store.Entry, peer string, before uint64, limit int) ([]store.Entry, error) {
	if len(peer) > store.MaxIDBytes {
		return entries, nil
	}
	for seq := range v.rows(peer, before) {
		if len(entries) >= limit {
			break
		}
		e, err := v.t.entryOf(v.epoch, seq)
		if err != nil {
			return nil, err
		}
		entries = append(entries, e.export(v.offset(seq)))
	}
	return entries, nil
}

// rows returns the numbers that the tables have of a conversation below before, the latest first, and whether the
// mailbox's owner has sent the entry. It reads no entries.
func (v *mailboxView) rows(peer string, before uint64) iter.Seq2[uint64, bool] {
	return func(yield func(seq uint64, sent bool) bool) {
		from := conversationKey(v.epoch, peer, min(before-1, v.stored))
		cursor := v.t.mail.Cursor()
		for key, value := cursor.Seek(from); ; key, value = cursor.Next() {
			if len(key) != len(from) || !bytes.HasPrefix(key, from[:len(from)-8]) || seqOf(key) < v.first ||
				!yield(seqOf(key), len(value) > 0) {
				return
			}
		}
	}
}

// talk returns the numbers of a conversation up to last, as rows does, those that are not in the tables first.
func (v *mailboxView) talk(peer string, last uint64) iter.Seq2[uint64, bool] {
	return func(yield func(seq uint64, sent bool) bool) {
		more := true
		if v.talks != nil {
			for _, n := range v.talks[peer] {
				if more = n.seq > last || yield(n.seq, n.sent); !more {
					return
				}
			}
		} else {
			v.latest(func(d delivered) bool {
				more = d.peer != peer || d.seq > last || yield(d.seq, d.sent)
				return more
			})
		}
		if more {
			v.rows(peer, last+1)(yield)
		}
	}
}

// number is that of an entry.
type number struct {
	seq  uint64
	sent bool // by the mailbox's owner
}

// sort makes talks, for who asks for many conversations.
func (v *mailboxView) sort() {
	v.talks = map[string][]number{}
	v.latest(func(d delivered) bool {
		v.talks[d.peer] = append(v.talks[d.peer], number{d.seq, d.sent})
		return true
	})
}

// overview returns the newest entries of the newest conversations.
func (v *mailboxView) overview(peers, perPeer int) (store.Overview, error) {
	o := store.Overview{Tail: v.offset(v.last)}
	place := map[string]int{} // of each peer in the conversations
	add := func(peer string) *store.Conversation {
		n, ok := place[peer]
		if !ok {
			if len(o.Conversations) >= peers {
				return nil
			}
			n = len(o.Conversations)
			place[peer] = n
			o.Conversations = append(o.Conversations, store.Conversation{Peer: peer})
		}
		return &o.Conversations[n]
	}
	v.latest(func(d delivered) bool {
		if c := add(d.peer); c != nil && len(c.Entries) < perPeer {
			c.Entries = append(c.Entries, v.export(d))
		}
		return true
	})
	prefix := mailKey(v.epoch, mailNewest, 0)
	cursor := v.t.mail.Cursor()
	for key, peer := cursor.Seek(prefix); len(o.Conversations) < peers && bytes.HasPrefix(key, prefix); key, peer = cursor.Next() {
		if seqOf(key) < v.first {
			break
		}
		add(string(peer))
	}
	for i := range o.Conversations {
		c := &o.Conversations[i]
		var err error
		if c.Entries, err = v.older(c.Entries, c.Peer, v.stored+1, perPeer); err != nil {
			return store.Overview{}, err
		}
		slices.Reverse(c.Entries)
	}
	return o, nil
}

// read calls f with a mailbox, or nil if there is none.
func (s *Store) read(ctx context.Context, of store.Box, f func(v *mailboxView) error) (err error) {
	if err := of.Validate(); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	defer recovered(&err)
	defer faultsPanic()()
	key := boxKey(of)
	// The snapshot is taken with what is not in it yet: in between, an entry could move from one to the other.
	s.mu.RLock()
	active, folding := s.active.snapshot(string(key)), s.folding.snapshot(string(key))
	tx, err := s.db.Begin(false)
	s.mu.RUnlock()
	if err != nil {
		return readError(err)
	}
	defer func() { _ = tx.Rollback() }() // ends the snapshot
	v, err := s.begin(tx).box(string(key), active, folding)
	if err != nil {
		return err
	}
	return f(v)
}

// After implements [store.Mailboxes].
func (s *Store) After(ctx context.Context, box store.Box, offset store.Offset, limit int) (entries []store.Entry, err error) {
	err = s.read(ctx, box, func(v *mailboxView) (err error) {
		if v == nil {
			if !offset.IsZero() {
				return fmt.Errorf("offset %v: no mailbox: %w", offset, store.ErrUnknownOffset)
			}
			return nil
		}
		entries, err = v.after(offset, limit)
		return err
	})
	return entries, err
}

// Tail implements [store.Mailboxes].
func (s *Store) Tail(ctx context.Context, box store.Box) (tail store.Offset, err error) {
	err = s.read(ctx, box, func(v *mailboxView) error {
		if v != nil {
			tail = v.offset(v.last)
		}
		return nil
	})
	return tail, err
}

// Conversation implements [store.Mailboxes].
func (s *Store) Conversation(ctx context.Context, box store.Box, peer string, before uint64, limit int) (entries []store.Entry, err error) {
	err = s.read(ctx, box, func(v *mailboxView) (err error) {
		if v != nil {
			entries, err = v.conversation(peer, before, limit)
			slices.Reverse(entries)
		}
		return err
	})
	return entries, err
}

// Overview implements [store.Mailboxes].
func (s *Store) Overview(ctx context.Context, box store.Box, peers, perPeer int) (overview store.Overview, err error) {
	err = s.read(ctx, box, func(v *mailboxView) (err error) {
		if v != nil {
			overview, err = v.overview(peers, perPeer)
		}
		return err
	})
	return overview, err
}

package file

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"slices"
	"strings"

	"go.etcd.io/bbolt"

	"parley/store/internal/row"
)

// foldEntries bounds what one step of a fold puts into the tables: bbolt splits a page only at the end of a
// transaction, and until then each new row moves half of those that came to the same page.
const foldEntries = 2000

// fold puts what a generation has into the tables, in steps.
type fold struct {
	generation *generation
	order      []*recent // what is left to do
	entry      int       // of order[0], the first that is left
}

func newFold(g *generation) *fold {
	// The order of the keys in the mail bucket; a later incarnation of a mailbox comes later.
	order := slices.Clone(g.order)
	slices.SortFunc(order, func(a, b *recent) int { return cmp.Compare(a.epoch, b.epoch) })
	return &fold{generation: g, order: order}
}

// step does a part. If the transaction fails, the same part is to be done again: the caller keeps the fold as it was.
func (f fold) step(t *txn) (left fold, err error) {
	meta := t.tx.Bucket(metaBucket)
	epoch, err := readNumber(meta.Get(epochKey))
	if err != nil {
		return f, err
	}
	for n, size := 0, 0; n < foldEntries && size < groupBytes && len(f.order) > 0; {
		r := f.order[0]
		end := f.entry
		for ; end < len(r.entries) && n+end-f.entry < foldEntries && size < groupBytes; end++ {
			size += len(r.entries[end].message.data)
		}
		if err := t.foldBox(r, f.entry, end); err != nil {
			return f, err
		}
		epoch = max(epoch, r.epoch)
		n += end - f.entry
		if f.entry = end; end == len(r.entries) {
			f.order, f.entry = f.order[1:], 0
		}
	}
	if err := meta.Put(epochKey, row.AppendUint(nil, epoch)); err != nil {
		return f, err
	}
	if len(f.order) > 0 {
		return f, nil
	}
	return f, meta.Put(foldedKey, row.AppendUint(nil, f.generation.turn))
}

// readNumber reads a number in the meta bucket, 0 if it is missing.
func readNumber(value []byte) (uint64, error) {
	if value == nil {
		return 0, nil
	}
	fields := row.Read(value)
	return fields.Uint(), fields.Err()
}

// foldBox puts the entries from start to end of r into the tables. It writes rows in the order of their keys: until the
// end of the transaction a page has room for any number of rows, and each new one moves those behind it.
func (t *txn) foldBox(r *recent, start, end int) error {
	b, ok, err := t.find([]byte(r.key))
	if err != nil {
		return err
	}
	if !ok || b.epoch < r.epoch {
		// One that is not new was lost: what is left of it starts here.
		b = mailbox{epoch: r.epoch, first: r.entries[start].seq}
		if err := t.makeBox(r); err != nil {
			return err
		}
	}
	entries := r.entries[start:end]
	first := b.first
	b.last, b.touched = entries[len(entries)-1].seq, r.touched
	b.first = b.trimmed(t.opts.MailboxLimit)
	if err := t.writeHead(&b); err != nil {
		return err
	}
	if err := t.putConversations(b.epoch, entries); err != nil {
		return err
	}
	if err := t.putEntries(b.epoch, entries); err != nil {
		return err
	}
	if err := t.putKnown(b.epoch, entries); err != nil {
		return err
	}
	for ; first < b.first; first++ {
		if err := t.dropEntry(b.epoch, first); err != nil {
			return err
		}
	}
	return nil
}

// putEntries writes entries. As below, a key is made over the one before, of which bbolt has made a copy, and the values
// are pieces of one slice.
func (t *txn) putEntries(epoch uint64, entries []delivered) error {
	key, size := entryKey(epoch, 0), 0
	for i := range entries {
		e := entries[i].entry()
		size += e.size()
	}
	values := make([]byte, 0, size)
	for i := range entries {
		e, from := entries[i].entry(), len(values)
		values = e.append(values)
		binary.BigEndian.PutUint64(key[len(key)-8:], entries[i].seq)
		if err := t.mail.Put(key, values[from:len(values):len(values)]); err != nil {
			return err
		}
	}
	return nil
}

// putConversations writes where entries stand in their conversations, and which are the newest of them.
func (t *txn) putConversations(epoch uint64, entries []delivered) error {
	sorted := slices.Clone(entries)
	slices.SortFunc(sorted, func(a, b delivered) int {
		return cmp.Or(cmp.Compare(len(a.peer), len(b.peer)), strings.Compare(a.peer, b.peer), cmp.Compare(b.seq, a.seq))
	})
	var newest []delivered
	for i, d := range sorted {
		if i > 0 && d.peer == sorted[i-1].peer {
			continue
		}
		newest = append(newest, d)
		// Before the first new entry of the conversation is there.
		if old := t.newest(epoch, d.peer); old != 0 {
			if err := t.mail.Delete(newestKey(epoch, old)); err != nil {
				return err
			}
		}
	}
	slices.SortFunc(newest, func(a, b delivered) int { return cmp.Compare(b.seq, a.seq) })
	for _, d := range newest {
		if err := t.mail.Put(newestKey(epoch, d.seq), []byte(d.peer)); err != nil {
			return err
		}
	}
	var key []byte
	for i, d := range sorted {
		if i == 0 || d.peer != sorted[i-1].peer {
			key = conversationKey(epoch, d.peer, 0)
		}
		binary.BigEndian.PutUint64(key[len(key)-8:], ^d.seq)
		if err := t.mail.Put(key, sentValue(d.sent)); err != nil {
			return err
		}
	}
	return nil
}

// putKnown writes the numbers of messages, the latest of those that came more than once.
func (t *txn) putKnown(epoch uint64, entries []delivered) error {
	sorted := slices.Clone(entries)
	slices.SortFunc(sorted, func(a, b delivered) int {
		return cmp.Or(bytes.Compare(a.message.known[:], b.message.known[:]), cmp.Compare(a.seq, b.seq))
	})
	key, values := knownKey(epoch, messageKey{}), make([]byte, 0, 8*len(sorted))
	for _, d := range sorted {
		copy(key[len(key)-len(messageKey{}):], d.message.known[:])
		values = row.AppendUint(values, d.seq)
		if err := t.mail.Put(key, values[len(values)-8:len(values):len(values)]); err != nil {
			return err
		}
	}
	return nil
}

// makeBox makes the rows of a mailbox that is not there, or of which there is an earlier incarnation.
func (t *txn) makeBox(r *recent) error {
	if err := t.boxes.Put([]byte(r.key), row.AppendUint(nil, r.epoch)); err != nil {
		return err
	}
	return t.setExpiry(r.epoch, r.touched, []byte(r.key))
}

func (t *txn) dropEntry(epoch, seq uint64) error {
	rows := [][]byte{
		entryKey(epoch, seq),
		newestKey(epoch, seq), // there if it was the last one of its conversation
	}
	// The other rows of one that is damaged stay: below the first number, nobody looks at them.
	if e, err := t.entryOf(epoch, seq); err == nil {
		rows = append(rows, conversationKey(epoch, e.peer, seq))
		if t.newest(epoch, e.peer) == seq {
			rows = append(rows, markKey(epoch, e.peer))
		}
		known := knownKey(epoch, e.known)
		// The same message may have come again since, when this one was beyond the limit but still here.
		if found, err := readNumber(t.mail.Get(known)); err == nil && found == seq {
			rows = append(rows, known)
		}
	}
	for _, key := range rows {
		if err := t.mail.Delete(key); err != nil {
			return err
		}
	}
	return nil
}

// replay folds what the journal had when the store was opened.
func (s *Store) replay(turns []turnOf) error {
	for _, turn := range turns {
		var f *fold
		err := s.view(context.Background(), func(t *txn) error {
			g, err := t.regenerate(turn)
			if err == nil {
				f = newFold(g)
			}
			return err
		})
		if err != nil {
			return err
		}
		for more := true; more; more = len(f.order) > 0 {
			err := s.db.Update(func(tx *bbolt.Tx) (err error) {
				*f, err = f.step(s.begin(tx))
				return err
			})
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// regenerate makes the generation of a turn again, without what a fold that was cut off has put into the tables.
func (t *txn) regenerate(turn turnOf) (*generation, error) {
	g := newGeneration(turn.turn, 0)
	for i := range turn.messages {
		m := &turn.messages[i]
		for n := range m.to {
			d := &m.to[n]
			r := g.box(d.boxKey)
			if r == nil || r.epoch != d.epoch {
				b, ok, err := t.find([]byte(d.boxKey))
				if err != nil {
					return nil, err
				}
				if !ok || b.epoch < d.epoch {
					b = mailbox{epoch: d.epoch, first: d.seq, last: d.seq - 1} // as foldBox has it
				}
				if b.epoch > d.epoch || b.last >= d.seq {
					continue
				}
				r = g.recent(d.boxKey, b)
			}
			if r.last+1 != d.seq {
				return nil, damage("the journal has number %d of a mailbox that ends at %d", d.seq, r.last)
			}
			g.add(r, delivered{m, d}, t.opts.MailboxLimit)
		}
	}
	return g, nil
}

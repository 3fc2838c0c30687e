package file

import (
	"context"
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
	// In the order of the keys, new rows are next to each other; incarnations of one mailbox keep theirs.
	order := slices.Clone(g.order)
	slices.SortStableFunc(order, func(a, b *recent) int { return strings.Compare(a.key, b.key) })
	return &fold{generation: g, order: order}
}

// step does a part. If the transaction fails, the same part is to be done again: the caller keeps the fold as it was.
func (f fold) step(t *txn) (left fold, err error) {
	meta := t.tx.Bucket(metaBucket)
	epoch, err := readNumber(meta.Get(epochKey))
	if err != nil {
		return f, err
	}
	for n := 0; n < foldEntries && len(f.order) > 0; {
		r := f.order[0]
		end := min(len(r.entries), f.entry+foldEntries-n)
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

// foldBox puts the entries from start to end of r into the tables.
func (t *txn) foldBox(r *recent, start, end int) error {
	b, ok, err := t.find([]byte(r.key))
	if err != nil {
		return err
	}
	if !ok || b.epoch < r.epoch {
		b = mailbox{epoch: r.epoch, first: 1}
		if err := t.makeBox(r); err != nil {
			return err
		}
	}
	newest := map[string]uint64{} // by peer, what is new
	for i := start; i < end; i++ {
		e := &r.entries[i]
		if newest[e.peer] == 0 {
			// Before the first new entry of the conversation is there.
			if old := t.newest(b.epoch, e.peer); old != 0 {
				if err := t.mail.Delete(newestKey(b.epoch, old)); err != nil {
					return err
				}
			}
		}
		b.last = r.base + uint64(i)
		newest[e.peer] = b.last
		if err := t.putEntry(b.epoch, b.last, e); err != nil {
			return err
		}
	}
	for peer, seq := range newest {
		if err := t.mail.Put(newestKey(b.epoch, seq), []byte(peer)); err != nil {
			return err
		}
	}
	b.touched = r.touched
	for keep := b.trimmed(t.opts.MailboxLimit); b.first < keep; b.first++ {
		if err := t.dropEntry(b.epoch, b.first); err != nil {
			return err
		}
	}
	return t.writeHead(&b)
}

// makeBox makes the rows of a mailbox that is not there, or of which there is an earlier incarnation.
func (t *txn) makeBox(r *recent) error {
	if err := t.boxes.Put([]byte(r.key), row.AppendUint(nil, r.epoch)); err != nil {
		return err
	}
	return t.setExpiry(r.epoch, r.touched, []byte(r.key))
}

func (t *txn) putEntry(epoch, seq uint64, e *entry) error {
	if err := t.mail.Put(entryKey(epoch, seq), e.value()); err != nil {
		return err
	}
	if err := t.mail.Put(conversationKey(epoch, e.peer, seq), sentValue(e.sent)); err != nil {
		return err
	}
	return t.mail.Put(knownKey(epoch, e.known), row.AppendUint(nil, seq))
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
			f = newFold(g)
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
	g := newGeneration(turn.turn)
	for i := range turn.messages {
		m := &turn.messages[i]
		for _, d := range m.to {
			r := g.box(d.boxKey)
			if r == nil || r.epoch != d.epoch {
				b, ok, err := t.find([]byte(d.boxKey))
				if err != nil {
					return nil, err
				}
				if !ok || b.epoch < d.epoch {
					b = mailbox{epoch: d.epoch, first: 1}
				}
				if b.epoch > d.epoch || b.last >= d.seq {
					continue
				}
				r = g.recent(d.boxKey, b)
			}
			if r.last+1 != d.seq {
				return nil, damage("the journal has number %d of a mailbox that ends at %d", d.seq, r.last)
			}
			r.add(m.entry(d.peer, d.sent), m.touched, t.opts.MailboxLimit)
		}
	}
	return g, nil
}

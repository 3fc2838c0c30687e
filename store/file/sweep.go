package file

import (
	"bytes"
	"context"
	"encoding/binary"
	"time"

	"parley/store/internal/row"
)

// sweepRows bounds what one step of the sweep removes, so that it holds up no group for long.
const sweepRows = 512

// sweepGrace is how long a mailbox stays in the tables after it has expired, which nobody sees. An entry that came just
// before is nearly always in the tables by then, and so the mailbox has not expired after all. When the machine was
// asleep, or the disk was full, it is still in the journal.
const sweepGrace = time.Minute

// setExpiry notes when to see whether a mailbox that was touched then has expired. Appends do not move the note: a
// mailbox that has been touched since gets another when its time comes.
func (t *txn) setExpiry(epoch uint64, touched int64, boxKey []byte) error {
	at := row.AppendUint(nil, uint64(touched+t.opts.MessageTTL.Milliseconds()))
	return t.tx.Bucket(expiryBucket).Put(row.AppendUint(at, epoch), boxKey)
}

// expiryDue returns the oldest note, if it is due.
func (t *txn) expiryDue() (key, boxKey []byte, err error) {
	key, boxKey = t.tx.Bucket(expiryBucket).Cursor().First()
	if key == nil {
		return nil, nil, nil
	}
	if len(key) != 16 {
		return nil, nil, row.ErrDamaged
	}
	if int64(binary.BigEndian.Uint64(key)) > t.now-sweepGrace.Milliseconds() {
		return nil, nil, nil
	}
	return bytes.Clone(key), bytes.Clone(boxKey), nil
}

// sweepDue reports whether there is something to sweep.
func (s *Store) sweepDue() (due bool) {
	// What cannot be read is for the sweep to report.
	_ = s.view(context.Background(), func(t *txn) error {
		key, _, err := t.expiryDue()
		due = key != nil || err != nil || t.records().Due()
		return nil
	})
	return due
}

// sweep removes some of what has expired, about limit rows, and reports whether more is left.
func (t *txn) sweep(limit int) (more bool, err error) {
	moreMail, err := t.sweepMail(limit)
	if err != nil {
		return false, err
	}
	moreRecords, err := t.records().Sweep(limit / 4) // each is about four rows
	return moreMail || moreRecords, err
}

func (t *txn) sweepMail(limit int) (more bool, err error) {
	if key, _, err := t.expiryDue(); err != nil || key == nil {
		return false, err
	}
	t.awaitGroup()
	for limit > 0 {
		key, boxKey, err := t.expiryDue()
		if err != nil || key == nil {
			return false, err
		}
		n, err := t.expire(key, boxKey, limit)
		if err != nil {
			return false, err
		}
		limit -= n
	}
	return true, nil
}

// awaitGroup waits for the group that the appender has numbered but not published yet, which may have something for a
// mailbox that has expired since. Groups that come later find that it has expired.
func (t *txn) awaitGroup() {
	t.numbering.Lock()
	defer t.numbering.Unlock()
}

// expire does what a note is due for: it makes a new one if the mailbox is still in use; otherwise it removes up to
// limit rows of the mailbox, and the note after the last. It returns the number of rows that it changed.
func (t *txn) expire(key, boxKey []byte, limit int) (n int, err error) {
	epoch := binary.BigEndian.Uint64(key[8:])
	notes := t.tx.Bucket(expiryBucket)
	if bytes.Equal(t.boxes.Get(boxKey), key[8:]) {
		b := mailbox{epoch: epoch}
		if err := t.readHead(&b); err != nil {
			return 0, err
		}
		journaled := t.inJournal(boxKey, &b)
		if journaled || !t.expired(b.touched+sweepGrace.Milliseconds()) {
			if err := notes.Delete(key); err != nil {
				return 0, err
			}
			// If it has expired in the journal, it is looked at again when it may have been folded.
			return 2, t.setExpiry(epoch, max(b.touched, t.now-t.opts.MessageTTL.Milliseconds()), boxKey)
		}
		if err := t.boxes.Delete(boxKey); err != nil {
			return 0, err
		}
		n++
	}
	rows := t.rowsOf(epoch, limit)
	for _, key := range rows {
		if err := t.mail.Delete(key); err != nil {
			return 0, err
		}
	}
	n += len(rows)
	if len(rows) < limit {
		return n + 1, notes.Delete(key)
	}
	return n, nil
}

// inJournal reports whether the journal has entries of b beyond those in the tables. If so, it sets when b was touched.
func (t *txn) inJournal(boxKey []byte, b *mailbox) (found bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	for _, g := range [...]*generation{t.active, t.folding} {
		if r := g.box(string(boxKey)); r != nil && r.epoch == b.epoch && r.last > b.last {
			b.touched, found = max(b.touched, r.touched), true
		}
	}
	return found
}

// rowsOf returns the keys of a mailbox's rows in the mail bucket, at most limit.
func (t *txn) rowsOf(epoch uint64, limit int) (keys [][]byte) {
	prefix := row.AppendUint(nil, epoch)
	cursor := t.mail.Cursor()
	for key, _ := cursor.Seek(prefix); len(keys) < limit && bytes.HasPrefix(key, prefix); key, _ = cursor.Next() {
		keys = append(keys, bytes.Clone(key))
	}
	return keys
}

package file

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"math"

	"go.etcd.io/bbolt"

	"parley/store"
	"parley/store/internal/row"
)

// The second part of a key in the mail bucket. Head and newest stand together, because every append changes both.
const (
	mailHead         = 0
	mailNewest       = 1
	mailConversation = 2
	mailEntry        = 3
	mailKnown        = 4
	mailMark         = 5
)

// messageKey tells messages apart: a hash of sender and id, so that it is short whatever they are.
type messageKey [16]byte

// newMessageKey returns the key, and scratch, in which it is made.
func newMessageKey(scratch []byte, sender, id string) (messageKey, []byte) {
	scratch = row.AppendString(row.AppendString(scratch[:0], sender), id)
	sum := sha256.Sum256(scratch)
	return messageKey(sum[:16]), scratch
}

// boxKey is the mailbox's key in the boxes bucket.
func boxKey(box store.Box) []byte {
	return appendBoxKey(make([]byte, 0, binary.MaxVarintLen16+len(box.App)+len(box.User)), box)
}

func appendBoxKey(dst []byte, box store.Box) []byte {
	return append(row.AppendString(dst, box.App), box.User...)
}

// mailKey starts a key in the mail bucket, with room for n bytes more.
func mailKey(epoch uint64, kind byte, n int) []byte {
	key := make([]byte, 0, 9+n)
	return append(binary.BigEndian.AppendUint64(key, epoch), kind)
}

func entryKey(epoch, seq uint64) []byte {
	return row.AppendUint(mailKey(epoch, mailEntry, 8), seq)
}

func conversationKey(epoch uint64, peer string, seq uint64) []byte {
	key := row.AppendString(mailKey(epoch, mailConversation, len(peer)+binary.MaxVarintLen16+8), peer)
	return row.AppendUint(key, ^seq)
}

// sentValue is the value of a conversation's row: empty unless the mailbox's owner has sent the entry.
func sentValue(sent bool) []byte {
	if sent {
		return []byte{1}
	}
	return nil
}

func newestKey(epoch, seq uint64) []byte {
	return row.AppendUint(mailKey(epoch, mailNewest, 8), ^seq)
}

func knownKey(epoch uint64, key messageKey) []byte {
	return append(mailKey(epoch, mailKnown, len(key)), key[:]...)
}

func markKey(epoch uint64, peer string) []byte {
	return append(mailKey(epoch, mailMark, len(peer)), peer...)
}

// seqOf returns the number at the end of a key of a conversation or a newest entry.
func seqOf(key []byte) uint64 { return ^binary.BigEndian.Uint64(key[len(key)-8:]) }

// txn is a transaction with its buckets at hand.
type txn struct {
	*Store
	tx          *bbolt.Tx
	boxes, mail *bbolt.Bucket
	now         int64         // unix milliseconds
	cursor      *bbolt.Cursor // of mail, once it was needed: many lookups with one cost less than one for each
}

// lookUp returns the value of a row in the mail bucket, or nil.
func (t *txn) lookUp(key []byte) []byte {
	if t.cursor == nil {
		t.cursor = t.mail.Cursor()
	}
	if found, value := t.cursor.Seek(key); bytes.Equal(found, key) {
		return value
	}
	return nil
}

// find returns the head of the mailbox with that key in the boxes bucket, expired or not.
func (t *txn) find(key []byte) (b mailbox, ok bool, err error) {
	value := t.boxes.Get(key)
	if value == nil {
		return b, false, nil
	}
	fields := row.Read(value)
	b.epoch = fields.Uint()
	if err := fields.Err(); err != nil {
		return b, false, err
	}
	return b, true, t.readHead(&b)
}

func (t *txn) readHead(b *mailbox) error {
	fields := row.Read(t.mail.Get(mailKey(b.epoch, mailHead, 0)))
	b.first, b.last, b.touched = fields.Uint(), fields.Uint(), int64(fields.Uint())
	return fields.Err()
}

func (t *txn) writeHead(b *mailbox) error {
	value := make([]byte, 0, 24)
	value = row.AppendUint(row.AppendUint(value, b.first), b.last)
	return t.mail.Put(mailKey(b.epoch, mailHead, 0), row.AppendUint(value, uint64(b.touched)))
}

// expired reports whether a mailbox that was touched then is gone by now.
func (t *txn) expired(touched int64) bool {
	return touched <= t.now-t.opts.MessageTTL.Milliseconds()
}

// size is no less than what append appends.
func (e *entry) size() int {
	return 8 + len(e.known) + 3*binary.MaxVarintLen16 + len(e.id) + len(e.peer) + len(e.origin) + len(e.data)
}

// append appends the row of an entry.
func (e *entry) append(dst []byte) []byte {
	dst = row.AppendUint(dst, uint64(e.at))
	dst = append(dst, e.known[:]...)
	dst = row.AppendString(dst, e.id)
	dst = row.AppendString(dst, e.peer)
	dst = row.AppendString(dst, e.origin)
	return append(dst, e.data...)
}

// readEntry takes the row of an entry apart. The data belongs to the row.
func readEntry(value []byte) (e entry, err error) {
	fields := row.Read(value)
	e.at = int64(fields.Uint())
	copy(e.known[:], fields.Raw(len(e.known)))
	e.id, e.peer, e.origin, e.data = fields.String(), fields.String(), fields.String(), fields.Rest()
	return e, fields.Err()
}

// export returns a copy for the caller of the store.
func (e *entry) export(o store.Offset) store.Entry {
	return store.Entry{Offset: o, ID: e.id, At: row.Time(e.at), Peer: e.peer, Origin: e.origin, Data: bytes.Clone(e.data)}
}

// entryOf returns an entry that must be there.
func (t *txn) entryOf(epoch, seq uint64) (entry, error) {
	return readEntry(t.mail.Get(entryKey(epoch, seq)))
}

// newest returns the number of the newest entry of a conversation, or 0.
func (t *txn) newest(epoch uint64, peer string) uint64 {
	from := conversationKey(epoch, peer, math.MaxUint64)
	key, _ := t.mail.Cursor().Seek(from)
	if len(key) != len(from) || !bytes.HasPrefix(key, from[:len(from)-8]) {
		return 0
	}
	return seqOf(key)
}

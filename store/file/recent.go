package file

import "parley/store"

// generation is what one turn of the journal has: entries that are durable, but not in the tables yet. It is changed
// by the appender alone, under Store.mu; readers take what they need under Store.mu too.
type generation struct {
	turn  uint64
	boxes map[string]*recent // by the key of the mailbox, its latest incarnation
	order []*recent          // all of them, in the order in which they came
	bytes int                // in the journal, roughly
}

func newGeneration(turn uint64) *generation {
	return &generation{turn: turn, boxes: map[string]*recent{}}
}

// recent is the part of a generation that belongs to one mailbox.
type recent struct {
	key     string
	mailbox         // with these entries in it
	base    uint64  // the number of entries[0]
	entries []entry // without gaps; never changed once they are here
	known   map[messageKey]uint64
}

// recent returns the place for entries of a mailbox, made if need be.
func (g *generation) recent(key string, b mailbox) *recent {
	r := g.boxes[key]
	if r == nil || r.epoch != b.epoch {
		r = &recent{key: key, mailbox: b, base: b.last + 1, known: map[messageKey]uint64{}}
		g.boxes[key] = r
		g.order = append(g.order, r)
	}
	return r
}

// add adds an entry with the next number. A mailbox of limit entries lets go of its oldest.
func (r *recent) add(e entry, touched int64, limit int) {
	r.last++
	r.touched = touched
	r.first = r.trimmed(limit)
	r.entries = append(r.entries, e)
	r.known[e.known] = r.last
}

// merge adds what later has, which continues g.
func (g *generation) merge(later *generation) {
	for _, l := range later.order {
		r := g.recent(l.key, mailbox{epoch: l.epoch, first: l.first, last: l.base - 1})
		r.mailbox = l.mailbox
		r.entries = append(r.entries, l.entries...)
		for known, seq := range l.known {
			r.known[known] = seq
		}
	}
	g.bytes += later.bytes
}

// entry is a message in a mailbox.
type entry struct {
	at     int64 // unix milliseconds
	known  messageKey
	id     string
	peer   string
	sent   bool // by the mailbox's owner; not set if it was read from the tables, where the conversation's row has it
	origin string
	data   []byte
}

// mailbox is the head of a mailbox.
type mailbox struct {
	epoch       uint64
	first, last uint64 // numbers of the entries it has
	touched     int64  // when the newest was added, unix milliseconds
}

// trimmed returns the number of the oldest entry of those that a mailbox of limit entries keeps.
func (b *mailbox) trimmed(limit int) uint64 {
	if n := uint64(limit); b.last >= n {
		return max(b.first, b.last-n+1)
	}
	return b.first
}

func (b *mailbox) offset(seq uint64) store.Offset { return store.Offset{Epoch: b.epoch, Seq: seq} }

// snapshot returns a copy of what g has of a mailbox, if anything, for a reader that lets go of the lock: entries that
// are added later are beyond its length. The generation may be nil.
func (g *generation) snapshot(key string) *recent {
	r := g.box(key)
	if r == nil {
		return nil
	}
	c := *r
	c.known = nil // only the appender looks there
	return &c
}

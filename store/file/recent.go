package file

import "parley/store"

// generation is what one turn of the journal has: entries that are durable, but not in the tables yet. It is changed
// by the appender alone, under Store.mu; readers take what they need under Store.mu too.
type generation struct {
	turn  uint64
	boxes map[string]*recent // by the key of the mailbox, its latest incarnation
	order []*recent          // all of them, in the order in which they came
	known map[copyKey]uint64 // the latest number of each message in each mailbox
	bytes int                // that all this takes, roughly
}

// newGeneration returns an empty generation with room for about so many entries.
func newGeneration(turn uint64, entries int) *generation {
	return &generation{turn: turn, boxes: map[string]*recent{}, known: make(map[copyKey]uint64, entries)}
}

// recent is the part of a generation that belongs to one mailbox.
type recent struct {
	key     string
	mailbox             // with these entries in it
	base    uint64      // the number of entries[0]
	entries []delivered // without gaps; never changed once they are here
}

// delivered is an entry that a generation has. Those of one message share it.
type delivered struct {
	message *logged
	*loggedDelivery
}

func (d delivered) entry() entry { return d.message.entry(d.loggedDelivery) }

// copyKey is the key of a message in one incarnation of a mailbox.
type copyKey struct {
	known messageKey
	epoch uint64
}

// find returns the message with that key and its number in a mailbox, or nil. The generation may be nil.
func (g *generation) find(boxKey string, key copyKey) (m *logged, seq uint64) {
	if g == nil || g.known[key] == 0 {
		return nil, 0
	}
	r, seq := g.boxes[boxKey], g.known[key]
	return r.entries[seq-r.base].message, seq
}

// recent returns the place for entries of a mailbox, made if need be.
func (g *generation) recent(key string, b mailbox) *recent {
	r := g.boxes[key]
	if r == nil || r.epoch != b.epoch {
		r = &recent{key: key, mailbox: b, base: b.last + 1}
		g.boxes[key] = r
		g.order = append(g.order, r)
	}
	return r
}

// add adds an entry to r, which is one of g's and ends right before it. A mailbox of limit entries lets go of its oldest.
func (g *generation) add(r *recent, d delivered, limit int) {
	r.grow(d.message.touched, limit)
	r.entries = append(r.entries, d)
	g.known[copyKey{d.message.known, r.epoch}] = r.last
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

// grow counts one more entry.
func (b *mailbox) grow(touched int64, limit int) {
	b.last++
	b.touched = touched
	b.first = b.trimmed(limit)
}

// trimmed returns the number of the oldest entry of those that a mailbox of limit entries keeps.
func (b *mailbox) trimmed(limit int) uint64 {
	if n := uint64(limit); b.last >= n {
		return max(b.first, b.last-n+1)
	}
	return b.first
}

func (b *mailbox) offset(seq uint64) store.Offset { return store.Offset{Epoch: b.epoch, Seq: seq} }

// box returns what g has of a mailbox, if anything. The generation may be nil.
func (g *generation) box(key string) *recent {
	if g == nil {
		return nil
	}
	return g.boxes[key]
}

// snapshot returns a copy of what g has of a mailbox, if anything, for a reader that lets go of the lock: entries that
// are added later are beyond its length. The generation may be nil.
func (g *generation) snapshot(key string) *recent {
	r := g.box(key)
	if r == nil {
		return nil
	}
	c := *r
	return &c
}

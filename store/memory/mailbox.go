package memory

import (
	"cmp"
	"container/list"
	"encoding/binary"
	"maps"
	"slices"
	"strings"
	"time"

	"parley/store"
)

// mailbox is guarded by its stripe's lock.
type mailbox struct {
	epoch   uint64
	key     boxKey
	touched time.Time     // when the newest entry was added
	moved   time.Time     // when it was last moved to its place in the stripe
	idle    *list.Element // which is this

	first         uint64    // the number of messages[0]
	messages      []message // without gaps
	index         index     // of messages
	conversations map[string]*conversation
}

// boxKey stands for a Box in maps, as messageKey stands for sender and id.
type boxKey [2]uint64

// message is a mailbox's part of a post. Its number is its place.
type message struct {
	post
	conversation *conversation
	key          messageKey
}

// post is what the mailboxes that a message went to have in common: the milliseconds since 1970, the lengths of the id and
// of the origin, the id, the origin and the data. All messages of a server pass through the garbage collector again and
// again, so a post is one piece of memory, in which there is nothing to look for.
type post string

// Where the parts of a post begin.
const (
	postID     = 8
	postOrigin = postID + 2
	postTexts  = postOrigin + 2
)

// messageKey tells messages apart: two hashes of sender and id, under seeds that nobody knows. Without pointers, the
// maps of keys cost the garbage collector nothing.
type messageKey [2]uint64

// conversation is the part of a mailbox that belongs to one peer.
type conversation struct {
	peer     string
	seqs     []uint64     // ascending, never empty
	received []uint64     // those of them that the mailbox's owner has not sent
	mark     store.Mark   // but for Newest and Unread
	inline   [2][4]uint64 // where seqs and received live at first: there are many conversations, and most are short
}

func newConversation(peer string) *conversation {
	c := &conversation{peer: peer}
	c.seqs, c.received = c.inline[0][:0], c.inline[1][:0]
	return c
}

// last returns the number of the newest entry.
func (c *conversation) last() uint64 { return c.seqs[len(c.seqs)-1] }

// newPost returns p as it is kept. Its texts are valid, which bounds their lengths.
func newPost(p *store.Post, at int64) post {
	var head [postTexts]byte
	binary.LittleEndian.PutUint64(head[:], uint64(at))                      //nolint:gosec // read back as it is written
	binary.LittleEndian.PutUint16(head[postID:], uint16(len(p.ID)))         //nolint:gosec // at most store.MaxIDBytes
	binary.LittleEndian.PutUint16(head[postOrigin:], uint16(len(p.Origin))) //nolint:gosec // likewise
	var kept strings.Builder
	kept.Grow(len(head) + len(p.ID) + len(p.Origin) + len(p.Data))
	kept.Write(head[:])
	kept.WriteString(p.ID)
	kept.WriteString(p.Origin)
	kept.Write(p.Data)
	return post(kept.String())
}

// at is when the message was posted first, in milliseconds since 1970.
func (p post) at() int64 {
	var at uint64
	for i := range 8 {
		at |= uint64(p[i]) << (8 * i)
	}
	return int64(at) //nolint:gosec // as it was written
}

// parts returns the id, the origin and the data, all of them parts of p.
func (p post) parts() (id, origin, data string) {
	length := func(at int) int { return int(p[at]) | int(p[at+1])<<8 }
	rest := string(p[postTexts:])
	id, rest = rest[:length(postID)], rest[length(postID):]
	return id, rest[:length(postOrigin)], rest[length(postOrigin):]
}

func newMailbox(key boxKey, epoch uint64) *mailbox {
	return &mailbox{
		key: key, epoch: epoch, first: 1,
		conversations: map[string]*conversation{},
	}
}

// last returns the number of the newest entry.
func (b *mailbox) last() uint64 { return b.first + uint64(len(b.messages)) - 1 }

// message returns the message with that number, which must be there.
func (b *mailbox) message(seq uint64) *message { return &b.messages[seq-b.first] }

// entry returns the entry with that number, which must be there, with data of its own.
func (b *mailbox) entry(seq uint64) store.Entry {
	m := b.message(seq)
	id, origin, data := m.parts()
	return store.Entry{
		Offset: store.Offset{Epoch: b.epoch, Seq: seq},
		ID:     id, At: time.UnixMilli(m.at()).UTC(), Peer: m.conversation.peer, Origin: origin, Data: []byte(data),
	}
}

// append adds a post that goes to this mailbox and returns its number.
func (b *mailbox) append(p post, to *store.Delivery, key messageKey) uint64 {
	c := b.conversations[to.Peer]
	if c == nil {
		c = newConversation(to.Peer)
		b.conversations[to.Peer] = c
	}
	b.messages = append(b.messages, message{p, c, key})
	seq := b.last()
	b.index.add(key, seq)
	c.seqs = append(c.seqs, seq)
	if !to.Sent {
		c.received = append(c.received, seq)
	}
	return seq
}

// trim removes the oldest entry, which must be there.
func (b *mailbox) trim() {
	m := &b.messages[0]
	b.index.remove(m.key, b.first)
	c := m.conversation
	if c.seqs = c.seqs[1:]; len(c.seqs) == 0 {
		delete(b.conversations, c.peer)
	}
	if len(c.received) > 0 && c.received[0] == b.first {
		c.received = c.received[1:]
	}
	*m = message{} // the array behind the slice lives on for a while
	b.messages = b.messages[1:]
	b.first++
}

// page returns the newest entries of c below before, at most limit, in ascending order.
func (b *mailbox) page(c *conversation, before uint64, limit int) []store.Entry {
	end := len(c.seqs)
	if before != 0 {
		end, _ = slices.BinarySearch(c.seqs, before)
	}
	seqs := c.seqs[end-min(end, max(limit, 0)) : end]
	entries := make([]store.Entry, 0, len(seqs))
	for _, seq := range seqs {
		entries = append(entries, b.entry(seq))
	}
	return entries
}

func (b *mailbox) overview(peers, perPeer int) store.Overview {
	o := store.Overview{Tail: store.Offset{Epoch: b.epoch, Seq: b.last()}}
	newest := slices.SortedFunc(maps.Values(b.conversations), func(c, d *conversation) int {
		return cmp.Compare(d.last(), c.last())
	})
	for _, c := range newest[:min(len(newest), max(peers, 0))] {
		o.Conversations = append(o.Conversations, store.Conversation{Peer: c.peer, Entries: b.page(c, 0, perPeer)})
	}
	return o
}

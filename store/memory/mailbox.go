package memory

import (
	"bytes"
	"cmp"
	"container/list"
	"maps"
	"slices"
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
	messages      []message // without gaps; Data is shared between mailboxes and never changed
	index         index     // of messages
	conversations map[string]*conversation
}

// boxKey stands for a Box in maps, as messageKey stands for sender and id.
type boxKey [2]uint64

// message is a mailbox's part of a post. Its number is its place.
type message struct {
	*post
	conversation *conversation
	key          messageKey
}

// post is what the mailboxes that a message went to have in common. It is never changed. All messages of a server pass
// through the garbage collector again and again, so they have few pointers and no copies.
type post struct {
	id, origin string
	at         int64 // milliseconds since 1970
	data       []byte
}

// messageKey tells messages apart: two hashes of sender and id, under seeds that nobody knows. Without pointers, the
// maps of keys cost the garbage collector nothing.
type messageKey [2]uint64

// conversation is the part of a mailbox that belongs to one peer.
type conversation struct {
	peer     string
	seqs     []uint64   // ascending, never empty
	received []uint64   // those of them that the mailbox's owner has not sent
	mark     store.Mark // but for Newest and Unread
}

// last returns the number of the newest entry.
func (c *conversation) last() uint64 { return c.seqs[len(c.seqs)-1] }

func newPost(p store.Post, at int64) *post {
	return &post{id: p.ID, origin: p.Origin, at: at, data: bytes.Clone(p.Data)}
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
	return store.Entry{
		Offset: store.Offset{Epoch: b.epoch, Seq: seq},
		ID:     m.id, At: time.UnixMilli(m.at).UTC(), Peer: m.conversation.peer, Origin: m.origin, Data: bytes.Clone(m.data),
	}
}

// append adds a post that goes to this mailbox and returns its number.
func (b *mailbox) append(p *post, to *store.Delivery, key messageKey) uint64 {
	c := b.conversations[to.Peer]
	if c == nil {
		c = &conversation{peer: to.Peer}
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

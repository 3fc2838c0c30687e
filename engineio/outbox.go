package engineio

import (
	"bytes"

	"parley/engineio/packet"
)

// Flags say how a message may be treated.
type Flags uint8

const (
	// Volatile drops the message instead of letting it wait: if anything else waits already, or if a polling
	// client has no GET held.
	Volatile Flags = 1 << iota

	// NoCompress excludes the message from compression, where that is on.
	NoCompress
)

// entry is one message that waits.
type entry struct {
	message *Message
	flags   Flags
}

// outbox is what waits for one client, oldest first. It holds references to shared messages, and bytes of its
// own never. Conn.mu guards it. An outbox must not be copied: it may point into itself.
type outbox struct {
	queue  []entry
	sent   int      // bytes of the oldest message that the kernel already took
	bytes  int      // sum of Message.Size over queue
	inline [2]entry // where queue lives as long as it is that short, so that an idle connection has no other
}

// keepEntries is up to which length the memory of a queue is kept for the next burst. A connection that
// becomes idle gives it back at its next ping.
const keepEntries = 256

func (o *outbox) empty() bool {
	return len(o.queue) == 0
}

// full says whether the bounds are reached.
func (o *outbox) full(opts *Options) bool {
	return len(o.queue) >= opts.OutboundMessages || o.bytes >= opts.OutboundBytes
}

func (o *outbox) add(m *Message, f Flags) {
	if o.queue == nil {
		o.queue = o.inline[:0]
	}
	o.queue = append(o.queue, entry{m, f})
	if len(o.queue) == len(o.inline)+1 {
		clear(o.inline[:]) // the queue has moved out; what it leaves must not keep messages alive
	}
	o.bytes += m.Size()
}

// drop removes the n oldest messages, of which all bytes are sent.
func (o *outbox) drop(n int) {
	for _, e := range o.queue[:n] {
		o.bytes -= e.message.Size()
	}
	rest := copy(o.queue, o.queue[n:])
	clear(o.queue[rest:])
	o.queue = o.queue[:rest]
	o.sent = 0
	if rest == 0 && cap(o.queue) > keepEntries {
		o.trim()
	}
}

// trim gives back the memory of an empty queue.
func (o *outbox) trim() {
	if o.empty() {
		o.queue = nil
	}
}

// clear forgets all that waits.
func (o *outbox) clear() {
	clear(o.queue)
	o.queue, o.sent, o.bytes = nil, 0, 0
}

// takePayload moves the oldest messages to dst as a polling payload of at most limit bytes, or the oldest one
// alone if that is larger. It reports whether any of them may be compressed.
func (o *outbox) takePayload(dst *bytes.Buffer, limit int) (compress bool) {
	n := 0
	for _, e := range o.queue {
		p := e.message.packets()
		if n > 0 {
			if dst.Len()+1+len(p) > limit {
				break
			}
			dst.WriteByte(packet.Separator)
		}
		dst.Write(p)
		compress = compress || e.flags&NoCompress == 0
		n++
	}
	o.drop(n)
	return compress
}

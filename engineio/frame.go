package engineio

import (
	"encoding/binary"
	"unicode/utf8"
)

// The reading half of a WebSocket. Nearly every message of a client is one short frame: those are handled here, where they
// were read to. The first that is anything else, be it a ping, a fragment, compressed, long or wrong, is left to gws,
// and so is all that follows it.

// input is a pooled buffer of what was read. The memory of a WebSocket that waits for its client is that of its
// goroutine and little else.
type input struct {
	from, to int
	bytes    [inputBytes]byte
}

// inputBytes is how much is read ahead: many messages as chats have them.
const inputBytes = 8 << 10

// filled makes p, of at most inputBytes, the input.
func (k *socket) filled(p []byte) {
	k.input = k.conn.server.inputs.Get().(*input)
	k.input.from, k.input.to = 0, copy(k.input.bytes[:], p)
}

// used takes n bytes off the input.
func (k *socket) used(n int) {
	in := k.input
	if in.from += n; in.from == in.to {
		in.from, in.to, k.input = 0, 0, nil
		k.conn.server.inputs.Put(in)
	}
}

// need returns when n bytes of input are there, in one piece; n is at most inputBytes.
func (k *socket) need(n int) ([]byte, error) {
	for {
		if in := k.input; in != nil {
			if in.to-in.from >= n {
				return in.bytes[in.from:in.to], nil
			}
			in.to, in.from = copy(in.bytes[:], in.bytes[in.from:in.to]), 0
		}
		if err := k.more(); err != nil {
			return nil, err
		}
	}
}

// more waits for input, which it adds to what is there.
func (k *socket) more() error {
	k.failure = nil
	if err := k.raw.Read(k.attempt); err != nil {
		k.failure = err
	}
	return k.failure
}

// plain handles the next message if it is one frame of a client that fits into an input (RFC 6455, section 5.2). If not, it
// returns false and takes nothing.
func (k *socket) plain() (ok bool, err error) {
	head, err := k.need(2)
	if err != nil {
		return false, err
	}
	first, length, size := head[0], int(head[1]&^frameMasked), 2
	if first != frameText && first != frameBinary || head[1]&frameMasked == 0 || length > length16 {
		return false, nil
	}
	if length == length16 {
		size = 4
		if head, err = k.need(size); err != nil {
			return false, err
		}
		if length = int(binary.BigEndian.Uint16(head[2:])); length < length16 {
			return false, nil
		}
	}
	size += maskBytes
	if size+length > inputBytes || length > k.conn.server.opts.MaxPayload {
		return false, nil
	}
	frame, err := k.need(size + length)
	if err != nil {
		return false, err
	}
	mask, payload := binary.LittleEndian.Uint32(frame[size-maskBytes:]), frame[size:size+length:size+length]
	unmask(payload, mask)
	if first == frameText && !utf8.Valid(payload) {
		unmask(payload, mask) // as it was
		return false, nil
	}
	k.message(payload, first == frameBinary)
	k.used(size + length)
	return true, nil
}

const (
	frameMasked = 0x80 // in the second byte of a frame: the payload is masked
	length16    = 126  // in place of a length: it is in the next two bytes
	maskBytes   = 4
)

// unmask undoes a client's masking of p, or does it again.
func unmask(p []byte, mask uint32) {
	wide := uint64(mask)<<32 | uint64(mask)
	for len(p) >= 8 {
		binary.LittleEndian.PutUint64(p, binary.LittleEndian.Uint64(p)^wide)
		p = p[8:]
	}
	for i := range p {
		p[i] ^= byte(mask >> (8 * (i & 3)))
	}
}

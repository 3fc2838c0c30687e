package engineio

import (
	"bytes"
	"compress/flate"
	"encoding/binary"
	"slices"
	"sync"
	"sync/atomic"

	"parley/engineio/packet"
)

// The first bytes of WebSocket frames (RFC 6455, section 5.2), with the FIN bit set.
const (
	frameText   = 0x81
	frameBinary = 0x82
	frameClose  = 0x88
	frameRSV1   = 0x40 // the message is compressed (RFC 7692)
)

// Message is an encoded Engine.IO message with its binary attachments, ready to be sent to any number of
// connections. It is immutable and safe for concurrent use. What a transport needs of it is built once,
// whatever the number of connections: the WebSocket frames at construction, the forms for polling, for
// clients that can't take binary, and for compression when first needed.
type Message struct {
	frames []byte // WebSocket frames: the text, then one binary frame for each attachment
	text   []byte // text form of the first packet, inside frames; nil if there is none
	extra  atomic.Pointer[extra]
}

// extra is what few messages have: most are text, and sent as they are.
type extra struct {
	attachments [][]byte // inside frames; set at construction

	mu       sync.Mutex // guards the forms below, which are built at most once and not changed then
	payload  []byte     // the packets of a polling payload
	base64   []byte     // frames with text frames only
	deflated []byte     // frames, compressed
}

// NewMessage returns a message packet with text, followed by one binary message for each attachment. It
// copies what it is given. The text must be UTF-8 without the byte 0x1e, which separates packets on polling;
// JSON is.
func NewMessage(text []byte, attachments ...[]byte) *Message {
	return newMessage(packet.Message, text, true, attachments)
}

// Headroom is what NewMessageInPlace needs ahead of a text: the longest frame header and the packet's type.
const Headroom = 10 + 1

// NewMessageInPlace is NewMessage without a copy of the text, which is buf[Headroom:]. The message owns buf from now
// on.
func NewMessageInPlace(buf []byte, attachments ...[]byte) *Message {
	m := inPlace(packet.Message, buf)
	m.attach(attachments)
	return m
}

// inPlace returns a packet with the text buf[Headroom:].
func inPlace(t packet.Type, buf []byte) *Message {
	n := len(buf) - Headroom + 1
	header := headerLen(n)
	appendHeader(buf[Headroom-1-header:Headroom-1-header], frameText, n)
	buf[Headroom-1] = byte(t)
	m := &Message{frames: buf[Headroom-1-header:]}
	m.text = slices.Clip(m.frames[header:])
	return m
}

// Text is the text that the message was made of. It must not be changed.
func (m *Message) Text() []byte {
	if len(m.text) == 0 {
		return nil
	}
	return m.text[1:]
}

// Attachments are what follows the text. They must not be changed.
func (m *Message) Attachments() [][]byte {
	if x := m.extra.Load(); x != nil {
		return x.attachments
	}
	return nil
}

// NewBinary returns a binary message packet with a copy of data and no text before it. Socket.IO has no use
// for it, other protocols on Engine.IO do.
func NewBinary(data []byte) *Message {
	return newMessage(packet.Message, nil, false, [][]byte{data})
}

// newPacket returns a packet of another type than message.
func newPacket(t packet.Type, text string) *Message {
	return newMessage(t, []byte(text), true, nil)
}

// newRaw returns bytes of a WebSocket that are no packet and have no form for polling.
func newRaw(frames []byte) *Message {
	return &Message{frames: frames}
}

func newMessage(t packet.Type, text []byte, hasText bool, attachments [][]byte) *Message {
	size := 0
	if hasText {
		size = headerLen(1+len(text)) + 1 + len(text)
	}
	for _, a := range attachments {
		size += headerLen(len(a)) + len(a)
	}
	m := &Message{frames: make([]byte, 0, size)}
	if hasText {
		m.frames = appendHeader(m.frames, frameText, 1+len(text))
		start := len(m.frames)
		m.frames = append(append(m.frames, byte(t)), text...)
		m.text = slices.Clip(m.frames[start:])
	}
	m.attach(attachments)
	return m
}

// attach adds the frames of attachments.
func (m *Message) attach(attachments [][]byte) {
	if len(attachments) == 0 {
		return
	}
	x := &extra{attachments: make([][]byte, len(attachments))}
	for i, a := range attachments {
		m.frames = appendHeader(m.frames, frameBinary, len(a))
		start := len(m.frames)
		m.frames = append(m.frames, a...)
		x.attachments[i] = slices.Clip(m.frames[start:])
	}
	m.extra.Store(x)
}

// Size is what the message counts for in the bounds of an outbox: the bytes that it is on a WebSocket.
func (m *Message) Size() int {
	return len(m.frames)
}

// packets returns the packets of the message as they stand in a polling payload.
func (m *Message) packets() []byte {
	x := m.extra.Load()
	if x == nil || len(x.attachments) == 0 {
		return m.text
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.payload == nil {
		size := len(m.text)
		for _, a := range x.attachments {
			size += 1 + packet.BinaryLen(len(a))
		}
		b := append(make([]byte, 0, size), m.text...)
		for _, a := range x.attachments {
			if len(b) > 0 {
				b = append(b, packet.Separator)
			}
			b = packet.AppendBinary(b, a)
		}
		x.payload = b
	}
	return x.payload
}

// textFrames returns WebSocket frames without binary ones, for clients that asked with b64=1.
func (m *Message) textFrames() []byte {
	x := m.extra.Load()
	if x == nil || len(x.attachments) == 0 {
		return m.frames
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.base64 == nil {
		var b []byte
		if m.text != nil {
			b = append(appendHeader(b, frameText, len(m.text)), m.text...)
		}
		for _, a := range x.attachments {
			b = packet.AppendBinary(appendHeader(b, frameText, packet.BinaryLen(len(a))), a)
		}
		x.base64 = b
	}
	return x.base64
}

// deflatedFrames returns WebSocket frames that are compressed, each on its own, by a writer of the pool. No
// context is taken over between messages: that is what lets connections share them.
func (m *Message) deflatedFrames(writers *sync.Pool) []byte {
	x := m.extra.Load()
	if x == nil {
		m.extra.CompareAndSwap(nil, new(extra))
		x = m.extra.Load()
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.deflated == nil {
		w := writers.Get().(*flate.Writer)
		defer writers.Put(w)
		var b []byte
		if m.text != nil {
			b = appendDeflated(b, w, frameText, m.text)
		}
		for _, a := range x.attachments {
			b = appendDeflated(b, w, frameBinary, a)
		}
		x.deflated = b
	}
	return x.deflated
}

// appendDeflated appends one compressed frame (RFC 7692, section 7.2.1).
func appendDeflated(dst []byte, w *flate.Writer, first byte, data []byte) []byte {
	var buf bytes.Buffer // its writes can't fail, so neither can those of w
	w.Reset(&buf)
	_, _ = w.Write(data)
	_ = w.Flush()
	compressed := bytes.TrimSuffix(buf.Bytes(), []byte{0x00, 0x00, 0xff, 0xff})
	dst = appendHeader(dst, first|frameRSV1, len(compressed))
	return append(dst, compressed...)
}

// closeFrame returns a close frame with a code, or with an empty payload if code is 0.
func closeFrame(code uint16) []byte {
	if code == 0 {
		return []byte{frameClose, 0}
	}
	return binary.BigEndian.AppendUint16([]byte{frameClose, 2}, code)
}

// headerLen is the length of an unmasked frame's header for n bytes of data.
func headerLen(n int) int {
	switch {
	case n < 126:
		return 2
	case n < 1<<16:
		return 4
	default:
		return 10
	}
}

// appendHeader appends the header of an unmasked frame.
func appendHeader(dst []byte, first byte, n int) []byte {
	switch headerLen(n) {
	case 2:
		return append(dst, first, byte(n))
	case 4:
		return binary.BigEndian.AppendUint16(append(dst, first, 126), uint16(n))
	default:
		return binary.BigEndian.AppendUint64(append(dst, first, 127), uint64(n))
	}
}

package packet

import (
	"bytes"
	"encoding/json"
	"strings"
)

// DefaultMaxAttachments is how many attachments a packet may announce unless Decoder.MaxAttachments says
// otherwise; it is the limit of the reference implementation, and so of most receivers.
const DefaultMaxAttachments = 10

// maxRepeatedBytes bounds what repeated placeholders add to a packet once each is replaced by its bytes.
// Repeats are legal, but a handler that sends on what it got must not multiply a client's bytes.
const maxRepeatedBytes = 1 << 20

// maxKeptNamespace is the longest namespace a Decoder keeps for the next packet.
const maxKeptNamespace = 64

// Decoder turns the messages of one connection into packets. The zero value is ready to use. It is not safe
// for concurrent use. After an error it waits for nothing, but the connection is to be closed.
//
// It holds at most one packet with at most MaxAttachments attachments, each as large as the layer below
// lets a message be; how long to wait for them is the caller's decision.
type Decoder struct {
	MaxAttachments int // 0 means DefaultMaxAttachments

	partial   *Packet       // waits for attachments
	uses      []placeholder // of partial
	namespace string        // the last one, as most clients use only one
}

// Pending reports whether a packet is waiting for attachments.
func (d *Decoder) Pending() bool { return d.partial != nil }

// Text takes a text message. It returns the packet and true if it is complete, or nil and false if its
// attachments have yet to come. It keeps nothing of data.
func (d *Decoder) Text(data []byte) (*Packet, bool, error) {
	if d.partial != nil {
		d.reset()
		return nil, false, ErrTextWhilePending
	}
	limit := d.MaxAttachments
	if limit <= 0 {
		limit = DefaultMaxAttachments
	}
	h, err := parseHeader(data, uint64(limit))
	if err != nil {
		return nil, false, err
	}
	if err := checkPayload(h.typ, h.rest); err != nil {
		return nil, false, err
	}
	p := &Packet{Type: h.typ, Namespace: d.namespaceOf(h.namespace), ID: h.id, HasID: h.hasID}
	if len(h.rest) > 0 {
		p.Data = bytes.Clone(trimSpace(h.rest))
	}
	if h.attachments == 0 {
		return p, true, nil
	}
	uses := placeholders(p.Data)
	for _, u := range uses {
		if u.num < 0 || u.num >= h.attachments {
			return nil, false, ErrPlaceholder
		}
	}
	p.Attachments = make([][]byte, 0, h.attachments)
	d.partial, d.uses = p, uses
	return nil, false, nil
}

// Binary takes a binary message. It returns the packet and true if this was the last attachment that a
// packet waited for. It keeps nothing of data.
func (d *Decoder) Binary(data []byte) (*Packet, bool, error) {
	p := d.partial
	if p == nil {
		return nil, false, ErrBinaryUnexpected
	}
	p.Attachments = append(p.Attachments, append([]byte{}, data...))
	if len(p.Attachments) < cap(p.Attachments) {
		return nil, false, nil
	}
	uses := d.uses
	d.reset()
	if repeatedBytes(uses, p.Attachments) > maxRepeatedBytes {
		return nil, false, ErrRepeated
	}
	return p, true, nil
}

func (d *Decoder) reset() { d.partial, d.uses = nil, nil }

func (d *Decoder) namespaceOf(b []byte) string {
	if len(b) == 0 {
		return "/"
	}
	if string(b) == d.namespace {
		return d.namespace
	}
	s := string(b)
	if len(s) <= maxKeptNamespace {
		d.namespace = s
	}
	return s
}

// repeatedBytes is how many bytes the second and further uses of each attachment stand for.
func repeatedBytes(uses []placeholder, attachments [][]byte) int {
	seen := make([]bool, len(attachments))
	total := 0
	for _, u := range uses {
		if seen[u.num] {
			total += len(attachments[u.num])
		}
		seen[u.num] = true
	}
	return total
}

// header is what precedes the payload of a text packet. Its slices alias the input.
type header struct {
	typ         Type
	attachments int
	namespace   []byte // empty means "/"
	id          uint64
	hasID       bool
	rest        []byte // the payload, unchecked
}

// parseHeader follows the decode algorithm of the reference implementation: each part is recognized by its
// position and first character, without looking ahead.
func parseHeader(data []byte, maxAttachments uint64) (header, error) {
	var h header
	if len(data) == 0 {
		return h, ErrEmpty
	}
	h.typ = Type(data[0] - '0')
	if h.typ > BinaryAck {
		return h, ErrType
	}
	data = data[1:]
	if h.typ == BinaryEvent || h.typ == BinaryAck {
		n, digits := leadingDigits(data, maxAttachments)
		if digits == 0 || digits == len(data) || data[digits] != '-' || n < 1 || n > maxAttachments {
			return h, ErrAttachmentCount
		}
		h.attachments = int(n)
		data = data[digits+1:]
	}
	if len(data) > 0 && data[0] == '/' {
		h.namespace, data, _ = bytes.Cut(data, []byte{','})
		if len(h.namespace) == 1 {
			h.namespace = nil
		}
	}
	id, digits := leadingDigits(data, maxID)
	if id > maxID {
		return h, ErrID
	}
	h.id, h.hasID, h.rest = id, digits > 0, data[digits:]
	return h, nil
}

// leadingDigits returns the value of the digits that b starts with and how many they are. The value is
// limit+1 if it is larger than limit.
func leadingDigits(b []byte, limit uint64) (value uint64, n int) {
	for n < len(b) && '0' <= b[n] && b[n] <= '9' {
		if value <= limit {
			value = value*10 + uint64(b[n]-'0')
		}
		n++
	}
	return min(value, limit+1), n
}

// checkPayload checks the text after the header of a packet of type t: none at all, or one JSON value of
// the shape that t asks for.
func checkPayload(t Type, text []byte) error {
	if len(text) == 0 {
		return nil
	}
	if err := checkJSON(text); err != nil {
		return err
	}
	payload := trimSpace(text)
	first := payload[0]
	switch t {
	case Connect:
		if first == '{' {
			return nil
		}
	case ConnectError:
		if first == '{' || first == '"' {
			return nil
		}
	case Ack, BinaryAck:
		if first == '[' {
			return nil
		}
	case Event, BinaryEvent:
		if first == '[' {
			return checkEventName(payload)
		}
	}
	return ErrPayload
}

func checkEventName(payload []byte) error {
	start := skipSpace(payload, 1)
	switch c := payload[start]; {
	case c == '-' || '0' <= c && c <= '9':
		return nil
	case c != '"':
		return ErrPayload
	}
	if isReserved(payload[start:skipString(payload, start)]) {
		return ErrReserved
	}
	return nil
}

// isReserved reports whether the JSON string raw stands for a reserved name.
func isReserved(raw []byte) bool {
	const longest = len("removeListener")
	if bytes.IndexByte(raw, '\\') < 0 {
		return len(raw) <= longest+2 && Reserved(string(raw[1:len(raw)-1]))
	}
	return len(raw) <= 6*longest+2 && Reserved(unquote(raw))
}

// Event returns an event's name and its arguments, the payload without its first element. A name that is a
// number is returned as its text. The arguments alias p.Data. The error is ErrPayload if p is
// not an event or has no payload, which is legal and asks for nothing.
func (p *Packet) Event() (name string, args []json.RawMessage, err error) {
	if p.Type != Event && p.Type != BinaryEvent {
		return "", nil, ErrPayload
	}
	all, err := p.Args()
	if err != nil {
		return "", nil, err
	}
	if len(all) == 0 {
		return "", nil, ErrPayload
	}
	first := all[0]
	switch c := first[0]; {
	case c == '"':
		name = unquote(first)
	case c == '-' || '0' <= c && c <= '9':
		name = string(first)
	default:
		return "", nil, ErrPayload
	}
	return name, all[1:], nil
}

// Args returns the elements of a payload that is an array: the values an ack carries, or an event's name and
// arguments. They alias p.Data. The error is ErrPayload if there is no such payload.
func (p *Packet) Args() ([]json.RawMessage, error) {
	if len(p.Data) == 0 || p.Data[0] != '[' {
		return nil, ErrPayload
	}
	return splitArray(p.Data)
}

// unquote returns the string that the valid JSON string raw stands for.
func unquote(raw []byte) string {
	if bytes.IndexByte(raw, '\\') < 0 {
		return string(raw[1 : len(raw)-1])
	}
	var s string
	if json.Unmarshal(raw, &s) != nil {
		return strings.ToValidUTF8(string(raw), "\ufffd")
	}
	return s
}

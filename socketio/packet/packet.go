// Package packet is the wire codec of Socket.IO protocol 5: text and binary messages in, packets out, and
// back. It does no I/O and starts no goroutine.
//
// A payload stays the JSON text it arrived as. Event and Args split it at the top level only, and an
// argument that is passed on as a Raw or json.RawMessage leaves byte for byte as it came, so that no number
// loses digits and no string changes its escapes on the way through a server.
//
// Every error about input is an *Error, whose Reason comes from a small fixed set. The protocol's answer to
// each of them is to close the whole connection (socket.io-protocol, "Packet encoding").
package packet

import "strconv"

// Type is a packet's type, the number its text form starts with.
type Type byte

// The packet types of protocol 5.
const (
	Connect Type = iota
	Disconnect
	Event
	Ack
	ConnectError
	BinaryEvent
	BinaryAck
)

// maxID is the largest ack id: the largest integer that every JavaScript peer keeps exact.
const maxID = 1<<53 - 1

// Packet is one Socket.IO packet.
type Packet struct {
	Type      Type
	Namespace string // "/" or "/name", never empty in a decoded packet
	ID        uint64 // the ack id, where HasID
	HasID     bool
	// Data is the payload as JSON text without surrounding white space, nil if the packet has none. A decoded
	// packet owns its Data; args returned by Event and Args alias it.
	Data []byte
	// Attachments are the byte arrays that the placeholders in Data stand for. A decoded packet owns them.
	Attachments [][]byte
}

// Error says which rule a packet broke. The package's errors are values of this type and can be compared
// with errors.Is.
type Error struct {
	// Reason is short, stable and free of input, so it can be the label of a metric.
	Reason string
}

func (e *Error) Error() string { return "socket.io packet: " + e.Reason }

// What can be wrong with a packet.
var (
	ErrEmpty            = &Error{"empty packet"}
	ErrType             = &Error{"unknown packet type"}
	ErrAttachmentCount  = &Error{"attachment count out of range"}
	ErrID               = &Error{"ack id too large"}
	ErrUTF8             = &Error{"invalid utf-8"}
	ErrJSON             = &Error{"invalid json"}
	ErrDepth            = &Error{"nested too deep"}
	ErrPayload          = &Error{"payload does not fit packet type"}
	ErrReserved         = &Error{"reserved event name"}
	ErrPlaceholder      = &Error{"bad attachment placeholder"}
	ErrRepeated         = &Error{"attachment repeated too often"}
	ErrTextWhilePending = &Error{"text while attachments are pending"}
	ErrBinaryUnexpected = &Error{"unexpected binary message"}
)

// Reserved reports whether event is a name that no packet may carry, because both sides' libraries use it
// for events of their own.
func Reserved(event string) bool {
	switch event {
	case "connect", "connect_error", "disconnect", "disconnecting", "newListener", "removeListener":
		return true
	}
	return false
}

// Append appends the text form of p to dst; its attachments have to follow as binary messages, back to back.
//
// Whether an event or ack is sent as its binary type depends on p.Attachments alone: a count of zero would be
// refused by receivers. An event is never sent without payload, because the JavaScript client throws on
// it: without Data it becomes [""], which has no effect, and an ack becomes [].
func Append(dst []byte, p *Packet) []byte {
	dst = appendHeader(dst, p, len(p.Attachments))
	switch {
	case p.Data != nil:
		return append(dst, p.Data...)
	case p.Type == Event || p.Type == BinaryEvent:
		return append(dst, `[""]`...)
	case p.Type == Ack || p.Type == BinaryAck:
		return append(dst, `[]`...)
	}
	return dst
}

// appendHeader appends what precedes the payload of p with that many attachments.
func appendHeader(dst []byte, p *Packet, attachments int) []byte {
	t := p.Type
	switch t {
	case Event, BinaryEvent:
		t = Event
		if attachments > 0 {
			t = BinaryEvent
		}
	case Ack, BinaryAck:
		t = Ack
		if attachments > 0 {
			t = BinaryAck
		}
	}
	dst = append(dst, '0'+byte(t))
	if attachments > 0 {
		dst = strconv.AppendInt(dst, int64(attachments), 10)
		dst = append(dst, '-')
	}
	if p.Namespace != "" && p.Namespace != "/" {
		dst = append(dst, p.Namespace...)
		dst = append(dst, ',')
	}
	if p.HasID {
		dst = strconv.AppendUint(dst, p.ID, 10)
	}
	return dst
}

// AppendArg appends to dst the text packet event, as Append made it from an event, with arg as a further
// last element of its payload. Recovery adds the offset to an encoded event this way.
func AppendArg(dst, event []byte, arg string) []byte {
	dst, ok := appendBeforeArg(dst, event)
	if !ok {
		return dst
	}
	return append(AppendString(dst, arg), ']')
}

// AppendNull is AppendArg with null, which no client takes for an offset.
func AppendNull(dst, event []byte) []byte {
	dst, ok := appendBeforeArg(dst, event)
	if !ok {
		return dst
	}
	return append(dst, "null]"...)
}

// appendBeforeArg appends event up to where a further element goes, or all of it if it can't have one.
func appendBeforeArg(dst, event []byte) (_ []byte, ok bool) {
	if len(event) < 2 || event[len(event)-1] != ']' {
		return append(dst, event...), false
	}
	dst = append(dst, event[:len(event)-1]...)
	if event[len(event)-2] != '[' {
		dst = append(dst, ',')
	}
	return dst, true
}

// LastArgIsString reports whether a client that gets the text packet event, as Append made it, will take its
// last element for a recovery offset: the JavaScript client does so with every trailing string, be it
// the event's name, unless an ack id is there.
func LastArgIsString(event []byte) bool {
	h, err := parseHeader(event, maxID)
	if err != nil || h.hasID || h.typ != Event && h.typ != BinaryEvent {
		return false
	}
	payload := trimSpace(h.rest)
	if len(payload) < 2 || payload[len(payload)-1] != ']' {
		return false
	}
	last := trimSpace(payload[:len(payload)-1])
	return last[len(last)-1] == '"'
}

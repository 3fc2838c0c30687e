// Package packet is the wire codec of Engine.IO protocol 4: it turns bytes into packets and back, and does
// no I/O. The format is the third section of the Engine.IO contract: a text packet is one ASCII digit, its
// type, followed by its data; a binary message is the letter b followed by padded base64 wherever only text
// can travel; an HTTP body, called a payload, is packets joined by the byte 0x1e.
//
// WebSocket binary frames carry the bytes of a binary message as they are and need no codec.
package packet

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"iter"
)

// Type says what a packet is for. Its value is the ASCII digit that stands for it on the wire.
type Type byte

// The packet types of the protocol, by who may send them.
const (
	Open    Type = '0' // server: the first packet of a connection, with the parameters of the handshake
	Close   Type = '1' // both: the connection ends
	Ping    Type = '2' // server: heartbeat; client: only with data "probe", on a WebSocket that wants to take over
	Pong    Type = '3' // client: answer to a heartbeat; server: answer to a probe
	Message Type = '4' // both: data of the application
	Upgrade Type = '5' // client: the probed WebSocket takes over
	Noop    Type = '6' // server: ends a held poll
)

// Separator stands between the packets of a payload. The text of a packet can't contain it.
const Separator = 0x1e

// base64Mark is the first byte of a binary message where only text can travel.
const base64Mark = 'b'

// Why bytes are not a packet. All of them are a "parse error" of the connection.
var (
	ErrEmpty  = errors.New("packet is empty: it needs at least its type")
	ErrType   = errors.New("packet type is unknown: the first byte must be 0 to 6, or b")
	ErrBase64 = errors.New("binary message is not padded base64")
)

// Packet is one decoded packet.
type Packet struct {
	Type   Type
	Data   []byte // without the type; aliases the decoded input, except where Binary came as base64
	Binary bool   // the data is raw bytes; only messages can be binary
}

// String names the type for logs and test failures.
func (t Type) String() string {
	names := [...]string{"open", "close", "ping", "pong", "message", "upgrade", "noop"}
	if t < Open || t > Noop {
		return fmt.Sprintf("Type(%q)", byte(t))
	}
	return names[t-Open]
}

// Decode decodes one packet: a WebSocket text frame, or one part of a payload. The error is one of ErrEmpty,
// ErrType and ErrBase64. Decode doesn't check that text is UTF-8: whoever read it has to.
func Decode(text []byte) (Packet, error) {
	if len(text) == 0 {
		return Packet{}, ErrEmpty
	}
	switch t := Type(text[0]); {
	case t >= Open && t <= Noop:
		return Packet{Type: t, Data: text[1:]}, nil
	case t == base64Mark:
		data := make([]byte, base64.StdEncoding.DecodedLen(len(text)-1))
		n, err := base64.StdEncoding.Decode(data, text[1:])
		if err != nil {
			return Packet{}, ErrBase64
		}
		return Packet{Type: Message, Data: data[:n], Binary: true}, nil
	default:
		return Packet{}, ErrType
	}
}

// Payload iterates over the packets of a body. It yields the packets before the first bad one, then the error
// of that one, and stops. An empty body is a bad packet. It allocates only for binary messages, so a body of
// very many tiny packets costs no more than its bytes.
func Payload(body []byte) iter.Seq2[Packet, error] {
	return func(yield func(Packet, error) bool) {
		for more := true; more; {
			var part []byte
			part, body, more = bytes.Cut(body, []byte{Separator})
			p, err := Decode(part)
			if !yield(p, err) || err != nil {
				return
			}
		}
	}
}

// Append appends the text form of p to dst and returns the extended slice. A binary message becomes base64.
func Append(dst []byte, p Packet) []byte {
	if p.Binary {
		return AppendBinary(dst, p.Data)
	}
	dst = append(dst, byte(p.Type))
	return append(dst, p.Data...)
}

// AppendBinary appends the text form of a binary message that holds data: b and the base64 of it.
func AppendBinary(dst, data []byte) []byte {
	dst = append(dst, base64Mark)
	return base64.StdEncoding.AppendEncode(dst, data)
}

// BinaryLen is the length of what AppendBinary appends for n bytes of data.
func BinaryLen(n int) int {
	return 1 + base64.StdEncoding.EncodedLen(n)
}

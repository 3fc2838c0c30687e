package packet

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
)

// Binary is a byte array that travels as an attachment wherever in an argument it is. In types that go
// through encoding/json, use it for fields that are to be sent as binary; to receive, []byte does too.
//
// Given to json.Marshal directly it is text that only Binary itself reads again.
type Binary []byte

// Inside encoding/json a byte array is the string `"binary:<random>:<base64>"`. EncodeArgs finds it by mark,
// which is random for each process so that no client can write one into data that we pass on.
const markStart = `"binary:`

var mark = []byte(markStart + rand.Text() + ":")

// MarshalJSON writes the text that EncodeArgs turns into a placeholder.
func (b Binary) MarshalJSON() ([]byte, error) {
	if b == nil {
		return []byte("null"), nil
	}
	return appendMarked(nil, b), nil
}

// UnmarshalJSON reads what MarshalJSON wrote, in this process or another, or plain base64.
func (b *Binary) UnmarshalJSON(text []byte) error {
	if bytes.HasPrefix(text, []byte(markStart)) {
		text = append([]byte{'"'}, text[bytes.LastIndexByte(text, ':')+1:]...)
	}
	return json.Unmarshal(text, (*[]byte)(b))
}

// MarshalJSON writes r.JSON with its attachments in it, for EncodeArgs to turn into placeholders.
func (r Raw) MarshalJSON() ([]byte, error) {
	if r.JSON == nil {
		return []byte("null"), nil
	}
	if err := checkJSON(r.JSON); err != nil {
		return nil, err
	}
	var text []byte
	err := r.expand(&text, func(b []byte) { text = appendMarked(text, b) })
	return text, err
}

// UnmarshalJSON keeps a copy of text; DecodeArg adds the attachments.
func (r *Raw) UnmarshalJSON(text []byte) error {
	*r = Raw{JSON: bytes.Clone(text)}
	return nil
}

func appendMarked(dst, b []byte) []byte {
	dst = base64.StdEncoding.AppendEncode(append(dst, mark...), b)
	return append(dst, '"')
}

// attachMarked replaces the marked byte arrays in e.buf from start on by placeholders.
func (e *encoder) attachMarked(start int) error {
	if !bytes.Contains(e.buf[start:], mark) {
		return nil
	}
	text := bytes.Clone(e.buf[start:])
	e.buf = e.buf[:start]
	for {
		before, rest, ok := bytes.Cut(text, mark)
		e.buf = append(e.buf, before...)
		if !ok {
			return nil
		}
		encoded, rest, ok := bytes.Cut(rest, []byte{'"'})
		b, err := base64.StdEncoding.AppendDecode([]byte{}, encoded)
		if !ok || err != nil {
			return errors.New("a Binary was changed by the MarshalJSON of the type around it")
		}
		e.place(e.attach(b, bytes.Equal))
		text = rest
	}
}

// DecodeArg decodes an argument that Event or Args returned into v like json.Unmarshal, with the attachments
// of its packet: a placeholder becomes a []byte in an interface, and the bytes of a []byte or Binary
// field; a Raw or json.RawMessage keeps placeholders, a Raw with the attachments. The byte arrays alias
// attachments, and each other where the sender repeated one. A placeholder where something else is
// expected is an error, but a type with an UnmarshalJSON of its own is given text that means nothing to it.
// Without attachments, what looks like a placeholder is plain data.
func DecodeArg(raw json.RawMessage, attachments [][]byte, v any) error {
	var found []placeholder
	if len(attachments) > 0 {
		if err := checkJSON(raw); err != nil {
			return fmt.Errorf("decode argument: %w", err)
		}
		found = placeholders(raw)
	}
	if len(found) == 0 {
		if err := json.Unmarshal(raw, v); err != nil {
			return fmt.Errorf("decode argument: %w", err)
		}
		return nil
	}
	// encoding/json sees a ticket in place of each placeholder, which is then redeemed in the decoded value.
	t := newTickets(attachments)
	var text []byte
	done := 0
	for _, p := range found {
		if p.num < 0 || p.num >= len(attachments) {
			return fmt.Errorf("decode argument: %w", ErrPlaceholder)
		}
		text = append(text, raw[done:p.start]...)
		text = t.append(text, p.num)
		done = p.end
	}
	text = append(text, raw[done:]...)
	if err := json.Unmarshal(text, v); err != nil {
		return fmt.Errorf("decode argument: %w", err)
	}
	if err := t.redeem(reflect.ValueOf(v)); err != nil {
		return fmt.Errorf("decode argument: %w", err)
	}
	return nil
}

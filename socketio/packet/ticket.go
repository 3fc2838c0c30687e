package packet

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"reflect"
)

// A ticket stands for an attachment while encoding/json decodes the argument around it: a base64 string,
// so that a []byte takes it, of a random prefix and the attachment's number. The prefix is new for each
// argument, so that its sender can't have written one.
const (
	ticketPrefix = 18
	ticketSize   = ticketPrefix + 3     // a multiple of 3, so that base64 needs no padding
	ticketText   = ticketSize / 3 * 4   // without quotes
	ticketShared = ticketPrefix / 3 * 4 // the text that all tickets of an argument start with
)

type tickets struct {
	attachments [][]byte
	prefix      [ticketPrefix]byte
	shared      []byte
}

func newTickets(attachments [][]byte) *tickets {
	t := &tickets{attachments: attachments}
	rand.Read(t.prefix[:])
	t.shared = base64.StdEncoding.AppendEncode(nil, t.prefix[:])
	return t
}

// append appends the ticket for attachment num as a JSON string.
func (t *tickets) append(dst []byte, num int) []byte {
	dst = append(append(dst, '"'), t.shared...)
	dst = base64.StdEncoding.AppendEncode(dst, []byte{byte(num >> 16), byte(num >> 8), byte(num)})
	return append(dst, '"')
}

// number returns which attachment b, a decoded ticket, stands for.
func (t *tickets) number(b []byte) (num int, ok bool) {
	if len(b) != ticketSize || !bytes.HasPrefix(b, t.prefix[:]) {
		return 0, false
	}
	b = b[ticketPrefix:]
	num = int(b[0])<<16 | int(b[1])<<8 | int(b[2])
	return num, num < len(t.attachments)
}

// numberText is number for a ticket's text.
func (t *tickets) numberText(s string) (num int, ok bool) {
	if len(s) != ticketText || s[:ticketShared] != string(t.shared) {
		return 0, false
	}
	b, err := base64.StdEncoding.DecodeString(s)
	if err != nil {
		return 0, false
	}
	return t.number(b)
}

var (
	rawType        = reflect.TypeFor[Raw]()
	rawMessageType = reflect.TypeFor[json.RawMessage]()
	byteType       = reflect.TypeFor[byte]()
)

var errNotBinary = errors.New("binary data where the type has no place for it")

// redeem puts the attachments in place of the tickets in v, which encoding/json has just filled.
func (t *tickets) redeem(v reflect.Value) error {
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			return t.redeem(v.Elem())
		}
	case reflect.Interface:
		return t.redeemInterface(v)
	case reflect.Struct:
		if v.Type() == rawType {
			r := v.Addr().Interface().(*Raw)
			r.JSON, r.Attachments = t.placeholders(r.JSON), t.attachments
			return nil
		}
		for i := range v.NumField() {
			// Of an unexported embedded struct, encoding/json fills the exported fields.
			f := v.Type().Field(i)
			if !f.IsExported() && !(f.Anonymous && f.Type.Kind() == reflect.Struct) {
				continue
			}
			if err := t.redeem(v.Field(i)); err != nil {
				return err
			}
		}
	case reflect.Slice:
		if v.Type() == rawMessageType {
			v.SetBytes(t.placeholders(v.Bytes()))
			return nil
		}
		if v.Type().Elem() == byteType {
			if num, ok := t.number(v.Bytes()); ok {
				v.SetBytes(t.attachments[num])
			}
			return nil
		}
		fallthrough
	case reflect.Array:
		for i := range v.Len() {
			if err := t.redeem(v.Index(i)); err != nil {
				return err
			}
		}
	case reflect.Map:
		return t.redeemMap(v)
	case reflect.String:
		if _, ok := t.numberText(v.String()); ok {
			return errNotBinary
		}
	}
	return nil
}

func (t *tickets) redeemInterface(v reflect.Value) error {
	if v.IsNil() {
		return nil
	}
	if s, ok := v.Elem().Interface().(string); ok {
		if num, ok := t.numberText(s); ok {
			b := reflect.ValueOf(t.attachments[num])
			if !b.Type().AssignableTo(v.Type()) {
				return errNotBinary
			}
			v.Set(b)
		}
		return nil
	}
	switch v.Elem().Kind() {
	case reflect.Map, reflect.Slice, reflect.Struct, reflect.Pointer:
	default:
		return nil
	}
	// What an interface holds can't be set, a copy can.
	c := reflect.New(v.Elem().Type()).Elem()
	c.Set(v.Elem())
	if err := t.redeem(c); err != nil {
		return err
	}
	v.Set(c)
	return nil
}

func (t *tickets) redeemMap(v reflect.Value) error {
	for it := v.MapRange(); it.Next(); {
		c := reflect.New(v.Type().Elem()).Elem()
		c.Set(it.Value())
		if err := t.redeem(c); err != nil {
			return err
		}
		v.SetMapIndex(it.Key(), c)
	}
	return nil
}

// placeholders returns text with the tickets in it turned back into placeholders.
func (t *tickets) placeholders(text []byte) []byte {
	start := append([]byte{'"'}, t.shared...)
	var out []byte
	for {
		before, rest, ok := bytes.Cut(text, start)
		if !ok || len(rest) < ticketText-ticketShared+1 {
			return append(out, text...)
		}
		num, _ := t.numberText(string(t.shared) + string(rest[:ticketText-ticketShared]))
		out = appendPlaceholder(append(out, before...), num)
		text = rest[ticketText-ticketShared+1:] // over the closing quote
	}
}

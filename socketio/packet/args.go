package packet

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"time"
	"unicode/utf8"
)

// Raw is an argument that is passed on as it is: an element of what Event or Args returned, and the
// attachments of its packet. Without Attachments, whatever looks like a placeholder in JSON is plain data.
//
// EncodeArgs takes over the JSON text to the byte where a Raw is an argument itself or in a tree of
// []any and map[string]any, save the numbers of placeholders; inside other types white space is lost.
// To store a Raw, store its fields: like Binary it is not meant for json.Marshal.
type Raw struct {
	JSON        json.RawMessage // nil means null
	Attachments [][]byte
}

// EncodeArgs returns args as the JSON array that an event or ack carries, and the attachments that its
// placeholders stand for. For an event the first of args is the name.
//
// Values are encoded as JSON.stringify would: no HTML escapes, NaN and infinities as null, a
// time.Time as "2023-11-14T22:13:20.000Z", a []byte or Binary as an attachment, nil ones as null. This holds
// for the arguments and for trees of []any and map[string]any. Every other type goes through
// encoding/json with its tags, where Binary still is an attachment, but []byte is base64 text, a time.Time is
// in RFC 3339, and NaN is an error.
//
// A byte array that occurs several times is attached once, so that repeats which a client was allowed to
// send stay what they were. Receivers commonly refuse more than DefaultMaxAttachments; that is
// left to the caller. The attachments alias the arguments, which must not change any more.
//
// The error wraps ErrPlaceholder if there are attachments and also plain data that a receiver would
// take for a placeholder, and ErrJSON, ErrUTF8 or ErrDepth for a Raw that holds no valid JSON.
func EncodeArgs(args ...any) (data []byte, attachments [][]byte, err error) {
	e := encoder{buf: make([]byte, 0, 128)}
	if err = e.array(args, 1); err == nil {
		err = e.check(0)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("encode arguments: %w", err)
	}
	return e.buf, e.attachments, nil
}

// AppendEncoded appends to dst what [Append] makes of p with args as its payload, encoded as [EncodeArgs] does,
// and returns it with the attachments. Data and Attachments of p are not looked at.
func AppendEncoded(dst []byte, p *Packet, args ...any) (text []byte, attachments [][]byte, err error) {
	e := encoder{buf: appendHeader(dst, p, 0)}
	payload := len(e.buf)
	if err := e.array(args, 1); err != nil {
		return nil, nil, fmt.Errorf("encode arguments: %w", err)
	}
	return e.packet(p, len(dst), payload)
}

// AppendEvent is AppendEncoded for an event: its name, args, and as the last argument offset, if that is not empty.
func AppendEvent(dst []byte, p *Packet, event string, args []any, offset string) (text []byte, attachments [][]byte, err error) {
	e := encoder{buf: appendHeader(dst, p, 0)}
	payload := len(e.buf)
	e.buf = AppendString(append(e.buf, '['), event)
	for _, arg := range args {
		e.buf = append(e.buf, ',')
		if err := e.value(arg, 1); err != nil {
			return nil, nil, fmt.Errorf("encode arguments: %w", err)
		}
	}
	if offset != "" {
		e.buf = AppendString(append(e.buf, ','), offset)
	}
	e.buf = append(e.buf, ']')
	return e.packet(p, len(dst), payload)
}

// packet returns what is in buf, which has the header of p from start on, and the payload, as a packet that says
// how many attachments it has.
func (e *encoder) packet(p *Packet, start, payload int) (text []byte, attachments [][]byte, err error) {
	if len(e.attachments) == 0 {
		return e.buf, nil, nil
	}
	if err := e.check(payload); err != nil {
		return nil, nil, fmt.Errorf("encode arguments: %w", err)
	}
	data := bytes.Clone(e.buf[payload:])
	return append(appendHeader(e.buf[:start], p, len(e.attachments)), data...), e.attachments, nil
}

// check returns an error if a receiver would not find the attachments where they were in the arguments, which are in
// buf from start on.
func (e *encoder) check(start int) error {
	if len(e.attachments) == 0 {
		return nil
	}
	// A custom MarshalJSON may have quoted an attachment's mark, and plain data may look like a placeholder.
	if err := checkJSON(e.buf[start:]); err != nil {
		return fmt.Errorf("with attachments: %w", err)
	}
	same := func(p placeholder, placed int) bool { return start+p.start == placed }
	if !slices.EqualFunc(placeholders(e.buf[start:]), e.placed, same) {
		return fmt.Errorf("plain data next to attachments: %w", ErrPlaceholder)
	}
	return nil
}

// encoder appends JSON to buf and collects attachments.
type encoder struct {
	buf         []byte
	attachments [][]byte
	placed      []int // where in buf a placeholder starts
}

func (e *encoder) array(values []any, level int) error {
	e.buf = append(e.buf, '[')
	for i, v := range values {
		if i > 0 {
			e.buf = append(e.buf, ',')
		}
		if err := e.value(v, level); err != nil {
			return err
		}
	}
	e.buf = append(e.buf, ']')
	return nil
}

func (e *encoder) object(values map[string]any, level int) error {
	e.buf = append(e.buf, '{')
	for i, key := range slices.Sorted(maps.Keys(values)) {
		if i > 0 {
			e.buf = append(e.buf, ',')
		}
		e.buf = append(AppendString(e.buf, key), ':')
		if err := e.value(values[key], level); err != nil {
			return err
		}
	}
	e.buf = append(e.buf, '}')
	return nil
}

// value appends v, which is inside level arrays and objects.
func (e *encoder) value(v any, level int) error {
	switch v := v.(type) {
	case nil:
		e.buf = append(e.buf, "null"...)
	case bool:
		e.buf = strconv.AppendBool(e.buf, v)
	case string:
		e.buf = AppendString(e.buf, v)
	case int:
		e.buf = strconv.AppendInt(e.buf, int64(v), 10)
	case int64:
		e.buf = strconv.AppendInt(e.buf, v, 10)
	case uint64:
		e.buf = strconv.AppendUint(e.buf, v, 10)
	case float64:
		e.buf = appendFloat(e.buf, v, 64)
	case float32:
		e.buf = appendFloat(e.buf, float64(v), 32)
	case time.Time:
		e.buf = appendTime(e.buf, v)
	case json.RawMessage:
		return e.raw(Raw{JSON: v})
	case Raw:
		return e.raw(v)
	case Appender:
		buf, err := v.AppendJSON(e.buf)
		if err != nil {
			return err
		}
		e.buf = buf
	case []byte:
		e.bytes(v)
	case Binary:
		e.bytes(v)
	case []any:
		if v == nil {
			e.buf = append(e.buf, "null"...)
			return nil
		}
		if level >= maxDepth {
			return ErrDepth
		}
		return e.array(v, level+1)
	case map[string]any:
		if v == nil {
			e.buf = append(e.buf, "null"...)
			return nil
		}
		if level >= maxDepth {
			return ErrDepth
		}
		return e.object(v, level+1)
	default:
		return e.other(v)
	}
	return nil
}

// other appends v as encoding/json does, and attaches the Binary and Raw values in it.
func (e *encoder) other(v any) error {
	start := len(e.buf)
	buf, err := appendJSON(e.buf, v)
	if err != nil {
		return err
	}
	e.buf = buf
	return e.attachMarked(start)
}

// bytes appends a placeholder for b.
func (e *encoder) bytes(b []byte) {
	if b == nil {
		e.buf = append(e.buf, "null"...)
		return
	}
	e.place(e.attach(b, sameArray))
}

// attach returns the number of b among the attachments, to which it is added unless one is the same.
func (e *encoder) attach(b []byte, same func(a, b []byte) bool) int {
	if i := slices.IndexFunc(e.attachments, func(a []byte) bool { return same(a, b) }); i >= 0 {
		return i
	}
	e.attachments = append(e.attachments, b)
	return len(e.attachments) - 1
}

func sameArray(a, b []byte) bool { return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0]) }

func (e *encoder) place(num int) {
	e.placed = append(e.placed, len(e.buf))
	e.buf = appendPlaceholder(e.buf, num)
}

func appendPlaceholder(dst []byte, num int) []byte {
	dst = append(dst, `{"_placeholder":true,"num":`...)
	return append(strconv.AppendInt(dst, int64(num), 10), '}')
}

// raw appends r with its attachments.
func (e *encoder) raw(r Raw) error {
	if r.JSON == nil {
		e.buf = append(e.buf, "null"...)
		return nil
	}
	if err := checkJSON(r.JSON); err != nil {
		return err
	}
	return r.expand(&e.buf, func(b []byte) { e.place(e.attach(b, sameArray)) })
}

// expand appends r.JSON to buf, calling place for each placeholder instead of appending it.
func (r Raw) expand(buf *[]byte, place func(attachment []byte)) error {
	done := 0
	if len(r.Attachments) > 0 {
		for _, p := range placeholders(r.JSON) {
			if p.num < 0 || p.num >= len(r.Attachments) {
				return ErrPlaceholder
			}
			*buf = append(*buf, r.JSON[done:p.start]...)
			place(r.Attachments[p.num])
			done = p.end
		}
	}
	*buf = append(*buf, r.JSON[done:]...)
	return nil
}

// AppendString appends s as a JSON string. What needs no escape is copied, which is nearly every string.
func AppendString(dst []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c < 0x20 || c == '"' || c == '\\' {
			dst, _ = appendJSON(dst, s) // a string can always be encoded
			return dst
		}
	}
	if !utf8.ValidString(s) {
		dst, _ = appendJSON(dst, s)
		return dst
	}
	dst = append(dst, '"')
	dst = append(dst, s...)
	return append(dst, '"')
}

// appendJSON appends v as encoding/json writes it, without HTML escapes.
func appendJSON(dst []byte, v any) ([]byte, error) {
	w := bytes.NewBuffer(dst)
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return dst, err
	}
	return w.Bytes()[:w.Len()-1], nil // without the newline that Encode adds
}

// appendFloat appends f as ECMAScript's Number::toString writes it.
func appendFloat(dst []byte, f float64, bits int) []byte {
	switch abs := math.Abs(f); {
	case math.IsNaN(f) || math.IsInf(f, 0):
		return append(dst, "null"...)
	case f == 0:
		return append(dst, '0') // -0 too
	case abs >= 1e-6 && abs < 1e21:
		return strconv.AppendFloat(dst, f, 'f', -1, bits)
	}
	dst = strconv.AppendFloat(dst, f, 'e', -1, bits)
	if n := len(dst); dst[n-4] == 'e' && dst[n-2] == '0' { // e-07 is e-7
		dst[n-2] = dst[n-1]
		dst = dst[:n-1]
	}
	return dst
}

// appendTime appends t as JavaScript's Date.prototype.toISOString writes it.
func appendTime(dst []byte, t time.Time) []byte {
	t = t.UTC()
	dst = append(dst, '"')
	if y := t.Year(); y < 0 || y > 9999 {
		dst = fmt.Appendf(dst, "%+07d", y)
	} else {
		dst = fmt.Appendf(dst, "%04d", y)
	}
	return t.AppendFormat(dst, `-01-02T15:04:05.000Z"`)
}

package wire

import (
	"encoding/binary"
	"errors"
	"math"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
	"unsafe"

	"github.com/tinylib/msgp/msgp"
)

// reader reads MessagePack and appends it to out as JSON, byte arrays as placeholders of attachments
// (redis-adapter.md section 3). Texts are parts of data, which is never copied as a whole.
type reader struct {
	data           string
	rest           []byte // the end of data that was not taken yet, only to be read
	maxAttachments int

	out         []byte
	attachments [][]byte
	placeholder bool // plain data has a key that is a placeholder's

	extension *msgp.RawExtension // the last one, nil if there was none; the next has its memory
}

func newReader(data string, maxAttachments int) *reader {
	view := unsafe.Slice(unsafe.StringData(data), len(data)) //nolint:gosec // a reader writes nothing to it
	return &reader{data: data, rest: view, maxAttachments: maxAttachments, out: make([]byte, 0, len(data))}
}

// end checks that nothing follows, and that no plain data would be taken for one of the attachments.
func (r *reader) end() error {
	switch {
	case len(r.rest) > 0:
		return ErrTrailing
	case r.placeholder && len(r.attachments) > 0:
		return ErrPlaceholder
	}
	return nil
}

// took goes on with rest, unless the library could not read what precedes it: its kind is known, so it was cut off.
func (r *reader) took(rest []byte, err error) error {
	if err != nil {
		return ErrMalformed
	}
	r.rest = rest
	return nil
}

// kind returns what the next value is.
func (r *reader) kind() (kind, error) {
	k := kindOf(r.rest)
	if k == kindOther || tooLong(r.rest) {
		return kindOther, ErrMalformed
	}
	return k, nil
}

// is reports whether the next value is of kind k, and fails with ErrShape if it is not.
func (r *reader) is(k kind) error {
	got, err := r.kind()
	if err == nil && got != k {
		err = ErrShape
	}
	return err
}

// null takes a null.
func (r *reader) null() error { return r.took(msgp.ReadNilBytes(r.rest)) }

// arrayLen takes the head of an array. Nobody has checked that so much follows.
func (r *reader) arrayLen() (uint32, error) {
	if err := r.is(kindArray); err != nil {
		return 0, err
	}
	n, rest, err := msgp.ReadArrayHeaderBytes(r.rest)
	return n, r.took(rest, err)
}

// mapLen is arrayLen for a map.
func (r *reader) mapLen() (uint32, error) {
	if err := r.is(kindMap); err != nil {
		return 0, err
	}
	n, rest, err := msgp.ReadMapHeaderBytes(r.rest)
	return n, r.took(rest, err)
}

// text takes a string.
func (r *reader) text() (string, error) {
	if err := r.is(kindString); err != nil {
		return "", err
	}
	return r.content()
}

// content takes the string that is next.
func (r *reader) content() (string, error) {
	b, rest, err := msgp.ReadStringZC(r.rest)
	if err := r.took(rest, err); err != nil {
		return "", err
	}
	end := len(r.data) - len(rest)
	return r.data[end-len(b) : end], nil
}

// each calls f for the entries of the map that is next, with f to take the value.
func (r *reader) each(f func(key string) error) error {
	n, err := r.mapLen()
	if err != nil {
		return err
	}
	for range n {
		key, err := r.key()
		if err != nil {
			return err
		}
		if err := f(key); err != nil {
			return err
		}
	}
	return nil
}

// key takes a map's key. JavaScript makes a string of every key.
func (r *reader) key() (string, error) {
	k, err := r.kind()
	switch {
	case err != nil:
		return "", err
	case k == kindString:
		return r.content()
	case k != kindNil && k != kindBool && k != kindNumber:
		return "", ErrShape
	}
	start := len(r.out)
	defer func() { r.out = r.out[:start] }()
	err = r.value(maxDepth) // a scalar
	return string(r.out[start:]), err
}

// skip takes a value and forgets it.
func (r *reader) skip(depth int) error {
	out, attachments := len(r.out), len(r.attachments)
	placeholder := r.placeholder
	err := r.value(depth)
	r.out, r.attachments, r.placeholder = r.out[:out], r.attachments[:attachments], placeholder
	return err
}

// value appends the next value, which is inside depth arrays and maps. What JavaScript reads as undefined is null.
func (r *reader) value(depth int) error {
	undefined, err := r.maybe(depth)
	if undefined {
		r.out = append(r.out, "null"...)
	}
	return err
}

// maybe is value, but appends nothing for undefined and says so.
func (r *reader) maybe(depth int) (undefined bool, err error) {
	k, err := r.kind()
	if err != nil {
		return false, err
	}
	switch k {
	case kindNil:
		r.out = append(r.out, "null"...)
		return false, r.null()
	case kindBool:
		b, rest, err := msgp.ReadBoolBytes(r.rest)
		r.out = strconv.AppendBool(r.out, b)
		return false, r.took(rest, err)
	case kindNumber:
		return false, r.number()
	case kindString:
		b, err := r.content()
		r.out = appendString(r.out, b)
		return false, err
	case kindBinary:
		b, rest, err := msgp.ReadBytesZC(r.rest)
		if err := r.took(rest, err); err != nil {
			return false, err
		}
		return false, r.attach(b)
	case kindExt:
		return r.ext()
	}
	if depth >= maxDepth {
		return false, ErrDepth
	}
	if k == kindMap {
		return false, r.object(depth)
	}
	n, err := r.arrayLen()
	if err != nil {
		return false, err
	}
	r.out = append(r.out, '[')
	for i := range n {
		if i > 0 {
			r.out = append(r.out, ',')
		}
		if err := r.value(depth + 1); err != nil {
			return false, err
		}
	}
	r.out = append(r.out, ']')
	return false, nil
}

func (r *reader) object(depth int) error {
	r.out = append(r.out, '{')
	first := true
	err := r.each(func(key string) error {
		before := len(r.out)
		if !first {
			r.out = append(r.out, ',')
		}
		r.out = append(appendString(r.out, key), ':')
		undefined, err := r.maybe(depth + 1)
		if undefined {
			r.out = r.out[:before] // as JSON.stringify does
			return err
		}
		first = false
		if key == "_placeholder" {
			r.placeholder = true
		}
		return err
	})
	r.out = append(r.out, '}')
	return err
}

// number appends the number that is next.
func (r *reader) number() error {
	n, f, k, err := r.numeric()
	switch k {
	case floating:
		r.out = appendFloat(r.out, f)
	case unsigned:
		r.out = strconv.AppendUint(r.out, n, 10)
	case signed:
		r.out = strconv.AppendInt(r.out, int64(n), 10)
	}
	return err
}

// numberKind is how a number is written.
type numberKind int

const (
	floating numberKind = iota
	unsigned
	signed
)

// numeric takes the number that is next: n, with its sign in the bits ahead, or f if it is floating.
func (r *reader) numeric() (n uint64, f float64, k numberKind, err error) {
	var i int64
	rest := r.rest
	switch msgp.NextType(rest) {
	case msgp.UintType:
		k = unsigned
		n, rest, err = msgp.ReadUint64Bytes(rest)
	case msgp.IntType:
		k = signed
		i, rest, err = msgp.ReadInt64Bytes(rest)
		n = uint64(i)
	default:
		f, rest, err = msgp.ReadFloat64Bytes(rest)
	}
	return n, f, k, r.took(rest, err)
}

// integer takes a number that is an integer.
func (r *reader) integer() (int64, error) {
	if err := r.is(kindNumber); err != nil {
		return 0, err
	}
	n, f, k, err := r.numeric()
	switch {
	case err != nil:
		return 0, err
	case k == floating && f == math.Trunc(f) && math.Abs(f) < 1<<63:
		return int64(f), nil
	case k == floating, k == unsigned && n > math.MaxInt64:
		return 0, ErrShape
	}
	return int64(n), nil
}

// natural takes an integer from 0.
func (r *reader) natural() (uint64, error) {
	if err := r.is(kindNumber); err != nil {
		return 0, err
	}
	n, f, k, err := r.numeric()
	switch {
	case err != nil:
		return 0, err
	case k == floating && f == math.Trunc(f) && f >= 0 && f < 1<<64:
		return uint64(f), nil
	case k == floating, k == signed && int64(n) < 0:
		return 0, ErrShape
	}
	return n, nil
}

// attach appends a placeholder for a copy of b.
func (r *reader) attach(b []byte) error {
	if len(r.attachments) >= r.maxAttachments {
		return ErrAttachments
	}
	r.out = append(r.out, placeholderStart...)
	r.out = strconv.AppendInt(r.out, int64(len(r.attachments)), 10)
	r.out = append(r.out, '}')
	r.attachments = append(r.attachments, append([]byte{}, b...))
	return nil
}

const extTimestamp = -1

// ext appends an extension: undefined, a date, an array buffer, or as Node does an array of type and bytes.
func (r *reader) ext() (undefined bool, err error) {
	if r.extension == nil {
		r.extension = new(msgp.RawExtension)
	}
	e := r.extension
	e.Type = 0
	rest, err := msgp.ReadExtensionBytes(r.rest, e)
	if other, ok := errors.AsType[msgp.ExtensionTypeError](err); ok { // it reads what it was told to, and says what there is
		e.Type = other.Got
		rest, err = msgp.ReadExtensionBytes(r.rest, e)
	}
	before := len(r.rest)
	if err := r.took(rest, err); err != nil {
		return false, err
	}
	b := e.Data
	fixed := before-len(rest)-len(b) == 2 // its length is in its code, and nothing precedes it but that and the type
	switch {
	case e.Type == 0 && fixed && len(b) == 1:
		return true, nil
	case e.Type == 0 && fixed && len(b) == 8:
		r.out = appendDate(r.out, int64(binary.BigEndian.Uint64(b)))
		return false, nil
	case e.Type == 0 && !fixed:
		return false, r.attach(b)
	case e.Type == extTimestamp && len(b) == 4:
		r.out = appendDate(r.out, int64(binary.BigEndian.Uint32(b))*1000)
		return false, nil
	case e.Type == extTimestamp && len(b) == 8:
		n := binary.BigEndian.Uint64(b)
		r.out = appendDate(r.out, int64(n&(1<<34-1))*1000+int64(n>>34)/1e6)
		return false, nil
	case e.Type == extTimestamp && len(b) == 12:
		seconds := int64(binary.BigEndian.Uint64(b[4:]))
		if seconds > maxDate/1000 || seconds < -maxDate/1000 {
			r.out = append(r.out, "null"...)
			return false, nil
		}
		r.out = appendDate(r.out, seconds*1000+int64(binary.BigEndian.Uint32(b))/1e6)
		return false, nil
	}
	r.out = append(r.out, '[')
	r.out = strconv.AppendInt(r.out, int64(e.Type), 10)
	r.out = append(r.out, ',')
	err = r.attach(b)
	r.out = append(r.out, ']')
	return false, err
}

// maxDate is the last millisecond that a JavaScript Date can be.
const maxDate = 8.64e15

// appendDate appends the date of unix milliseconds as Date.prototype.toJSON does.
func appendDate(dst []byte, ms int64) []byte {
	if ms > maxDate || ms < -maxDate {
		return append(dst, "null"...)
	}
	t := time.UnixMilli(ms).UTC()
	dst = append(dst, '"')
	if y := t.Year(); y < 0 || y > 9999 {
		sign := byte('+')
		if y < 0 {
			sign, y = '-', -y
		}
		dst = append(dst, sign)
		dst = append(dst, strconv.Itoa(1e6 + y)[1:]...) // six digits
		return t.AppendFormat(dst, `-01-02T15:04:05.000Z"`)
	}
	return t.AppendFormat(dst, `2006-01-02T15:04:05.000Z"`)
}

// appendFloat appends f as JSON.stringify does.
func appendFloat(dst []byte, f float64) []byte {
	switch abs := math.Abs(f); {
	case math.IsNaN(f) || math.IsInf(f, 0):
		return append(dst, "null"...)
	case f == 0:
		return append(dst, '0') // -0 too
	case abs >= 1e-6 && abs < 1e21:
		return strconv.AppendFloat(dst, f, 'f', -1, 64)
	}
	dst = strconv.AppendFloat(dst, f, 'e', -1, 64)
	if n := len(dst); dst[n-4] == 'e' && dst[n-2] == '0' { // e-07 is e-7
		dst[n-2] = dst[n-1]
		dst = dst[:n-1]
	}
	return dst
}

// appendString appends s as JSON.stringify does. What is not UTF-8 is replaced, as Node does when it reads it.
func appendString(dst []byte, s string) []byte {
	const hex = "0123456789abcdef"
	dst = append(dst, '"')
	if !utf8.ValidString(s) {
		s = strings.ToValidUTF8(s, "\ufffd")
	}
	done := 0
	for i := range len(s) {
		c := s[i]
		if c >= 0x20 && c != '"' && c != '\\' {
			continue
		}
		dst = append(dst, s[done:i]...)
		done = i + 1
		switch c {
		case '"', '\\':
			dst = append(dst, '\\', c)
		case '\n':
			dst = append(dst, '\\', 'n')
		case '\r':
			dst = append(dst, '\\', 'r')
		case '\t':
			dst = append(dst, '\\', 't')
		case '\b':
			dst = append(dst, '\\', 'b')
		case '\f':
			dst = append(dst, '\\', 'f')
		default:
			dst = append(dst, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
		}
	}
	dst = append(dst, s[done:]...)
	return append(dst, '"')
}

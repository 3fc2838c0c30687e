package wire

import (
	"bytes"
	"math"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/vmihailenco/msgpack/v5"
	"github.com/vmihailenco/msgpack/v5/msgpcode"
)

// reader reads MessagePack and appends it to out as JSON, byte arrays as placeholders of attachments
// (redis-adapter.md section 3). The library reads codes, lengths and numbers; contents are cut from data, after
// their length was checked against what is there.
type reader struct {
	data           []byte
	src            *bytes.Reader
	dec            *msgpack.Decoder
	maxAttachments int

	out         []byte
	attachments [][]byte // they alias data
	placeholder bool     // plain data has a key that is a placeholder's
}

func newReader(data []byte, maxAttachments int) *reader {
	src := bytes.NewReader(data)
	return &reader{data: data, src: src, dec: msgpack.NewDecoder(src), maxAttachments: maxAttachments}
}

// end checks that nothing follows, and that no plain data would be taken for one of the attachments.
func (r *reader) end() error {
	switch {
	case r.src.Len() > 0:
		return ErrTrailing
	case r.placeholder && len(r.attachments) > 0:
		return ErrPlaceholder
	}
	return nil
}

// take cuts the next n bytes.
func (r *reader) take(n int) ([]byte, error) {
	if n < 0 || n > r.src.Len() {
		return nil, ErrMalformed
	}
	start := len(r.data) - r.src.Len()
	if _, err := r.src.Seek(int64(n), 1); err != nil {
		return nil, ErrMalformed
	}
	return r.data[start : start+n : start+n], nil
}

// next returns the code of the next value without taking it.
func (r *reader) next() (byte, error) {
	if r.src.Len() == 0 {
		return 0, ErrMalformed
	}
	return r.data[len(r.data)-r.src.Len()], nil
}

// kind is what the next value is.
type kind int

const (
	kindOther kind = iota
	kindNil
	kindBool
	kindNumber
	kindString
	kindBinary
	kindArray
	kindMap
	kindExt
)

func (r *reader) kind() (kind, error) {
	c, err := r.next()
	if err != nil {
		return kindOther, err
	}
	switch {
	case c == msgpcode.Nil:
		return kindNil, nil
	case c == msgpcode.True || c == msgpcode.False:
		return kindBool, nil
	case msgpcode.IsFixedNum(c) || c >= msgpcode.Float && c <= msgpcode.Int64:
		return kindNumber, nil
	case msgpcode.IsString(c):
		return kindString, nil
	case msgpcode.IsBin(c):
		return kindBinary, nil
	case msgpcode.IsFixedArray(c) || c == msgpcode.Array16 || c == msgpcode.Array32:
		return kindArray, nil
	case msgpcode.IsFixedMap(c) || c == msgpcode.Map16 || c == msgpcode.Map32:
		return kindMap, nil
	case msgpcode.IsExt(c):
		return kindExt, nil
	}
	return kindOther, ErrMalformed
}

// is reports whether the next value is of kind k, and fails with ErrShape if it is not.
func (r *reader) is(k kind) error {
	got, err := r.kind()
	if err == nil && got != k {
		err = ErrShape
	}
	return err
}

// arrayLen takes the head of an array.
func (r *reader) arrayLen() (int, error) {
	if err := r.is(kindArray); err != nil {
		return 0, err
	}
	return checked(r.dec.DecodeArrayLen())
}

// text takes a string.
func (r *reader) text() (string, error) {
	if err := r.is(kindString); err != nil {
		return "", err
	}
	b, err := r.content()
	return string(b), err
}

// content takes the string or byte array that is next.
func (r *reader) content() ([]byte, error) {
	n, err := checked(r.dec.DecodeBytesLen())
	if err != nil {
		return nil, err
	}
	return r.take(n)
}

// each calls f for the entries of the map that is next, with f to take the value.
func (r *reader) each(f func(key string) error) error {
	if err := r.is(kindMap); err != nil {
		return err
	}
	n, err := checked(r.dec.DecodeMapLen())
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
		return r.text()
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
		return false, r.taken(r.dec.DecodeNil())
	case kindBool:
		b, err := r.dec.DecodeBool()
		r.out = strconv.AppendBool(r.out, b)
		return false, r.taken(err)
	case kindNumber:
		return false, r.number()
	case kindString:
		b, err := r.content()
		r.out = appendString(r.out, b)
		return false, err
	case kindBinary:
		b, err := r.content()
		if err != nil {
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
		r.out = append(appendString(r.out, []byte(key)), ':')
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

func (r *reader) number() error {
	c, err := r.next()
	if err != nil {
		return err
	}
	switch c {
	case msgpcode.Float:
		f, err := r.dec.DecodeFloat32()
		r.out = appendFloat(r.out, float64(f))
		return r.taken(err)
	case msgpcode.Double:
		f, err := r.dec.DecodeFloat64()
		r.out = appendFloat(r.out, f)
		return r.taken(err)
	case msgpcode.Uint8, msgpcode.Uint16, msgpcode.Uint32, msgpcode.Uint64:
		n, err := r.dec.DecodeUint64()
		r.out = strconv.AppendUint(r.out, n, 10)
		return r.taken(err)
	}
	n, err := r.dec.DecodeInt64()
	r.out = strconv.AppendInt(r.out, n, 10)
	return r.taken(err)
}

// taken maps an error of the library, which only says that data ended.
func (r *reader) taken(err error) error {
	if err != nil {
		return ErrMalformed
	}
	return nil
}

// attach appends a placeholder for b.
func (r *reader) attach(b []byte) error {
	if len(r.attachments) >= r.maxAttachments {
		return ErrAttachments
	}
	r.out = append(r.out, placeholderStart...)
	r.out = strconv.AppendInt(r.out, int64(len(r.attachments)), 10)
	r.out = append(r.out, '}')
	r.attachments = append(r.attachments, b)
	return nil
}

const extTimestamp = -1

// ext appends an extension: undefined, a date, an array buffer, or as Node does an array of type and bytes.
func (r *reader) ext() (undefined bool, err error) {
	c, err := r.next()
	if err != nil {
		return false, err
	}
	typ, n, err := r.dec.DecodeExtHeader()
	if err != nil {
		return false, ErrMalformed
	}
	b, err := r.take(n)
	if err != nil {
		return false, err
	}
	sized := c == msgpcode.Ext8 || c == msgpcode.Ext16 || c == msgpcode.Ext32
	switch {
	case typ == 0 && c == msgpcode.FixExt1:
		return true, nil
	case typ == 0 && c == msgpcode.FixExt8:
		r.out = appendDate(r.out, int64(be(b)))
		return false, nil
	case typ == 0 && sized:
		return false, r.attach(b)
	case typ == extTimestamp && len(b) == 4:
		r.out = appendDate(r.out, int64(be(b))*1000)
		return false, nil
	case typ == extTimestamp && len(b) == 8:
		n := be(b)
		r.out = appendDate(r.out, int64(n&(1<<34-1))*1000+int64(n>>34)/1e6)
		return false, nil
	case typ == extTimestamp && len(b) == 12:
		seconds := int64(be(b[4:]))
		if seconds > maxDate/1000 || seconds < -maxDate/1000 {
			r.out = append(r.out, "null"...)
			return false, nil
		}
		r.out = appendDate(r.out, seconds*1000+int64(be(b[:4]))/1e6)
		return false, nil
	}
	r.out = append(r.out, '[')
	r.out = strconv.AppendInt(r.out, int64(typ), 10)
	r.out = append(r.out, ',')
	err = r.attach(b)
	r.out = append(r.out, ']')
	return false, err
}

// be reads a big-endian integer.
func be(b []byte) (n uint64) {
	for _, c := range b {
		n = n<<8 | uint64(c)
	}
	return n
}

// checked maps what the library says of a length.
func checked(n int, err error) (int, error) {
	if err != nil || n < 0 {
		return 0, ErrMalformed
	}
	return n, nil
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
func appendString(dst, s []byte) []byte {
	const hex = "0123456789abcdef"
	dst = append(dst, '"')
	if !utf8.Valid(s) {
		s = bytes.ToValidUTF8(s, []byte("\ufffd"))
	}
	done := 0
	for i, c := range s {
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

package wire

import (
	"bytes"
	"encoding/json"
	"math"
	"strconv"

	"github.com/vmihailenco/msgpack/v5"
)

// writer appends MessagePack in the dialect of notepack.io (redis-adapter.md section 3). The first error stays.
type writer struct {
	buf bytes.Buffer
	enc *msgpack.Encoder
	err error
}

func newWriter() *writer {
	w := &writer{}
	w.enc = msgpack.NewEncoder(&w.buf)
	return w
}

func (w *writer) bytes() ([]byte, error) {
	if w.err != nil {
		return nil, w.err
	}
	return w.buf.Bytes(), nil
}

func (w *writer) fail(err error) {
	if w.err == nil {
		w.err = err
	}
}

func (w *writer) array(n int)     { w.fail(w.enc.EncodeArrayLen(n)) }
func (w *writer) object(n int)    { w.fail(w.enc.EncodeMapLen(n)) }
func (w *writer) string(s string) { w.fail(w.enc.EncodeString(s)) }
func (w *writer) bool(b bool)     { w.fail(w.enc.EncodeBool(b)) }
func (w *writer) uint(n uint64)   { w.fail(w.enc.EncodeUint(n)) }

func (w *writer) binary(b []byte) {
	w.fail(w.enc.EncodeBytesLen(len(b)))
	w.buf.Write(b)
}

func (w *writer) strings(list []string) {
	w.array(len(list))
	for _, s := range list {
		w.string(s)
	}
}

// pair appends a key and a text.
func (w *writer) pair(key, value string) {
	w.string(key)
	w.string(value)
}

// number appends the JSON number text as JavaScript would: integers in their smallest form, exactly, and all
// else as a float64.
func (w *writer) number(text []byte) {
	s := string(text)
	if n, err := strconv.ParseInt(s, 10, 64); err == nil {
		w.fail(w.enc.EncodeInt(n))
		return
	}
	if n, err := strconv.ParseUint(s, 10, 64); err == nil {
		w.uint(n)
		return
	}
	f, err := strconv.ParseFloat(s, 64)
	switch {
	case err != nil && !math.IsInf(f, 0): // too large is an infinity, as for JSON.parse
		w.fail(ErrMalformed)
	case f == math.Trunc(f) && math.Abs(f) < 1<<53:
		w.fail(w.enc.EncodeInt(int64(f)))
	default:
		w.fail(w.enc.EncodeFloat64(f))
	}
}

// json appends the JSON value text, with attachments in place of their placeholders.
func (w *writer) json(text []byte, attachments [][]byte) {
	counts, err := sizes(text)
	if err != nil {
		w.fail(err)
		return
	}
	t := translator{writer: w, text: text, sizes: counts, attachments: attachments}
	t.value()
	t.space()
	if t.i < len(text) {
		w.fail(ErrMalformed)
	}
}

// translator walks JSON text and writes it as MessagePack. sizes bounds its recursion.
type translator struct {
	*writer
	text        []byte
	i           int
	sizes       []int // of the arrays and objects that are still to come, in the order they begin
	attachments [][]byte
}

func (t *translator) space() {
	for t.i < len(t.text) && isSpace(t.text[t.i]) {
		t.i++
	}
}

// peek returns the next character that is no white space, 0 at the end or after an error.
func (t *translator) peek() byte {
	t.space()
	if t.i == len(t.text) || t.err != nil {
		return 0
	}
	return t.text[t.i]
}

func (t *translator) value() {
	switch c := t.peek(); {
	case c == '{':
		if !t.placeholder() {
			t.object(t.size())
			t.members('}', func() {
				t.key()
				t.value()
			})
		}
	case c == '[':
		t.array(t.size())
		t.members(']', t.value)
	case c == '"':
		t.string(t.quoted())
	case c == '-' || '0' <= c && c <= '9':
		start := t.i
		for t.i < len(t.text) && isNumeric(t.text[t.i]) {
			t.i++
		}
		t.number(t.text[start:t.i])
	case t.word("null"):
		t.fail(t.enc.EncodeNil())
	case t.word("true"):
		t.bool(true)
	case t.word("false"):
		t.bool(false)
	default:
		t.fail(ErrMalformed)
	}
}

// size takes the size of the array or object that begins here.
func (t *translator) size() int {
	n := t.sizes[0]
	t.sizes = t.sizes[1:]
	return n
}

// members calls each for the members of the array or object that begins here, up to end.
func (t *translator) members(end byte, each func()) {
	t.i++
	if t.peek() == end {
		t.i++
		return
	}
	for {
		each()
		switch t.peek() {
		case ',':
			t.i++
		case end:
			t.i++
			return
		default:
			t.fail(ErrMalformed)
			return
		}
	}
}

func (t *translator) key() {
	if t.peek() != '"' {
		t.fail(ErrMalformed)
		return
	}
	t.string(t.quoted())
	if t.peek() != ':' {
		t.fail(ErrMalformed)
		return
	}
	t.i++
}

// quoted takes the string that begins here.
func (t *translator) quoted() string {
	start := t.i
	t.i = skipString(t.text, start)
	raw := t.text[start:t.i]
	if len(raw) >= 2 && bytes.IndexByte(raw, '\\') < 0 && raw[len(raw)-1] == '"' {
		return string(raw[1 : len(raw)-1])
	}
	var s string
	if json.Unmarshal(raw, &s) != nil {
		t.fail(ErrMalformed)
	}
	return s
}

func (t *translator) word(w string) bool {
	if !bytes.HasPrefix(t.text[t.i:], []byte(w)) {
		return false
	}
	t.i += len(w)
	return true
}

const placeholderStart = `{"_placeholder":true,"num":`

// placeholder takes the attachment's placeholder that begins here, if one does.
func (t *translator) placeholder() bool {
	if len(t.attachments) == 0 || !bytes.HasPrefix(t.text[t.i:], []byte(placeholderStart)) {
		return false
	}
	rest := t.text[t.i+len(placeholderStart):]
	digits, _, closed := bytes.Cut(rest, []byte{'}'})
	num, err := strconv.ParseUint(string(digits), 10, 31)
	if !closed || err != nil || num >= uint64(len(t.attachments)) {
		t.fail(ErrPlaceholder)
		return true
	}
	t.size()
	t.i += len(placeholderStart) + len(digits) + 1
	t.binary(t.attachments[num])
	return true
}

// sizes returns the number of members of each array and object in text, in the order they begin, so that
// what precedes them on the wire is known in time. It does not check more of text than it needs to.
func sizes(text []byte) ([]int, error) {
	var found []int
	var open []int // indexes in found
	fresh := false // nothing but white space since the last bracket opened
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case isSpace(c):
			continue
		case c == '[' || c == '{':
			if fresh {
				found[open[len(open)-1]] = 1
			}
			if len(open) == maxDepth {
				return nil, ErrDepth
			}
			open = append(open, len(found))
			found = append(found, 0)
			fresh = true
			continue
		case c == ']' || c == '}':
			if len(open) == 0 {
				return nil, ErrMalformed
			}
			open = open[:len(open)-1]
			fresh = false
			continue
		case c == ',' && len(open) > 0:
			found[open[len(open)-1]]++
		case c == '"':
			i = skipString(text, i) - 1
		}
		if fresh {
			found[open[len(open)-1]] = 1
			fresh = false
		}
	}
	if len(open) > 0 {
		return nil, ErrMalformed
	}
	return found, nil
}

// skipString returns the index after the string that starts at i.
func skipString(text []byte, i int) int {
	for i++; i < len(text); i++ {
		switch text[i] {
		case '"':
			return i + 1
		case '\\':
			i++
		}
	}
	return len(text)
}

func isSpace(c byte) bool { return c == ' ' || c == '\t' || c == '\n' || c == '\r' }

func isNumeric(c byte) bool {
	return '0' <= c && c <= '9' || c == '-' || c == '+' || c == '.' || c == 'e' || c == 'E'
}

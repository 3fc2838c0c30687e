package wire

import (
	"bytes"
	"encoding/json"
	"math"
	"strconv"
)

// number appends the JSON number text as JavaScript would: integers in their smallest form, exactly, and all
// else as a float64.
func (w *writer) number(text []byte) {
	if n, ok := smallInteger(text); ok {
		w.int(n)
		return
	}
	s := string(text)
	if n, err := strconv.ParseInt(s, 10, 64); err == nil {
		w.int(n)
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
		w.int(int64(f))
	default:
		w.float(f)
	}
}

// smallInteger reads an integer that is short enough to be one without a look at its size, as nearly all are.
func smallInteger(text []byte) (n int64, ok bool) {
	const digits = 18
	negative := len(text) > 0 && text[0] == '-'
	if negative {
		text = text[1:]
	}
	if len(text) == 0 || len(text) > digits {
		return 0, false
	}
	for _, c := range text {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = 10*n + int64(c-'0')
	}
	if negative {
		n = -n
	}
	return n, true
}

// json appends the JSON value text, with attachments in place of their placeholders.
func (w *writer) json(text []byte, attachments [][]byte) {
	counts, err := sizes(w.room[:0], text)
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
			t.members()
		}
	case c == '[':
		t.elements()
	case c == '"':
		t.quoted()
	case c == '-' || '0' <= c && c <= '9':
		start := t.i
		for t.i < len(t.text) && isNumeric(t.text[t.i]) {
			t.i++
		}
		t.number(t.text[start:t.i])
	case t.word("null"):
		t.null()
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

// elements takes the array that begins here.
func (t *translator) elements() {
	t.array(t.size())
	for more := t.open(']'); more; more = t.more(']') {
		t.value()
	}
}

// members takes the object that begins here.
func (t *translator) members() {
	t.object(t.size())
	for more := t.open('}'); more; more = t.more('}') {
		t.key()
		t.value()
	}
}

// open takes a bracket, and the one that ends what it began if there is nothing between.
func (t *translator) open(end byte) (more bool) {
	t.i++
	if t.peek() == end {
		t.i++
		return false
	}
	return true
}

// more takes what follows a member: a comma, or end.
func (t *translator) more(end byte) bool {
	switch t.peek() {
	case ',':
		t.i++
		return true
	case end:
		t.i++
	default:
		t.fail(ErrMalformed)
	}
	return false
}

func (t *translator) key() {
	if t.peek() != '"' {
		t.fail(ErrMalformed)
		return
	}
	t.quoted()
	if t.peek() != ':' {
		t.fail(ErrMalformed)
		return
	}
	t.i++
}

// quoted takes the string that begins here.
func (t *translator) quoted() {
	start := t.i
	t.i = skipString(t.text, start)
	raw := t.text[start:t.i]
	if len(raw) >= 2 && bytes.IndexByte(raw, '\\') < 0 && raw[len(raw)-1] == '"' {
		t.stringBytes(raw[1 : len(raw)-1])
		return
	}
	s, ok := unquote(raw)
	if !ok {
		t.fail(ErrMalformed)
	}
	t.string(s)
}

// unquote returns the text of a JSON string.
func unquote(raw []byte) (s string, ok bool) { return s, json.Unmarshal(raw, &s) == nil }

func (t *translator) word(w string) bool {
	if rest := t.text[t.i:]; len(rest) < len(w) || string(rest[:len(w)]) != w {
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

// sizes appends to found the number of members of each array and object in text, in the order they begin, so that
// what precedes them on the wire is known in time. It does not check more of text than it needs to.
func sizes(found []int, text []byte) ([]int, error) {
	var room [32]int
	open := room[:0] // indexes in found
	fresh := false   // nothing but white space since the last bracket opened
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

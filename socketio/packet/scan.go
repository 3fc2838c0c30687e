package packet

import (
	"bytes"
	"encoding/json"
	"strconv"
	"unicode/utf8"
)

// maxDepth bounds how deep arrays and objects may nest. No honest payload comes near it, and clients whose
// JSON parsers recurse would fail on what a hostile one sends them through us.
const maxDepth = 512

// checkJSON returns an error unless text is one valid JSON value, nested at most maxDepth deep, in UTF-8.
// The rest of this file relies on that.
func checkJSON(text []byte) error {
	switch {
	case valid(text):
		return nil
	case !utf8.Valid(text):
		// encoding/json would let it pass inside strings, and a WebSocket peer has to fail on it.
		return ErrUTF8
	case json.Valid(text):
		return ErrDepth
	}
	return ErrJSON
}

// splitArray returns the elements of the array that text holds, without the white space around them.
// They alias text. It does not fail on valid JSON, and on anything else does no more than that.
func splitArray(text []byte) ([]json.RawMessage, error) {
	elements := make([]json.RawMessage, 0, 2) // an event's name and the one argument that most have
	i := skipSpace(text, 1)
	if i < len(text) && text[i] == ']' {
		return elements, nil
	}
	for i < len(text) {
		end := skipValue(text, i)
		if end == i {
			break
		}
		elements = append(elements, json.RawMessage(text[i:end:end]))
		i = skipSpace(text, end)
		if i == len(text) {
			break
		}
		if text[i] == ']' {
			return elements, nil
		}
		i = skipSpace(text, i+1)
	}
	return nil, ErrJSON
}

func isSpace(c byte) bool { return c == ' ' || c == '\t' || c == '\n' || c == '\r' }

// skipSpace returns the index of the first character of text from i on that is not JSON white space.
func skipSpace(text []byte, i int) int {
	for i < len(text) && isSpace(text[i]) {
		i++
	}
	return i
}

// trimSpace returns text without JSON white space at both ends. Unlike bytes.TrimSpace it takes no other.
func trimSpace(text []byte) []byte {
	text = text[skipSpace(text, 0):]
	for len(text) > 0 && isSpace(text[len(text)-1]) {
		text = text[:len(text)-1]
	}
	return text
}

// skipString returns the index after the string that starts at i.
func skipString(text []byte, i int) int {
	for i = plainEnd(text, i+1); i < len(text); i = plainEnd(text, i+1) {
		switch text[i] {
		case '"':
			return i + 1
		case '\\':
			i++
		}
	}
	return len(text)
}

// skipValue returns the index after the value that starts at i.
func skipValue(text []byte, i int) int {
	for level := 0; i < len(text); {
		switch c := text[i]; c {
		case '"':
			i = skipString(text, i)
		case '[', '{':
			level++
			i++
			continue
		case ']', '}':
			if level == 0 {
				return i
			}
			level--
			i++
		case ',', ':', ' ', '\t', '\n', '\r':
			if level == 0 {
				return i
			}
			i++
			continue
		default:
			for i < len(text) && !isDelimiter(text[i]) {
				i++
			}
		}
		if level == 0 {
			return i
		}
	}
	return i
}

// isDelimiter reports whether c ends a number or a word like true.
func isDelimiter(c byte) bool {
	switch c {
	case ',', ':', ']', '}', '[', '{', '"':
		return true
	}
	return isSpace(c)
}

// placeholder is an object that stands for an attachment: text[start:end] is the object. num is -1 if it
// is not a number that could be an index.
type placeholder struct{ start, end, num int }

// placeholders returns the attachment placeholders in text, which passed checkJSON, in the order of the
// text. One inside another is not one: a receiver does not look into what it replaces.
func placeholders(text []byte) []placeholder {
	if !bytes.Contains(text, []byte(`_placeholder`)) && !bytes.Contains(text, []byte(`\u`)) {
		return nil
	}
	w := walker{text: text}
	w.value(skipSpace(text, 0))
	return w.found
}

// walker walks valid JSON by recursion, which maxDepth bounds.
type walker struct {
	text  []byte
	found []placeholder
}

// value walks the value at i and returns the index after it.
func (w *walker) value(i int) int {
	switch w.text[i] {
	case '[':
		i = skipSpace(w.text, i+1)
		for w.text[i] != ']' {
			i = skipSpace(w.text, w.value(i))
			if w.text[i] == ',' {
				i = skipSpace(w.text, i+1)
			}
		}
		return i + 1
	case '{':
		return w.object(i)
	}
	return skipValue(w.text, i)
}

func (w *walker) object(start int) int {
	var (
		inner = len(w.found)
		is    bool // of a key that occurs twice the last value counts, as in JavaScript
		num   = -1
		i     = skipSpace(w.text, start+1)
	)
	for w.text[i] != '}' {
		keyEnd := skipString(w.text, i)
		key := w.text[i:keyEnd]
		i = skipSpace(w.text, skipSpace(w.text, keyEnd)+1) // over the colon
		end := w.value(i)
		switch value := w.text[i:end]; {
		case isKey(key, "_placeholder"):
			is = string(value) == "true"
		case isKey(key, "num"):
			num = index(value)
		}
		i = skipSpace(w.text, end)
		if w.text[i] == ',' {
			i = skipSpace(w.text, i+1)
		}
	}
	if is {
		w.found = append(w.found[:inner], placeholder{start, i + 1, num})
	}
	return i + 1
}

// isKey reports whether the JSON string raw stands for name.
func isKey(raw []byte, name string) bool {
	if bytes.IndexByte(raw, '\\') < 0 {
		return string(raw[1:len(raw)-1]) == name
	}
	return len(raw) <= 2+6*len(name) && unquote(raw) == name
}

// index returns the integer that the JSON value raw is, or -1 if it is no integer from 0 to 2^31-1. As for
// JavaScript, 1, 1.0 and 1e0 are the same.
func index(raw []byte) int {
	if c := raw[0]; c != '-' && (c < '0' || c > '9') {
		return -1
	}
	f, err := strconv.ParseFloat(string(raw), 64)
	if err != nil || f < 0 || f > 1<<31-1 || f != float64(int(f)) {
		return -1
	}
	return int(f)
}

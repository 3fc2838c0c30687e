package packet

import (
	"encoding/json"
	"iter"
)

// Appender is a value that knows its own JSON text. Where it is an argument or in a tree of []any and map[string]any,
// [EncodeArgs] asks it instead of encoding/json, which would need several times as long for what is sent often.
type Appender interface {
	// AppendJSON appends one valid JSON value to dst.
	AppendJSON(dst []byte) ([]byte, error)
}

// Valid reports whether text is what a payload may hold: one JSON value in UTF-8 that does not nest too deep.
func Valid(text []byte) bool { return valid(text) }

// Members yields the keys and values of the JSON object raw, as they stand there, keys with their quotes. It yields
// nothing if raw is no object. raw must be valid, as arguments of decoded packets are; the values alias it.
func Members(raw json.RawMessage) iter.Seq2[[]byte, json.RawMessage] {
	return func(yield func([]byte, json.RawMessage) bool) {
		if len(raw) == 0 || raw[0] != '{' {
			return
		}
		for i := skipSpace(raw, 1); i < len(raw) && raw[i] == '"'; {
			end := skipString(raw, i)
			key := raw[i:end]
			i = skipSpace(raw, skipSpace(raw, end)+1) // over the colon
			end = skipValue(raw, i)
			if !yield(key, raw[i:end:end]) {
				return
			}
			if i = skipSpace(raw, end); i < len(raw) && raw[i] == ',' {
				i = skipSpace(raw, i+1)
			}
		}
	}
}

// PlainString returns the string that raw is, and false if it is none or has escapes.
func PlainString(raw json.RawMessage) (string, bool) {
	if len(raw) < 2 || raw[0] != '"' {
		return "", false
	}
	for _, c := range raw {
		if c == '\\' {
			return "", false
		}
	}
	return string(raw[1 : len(raw)-1]), true
}

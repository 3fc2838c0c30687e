package packet

import (
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"
)

// nesting is how deep JSON nests, as encoding/json reads it.
func nesting(text []byte) int {
	deepest, level := 0, 0
	dec := json.NewDecoder(strings.NewReader(string(text)))
	for {
		token, err := dec.Token()
		if err != nil {
			return deepest
		}
		switch token {
		case json.Delim('['), json.Delim('{'):
			level++
			deepest = max(deepest, level)
		case json.Delim(']'), json.Delim('}'):
			level--
		}
	}
}

// sound is what valid promises, by the standard library.
func sound(text []byte) bool {
	return utf8.Valid(text) && json.Valid(text) && nesting(text) <= maxDepth
}

var validityCases = []string{
	``, ` `, `0`, `-0`, `01`, `-`, `1.`, `.5`, `1.5`, `1e`, `1e+`, `1e+05`, `1E-5`, `+1`, `0x1`, `1 2`, `12,`,
	`true`, `tru`, `truex`, `false`, `fals`, `null`, `nul`, `nulll`, `"a"`, `"a`, `"`, `"\`, `"\"`, `"\n"`, `"\x"`, `"\u12"`,
	`"\u12g4"`, `"\uD800"`, `"\uabCD"`, "\"\x1f\"", "\"\x7f\"", "\"\xff\"", "\"\xc3\xa9\"", "\"\xed\xa0\x80\"", "\"\xf0\x9f\x98\x80\"",
	"\"\xf0\x9f\x98\"", "\xef\xbf\xbd", "\"\xef\xbf\xbd\"", `[]`, `[ ]`, `[`, `]`, `[}`, `{]`, `[,]`, `[1,]`, `[1 1]`, `[1,2]`, `[[],{}]`, `{}`,
	`{ }`, `{`, `}`, `{"a"}`, `{"a":}`, `{"a":1}`, `{"a":1,}`, `{"a":1 "b":2}`, `{"a":1,"b":[2,{"c":null}]}`, `{1:2}`, `{a:1}`,
	`{"a":{"b":[]}}`, ` [ 1 , "x" , { "k" : [ ] } ] `, "\t\r\n1", "\v1", "\u00a01", `[1]]`, `{}}`, `["a":1]`, `{"a",1}`, `{"a":1:2}`,
	strings.Repeat("[", maxDepth) + strings.Repeat("]", maxDepth),
	strings.Repeat("[", maxDepth+1) + strings.Repeat("]", maxDepth+1),
	strings.Repeat(`{"a":`, maxDepth) + "1" + strings.Repeat("}", maxDepth),
	strings.Repeat(`{"a":`, maxDepth+1) + "1" + strings.Repeat("}", maxDepth+1),
	strings.Repeat(`[{"a":`, 100) + "1" + strings.Repeat("}]", 100),
	strings.Repeat(`[{"a":`, 100) + "1" + strings.Repeat("]}", 100),
}

func TestValid(t *testing.T) {
	for _, text := range validityCases {
		if got, want := valid([]byte(text)), sound([]byte(text)); got != want {
			t.Errorf("valid(%.60q) = %v, want %v", text, got, want)
		}
	}
}

func FuzzValid(f *testing.F) {
	for _, text := range validityCases {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		if got, want := valid(text), sound(text); got != want {
			t.Errorf("valid(%q) = %v, want %v", text, got, want)
		}
	})
}

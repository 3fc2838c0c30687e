package packet

import (
	"encoding/binary"
	"math/bits"
	"unicode/utf8"
)

// valid reports whether text is one JSON value (RFC 8259) in UTF-8, nested at most maxDepth deep. It is what
// checkJSON asks of every payload, in one pass over it.
func valid(text []byte) bool {
	var objects [maxDepth/64 + 1]uint64 // a bit for each open level: is it an object?
	level := 0
	i := skipSpace(text, 0)
	for {
		// A value begins at i.
		if i >= len(text) {
			return false
		}
		switch c := text[i]; c {
		case '"':
			i = stringEnd(text, i)
		case '{', '[':
			if level++; level > maxDepth {
				return false
			}
			i = skipSpace(text, i+1)
			empty := i < len(text) && text[i] == c+2 // } and ] are two behind { and [
			if c == '[' {
				objects[level/64] &^= 1 << (level % 64)
				if !empty {
					continue
				}
			} else {
				objects[level/64] |= 1 << (level % 64)
				if !empty {
					if i = keyEnd(text, i); i < 0 {
						return false
					}
					continue
				}
			}
			level--
			i++
		case 't':
			i = wordEnd(text, i, "true")
		case 'f':
			i = wordEnd(text, i, "false")
		case 'n':
			i = wordEnd(text, i, "null")
		default:
			i = numberEnd(text, i)
		}
		if i < 0 {
			return false
		}
		// A value ended before i, and with it perhaps what is around it.
		for {
			i = skipSpace(text, i)
			if level == 0 {
				return i == len(text)
			}
			if i == len(text) {
				return false
			}
			object := objects[level/64]>>(level%64)&1 == 1
			c := text[i]
			i++
			if c == ',' {
				i = skipSpace(text, i)
				if object {
					if i = keyEnd(text, i); i < 0 {
						return false
					}
				}
				break
			}
			if object && c != '}' || !object && c != ']' {
				return false
			}
			level--
		}
	}
}

// keyEnd returns the index of the value after the key that starts at i, or -1.
func keyEnd(text []byte, i int) int {
	if i >= len(text) || text[i] != '"' {
		return -1
	}
	if i = stringEnd(text, i); i < 0 {
		return -1
	}
	if i = skipSpace(text, i); i >= len(text) || text[i] != ':' {
		return -1
	}
	return skipSpace(text, i+1)
}

// stringEnd returns the index after the string that starts at i, or -1.
func stringEnd(text []byte, i int) int {
	for i = plainEnd(text, i+1); i < len(text); i = plainEnd(text, i) {
		switch c := text[i]; {
		case c == '"':
			return i + 1
		case c == '\\':
			if i = escapeEnd(text, i); i < 0 {
				return -1
			}
		case c < ' ':
			return -1
		default:
			_, size := utf8.DecodeRune(text[i:])
			if size == 1 {
				return -1
			}
			i += size
		}
	}
	return -1
}

// plainEnd returns the index of the first byte from i on that is not an ASCII character which stands for itself in
// a string. It looks at eight at a time, for most of a payload is such text.
func plainEnd(text []byte, i int) int {
	const ones, highs = 0x0101010101010101, 0x8080808080808080
	for ; i+8 <= len(text); i += 8 {
		w := binary.LittleEndian.Uint64(text[i:])
		quote, slash := w^('"'*ones), w^('\\'*ones)
		// The lowest bit that is set is right; those above it may be too many.
		special := ((quote-ones)&^quote | (slash-ones)&^slash | (w-' '*ones)&^w | w) & highs
		if special != 0 {
			return i + bits.TrailingZeros64(special)/8
		}
	}
	for i < len(text) {
		if c := text[i]; c < ' ' || c == '"' || c == '\\' || c >= utf8.RuneSelf {
			break
		}
		i++
	}
	return i
}

// escapeEnd returns the index after the escape that starts at i, or -1.
func escapeEnd(text []byte, i int) int {
	if i++; i >= len(text) {
		return -1
	}
	switch text[i] {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		return i + 1
	case 'u':
		if i+5 > len(text) {
			return -1
		}
		for _, c := range text[i+1 : i+5] {
			if !('0' <= c && c <= '9' || 'a' <= c && c <= 'f' || 'A' <= c && c <= 'F') {
				return -1
			}
		}
		return i + 5
	}
	return -1
}

// wordEnd returns the index after word if it is at i, or -1.
func wordEnd(text []byte, i int, word string) int {
	if end := i + len(word); end <= len(text) && string(text[i:end]) == word {
		return end
	}
	return -1
}

// numberEnd returns the index after the number that starts at i, or -1.
func numberEnd(text []byte, i int) int {
	if text[i] == '-' {
		i++
	}
	if i < len(text) && text[i] == '0' {
		i++ // which no digit may follow: it would be the beginning of another value
	} else if i = digitsEnd(text, i); i < 0 {
		return -1
	}
	if i < len(text) && text[i] == '.' {
		if i = digitsEnd(text, i+1); i < 0 {
			return -1
		}
	}
	if i < len(text) && (text[i] == 'e' || text[i] == 'E') {
		if i++; i < len(text) && (text[i] == '+' || text[i] == '-') {
			i++
		}
		return digitsEnd(text, i)
	}
	return i
}

// digitsEnd returns the index after the digits that start at i, or -1 if there are none.
func digitsEnd(text []byte, i int) int {
	start := i
	for i < len(text) && isDigit(text[i]) {
		i++
	}
	if i == start {
		return -1
	}
	return i
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

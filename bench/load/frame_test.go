//go:build linux

package load

import (
	"bytes"
	"errors"
	"testing"
)

// serverFrame is a frame as servers send it.
func serverFrame(op byte, payload []byte) []byte {
	b := appendFrame(nil, op, payload)
	mask := len(b) - len(payload) - 4
	b[1] &^= 0x80
	return append(b[:mask], payload...)
}

func TestParseFrame(t *testing.T) {
	for _, size := range []int{0, 1, 125, 126, 127, 65535, 65536, 200_000} {
		payload := bytes.Repeat([]byte{'x'}, size)
		frame := serverFrame(opText, payload)
		for _, cut := range []int{0, 1, 2, 3, 9, len(frame) - 1} {
			if cut >= len(frame) {
				continue
			}
			if _, _, n, err := parseFrame(frame[:cut]); n != 0 || err != nil {
				t.Errorf("%d of %d bytes: size %d, error %v", cut, len(frame), n, err)
			}
		}
		op, got, n, err := parseFrame(append(frame, "next"...))
		if op != opText || !bytes.Equal(got, payload) || n != len(frame) || err != nil {
			t.Errorf("payload of %d bytes: opcode %d, %d bytes, size %d of %d, error %v", size, op, len(got), n, len(frame), err)
		}
	}
}

func TestParseFrameRefuses(t *testing.T) {
	for want, frame := range map[error][]byte{
		errMasked:     appendFrame(nil, opText, []byte("x")),
		errFragmented: {0x01, 1, 'x'},
		errHuge:       {0x81, 127, 0, 0, 0, 1, 0, 0, 0, 0},
	} {
		if _, _, _, err := parseFrame(frame); !errors.Is(err, want) {
			t.Errorf("% x: %v, want %v", frame, err, want)
		}
	}
}

func TestNumbers(t *testing.T) {
	for _, m := range []uint32{0, 1, 9, 10, 89_999_999} {
		b := appendNumber(nil, m)
		if got, ok := parseNumber(b); len(b) != 8 || got != m || !ok {
			t.Errorf("%d became %s and %d", m, b, got)
		}
	}
	for _, text := range []string{"", "1234567", "1234567x", "00000001"} {
		if _, ok := parseNumber([]byte(text)); ok {
			t.Errorf("%q is a number", text)
		}
	}
}

package engineio_test

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"

	"parley/engineio"
)

// TestFrames has messages in all kinds of frames, of which some are read in place and some by gws, come in pieces of all
// sizes.
func TestFrames(t *testing.T) {
	text := func(n int) string { return "4" + strings.Repeat("xyz", n)[:n-1] }
	frame := func(first byte, payload string) []byte { return clientFrame(first, true, []byte(payload)) }
	whole := func(payloads ...string) (frames [][]byte) {
		for _, p := range payloads {
			frames = append(frames, frame(0x80|opText, p))
		}
		return frames
	}
	const inputBytes = 8 << 10 // what is read in place
	hundred := slices.Repeat([]string{text(100)}, 300)
	around := []string{text(124), text(125), text(126), text(127), text(inputBytes - 9), text(inputBytes - 8), "4a", text(inputBytes - 7), "4b"}
	fragments := [][]byte{frame(opText, "4a"), frame(opContinuation, ""), frame(0x80|opContinuation, "b")}
	tests := []struct {
		name   string
		frames [][]byte
		texts  []string
		code   uint16 // of the close frame that comes then; 0: none
	}{
		{"short", whole("4", "4a", "4é", "4last"), []string{"4", "4a", "4é", "4last"}, 0},
		{"many", whole(hundred...), hundred, 0},
		{"lengths", whole(around...), around, 0},
		{"fragments", slices.Concat(whole("4first"), fragments, whole("4last")), []string{"4first", "4ab", "4last"}, 0},
		{"pong", slices.Concat(whole("4first"), [][]byte{frame(0x80|opPong, "any")}, whole("4last")), []string{"4first", "4last"}, 0},
		{"length in more bytes than it needs", slices.Concat(whole("4first"), [][]byte{{0x80 | opText, 0x80 | 126, 0, 1, 0, 0, 0, 0, '4'}}, whole("4last")), []string{"4first", "4", "4last"}, 0},
		{"no UTF-8", whole("4first", "4\xff", "4last"), []string{"4first"}, 1007},
		{"unmasked", slices.Concat(whole("4first"), [][]byte{clientFrame(0x80|opText, false, []byte("4a"))}), []string{"4first"}, 1002},
		{"too long", whole("4first", text(20_001), "4last"), []string{"4first"}, 1009},
		{"close", slices.Concat(whole("4first"), [][]byte{frame(0x80|opClose, "\x03\xe9")}), []string{"4first"}, 1001},
	}
	f := start(t, engineio.Options{MaxPayload: 20_000})
	for _, tt := range tests {
		input := bytes.Join(tt.frames, nil)
		for _, size := range []int{1, 2, 3, 7, 100, 4097, len(input)} {
			if len(input)/size > 2000 {
				continue
			}
			t.Run(fmt.Sprintf("%s in pieces of %d", tt.name, size), func(t *testing.T) {
				w, _ := f.wsHandshake()
				w.t = t
				go func() {
					for piece := range slices.Chunk(input, size) {
						if _, err := w.conn.Write(piece); err != nil {
							return // it was closed, as it should be
						}
					}
				}()
				for _, text := range tt.texts {
					w.want(text)
				}
				if tt.code != 0 {
					w.wantClose(tt.code)
				} else {
					w.send("4end")
					w.want("4end")
				}
				w.conn.Close()
			})
		}
	}
}

package packet_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"parley/socketio/packet"
)

var message = []byte(`2["private message",{"content":"hi","to":"x"}]`)

// TestAllocations keeps the way of every message lean: decoding takes the packet, its data, its
// arguments and its name; encoding one buffer for what is small.
func TestAllocations(t *testing.T) {
	var d packet.Decoder
	decode := func() {
		p, _, err := d.Text(message)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := p.Event(); err != nil {
			t.Fatal(err)
		}
	}
	if n := testing.AllocsPerRun(100, decode); n > 4 {
		t.Errorf("decode: %v allocations", n)
	}
	args := []any{"private message", packet.Raw{JSON: json.RawMessage(`{"content":"hi","to":"x"}`)}, 17, true}
	encode := func() {
		if _, _, err := packet.EncodeArgs(args...); err != nil {
			t.Fatal(err)
		}
	}
	if n := testing.AllocsPerRun(100, encode); n > 1 {
		t.Errorf("encode: %v allocations", n)
	}
	buf := make([]byte, 0, 256)
	if n := testing.AllocsPerRun(100, func() { buf = packet.AppendArg(buf[:0], message, "1-17") }); n > 0 {
		t.Errorf("append an offset: %v allocations", n)
	}
}

func BenchmarkDecode(b *testing.B) {
	for _, size := range []int{2, 1_000, 100_000} {
		text := []byte(`2["private message",{"content":"` + strings.Repeat("x", size) + `","to":"y"}]`)
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(int64(len(text)))
			var d packet.Decoder
			for b.Loop() {
				p, _, err := d.Text(text)
				if err != nil {
					b.Fatal(err)
				}
				if _, _, err := p.Event(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkDecodeBinary(b *testing.B) {
	text, attachment := []byte(`51-["file",{"body":{"_placeholder":true,"num":0}}]`), make([]byte, 1000)
	b.ReportAllocs()
	var d packet.Decoder
	for b.Loop() {
		if _, _, err := d.Text(text); err != nil {
			b.Fatal(err)
		}
		p, _, err := d.Binary(attachment)
		if err != nil {
			b.Fatal(err)
		}
		_, args, err := p.Event()
		if err != nil {
			b.Fatal(err)
		}
		var v struct{ Body []byte }
		if err := packet.DecodeArg(args[0], p.Attachments, &v); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkEncodeArgs(b *testing.B) {
	type body struct {
		Content string `json:"content"`
		To      string `json:"to"`
	}
	type file struct {
		Body packet.Binary `json:"body"`
	}
	for name, arg := range map[string]any{
		"raw":    packet.Raw{JSON: json.RawMessage(`{"content":"hi","to":"x"}`)},
		"struct": body{"hi", "x"},
		"map":    map[string]any{"content": "hi", "to": "x"},
		"bytes":  make([]byte, 1000),
		"binary": file{make(packet.Binary, 1000)},
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, _, err := packet.EncodeArgs("private message", arg); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

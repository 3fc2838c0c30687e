package packet_test

import (
	"testing"

	"parley/engineio/packet"
)

var frame = []byte(`42["private message",{"content":"a sentence of the length that people write to each other","to":"0123456789abcdef"}]`)

// A packet aliases what it was decoded from, and is encoded into a buffer that there is.
func TestCodecAllocatesNothing(t *testing.T) {
	buf := make([]byte, 0, 256)
	allocs := testing.AllocsPerRun(100, func() {
		p, err := packet.Decode(frame)
		if err != nil {
			t.Fatal(err)
		}
		buf = packet.Append(buf[:0], p)
	})
	if allocs != 0 {
		t.Errorf("%v allocations to decode and encode a packet", allocs)
	}
	if string(buf) != string(frame) {
		t.Errorf("it became %s", buf)
	}
}

func BenchmarkDecode(b *testing.B) {
	b.ReportAllocs()
	b.SetBytes(int64(len(frame)))
	for b.Loop() {
		if _, err := packet.Decode(frame); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkAppend(b *testing.B) {
	p, err := packet.Decode(frame)
	if err != nil {
		b.Fatal(err)
	}
	buf := make([]byte, 0, 256)
	b.ReportAllocs()
	for b.Loop() {
		buf = packet.Append(buf[:0], p)
	}
}

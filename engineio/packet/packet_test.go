package packet_test

import (
	"bytes"
	"encoding/base64"
	"errors"
	"strings"
	"testing"

	"parley/engineio/packet"
)

func TestDecode(t *testing.T) {
	tests := []struct {
		text   string
		typ    packet.Type
		data   string
		binary bool
		err    error
	}{
		{text: "0{}", typ: packet.Open, data: "{}"},
		{text: "1", typ: packet.Close},
		{text: "2", typ: packet.Ping},
		{text: "2probe", typ: packet.Ping, data: "probe"},
		{text: "3probe", typ: packet.Pong, data: "probe"},
		{text: "4", typ: packet.Message},
		{text: "4hello", typ: packet.Message, data: "hello"},
		{text: "4é", typ: packet.Message, data: "é"},
		{text: `42["message","a"]`, typ: packet.Message, data: `2["message","a"]`},
		{text: "5", typ: packet.Upgrade},
		{text: "6", typ: packet.Noop},
		{text: "b", typ: packet.Message, binary: true},
		{text: "bAQIDBA==", typ: packet.Message, data: "\x01\x02\x03\x04", binary: true},
		{text: "", err: packet.ErrEmpty},
		{text: "7", err: packet.ErrType},
		{text: "/", err: packet.ErrType},
		{text: "abc", err: packet.ErrType},
		{text: "\xff", err: packet.ErrType},
		{text: "bAQIDBA", err: packet.ErrBase64},
		{text: "b*", err: packet.ErrBase64},
		{text: "b====", err: packet.ErrBase64},
	}
	for _, tt := range tests {
		t.Run(tt.text, func(t *testing.T) {
			p, err := packet.Decode([]byte(tt.text))
			if !errors.Is(err, tt.err) {
				t.Fatalf("error %v, want %v", err, tt.err)
			}
			if err != nil {
				return
			}
			if p.Type != tt.typ || string(p.Data) != tt.data || p.Binary != tt.binary {
				t.Fatalf("decoded %v %q binary=%v, want %v %q binary=%v", p.Type, p.Data, p.Binary, tt.typ, tt.data, tt.binary)
			}
			if got := packet.Append(nil, p); string(got) != tt.text {
				t.Errorf("encoded again as %q", got)
			}
		})
	}
}

func TestPayload(t *testing.T) {
	tests := []struct {
		body string
		want []string // text forms of the packets before the error
		err  error
	}{
		{body: "4test1\x1e4test2\x1e4test3", want: []string{"4test1", "4test2", "4test3"}},
		{body: "451-[{}]\x1ebAQIDBA==", want: []string{"451-[{}]", "bAQIDBA=="}},
		{body: "6\x1e1", want: []string{"6", "1"}},
		{body: "", err: packet.ErrEmpty},
		{body: "\x1e", err: packet.ErrEmpty},
		{body: "4a\x1e", want: []string{"4a"}, err: packet.ErrEmpty},
		{body: "4a\x1eabc\x1e4b", want: []string{"4a"}, err: packet.ErrType},
	}
	for _, tt := range tests {
		var got []string
		var err error
		for p, e := range packet.Payload([]byte(tt.body)) {
			if err != nil {
				t.Fatalf("%q: went on after %v", tt.body, err)
			}
			if err = e; err == nil {
				got = append(got, string(packet.Append(nil, p)))
			}
		}
		if !errors.Is(err, tt.err) || strings.Join(got, "|") != strings.Join(tt.want, "|") {
			t.Errorf("%q: got %q and %v, want %q and %v", tt.body, got, err, tt.want, tt.err)
		}
	}
}

func TestPayloadStopsWithTheLoop(t *testing.T) {
	n := 0
	for _, err := range packet.Payload([]byte("4a\x1e4b\x1e4c")) {
		if err != nil {
			t.Fatal(err)
		}
		if n++; n == 2 {
			break
		}
	}
	if n != 2 {
		t.Fatalf("yielded %d packets", n)
	}
}

func TestPayloadOfTinyPacketsIsCheap(t *testing.T) {
	body := bytes.Repeat([]byte{'6', packet.Separator}, 500_000)
	body = body[:len(body)-1]
	packets := 0
	allocs := testing.AllocsPerRun(1, func() {
		packets = 0
		for _, err := range packet.Payload(body) {
			if err != nil {
				t.Fatal(err)
			}
			packets++
		}
	})
	if packets != 500_000 || allocs > 3 {
		t.Fatalf("%d packets took %v allocations", packets, allocs)
	}
}

func TestBinaryLen(t *testing.T) {
	for n := range 10 {
		if got := len(packet.AppendBinary(nil, make([]byte, n))); got != packet.BinaryLen(n) {
			t.Errorf("%d bytes became %d, BinaryLen says %d", n, got, packet.BinaryLen(n))
		}
	}
}

func TestTypeString(t *testing.T) {
	if packet.Open.String() != "open" || packet.Noop.String() != "noop" || packet.Type('x').String() != "Type('x')" {
		t.Errorf("got %v, %v, %v", packet.Open, packet.Noop, packet.Type('x'))
	}
}

// seeds are the bodies of the contract's vectors, and what can be wrong with them.
var seeds = []string{
	"", "4", "40", "1", "6", "3", "5", "2probe", "3probe", "6\x1e1", "abc", "b", "bAQID", "bBA==", "bAQIDBA", "b\n",
	`0{"sid":"lv_VI97HAXpY6yYWAAAC","upgrades":["websocket"],"pingInterval":25000,"pingTimeout":20000,"maxPayload":1000000}`,
	"42[\"message\",\"a\"]\x1e42[\"message\",\"é\"]",
	"451-[\"message\",{\"_placeholder\":true,\"num\":0}]\x1ebAQIDBA==",
	"4hello\x1ebAQIDBA==", "4a\x1e\x1e4b", "\x1e", "4\xff\xfe",
}

func FuzzDecode(f *testing.F) {
	for _, s := range seeds {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		p, err := packet.Decode(text)
		if err != nil {
			return
		}
		again, err := packet.Decode(packet.Append(nil, p))
		if err != nil || again.Type != p.Type || again.Binary != p.Binary || !bytes.Equal(again.Data, p.Data) {
			t.Fatalf("%q became %v %q, then %v %q and %v", text, p.Type, p.Data, again.Type, again.Data, err)
		}
		if !p.Binary && !bytes.Equal(packet.Append(nil, p), text) {
			t.Fatalf("%q was encoded as %q", text, packet.Append(nil, p))
		}
	})
}

func FuzzPayload(f *testing.F) {
	for _, s := range seeds {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		var joined []byte
		parts, failed, binary := 0, false, false
		for p, err := range packet.Payload(body) {
			if failed {
				t.Fatalf("%q: went on after an error", body)
			}
			if err != nil {
				failed = true
				continue
			}
			if parts++; parts > 1 {
				joined = append(joined, packet.Separator)
			}
			binary = binary || p.Binary
			joined = packet.Append(joined, p)
		}
		if parts > bytes.Count(body, []byte{packet.Separator})+1 {
			t.Fatalf("%q: %d packets", body, parts)
		}
		if !failed && !binary && !bytes.Equal(joined, body) {
			t.Fatalf("%q was encoded as %q", body, joined)
		}
	})
}

func BenchmarkPayload(b *testing.B) {
	message := `42["message",{"text":"a sentence of the length that people write to each other"}]`
	tests := []struct{ name, body string }{
		{"one", message},
		{"hundred", strings.Repeat(message+"\x1e", 99) + message},
		{"attachment", "451-[\"message\",{\"_placeholder\":true,\"num\":0}]\x1eb" + base64.StdEncoding.EncodeToString(make([]byte, 3000))},
		{"tiny", strings.Repeat("6\x1e", 9_999) + "6"},
	}
	for _, tt := range tests {
		b.Run(tt.name, func(b *testing.B) {
			body := []byte(tt.body)
			b.SetBytes(int64(len(body)))
			b.ReportAllocs()
			for b.Loop() {
				for _, err := range packet.Payload(body) {
					if err != nil {
						b.Fatal(err)
					}
				}
			}
		})
	}
}

package packet_test

import (
	"bytes"
	"encoding/json"
	"math"
	"strings"
	"testing"
	"unicode/utf8"

	"parley/socketio/packet"
)

func seeds(add func(text string, attachment string)) {
	for _, tt := range accepted {
		add(tt.text, strings.Join(tt.attachments, ""))
	}
	for _, tt := range refused {
		if len(tt.text) < 4096 {
			add(tt.text, "x")
		}
	}
}

// FuzzDecode feeds a message whole, and then in two halves to a decoder that is used on. What is accepted
// must survive encoding and decoding, and must be something a JavaScript peer can take.
func FuzzDecode(f *testing.F) {
	seeds(func(text, attachment string) { f.Add([]byte(text), []byte(attachment)) })
	f.Fuzz(func(t *testing.T, text, attachment []byte) {
		var d packet.Decoder
		p, done, err := d.Text(text)
		for err == nil && !done {
			if !d.Pending() {
				t.Fatal("neither complete nor pending")
			}
			p, done, err = d.Binary(attachment)
		}
		if d.Pending() {
			t.Fatal("pending after the end")
		}
		if err == nil {
			checkAccepted(t, p)
		}

		first, second := text[:len(text)/2], text[len(text)/2:]
		for _, feed := range []func([]byte) (*packet.Packet, bool, error){d.Text, d.Binary, d.Text} {
			for _, half := range [][]byte{first, second} {
				p, done, err := feed(half)
				if done != (p != nil) || err != nil && (done || d.Pending()) {
					t.Fatalf("done %v, packet %v, error %v, pending %v", done, p, err, d.Pending())
				}
			}
		}
	})
}

func checkAccepted(t *testing.T, p *packet.Packet) {
	if p.Data == nil {
		return
	}
	var d packet.Decoder
	text := packet.Append(nil, p)
	again, done, err := d.Text(text)
	for err == nil && !done {
		again, done, err = d.Binary(p.Attachments[0])
	}
	if err != nil {
		t.Fatalf("%q, made of an accepted packet, is refused: %v", text, err)
	}
	if describe(again) != describe(p) {
		t.Fatalf("%s became %s", describe(p), describe(again))
	}
	var tree any
	decoder := json.NewDecoder(bytes.NewReader(p.Data))
	decoder.UseNumber() // 1e700 is JSON, but no float64
	if err := decoder.Decode(&tree); err != nil || decoder.More() || !utf8.Valid(p.Data) {
		t.Fatalf("%q is no JSON: %v", p.Data, err)
	}
	if len(p.Attachments) > 0 && !reconstructible(tree, len(p.Attachments)) {
		t.Fatalf("a receiver of %d attachments refuses %q", len(p.Attachments), p.Data)
	}
	_ = packet.LastArgIsString(text)
}

// reconstructible is the receiver's side of attachments as the JavaScript client does it.
func reconstructible(v any, n int) bool {
	switch v := v.(type) {
	case []any:
		for _, e := range v {
			if !reconstructible(e, n) {
				return false
			}
		}
	case map[string]any:
		if v["_placeholder"] == true {
			text, _ := v["num"].(json.Number)
			num, err := text.Float64()
			return err == nil && num >= 0 && num < float64(n) && num == math.Trunc(num)
		}
		for _, e := range v {
			if !reconstructible(e, n) {
				return false
			}
		}
	}
	return true
}

// FuzzEvent compares the splitting of a payload with that of encoding/json.
func FuzzEvent(f *testing.F) {
	seeds(func(text, _ string) { f.Add([]byte(text)) })
	f.Fuzz(func(t *testing.T, data []byte) {
		broken := packet.Packet{Type: packet.Event, Data: data}
		_, _, _ = broken.Event() // anything but a panic

		var d packet.Decoder
		p, done, err := d.Text(append([]byte("2"), data...))
		if err != nil || p.Data == nil {
			return
		}
		if !done {
			t.Fatal("an event without attachments is incomplete")
		}
		var want []json.RawMessage
		if err := json.Unmarshal(p.Data, &want); err != nil {
			t.Fatal(err)
		}
		name, args, err := p.Event()
		if err != nil || len(args) != len(want)-1 {
			t.Fatalf("%q: %d arguments, error %v", p.Data, len(args), err)
		}
		var wantName any
		decoder := json.NewDecoder(bytes.NewReader(want[0]))
		decoder.UseNumber()
		if err := decoder.Decode(&wantName); err != nil {
			t.Fatal(err)
		}
		if s, ok := wantName.(json.Number); ok {
			wantName = s.String()
		}
		if name != wantName || packet.Reserved(name) {
			t.Fatalf("%q: name %q", p.Data, name)
		}
		for i, a := range args {
			if !bytes.Equal(a, want[i+1]) {
				t.Fatalf("%q: argument %d is %q", p.Data, i, a)
			}
		}
	})
}

// FuzzArgs encodes values of every kind, has them travel, and compares what arrives.
func FuzzArgs(f *testing.F) {
	f.Add("text", 1.5, []byte{1, 2}, []byte(`{"a":[1e3,"\u003c"]}`))
	f.Add("<\u2028\xff\"", math.NaN(), []byte{}, []byte(ph0))
	f.Add("_placeholder", math.Copysign(0, -1), []byte(nil), []byte(`[`+ph1+`,{"_placeholder":true,"num":99}]`))
	f.Add("\x00", 1e-7, []byte("binary:"), []byte(`"binary:x:y"`))
	f.Fuzz(func(t *testing.T, s string, n float64, b, raw []byte) {
		type record struct {
			S string
			B packet.Binary
			R packet.Raw
		}
		r := packet.Raw{JSON: raw, Attachments: [][]byte{b, []byte("second")}}
		data, attachments, err := packet.EncodeArgs("event", s, n, b, r, map[string]any{"s": s, "b": b}, record{s, b, r}, json.RawMessage(`{}`))
		if err != nil {
			return
		}
		p := packet.Packet{Type: packet.Event, Data: data, Attachments: attachments}
		d := packet.Decoder{MaxAttachments: 100}
		got, done, err := d.Text(packet.Append(nil, &p))
		for i := 0; err == nil && !done; i++ {
			got, done, err = d.Binary(attachments[i])
		}
		if err != nil {
			t.Fatalf("%q: %v", data, err)
		}
		_, args, err := got.Event()
		if err != nil || len(args) != 7 {
			t.Fatalf("%q: %d arguments, error %v", data, len(args), err)
		}
		var (
			gotS      string
			gotN      *float64
			gotB      []byte
			gotR      packet.Raw
			gotMap    map[string]any
			gotRecord record
		)
		for i, v := range []any{&gotS, &gotN, &gotB, &gotR, &gotMap, &gotRecord} {
			if err := packet.DecodeArg(args[i], got.Attachments, v); err != nil {
				t.Fatalf("argument %d, %q: %v", i, args[i], err)
			}
		}
		s = strings.ToValidUTF8(s, "\ufffd")
		if utf8.ValidString(s) && len(gotS) < len(s) || gotRecord.S != gotS || gotMap["s"] != gotS {
			t.Fatalf("strings: %q, %q, %q, %q", s, gotS, gotRecord.S, gotMap["s"])
		}
		if finite := !math.IsNaN(n) && !math.IsInf(n, 0); finite != (gotN != nil) || finite && *gotN != n {
			t.Fatalf("number %v became %v", n, gotN)
		}
		if !bytes.Equal(gotB, b) || !bytes.Equal(gotRecord.B, b) || (gotB == nil) != (b == nil) {
			t.Fatalf("bytes %x became %x and %x", b, gotB, gotRecord.B)
		}
		// Once its numbers are those of the packet, a Raw does not change any more.
		first, a1, err := packet.EncodeArgs(gotR)
		if err != nil {
			t.Fatal(err)
		}
		second, a2, err := packet.EncodeArgs(packet.Raw{JSON: first[1 : len(first)-1], Attachments: a1})
		if err != nil || !bytes.Equal(first, second) || len(a1) != len(a2) {
			t.Fatalf("%q became %q, error %v", first, second, err)
		}
	})
}

package packet_test

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"parley/socketio/packet"
)

// decode feeds a text message and its attachments to a new decoder and returns the packet they make, or nil
// if more attachments are due.
func decode(text string, attachments ...string) (*packet.Packet, error) {
	var d packet.Decoder
	p, done, err := d.Text([]byte(text))
	for _, a := range attachments {
		if err != nil {
			break
		}
		if done {
			return nil, errors.New("complete before its last attachment")
		}
		p, done, err = d.Binary([]byte(a))
	}
	if err != nil && d.Pending() {
		return nil, errors.New("pending after an error")
	}
	if done == d.Pending() && err == nil || done != (p != nil) {
		return nil, errors.New("complete, pending and packet contradict each other")
	}
	return p, err
}

func mustDecode(t *testing.T, text string, attachments ...string) *packet.Packet {
	t.Helper()
	p, err := decode(text, attachments...)
	if err != nil {
		t.Fatalf("decode %q: %v", text, err)
	}
	if p == nil {
		t.Fatalf("decode %q: incomplete", text)
	}
	return p
}

// describe renders a packet for comparison.
func describe(p *packet.Packet) string {
	s := fmt.Sprintf("%d %s", p.Type, p.Namespace)
	if p.HasID {
		s += fmt.Sprintf(" #%d", p.ID)
	}
	if p.Data != nil {
		s += " " + string(p.Data)
	}
	for _, a := range p.Attachments {
		s += fmt.Sprintf(" <%x>", a)
	}
	return s
}

// accepted are the messages of the spec's sections 1, 2 and 13 that a decoder takes, without the Engine.IO 4.
var accepted = []struct {
	text        string
	attachments []string
	want        string
}{
	{"0", nil, `0 /`},
	{`0{"token":"x"}`, nil, `0 / {"token":"x"}`},
	{"0/admin,", nil, `0 /admin`},
	{"0/admin", nil, `0 /admin`},
	{`0/admin,{"token":"x"}`, nil, `0 /admin {"token":"x"}`},
	{"0/custom?token=1,", nil, `0 /custom?token=1`},
	{`0{"sid":"abc"}`, nil, `0 / {"sid":"abc"}`},
	{"05", nil, `0 / #5`},
	{"1", nil, `1 /`},
	{"1/a,", nil, `1 /a`},
	{`4/nope,{"message":"Invalid namespace"}`, nil, `4 /nope {"message":"Invalid namespace"}`},
	{`4"text"`, nil, `4 / "text"`},
	{"4", nil, `4 /`},

	{`2["message",1,"2",{"3":[true]}]`, nil, `2 / ["message",1,"2",{"3":[true]}]`},
	{`2456["message-with-ack",1,"2",{"3":[false]}]`, nil, `2 / #456 ["message-with-ack",1,"2",{"3":[false]}]`},
	{`2/custom,1["message-with-ack",5]`, nil, `2 /custom #1 ["message-with-ack",5]`},
	{`20["ask",1]`, nil, `2 / #0 ["ask",1]`},
	{`210["ask"]`, nil, `2 / #10 ["ask"]`},
	{`2007["e"]`, nil, `2 / #7 ["e"]`},
	{`29007199254740991["e"]`, nil, `2 / #9007199254740991 ["e"]`},
	{`2[1,2]`, nil, `2 / [1,2]`},
	{`2[-1e3]`, nil, `2 / [-1e3]`},
	{`2["error"]`, nil, `2 / ["error"]`},
	{`2["connection"]`, nil, `2 / ["connection"]`},
	{`2["message"]`, nil, `2 / ["message"]`},
	{`2[""]`, nil, `2 / [""]`},
	{`2["__proto__"]`, nil, `2 / ["__proto__"]`},
	{"2 [ \"e\" , 1 ]\t\r\n", nil, `2 / [ "e" , 1 ]`},
	{"2", nil, `2 /`},
	{"212", nil, `2 / #12`},
	{`2/a["e"]`, nil, `2 /a["e"]`},
	{`2/,["e"]`, nil, `2 / ["e"]`},
	{`2/`, nil, `2 /`},
	{`2["e",{"_placeholder":true,"num":7}]`, nil, `2 / ["e",{"_placeholder":true,"num":7}]`},

	{"3", nil, `3 /`},
	{`3456[1,"2",{"3":[false]}]`, nil, `3 / #456 [1,"2",{"3":[false]}]`},
	{`3/custom,1[5]`, nil, `3 /custom #1 [5]`},
	{`30[]`, nil, `3 / #0 []`},
	{`3999["x"]`, nil, `3 / #999 ["x"]`},
	{`31[{"_placeholder":true}]`, nil, `3 / #1 [{"_placeholder":true}]`},

	{`52-789["m",{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}]`, []string{"\x01\x02\x03", "\x04\x05\x06"},
		`5 / #789 ["m",{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}] <010203> <040506>`},
	{`62-/a,789[{"_placeholder":true,"num":1},{"_placeholder":true,"num":0}]`, []string{"a", "b"},
		`6 /a #789 [{"_placeholder":true,"num":1},{"_placeholder":true,"num":0}] <61> <62>`},
	{`51-["e",[{"x":1,"num":0,"_placeholder":true},{"_placeholder":true,"num":0}]]`, []string{""},
		`5 / ["e",[{"x":1,"num":0,"_placeholder":true},{"_placeholder":true,"num":0}]] <>`},
	{`51-["unused"]`, []string{"a"}, `5 / ["unused"] <61>`},
	{`51-`, []string{"a"}, `5 / <61>`},
	{`501-["e"]`, []string{"a"}, `5 / ["e"] <61>`},
	{`51-["e",{"_placeholder":true,"num":0.0},{"_placeholder":true,"num":0e5}]`, []string{"a"},
		`5 / ["e",{"_placeholder":true,"num":0.0},{"_placeholder":true,"num":0e5}] <61>`},
	{`51-["e",{"_placeholder":1,"num":9},{"_placeholder":"true","num":9},{"_placeholder":false},{"num":9}]`, []string{"a"},
		`5 / ["e",{"_placeholder":1,"num":9},{"_placeholder":"true","num":9},{"_placeholder":false},{"num":9}] <61>`},
	{`51-["e",{"_placeholder":true,"_placeholder":false,"num":9}]`, []string{"a"},
		`5 / ["e",{"_placeholder":true,"_placeholder":false,"num":9}] <61>`},
	{`51-["e",{"_placeholder":true,"num":0,"x":{"_placeholder":true,"num":9}}]`, []string{"a"},
		`5 / ["e",{"_placeholder":true,"num":0,"x":{"_placeholder":true,"num":9}}] <61>`},
	{`510-["e"]`, strings.Split("0123456789", ""), `5 / ["e"] <30> <31> <32> <33> <34> <35> <36> <37> <38> <39>`},
}

func TestAccepts(t *testing.T) {
	for _, tt := range accepted {
		p, err := decode(tt.text, tt.attachments...)
		switch {
		case err != nil:
			t.Errorf("%s: %v", tt.text, err)
		case p == nil:
			t.Errorf("%s: waits for more attachments", tt.text)
		case describe(p) != tt.want:
			t.Errorf("%s:\n got %s\nwant %s", tt.text, describe(p), tt.want)
		}
	}
}

var refused = []struct {
	text        string
	attachments []string
	want        error
}{
	{"", nil, packet.ErrEmpty},
	{"abc", nil, packet.ErrType},
	{"7", nil, packet.ErrType},
	{"/", nil, packet.ErrType},
	{"\xff", nil, packet.ErrType},

	{`50-["e"]`, nil, packet.ErrAttachmentCount},
	{`511-["e"]`, nil, packet.ErrAttachmentCount},
	{`5-["e"]`, nil, packet.ErrAttachmentCount},
	{`51["e"]`, nil, packet.ErrAttachmentCount},
	{`5`, nil, packet.ErrAttachmentCount},
	{`51`, nil, packet.ErrAttachmentCount},
	{`6-1-[]`, nil, packet.ErrAttachmentCount},
	{`5-1-["e"]`, nil, packet.ErrAttachmentCount},
	{`51.5-["e"]`, nil, packet.ErrAttachmentCount},
	{`5+1-["e"]`, nil, packet.ErrAttachmentCount},
	{`50x1-["e"]`, nil, packet.ErrAttachmentCount},
	{`51e0-["e"]`, nil, packet.ErrAttachmentCount},
	{`5 1-["e"]`, nil, packet.ErrAttachmentCount},
	{`518446744073709551617-["e"]`, nil, packet.ErrAttachmentCount},

	{`29007199254740992["e"]`, nil, packet.ErrID},
	{`218446744073709551616["e"]`, nil, packet.ErrID},
	{`21.5["e"]`, nil, packet.ErrJSON},
	{`2-1["e"]`, nil, packet.ErrJSON},
	{`2a["e"]`, nil, packet.ErrJSON},
	{`2abc["e"]`, nil, packet.ErrJSON},
	{`2,["e"]`, nil, packet.ErrJSON},
	{`2["e"]x`, nil, packet.ErrJSON},
	{`2["e"][]`, nil, packet.ErrJSON},
	{`2["e"`, nil, packet.ErrJSON},
	{`2["e",]`, nil, packet.ErrJSON},
	{`2['e']`, nil, packet.ErrJSON},
	{`2 `, nil, packet.ErrJSON},
	{"2\u00a0[\"e\"]", nil, packet.ErrJSON},
	{"2[\"e\",\"\x01\"]", nil, packet.ErrJSON},
	{"2[\"e\",\"\xff\"]", nil, packet.ErrUTF8},
	{"2[\"e\",\"\xed\xa0\x80\"]", nil, packet.ErrUTF8},
	{`2["e",` + strings.Repeat("[", 512) + strings.Repeat("]", 512) + "]", nil, packet.ErrDepth},
	{`2["e",` + strings.Repeat(`{"a":`, 512) + "1" + strings.Repeat("}", 512) + "]", nil, packet.ErrDepth},
	{`2["e",` + strings.Repeat("[", 1_000_000), nil, packet.ErrJSON},

	{`0[]`, nil, packet.ErrPayload},
	{`0"s"`, nil, packet.ErrPayload},
	{`0null`, nil, packet.ErrPayload},
	{`01.5`, nil, packet.ErrJSON},
	{`1{}`, nil, packet.ErrPayload},
	{`1[]`, nil, packet.ErrPayload},
	{`1null`, nil, packet.ErrPayload},
	{`1""`, nil, packet.ErrPayload},
	{`2{}`, nil, packet.ErrPayload},
	{`2[]`, nil, packet.ErrPayload},
	{`2[ ]`, nil, packet.ErrPayload},
	{`2[null]`, nil, packet.ErrPayload},
	{`2[true]`, nil, packet.ErrPayload},
	{`2[{}]`, nil, packet.ErrPayload},
	{`2[["e"]]`, nil, packet.ErrPayload},
	{`2"e"`, nil, packet.ErrPayload},
	{`2null`, nil, packet.ErrPayload},
	{`3{}`, nil, packet.ErrPayload},
	{`3"s"`, nil, packet.ErrPayload},
	{`4[]`, nil, packet.ErrPayload},
	{`4null`, nil, packet.ErrPayload},
	{`51-{}`, nil, packet.ErrPayload},
	{`51-[{"_placeholder":true,"num":0}]`, nil, packet.ErrPayload},
	{`61-{}`, nil, packet.ErrPayload},

	{`2["connect"]`, nil, packet.ErrReserved},
	{`2["connect_error"]`, nil, packet.ErrReserved},
	{`2["disconnect"]`, nil, packet.ErrReserved},
	{`2["disconnecting",1]`, nil, packet.ErrReserved},
	{`2["newListener"]`, nil, packet.ErrReserved},
	{`2/a,1["removeListener"]`, nil, packet.ErrReserved},
	{`51-["disconnect"]`, nil, packet.ErrReserved},
	{`2["\u0063onnect"]`, nil, packet.ErrReserved},
	{`2["\u0072\u0065\u006d\u006f\u0076\u0065\u004c\u0069\u0073\u0074\u0065\u006e\u0065\u0072"]`, nil, packet.ErrReserved},

	{`51-["e",{"_placeholder":true,"num":1}]`, []string{"\x01"}, packet.ErrPlaceholder},
	{`51-["e",{"_placeholder":true}]`, nil, packet.ErrPlaceholder},
	{`51-["e",{"_placeholder":true,"num":"0"}]`, nil, packet.ErrPlaceholder},
	{`51-["e",{"_placeholder":true,"num":-1}]`, nil, packet.ErrPlaceholder},
	{`51-["e",{"_placeholder":true,"num":0.5}]`, nil, packet.ErrPlaceholder},
	{`51-["e",{"_placeholder":true,"num":null}]`, nil, packet.ErrPlaceholder},
	{`51-["e",{"_placeholder":true,"num":[0]}]`, nil, packet.ErrPlaceholder},
	{`51-["e",{"_placeholder":true,"num":1e999}]`, nil, packet.ErrPlaceholder},
	{`51-["e",{"_placeholder":true,"num":18446744073709551616}]`, nil, packet.ErrPlaceholder},
	{`51-["e",{"a":[[{"_placeholder" : true , "num" : 5 }]]}]`, nil, packet.ErrPlaceholder},
	{`51-["e",{"\u005fplaceholder":true,"n\u0075m":5}]`, nil, packet.ErrPlaceholder},
	{`51-["e",{"_placeholder":false,"_placeholder":true,"num":0,"num":5}]`, nil, packet.ErrPlaceholder},
	{`61-1[{"_placeholder":true,"num":1}]`, nil, packet.ErrPlaceholder},
	{`51-["e"` + strings.Repeat(`,{"_placeholder":true,"num":0}`, 12) + "]", []string{strings.Repeat("x", 100_000)}, packet.ErrRepeated},
}

func TestRefuses(t *testing.T) {
	for _, tt := range refused {
		name := tt.text[:min(len(tt.text), 60)]
		if _, err := decode(tt.text, tt.attachments...); !errors.Is(err, tt.want) {
			t.Errorf("%s: got %v, want %v", name, err, tt.want)
		}
	}
}

func TestRepeatsWithinTheBound(t *testing.T) {
	text := `51-["e"` + strings.Repeat(`,{"_placeholder":true,"num":0}`, 1000) + "]"
	mustDecode(t, text, strings.Repeat("x", 1000))
}

func TestNestingWithinTheBound(t *testing.T) {
	mustDecode(t, `2["e",`+strings.Repeat("[", 511)+strings.Repeat("]", 511)+"]")
	mustDecode(t, `2["e"`+strings.Repeat(",[]", 10_000)+"]")
	mustDecode(t, `2["e","`+strings.Repeat("[", 10_000)+`\"{"]`)
}

func TestMaxAttachments(t *testing.T) {
	d := packet.Decoder{MaxAttachments: 11}
	if _, done, err := d.Text([]byte(`511-["e"]`)); done || err != nil {
		t.Errorf("11 of 11: done %v, error %v", done, err)
	}
	d = packet.Decoder{MaxAttachments: 1}
	if _, _, err := d.Text([]byte(`52-["e"]`)); !errors.Is(err, packet.ErrAttachmentCount) {
		t.Errorf("2 of 1: error %v", err)
	}
}

func TestOrderOfMessages(t *testing.T) {
	var d packet.Decoder
	if _, _, err := d.Binary([]byte{1}); !errors.Is(err, packet.ErrBinaryUnexpected) {
		t.Errorf("binary first: %v", err)
	}
	if _, _, err := d.Text([]byte(`51-["e"]`)); err != nil || !d.Pending() {
		t.Fatalf("pending %v, error %v", d.Pending(), err)
	}
	if _, _, err := d.Text([]byte(`2["e"]`)); !errors.Is(err, packet.ErrTextWhilePending) {
		t.Errorf("text while pending: %v", err)
	}
	if d.Pending() {
		t.Error("still pending after the error")
	}
	if _, done, err := d.Text([]byte(`51-["e"]`)); done || err != nil {
		t.Fatal(done, err)
	}
	if _, done, err := d.Binary([]byte{1}); !done || err != nil {
		t.Fatal(done, err)
	}
	if _, _, err := d.Binary([]byte{1}); !errors.Is(err, packet.ErrBinaryUnexpected) {
		t.Errorf("one binary too many: %v", err)
	}
}

func TestPacketOwnsItsBytes(t *testing.T) {
	text, attachment := []byte(`51-/chat,["e",{"_placeholder":true,"num":0}]`), []byte("abc")
	var d packet.Decoder
	if _, _, err := d.Text(text); err != nil {
		t.Fatal(err)
	}
	clear(text)
	p, _, err := d.Binary(attachment)
	if err != nil {
		t.Fatal(err)
	}
	clear(attachment)
	if got, want := describe(p), `5 /chat ["e",{"_placeholder":true,"num":0}] <616263>`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestEvent(t *testing.T) {
	tests := []struct {
		text, name string
		args       []string
	}{
		{`2["e"]`, "e", nil},
		{"2[ \"e\" ,\n1 , \"a,]\\\"\" , { \"x\" : [ 1 , \"}\" ] } , [ ] , null , -1e3 ] ", "e",
			[]string{`1`, `"a,]\""`, `{ "x" : [ 1 , "}" ] }`, `[ ]`, `null`, `-1e3`}},
		{`2["\u0065\n\ud83d\ude00",123456789012345678901234567890,1e3,"\u003c<"]`, "e\n😀",
			[]string{`123456789012345678901234567890`, `1e3`, `"\u003c<"`}},
		{`2[12.50,true]`, "12.50", []string{`true`}},
		{`2["\ud800"]`, "\ufffd", nil},
		{`2[[]]`, "", nil},
	}
	for _, tt := range tests[:len(tests)-1] {
		name, args, err := mustDecode(t, tt.text).Event()
		if err != nil {
			t.Errorf("%s: %v", tt.text, err)
			continue
		}
		got := make([]string, 0, len(args))
		for _, a := range args {
			got = append(got, string(a))
		}
		if name != tt.name || !slices.Equal(got, tt.args) {
			t.Errorf("%s: got %q %q", tt.text, name, got)
		}
	}
	for _, p := range []*packet.Packet{
		mustDecode(t, "2"), mustDecode(t, "212"), mustDecode(t, `3["a"]`), mustDecode(t, "0"),
		{Type: packet.Event, Data: []byte("[]")}, {Type: packet.Event, Data: []byte("[null]")},
	} {
		if _, _, err := p.Event(); !errors.Is(err, packet.ErrPayload) {
			t.Errorf("%s: error %v", describe(p), err)
		}
	}
	for _, data := range []string{"[", `["`, `["\`, "[1", "[1,", "[,", "[1 2", "[[", "[}", `["a"]]`, "[\""} {
		p := packet.Packet{Type: packet.Event, Data: []byte(data)}
		_, _, _ = p.Event() // made by hand and broken: anything but a panic
	}
}

func TestArgs(t *testing.T) {
	args, err := mustDecode(t, `31["a",{"b":1}]`).Args()
	if err != nil || len(args) != 2 || string(args[0]) != `"a"` || string(args[1]) != `{"b":1}` {
		t.Errorf("got %s, %v", args, err)
	}
	if args, err := mustDecode(t, `31[ ]`).Args(); err != nil || len(args) != 0 {
		t.Errorf("got %s, %v", args, err)
	}
	for _, text := range []string{"3", "0{}", `4"x"`} {
		if _, err := mustDecode(t, text).Args(); !errors.Is(err, packet.ErrPayload) {
			t.Errorf("%s: error %v", text, err)
		}
	}
}

// An argument's capacity ends with it, so that appending to one does not write over the next.
func TestArgsDoNotOverlap(t *testing.T) {
	p := mustDecode(t, `2["e",1,2]`)
	_, args, err := p.Event()
	if err != nil {
		t.Fatal(err)
	}
	_ = append(args[0], "99"...)
	if !bytes.Equal(p.Data, []byte(`["e",1,2]`)) {
		t.Errorf("data became %s", p.Data)
	}
}

func TestReserved(t *testing.T) {
	for _, name := range []string{"connect", "connect_error", "disconnect", "disconnecting", "newListener", "removeListener"} {
		if !packet.Reserved(name) {
			t.Errorf("%s is not reserved", name)
		}
	}
	for _, name := range []string{"", "error", "connection", "message", "__proto__", "Connect"} {
		if packet.Reserved(name) {
			t.Errorf("%s is reserved", name)
		}
	}
}

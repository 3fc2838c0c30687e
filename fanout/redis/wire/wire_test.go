package wire

import (
	"bytes"
	"encoding/hex"
	"errors"
	"reflect"
	"strings"
	"testing"
)

// vector is an annotated sample of redis-adapter.md section 4.
type vector struct {
	name, hex   string
	namespace   string
	data        string
	attachments [][]byte
	opts        Opts
	readOnly    bool // no JSON says this: dates, legacy extensions, the emitter's order of keys
}

var vectors = []vector{
	{name: "B1", hex: "93a641624364313283a47479706502a46461746192a568656c6c6f01a36e7370a12f83a5726f6f6d7390a665786365707490a5666c61677380",
		namespace: "/", data: `["hello",1]`},
	{name: "B2", hex: "93a641624364313283a47479706502a46461746192a568656c6c6f81a16101a36e7370a12f83a5726f6f6d7391a5726f6f6d31a665786365707490a5666c61677380",
		namespace: "/", data: `["hello",{"a":1}]`, opts: Opts{Rooms: []string{"room1"}}},
	{name: "B3", hex: "93a641624364313283a47479706502a46461746191a568656c6c6fa36e7370a12f83a5726f6f6d7392a5726f6f6d31a5726f6f6d32a665786365707490a5666c61677380",
		namespace: "/", data: `["hello"]`, opts: Opts{Rooms: []string{"room1", "room2"}}},
	{name: "B4", hex: "93a641624364313283a47479706502a46461746191a568656c6c6fa36e7370a12f83a5726f6f6d7390a665786365707491a5726f6f6d32a5666c61677380",
		namespace: "/", data: `["hello"]`, opts: Opts{Except: []string{"room2"}}},
	{name: "B5", hex: "93a641624364313283a47479706502a46461746193a362696ec40301020381a178c40104a36e7370a12f83a5726f6f6d7390a665786365707490a5666c61677380",
		namespace: "/", data: `["bin",{"_placeholder":true,"num":0},{"x":{"_placeholder":true,"num":1}}]`, attachments: [][]byte{{1, 2, 3}, {4}}},
	{name: "B6", hex: "93a641624364313283a47479706502a46461746192a568656c6c6fa2c3a9a36e7370a52f6368617483a5726f6f6d7390a665786365707490a5666c61677380",
		namespace: "/chat", data: `["hello","é"]`},
	{name: "B7", hex: "93a641624364313283a47479706502a46461746191a568656c6c6fa36e7370a52f6368617483a5726f6f6d7391a56c6f626279a665786365707490a5666c61677380",
		namespace: "/chat", data: `["hello"]`, opts: Opts{Rooms: []string{"lobby"}}},
	{name: "B8", hex: "93a641624364313283a47479706502a464617461dc0015a16e007fcc80ccffcd0100cdffffce00010000cf0000000100000000ffe0d0dfd080d1ff7fd2ffff7fffcb3ff8000000000000c3c2c0a0d9207878787878787878787878787878787878787878787878787878787878787878a36e7370a12f83a5726f6f6d7390a665786365707490a5666c61677380",
		namespace: "/", data: `["n",0,127,128,255,256,65535,65536,4294967296,-1,-32,-33,-128,-129,-32769,1.5,true,false,null,"","xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"]`},
	{name: "B9", hex: "93a641624364313283a47479706502a46461746193a164d6ff6553f100d7ff1d5353006553f100a36e7370a12f83a5726f6f6d7390a665786365707490a5666c61677380",
		namespace: "/", data: `["d","2023-11-14T22:13:20.000Z","2023-11-14T22:13:20.123Z"]`, readOnly: true},
	{name: "B10", hex: "93a7656d697474657283a47479706502a46461746192a568656c6c6fa2656da36e7370a12f83a5726f6f6d7390a5666c61677380a665786365707490",
		namespace: "/", data: `["hello","em"]`, readOnly: true},
	{name: "B11", hex: "93a641624364313283a47479706502a46461746191a176a36e7370a12f83a5726f6f6d7390a665786365707490a5666c61677382a8766f6c6174696c65c3a8636f6d7072657373c2",
		namespace: "/", data: `["v"]`, opts: Opts{Volatile: true, NoCompress: true}},
	{name: "B12", hex: "93a641624364313283a47479706502a46461746194a178d40000d7000000018bcfe5687bc7020001ffa36e7370a12f83a5726f6f6d7390a665786365707490a5666c61677380",
		namespace: "/", data: `["x",null,"2023-11-14T22:13:20.123Z",{"_placeholder":true,"num":0}]`, attachments: [][]byte{{1, 0xff}}, readOnly: true},
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestVectorsAreReadAndWritten(t *testing.T) {
	for _, v := range vectors {
		t.Run(v.name, func(t *testing.T) {
			want := &Broadcast{UID: "AbCd12", Event: Event{v.namespace, []byte(v.data), v.attachments}, Opts: v.opts}
			if v.name == "B10" {
				want.UID = "emitter"
			}
			got, err := Decoder{}.Broadcast(string(unhex(t, v.hex)))
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(got, want) {
				t.Errorf("read\n%+v, want\n%+v", got, want)
			}
			if uid, ok := Sender(string(unhex(t, v.hex))); !ok || uid != want.UID {
				t.Errorf("sender is %q", uid)
			}
			if v.readOnly {
				return
			}
			written, err := want.Encode()
			if err != nil {
				t.Fatal(err)
			}
			if hex.EncodeToString(written) != v.hex {
				t.Errorf("wrote\n%x, want\n%s", written, v.hex)
			}
		})
	}
}

// wrap puts one MessagePack value into a broadcast, as the argument of an event.
func wrap(t testing.TB, value string) []byte {
	return unhex(t, "93a641624364313283a47479706502a46461746192a178"+value+"a36e7370a12f80")
}

func TestValuesAreReadAsNodeReadsThem(t *testing.T) {
	tests := []struct{ name, hex, want string }{
		{"float32", "ca3fc00000", `1.5`},
		{"whole float64", "cb3ff0000000000000", `1`},
		{"minus zero", "cb8000000000000000", `0`},
		{"not a number", "cb7ff8000000000000", `null`},
		{"infinity", "cb7ff0000000000000", `null`},
		{"small float", "cb3e7ad7f29abcaf48", `1e-7`},
		{"large float", "cb444b1ae4d6e2ef50", `1e+21`},
		{"any width", "d3ffffffffffffffff", `-1`},
		{"uint64", "cfffffffffffffffff", `18446744073709551615`},
		{"undefined in an object", "82a161d40000a16201", `{"b":1}`},
		{"undefined first and last", "83a161d40000a16201a163d40000", `{"b":1}`},
		{"undefined in an array", "92d4000001", `[null,1]`},
		{"keys keep their order", "82a16201a16102", `{"b":1,"a":2}`},
		{"keys that are no text", "82" + "01" + "02" + "c0" + "03", `{"1":2,"null":3}`},
		{"escapes", "a6" + hex.EncodeToString([]byte("\"\\\n\x01\x1e/")), `"\"\\\n\u0001\u001e/"`},
		{"separators are no escapes", "a3e280a8", "\"\u2028\""},
		{"no utf-8", "a2c328", "\"\ufffd(\""},
		{"date of 96 bits", "c70cff00000000ffffffffffffffff", `"1969-12-31T23:59:59.000Z"`},
		{"date of 96 bits, far", "c70cff0000000000000e8d4a510000", `null`},
		{"date after year 9999", "c70cff000000000000003afff44180", `"+010000-01-01T00:00:00.000Z"`},
		{"invalid legacy date", "d7007fffffffffffffff", `null`},
		{"other extension", "d50501ff", `[5,{"_placeholder":true,"num":0}]`},
		{"array of 32", "dd0000000101", `[1]`},
		{"map of 32", "df00000001a16101", `{"a":1}`},
		{"text of 32", "db0000000161", `"a"`},
		{"bin of 32", "c60000000161", `{"_placeholder":true,"num":0}`},
		{"array buffer of 32", "c9000000010061", `{"_placeholder":true,"num":0}`},
		{"lone placeholder is plain data", "82ac5f706c616365686f6c646572c3a36e756d00", `{"_placeholder":true,"num":0}`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b, err := Decoder{}.Broadcast(string(wrap(t, tt.hex)))
			if err != nil {
				t.Fatal(err)
			}
			if want := `["x",` + tt.want + `]`; string(b.Data) != want {
				t.Errorf("got %s, want %s", b.Data, want)
			}
		})
	}
}

func TestNumbersAreWrittenAsNodeWritesThem(t *testing.T) {
	for in, want := range map[string]string{
		"-0": "00", "1.0": "01", "1e3": "cd03e8", "1E-1": "cb3fb999999999999a", "9007199254740993": "cf0020000000000001",
		"18446744073709551615": "cfffffffffffffffff", "1e300": "cb7e37e43c8800759c", "1e999": "cb7ff0000000000000",
		"-9223372036854775808": "d38000000000000000", "1e20": "cb4415af1d78b58c40",
	} {
		w := newWriter(0)
		w.json([]byte(in), nil)
		got, err := w.bytes()
		if err != nil || hex.EncodeToString(got) != want {
			t.Errorf("%s: got %x, %v, want %s", in, got, err, want)
		}
	}
}

func TestJSONIsWritten(t *testing.T) {
	for in, want := range map[string]string{
		` { "a" : [ 1 , [ ] , { } ] , "b\n" : "\u00e9\ud83d\ude00" } `: "82a1619301" + "9080" + "a2620a" + "a6c3a9f09f9880",
		`[[[]],[[1]]]`: "92919091" + "9101",
		`"]"`:          "a15d",
		`["\"[",1]`:    "92a2225b01",
	} {
		w := newWriter(0)
		w.json([]byte(in), nil)
		got, err := w.bytes()
		if err != nil || hex.EncodeToString(got) != want {
			t.Errorf("%s: got %x, %v, want %s", in, got, err, want)
		}
	}
	for _, bad := range []string{
		``, `[`, `]`, `[1`, `[1,`, `[,1]`, `[1 2]`, `{"a"}`, `{"a":}`, `{1:2}`, `"`, `"\`, `nul`, `[1]]`, `{]`, `1x`, `--1`, `[1,]`, `"\x"`, `{"a":1,}`,
	} {
		w := newWriter(0)
		w.json([]byte(bad), nil)
		if got, err := w.bytes(); err == nil {
			t.Errorf("%s was written as %x", bad, got)
		}
	}
}

func TestMalformedBroadcastsAreErrors(t *testing.T) {
	packet := "83a47479706502a46461746191a178a36e7370a12f"
	opts := "83a5726f6f6d7390a665786365707490a5666c61677380"
	uid := "a6416243643132"
	tests := []struct {
		name, hex string
		want      error
	}{
		{"empty", "", ErrMalformed},
		{"json", hex.EncodeToString([]byte(`{"type":2}`)), ErrShape},
		{"truncated", "93a6416243", ErrMalformed},
		{"trailing bytes", "93" + uid + packet + opts + "00", ErrTrailing},
		{"no options", "92" + uid + packet, ErrShape},
		{"options nil", "93" + uid + packet + "c0", ErrShape},
		{"rooms a number", "93" + uid + packet + "81a5726f6f6d7305", ErrShape},
		{"rooms a text", "93" + uid + packet + "81a5726f6f6d73a161", ErrShape},
		{"top-level map", "80", ErrShape},
		{"packet nil", "93" + uid + "c0" + opts, ErrShape},
		{"no data", "93" + uid + "82a47479706502a36e7370a12f" + opts, ErrShape},
		{"data a map", "93" + uid + "82a47479706502a46461746180" + opts, ErrShape},
		{"data empty", "93" + uid + "82a47479706502a46461746190" + opts, ErrEvent},
		{"disconnect packet", "93" + uid + "82a47479706501a46461746191a178" + opts, ErrPacketType},
		{"binary event packet", "93" + uid + "82a47479706505a46461746191a178" + opts, ErrPacketType},
		{"no type", "93" + uid + "81a46461746191a178" + opts, ErrPacketType},
		{"reserved event", "93" + uid + "82a47479706502a46461746191a7636f6e6e656374" + opts, ErrEvent},
		{"event name nil", "93" + uid + "82a47479706502a46461746191c0" + opts, ErrEvent},
		{"reserved code", "93" + uid + "82a47479706502a46461746192a178c1" + opts, ErrMalformed},
		{"claims 4 GB", "93" + uid + "82a47479706502a46461746192a178c6ffffffff00" + opts, ErrMalformed},
		{"claims 4 G elements", "93" + uid + "82a47479706502a46461746192a178ddffffffff00", ErrMalformed},
		{"placeholder beside an attachment", "93" + uid + "82a47479706502a46461746193a178c40101" + "82ac5f706c616365686f6c646572c3a36e756d00" + opts, ErrPlaceholder},
		{"eleven attachments", "93" + uid + "82a47479706502a4646174619ca178" + strings.Repeat("c40101", 11) + opts, ErrAttachments},
		{"too deep", "93" + uid + "82a47479706502a46461746192a178" + strings.Repeat("91", 600) + "c0" + opts, ErrDepth},
		{"too deep in an unknown key", "93" + uid + "83a17a" + strings.Repeat("91", 600) + "c0" + packet[2:] + opts, ErrDepth},
		{"mail without number", "93" + uid + packet + "81a67061726c657981a3617070a163", ErrShape},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := Decoder{}.Broadcast(string(unhex(t, tt.hex)))
			if !errors.Is(err, tt.want) {
				t.Errorf("got %+v, %v, want %v", got, err, tt.want)
			}
		})
	}
}

func TestLenientOptions(t *testing.T) {
	base := "93a641624364313282a47479706502a46461746191a178"
	tests := []struct {
		name, hex string
		want      Opts
	}{
		{"none", base + "80", Opts{}},
		{"rooms nil", base + "81a5726f6f6d73c0", Opts{}},
		{"numeric room is nobody's", base + "81a5726f6f6d73912a", Opts{Rooms: []string{}, Nobody: true}},
		{"numeric room beside another", base + "81a5726f6f6d73922aa161", Opts{Rooms: []string{"a"}}},
		{"flags nil", base + "81a5666c616773c0", Opts{}},
		{"unknown flags and keys", base + "82a5666c61677381a162c3a17a91c0", Opts{}},
		{"timeout", base + "81a5666c61677381a774696d656f7574cd01f4", Opts{Timeout: 500}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := Decoder{}.Broadcast(string(unhex(t, tt.hex)))
			if err != nil {
				t.Fatal(err)
			}
			if got.Namespace != "/" || !reflect.DeepEqual(got.Opts, tt.want) {
				t.Errorf("got %+v, want %+v", got, tt.want)
			}
		})
	}
}

func TestMailTravelsInTheOptions(t *testing.T) {
	b := &Broadcast{UID: "AbCd12", Event: Event{Namespace: "/", Data: []byte(`["m",1]`)}, Opts: Opts{
		Rooms: []string{"u"}, Except: []string{"s"}, Mail: &Mail{"chat", "u", 1763705145000000123, 7, "s"},
	}}
	body, err := b.Encode()
	if err != nil {
		t.Fatal(err)
	}
	got, err := Decoder{}.Broadcast(string(body))
	if err != nil || !reflect.DeepEqual(got, b) {
		t.Errorf("got %+v, %v", got, err)
	}
}

func TestHarmfulBroadcastsCannotBeWritten(t *testing.T) {
	for _, data := range []string{"", `[]`, `{}`, `[null]`, `["connect"]`, `["disconnect",1]`, `["a"`, `[{"a":1}]`, "[" + strings.Repeat("[", 600) + strings.Repeat("]", 600) + "]"} {
		b := &Broadcast{UID: "AbCd12", Event: Event{Namespace: "/", Data: []byte(data)}}
		if body, err := b.Encode(); err == nil {
			t.Errorf("%.20q was written as %x", data, body)
		}
	}
	b := &Broadcast{Event: Event{Data: []byte(`["a",{"_placeholder":true,"num":1}]`), Attachments: [][]byte{{1}}}}
	if _, err := b.Encode(); !errors.Is(err, ErrPlaceholder) {
		t.Errorf("placeholder of no attachment: %v", err)
	}
}

func TestRequestVectors(t *testing.T) {
	opts := &Opts{Rooms: []string{"room1"}}
	event := func(data string) Event { return Event{Data: []byte(data)} }
	tests := []struct {
		body string
		want Request
	}{
		{`{"requestId":"req001","type":0,"rooms":["room1"]}`, Request{ID: "req001", Type: Sockets, Rooms: []string{"room1"}}},
		{`{"uid":"AbCd12","requestId":"req002","type":1}`, Request{UID: "AbCd12", ID: "req002", Type: AllRooms}},
		{`{"uid":"AbCd12","type":2,"opts":{"rooms":["room1"],"except":[]},"rooms":["r2","r3"]}`,
			Request{UID: "AbCd12", Type: RemoteJoin, Opts: opts, Rooms: []string{"r2", "r3"}}},
		{`{"uid":"AbCd12","type":3,"opts":{"rooms":["room1"],"except":[]},"rooms":["r2"]}`,
			Request{UID: "AbCd12", Type: RemoteLeave, Opts: opts, Rooms: []string{"r2"}}},
		{`{"uid":"AbCd12","type":4,"opts":{"rooms":["room1"],"except":[]},"close":false}`,
			Request{UID: "AbCd12", Type: RemoteDisconnect, Opts: opts}},
		{`{"uid":"AbCd12","requestId":"req005","type":5,"opts":{"rooms":[],"except":["a"]}}`,
			Request{UID: "AbCd12", ID: "req005", Type: RemoteFetch, Opts: &Opts{Except: []string{"a"}}}},
		{`{"uid":"AbCd12","requestId":"req005","type":6,"data":["ping",1]}`,
			Request{UID: "AbCd12", ID: "req005", Type: ServerSideEmit, Event: event(`["ping",1]`)}},
		{`{"uid":"AbCd12","type":6,"data":["<p>"]}`, Request{UID: "AbCd12", Type: ServerSideEmit, Event: event(`["<p>"]`)}},
	}
	for _, tt := range tests {
		got, err := Decoder{}.Request(tt.body)
		if err != nil || !reflect.DeepEqual(*got, tt.want) {
			t.Errorf("%s: read\n%+v, %v, want\n%+v", tt.body, got, err, tt.want)
		}
		written, err := tt.want.Encode()
		if err != nil || string(written) != tt.body {
			t.Errorf("wrote %s, %v, want %s", written, err, tt.body)
		}
		if uid := RequestSender(tt.body); uid != tt.want.UID {
			t.Errorf("%s: sender is %q", tt.body, uid)
		}
		// Every type may come as MessagePack too.
		w := newWriter(0)
		w.json([]byte(tt.body), nil)
		packed, err := w.bytes()
		if err != nil {
			t.Fatal(err)
		}
		if uid := RequestSender(string(packed)); uid != tt.want.UID {
			t.Errorf("%s as MessagePack: sender is %q", tt.body, uid)
		}
		if got, err := (Decoder{}).Request(string(packed)); err != nil || !reflect.DeepEqual(*got, tt.want) {
			t.Errorf("%s as MessagePack: read\n%+v, %v", tt.body, got, err)
		}
	}
}

const type7 = "85a3756964a6416243643132a9726571756573744964a6726571303034a47479706507a67061636b657483a47479706502a46461746192a17101a36e7370a12fa46f70747383a5726f6f6d7390a665786365707490a5666c61677381a774696d656f7574cd01f4"

func TestBroadcastWithAckVectors(t *testing.T) {
	want := &Request{UID: "AbCd12", ID: "req004", Type: BroadcastAck, Opts: &Opts{Timeout: 500}, Event: Event{Namespace: "/", Data: []byte(`["q",1]`)}}
	got, err := Decoder{}.Request(string(unhex(t, type7)))
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("read %+v, %v", got, err)
	}
	if written, err := want.Encode(); err != nil || hex.EncodeToString(written) != type7 {
		t.Errorf("wrote %x, %v", written, err)
	}
	binary := &Request{UID: "AbCd12", ID: "r", Type: BroadcastAck, Opts: &Opts{}, Direct: true,
		Event: Event{Namespace: "/a", Data: []byte(`["q",{"_placeholder":true,"num":0}]`), Attachments: [][]byte{{1}}}}
	body, err := binary.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if got, err := (Decoder{}).Request(string(body)); err != nil || !reflect.DeepEqual(got, binary) {
		t.Errorf("read %+v, %v", got, err)
	}
}

func TestMalformedRequestsAreErrors(t *testing.T) {
	for _, body := range []string{
		``, `{`, `null`, `{}`, `[]`, `{"type":9}`, `{"type":42}`, `{"type":"0"}`, `{"type":0}`, `{"type":1}`, `{"type":2}`, `{"type":2,"opts":{}}`,
		`{"type":3,"opts":{},"rooms":5}`, `{"type":4}`, `{"type":5,"requestId":"a"}`, `{"type":5,"requestId":"a","opts":null}`, `{"type":6}`,
		`{"type":6,"data":[]}`, `{"type":6,"data":[1]}`, `{"type":6,"data":{}}`, `{"type":7,"requestId":"a","opts":{}}`,
		`{"type":7,"requestId":"a","packet":{"type":2,"data":["a"]}}`, `{"type":7,"requestId":"a","opts":{},"packet":{"type":1,"data":["a"]}}`,
		`{"type":7,"requestId":"a","opts":{},"packet":{"type":2,"data":["connect"]}}`, `{"type":7,"requestId":"a","opts":{},"packet":{"type":2}}`,
		`{"type":5,"requestId":"a","opts":{"rooms":{}}}`, "\xc0", "\x80", "{" + strings.Repeat(`"a":{`, 600) + strings.Repeat("}", 601),
	} {
		if got, err := (Decoder{}).Request(body); err == nil {
			t.Errorf("%.40q was read as %+v", body, got)
		}
	}
}

func TestHarmfulRequestsCannotBeWritten(t *testing.T) {
	for _, r := range []Request{
		{Type: RemoteJoin}, {Type: RemoteLeave}, {Type: RemoteDisconnect}, {Type: RemoteFetch}, {Type: BroadcastAck}, {Type: 42}, {Type: ClientCount},
		{Type: BroadcastAck, Opts: &Opts{}}, {Type: BroadcastAck, Opts: &Opts{}, Event: Event{Data: []byte(`["disconnect"]`)}},
		{Type: ServerSideEmit}, {Type: ServerSideEmit, Event: Event{Data: []byte(`["error"]`)}}, {Type: ServerSideEmit, Event: Event{Data: []byte(`["connection"]`)}},
		{Type: ServerSideEmit, Event: Event{Data: []byte(`[1]`)}},
	} {
		if body, err := r.Encode(); err == nil {
			t.Errorf("%+v was written as %q", r, body)
		}
	}
}

func TestResponses(t *testing.T) {
	tests := []struct {
		body string
		want Response
	}{
		{`{"requestId":"req001","sockets":["S"]}`, Response{ID: "req001", SocketIDs: []string{"S"}, Sockets: []Socket{}}},
		{`{"requestId":"req001","sockets":[]}`, Response{ID: "req001", SocketIDs: []string{}, Sockets: []Socket{}}},
		{`{"requestId":"req002","rooms":["S","room1"]}`, Response{ID: "req002", Rooms: []string{"S", "room1"}}},
		{`{"type":6,"requestId":"req005","data":{"pong":1}}`, Response{ID: "req005", Type: ServerSideEmit, Value: []byte(`{"pong":1}`)}},
		{`{"type":8,"requestId":"req004","clientCount":0}`, Response{ID: "req004", Type: ClientCount}},
		{`{"type":8,"requestId":"req004","clientCount":1}`, Response{ID: "req004", Type: ClientCount, ClientCount: 1}},
	}
	for _, tt := range tests {
		got, err := Decoder{}.Response(tt.body)
		if err != nil || !reflect.DeepEqual(*got, tt.want) {
			t.Errorf("%s: read %+v, %v", tt.body, got, err)
		}
		if written, err := tt.want.Encode(); err != nil || string(written) != tt.body {
			t.Errorf("wrote %s, %v, want %s", written, err, tt.body)
		}
	}
	ack := Response{ID: "req004", Type: Ack, Value: []byte(`"A"`)}
	const ackHex = "83a47479706509a9726571756573744964a6726571303034a67061636b6574a141"
	if written, err := ack.Encode(); err != nil || hex.EncodeToString(written) != ackHex {
		t.Errorf("wrote %x, %v", written, err)
	}
	if got, err := (Decoder{}).Response(string(unhex(t, ackHex))); err != nil || !reflect.DeepEqual(*got, ack) {
		t.Errorf("read %+v, %v", got, err)
	}
	binary := Response{ID: "a", Type: ServerSideEmit, Value: []byte(`{"_placeholder":true,"num":0}`), Attachments: [][]byte{{7}}}
	body, err := binary.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if got, err := (Decoder{}).Response(string(body)); err != nil || !reflect.DeepEqual(*got, binary) {
		t.Errorf("read %+v, %v", got, err)
	}
	for _, bad := range []string{``, `{`, `null`, "\xc0", `{}`, `{"requestId":5}`, `{"requestId":"a","type":8}`, `{"requestId":"a","type":8,"clientCount":-1}`,
		`{"requestId":"a","sockets":[5]}`, `{"requestId":"a","sockets":[null]}`, `{"requestId":"a","sockets":{}}`} {
		if got, err := (Decoder{}).Response(bad); err == nil {
			t.Errorf("%q was read as %+v", bad, got)
		}
	}
}

// A Node peer dereferences data and handshake.headers of every socket.
func TestSocketsAlwaysHaveDataAndHeaders(t *testing.T) {
	r := Response{ID: "a", Sockets: []Socket{{ID: "S", Data: []byte(`null`)}, {ID: "T", Handshake: []byte(`{"headers":{"a":"b"},"x":1}`), Data: []byte(`"text"`)}}}
	body, err := r.Encode()
	if err != nil {
		t.Fatal(err)
	}
	want := `{"requestId":"a","sockets":[{"id":"S","handshake":{"headers":{}},"rooms":[],"data":{}},{"id":"T","handshake":{"headers":{"a":"b"},"x":1},"rooms":[],"data":{}}]}`
	if string(body) != want {
		t.Errorf("wrote\n%s, want\n%s", body, want)
	}
	got, err := Decoder{}.Response(`{"requestId":"a","sockets":[{"id":"S"}]}`)
	if err != nil || string(got.Sockets[0].Data) != "{}" || string(got.Sockets[0].Handshake) != `{"headers":{}}` {
		t.Errorf("read %+v, %v", got, err)
	}
}

func FuzzDecode(f *testing.F) {
	for _, v := range vectors {
		f.Add(unhex(f, v.hex))
	}
	f.Add(unhex(f, type7))
	f.Add([]byte(`{"uid":"AbCd12","type":2,"opts":{"rooms":["room1"],"except":[]},"rooms":["r2","r3"]}`))
	f.Add([]byte(`{"requestId":"a","sockets":[{"id":"S","handshake":{},"rooms":["S"],"data":{}}]}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		d, text := Decoder{}, string(body)
		if b, err := d.Broadcast(text); err == nil {
			again, err := b.Encode()
			if err != nil {
				t.Fatalf("%+v was read and can't be written: %v", b, err)
			}
			second, err := d.Broadcast(string(again))
			if err != nil {
				t.Fatalf("%x was written and can't be read: %v", again, err)
			}
			if !bytes.Equal(second.Data, b.Data) || len(second.Attachments) != len(b.Attachments) {
				t.Fatalf("%s came back as %s", b.Data, second.Data)
			}
		}
		if r, err := d.Request(text); err == nil && r.Opts != nil {
			if _, err := r.Encode(); err != nil && !errors.Is(err, ErrEvent) {
				t.Fatalf("%+v was read and can't be written: %v", r, err)
			}
		}
		if s, err := d.Sharded(text); err == nil {
			if _, err := s.Encode(); err != nil && !errors.Is(err, ErrEvent) {
				t.Fatalf("%+v was read and can't be written: %v", s, err)
			}
		}
		if uid, ok := Sender(text); !ok && uid != "" {
			t.Fatalf("sender %q", uid)
		}
		for _, hint := range []string{RequestSender(text), ShardedSender(text)} {
			if !bytes.Contains(body, []byte(hint)) {
				t.Fatalf("sender %q is not in %q", hint, body)
			}
		}
		if r, err := d.Response(text); err == nil {
			if _, err := r.Encode(); err != nil {
				t.Fatalf("%+v was read and can't be written: %v", r, err)
			}
		}
	})
}

// FuzzEncode checks that no text makes the encoder panic, and that valid JSON comes back.
func FuzzEncode(f *testing.F) {
	for _, v := range vectors {
		f.Add([]byte(v.data), true)
	}
	f.Add([]byte(`["a",{"b":[[],{}]},"\u0000\ud800"]`), false)
	f.Fuzz(func(t *testing.T, data []byte, binary bool) {
		e := Event{Namespace: "/", Data: data}
		if binary {
			e.Attachments = [][]byte{{1}, {2}}
		}
		body, err := (&Broadcast{UID: "AbCd12", Event: e}).Encode()
		if err != nil {
			return
		}
		if _, err := (Decoder{MaxAttachments: 1 << 20}).Broadcast(string(body)); err != nil && !errors.Is(err, ErrPlaceholder) {
			t.Fatalf("%q was written as %x and can't be read: %v", data, body, err)
		}
	})
}

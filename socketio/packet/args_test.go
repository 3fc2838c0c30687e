package packet_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"reflect"
	"strings"
	"testing"
	"time"

	"parley/socketio/packet"
)

// encode returns the encoded arguments and attachments as one line.
func encode(args ...any) string {
	data, attachments, err := packet.EncodeArgs(args...)
	if err != nil {
		return err.Error()
	}
	s := string(data)
	for _, a := range attachments {
		s += fmt.Sprintf(" <%x>", a)
	}
	return s
}

const ph0, ph1 = `{"_placeholder":true,"num":0}`, `{"_placeholder":true,"num":1}`

type file struct {
	Name string            `json:"name"`
	Body packet.Binary     `json:"body"`
	Mini packet.Binary     `json:"mini,omitempty"`
	More []packet.Binary   `json:"more,omitempty"`
	Meta packet.Raw        `json:"meta,omitzero"`
	Any  any               `json:"any,omitempty"`
	JSON json.RawMessage   `json:"json,omitempty"`
	Map  map[string][]byte `json:"map,omitempty"`
	skip int               //nolint:unused // unexported fields are passed over
}

func TestEncodeArgs(t *testing.T) {
	shared := []byte("s")
	at := time.Date(2023, 11, 14, 22, 13, 20, 999_999, time.FixedZone("", 3600))
	tests := []struct {
		args []any
		want string
	}{
		{nil, `[]`},
		{[]any{"e"}, `["e"]`},
		{[]any{"e", nil, true, false, 1, int64(-2), uint64(math.MaxUint64), uint8(3), "x"}, `["e",null,true,false,1,-2,18446744073709551615,3,"x"]`},
		{[]any{"<b>&</b>\u2028é😀", map[string]any{"<": "<"}, struct{ A string }{"<&>"}}, `["<b>&</b>` + "\u2028" + `é😀",{"<":"<"},{"A":"<&>"}]`},
		{[]any{"\x00\n\"\\\u007f", "\xff"}, `["\u0000\n\"\\` + "\u007f" + `","\ufffd"]`},
		{[]any{math.NaN(), math.Inf(1), math.Inf(-1), float32(math.Inf(1)), []any{math.NaN()}, map[string]any{"n": math.NaN()}}, `[null,null,null,null,[null],{"n":null}]`},
		{[]any{0.1, float32(0.1), 1e21, 1e20, 1e-6, 1e-7, -1.5e300, 5e-324, math.Copysign(0, -1), 100.0}, `[0.1,0.1,1e+21,100000000000000000000,0.000001,1e-7,-1.5e+300,5e-324,0,100]`},
		{[]any{at, []any{at}, map[string]any{"t": at}}, `["2023-11-14T21:13:20.000Z",["2023-11-14T21:13:20.000Z"],{"t":"2023-11-14T21:13:20.000Z"}]`},
		{[]any{time.Date(2023, 11, 14, 22, 13, 20, 987654321, time.UTC), time.Time{}}, `["2023-11-14T22:13:20.987Z","0001-01-01T00:00:00.000Z"]`},
		{[]any{time.Date(12023, 1, 2, 0, 0, 0, 0, time.UTC), time.Date(-1, 1, 2, 0, 0, 0, 0, time.UTC)}, `["+012023-01-02T00:00:00.000Z","-000001-01-02T00:00:00.000Z"]`},
		{[]any{[]any(nil), map[string]any(nil), []byte(nil), packet.Binary(nil), []any{}, map[string]any{}, []string{"a"}}, `[null,null,null,null,[],{},["a"]]`},
		{[]any{map[string]any{"b": 1, "a": 2}}, `[{"a":2,"b":1}]`},

		// passed through to the byte
		{[]any{json.RawMessage(`{ "a" : 1e3, "b":123456789012345678901234567890 }`), packet.Raw{JSON: json.RawMessage("\"\\u003c<\"")}, packet.Raw{}, json.RawMessage(nil)},
			`[{ "a" : 1e3, "b":123456789012345678901234567890 },"\u003c<",null,null]`},
		{[]any{packet.Raw{JSON: json.RawMessage(ph1)}}, `[` + ph1 + `]`},

		// attachments
		{[]any{"e", []byte{1, 2, 3}, packet.Binary{4}}, `["e",` + ph0 + `,` + ph1 + `] <010203> <04>`},
		{[]any{"e", []byte{}}, `["e",` + ph0 + `] <>`},
		{[]any{map[string]any{"b": []byte("b"), "a": []any{1, []byte("a")}}}, `[{"a":[1,` + ph0 + `],"b":` + ph1 + `}] <61> <62>`},
		{[]any{[]byte("a"), []byte("a")}, `[` + ph0 + `,` + ph1 + `] <61> <61>`},
		{[]any{shared, []any{shared}}, `[` + ph0 + `,[` + ph0 + `]] <73>`},
		{[]any{file{Name: "<f>", Body: packet.Binary("b"), More: []packet.Binary{packet.Binary("m")}}},
			`[{"name":"<f>","body":` + ph0 + `,"more":[` + ph1 + `]}] <62> <6d>`},
		{[]any{[]byte("x"), &file{Body: packet.Binary{}, Map: map[string][]byte{"k": []byte("k")}}},
			`[` + ph0 + `,{"name":"","body":` + ph1 + `,"map":{"k":"aw=="}}] <78> <>`},
		{[]any{file{}}, `[{"name":"","body":null}]`},
		{[]any{[]packet.Binary{packet.Binary("a"), nil, packet.Binary("b")}}, `[[` + ph0 + `,null,` + ph1 + `]] <61> <62>`},

		// Raw with attachments: numbers are moved, repeats stay repeats, what is not used is left behind
		{[]any{[]byte("x"), packet.Raw{JSON: json.RawMessage(`[` + ph1 + `, ` + ph1 + `,{"num":1,"x":[],"_placeholder":true}]`), Attachments: [][]byte{[]byte("0"), []byte("1")}}},
			`[` + ph0 + `,[` + ph1 + `, ` + ph1 + `,` + ph1 + `]] <78> <31>`},
		{[]any{file{Body: packet.Binary("b"), Meta: packet.Raw{JSON: json.RawMessage(`{"m": ` + ph0 + `,"n":1e3}`), Attachments: [][]byte{[]byte("m")}}}},
			`[{"name":"","body":` + ph0 + `,"meta":{"m":` + ph1 + `,"n":1e3}}] <62> <6d>`},
	}
	for _, tt := range tests {
		if got := encode(tt.args...); got != tt.want {
			t.Errorf("\n got %s\nwant %s", got, tt.want)
		}
	}
}

// quoting marshals a Binary into a string, where no placeholder can stand.
type quoting struct{ b packet.Binary }

func (q quoting) MarshalJSON() ([]byte, error) {
	text, err := json.Marshal(q.b)
	if err != nil {
		return nil, err
	}
	return json.Marshal(string(text))
}

func TestEncodeArgsRefuses(t *testing.T) {
	deep := any(nil)
	for range 600 {
		deep = []any{map[string]any{"a": deep}}
	}
	cycle := []any{nil}
	cycle[0] = cycle
	one := [][]byte{{1}}
	tests := []struct {
		name string
		args []any
		want error // nil: any
	}{
		{"deep", []any{deep}, packet.ErrDepth},
		{"cycle", cycle, packet.ErrDepth},
		{"func", []any{func() {}}, nil},
		{"NaN in a struct", []any{struct{ F float64 }{math.NaN()}}, nil},
		{"broken raw", []any{json.RawMessage(`{`)}, packet.ErrJSON},
		{"two values", []any{json.RawMessage(`1,2`)}, packet.ErrJSON},
		{"empty raw", []any{json.RawMessage{}}, packet.ErrJSON},
		{"raw not UTF-8", []any{packet.Raw{JSON: json.RawMessage("\"\xff\"")}}, packet.ErrUTF8},
		{"raw without its attachment", []any{packet.Raw{JSON: json.RawMessage(ph1), Attachments: one}}, packet.ErrPlaceholder},
		{"raw in a struct without its attachment", []any{struct{ R packet.Raw }{packet.Raw{JSON: json.RawMessage(ph1), Attachments: one}}}, packet.ErrPlaceholder},
		{"plain data like a placeholder", []any{[]byte("x"), packet.Raw{JSON: json.RawMessage(`{"a":{"_placeholder":true,"num":99}}`)}}, packet.ErrPlaceholder},
		{"escaped plain data like a placeholder", []any{[]byte("x"), packet.Raw{JSON: json.RawMessage(`{"\u005fplaceholder":true}`)}}, packet.ErrPlaceholder},
		{"a placeholder in plain data like one", []any{map[string]any{"_placeholder": true, "num": 9, "x": []byte("x")}}, packet.ErrPlaceholder},
		{"quoted binary", []any{quoting{packet.Binary("x")}}, nil},
	}
	for _, tt := range tests {
		data, _, err := packet.EncodeArgs(tt.args...)
		if err == nil || data != nil || tt.want != nil && !errors.Is(err, tt.want) {
			t.Errorf("%s: got %s, %v", tt.name, data, err)
		}
	}
}

// What only looks like the mark that EncodeArgs uses inside encoding/json is a string like any other.
func TestMarkCannotBeWritten(t *testing.T) {
	text := `"binary:AAAAAAAAAAAAAAAAAAAAAAAAAA:AQID"`
	if got := encode(struct{ J json.RawMessage }{json.RawMessage(text)}); got != `[{"J":`+text+`}]` {
		t.Errorf("got %s", got)
	}
}

type inner struct{ In []byte }

type taker struct {
	inner
	B   []byte
	P   *[]byte
	N   packet.Binary
	A   any
	M   map[string]packet.Binary
	L   []any
	F   [1]packet.Binary
	R   packet.Raw
	J   json.RawMessage
	S   string
	I   int
	T   time.Time
	Any fmt.Stringer `json:"-"`
}

func TestDecodeArg(t *testing.T) {
	attachments := [][]byte{[]byte("zero"), []byte("one")}
	var got taker
	err := packet.DecodeArg(json.RawMessage(`{"In":`+ph0+`,"B":`+ph1+`,"P":`+ph0+`,"N":`+ph1+`,"A":{"x":[1,`+ph0+`,"s"]},
		"M":{"k":`+ph1+`},"L":[`+ph0+`,null],"F":[`+ph1+`],"R":[`+ph1+`,1e3 ],"J":{"j":`+ph0+`},"S":"s","I":5,"T":"2023-11-14T22:13:20Z"}`),
		attachments, &got)
	if err != nil {
		t.Fatal(err)
	}
	zero := []byte("zero")
	want := taker{
		inner: inner{zero}, B: []byte("one"), P: &zero, N: packet.Binary("one"),
		A: map[string]any{"x": []any{1.0, zero, "s"}}, M: map[string]packet.Binary{"k": packet.Binary("one")},
		L: []any{zero, nil}, F: [1]packet.Binary{packet.Binary("one")},
		R: packet.Raw{JSON: json.RawMessage(`[` + ph1 + `,1e3 ]`), Attachments: attachments},
		J: json.RawMessage(`{"j":` + ph0 + `}`), S: "s", I: 5, T: time.Date(2023, 11, 14, 22, 13, 20, 0, time.UTC),
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("\n got %+v\nwant %+v", got, want)
	}

	for _, target := range []any{new(any), new([]byte), new(packet.Binary), new(packet.Raw), new(json.RawMessage)} {
		if err := packet.DecodeArg(json.RawMessage(ph1), attachments, target); err != nil {
			t.Errorf("%T: %v", target, err)
		}
		if got := encode(reflect.ValueOf(target).Elem().Interface()); got != `[`+ph0+`] <6f6e65>` && got != `[`+ph1+`]` {
			t.Errorf("%T: encodes as %s", target, got)
		}
	}
}

func TestDecodeArgPlain(t *testing.T) {
	var v any
	if err := packet.DecodeArg(json.RawMessage(ph0), nil, &v); err != nil {
		t.Fatal(err)
	}
	if want := map[string]any{"_placeholder": true, "num": 0.0}; !reflect.DeepEqual(v, want) {
		t.Errorf("got %v", v)
	}
	var m struct{ Content, To string }
	if err := packet.DecodeArg(json.RawMessage(`{"content":"hi","to":"x"}`), [][]byte{{1}}, &m); err != nil || m.Content != "hi" || m.To != "x" {
		t.Errorf("got %+v, %v", m, err)
	}
}

func TestDecodeArgRefuses(t *testing.T) {
	one := [][]byte{{1}}
	tests := []struct {
		text        string
		attachments [][]byte
		v           any
	}{
		{ph0, one, new(string)},
		{ph0, one, new(int)},
		{ph0, one, &struct{ num int }{}},
		{`{"S":` + ph0 + `}`, one, new(taker)},
		{`{"L":{"x":` + ph0 + `}}`, one, new(map[string]map[string]string)},
		{ph1, one, new(any)},
		{`{"_placeholder":true}`, one, new(any)},
		{`{`, one, new(any)},
		{`{`, nil, new(any)},
		{``, nil, new(any)},
		{`"x"`, nil, new(int)},
		{strings.Repeat("[", 600) + strings.Repeat("]", 600), one, new(any)},
	}
	for _, tt := range tests {
		if err := packet.DecodeArg(json.RawMessage(tt.text), tt.attachments, tt.v); err == nil {
			t.Errorf("%s into %T: no error, got %v", tt.text, tt.v, reflect.ValueOf(tt.v).Elem())
		}
	}
}

// The echo of vector S7: arguments that share a packet's attachments go out as they came in.
func TestEchoOfAttachments(t *testing.T) {
	p := mustDecode(t, `52-789["message-with-ack",`+ph0+`,`+ph1+`]`, "\x01\x02\x03", "\x04\x05\x06")
	_, args, err := p.Event()
	if err != nil {
		t.Fatal(err)
	}
	var echo []any
	for _, a := range args {
		echo = append(echo, packet.Raw{JSON: a, Attachments: p.Attachments})
	}
	ack := packet.Packet{Type: packet.Ack, ID: p.ID, HasID: true}
	if ack.Data, ack.Attachments, err = packet.EncodeArgs(echo...); err != nil {
		t.Fatal(err)
	}
	want := `62-789[` + ph0 + `,` + ph1 + `]`
	if got := string(packet.Append(nil, &ack)); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if !reflect.DeepEqual(ack.Attachments, [][]byte{{1, 2, 3}, {4, 5, 6}}) {
		t.Errorf("attachments %v", ack.Attachments)
	}
}

func TestBinaryThroughJSON(t *testing.T) {
	text, err := json.Marshal(packet.Binary("abc"))
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{string(text), `"binary:of-another-process:YWJj"`, `"YWJj"`} {
		var b packet.Binary
		if err := json.Unmarshal([]byte(text), &b); err != nil || string(b) != "abc" {
			t.Errorf("%s: got %q, %v", text, b, err)
		}
	}
	b := packet.Binary("x")
	if err := json.Unmarshal([]byte("null"), &b); err != nil || b != nil {
		t.Errorf("null: got %q, %v", b, err)
	}
	if err := json.Unmarshal([]byte(`"binary:x:!"`), &b); err == nil {
		t.Error("no error for broken base64")
	}
}

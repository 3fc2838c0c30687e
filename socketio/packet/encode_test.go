package packet_test

import (
	"testing"

	"parley/socketio/packet"
)

func TestAppend(t *testing.T) {
	data := []byte(`["e",1]`)
	binary := []byte(`["e",{"_placeholder":true,"num":0}]`)
	tests := []struct {
		p    packet.Packet
		want string
	}{
		{packet.Packet{Type: packet.Connect, Namespace: "/", Data: []byte(`{"sid":"abc"}`)}, `0{"sid":"abc"}`},
		{packet.Packet{Type: packet.Connect, Namespace: "/a", Data: []byte(`{"sid":"abc"}`)}, `0/a,{"sid":"abc"}`},
		{packet.Packet{Type: packet.Disconnect}, "1"},
		{packet.Packet{Type: packet.Disconnect, Namespace: "/a"}, "1/a,"},
		{packet.Packet{Type: packet.ConnectError, Namespace: "/a", Data: []byte(`{"message":"no"}`)}, `4/a,{"message":"no"}`},
		{packet.Packet{Type: packet.Event, Data: data}, `2["e",1]`},
		{packet.Packet{Type: packet.Event, HasID: true, Data: data}, `20["e",1]`},
		{packet.Packet{Type: packet.Event, Namespace: "/a", ID: 10, HasID: true, Data: data}, `2/a,10["e",1]`},
		{packet.Packet{Type: packet.Ack, ID: 456, HasID: true, Data: []byte(`[1]`)}, `3456[1]`},
		{packet.Packet{Type: packet.Event, Data: binary, Attachments: [][]byte{{1}}}, `51-["e",{"_placeholder":true,"num":0}]`},
		{packet.Packet{Type: packet.Ack, Namespace: "/a", ID: 7, HasID: true, Data: []byte(`[]`), Attachments: [][]byte{{1}, {2}}}, `62-/a,7[]`},
		{packet.Packet{Type: packet.BinaryEvent, Data: data}, `2["e",1]`},
		{packet.Packet{Type: packet.BinaryAck, ID: 1, HasID: true, Data: []byte(`[]`)}, `31[]`},
		{packet.Packet{Type: packet.Event}, `2[""]`},
		{packet.Packet{Type: packet.Ack, ID: 1, HasID: true}, `31[]`},
	}
	for _, tt := range tests {
		if got := packet.Append([]byte("x"), &tt.p); string(got) != "x"+tt.want {
			t.Errorf("got %s, want x%s", got, tt.want)
		}
	}
}

func TestRoundTrip(t *testing.T) {
	for _, tt := range accepted {
		p := mustDecode(t, tt.text, tt.attachments...)
		if p.Data == nil {
			continue // an event without payload is not sent as such
		}
		again := mustDecode(t, string(packet.Append(nil, p)), tt.attachments...)
		if describe(again) != describe(p) {
			t.Errorf("%s became %s", describe(p), describe(again))
		}
	}
}

func TestAppendArg(t *testing.T) {
	for event, want := range map[string]string{
		`2["all",1]`: `2["all",1,"Q7xyjw_"]`,
		`2/a,["e"]`:  `2/a,["e","Q7xyjw_"]`,
		`2["e",[]]`:  `2["e",[],"Q7xyjw_"]`,
		`51-["bin",{"_placeholder":true,"num":0}]`: `51-["bin",{"_placeholder":true,"num":0},"Q7xyjw_"]`,
		`2[]`: `2["Q7xyjw_"]`,
		`2`:   `2`,
		``:    ``,
	} {
		if got := packet.AppendArg([]byte("x"), []byte(event), "Q7xyjw_"); string(got) != "x"+want {
			t.Errorf("%s: got %s", event, got)
		}
	}
	if got := packet.AppendArg(nil, []byte(`2["e"]`), `"\<`); string(got) != `2["e","\"\\<"]` {
		t.Errorf("got %s", got)
	}
}

func TestLastArgIsString(t *testing.T) {
	for text, want := range map[string]bool{
		`2["e","x"]`:          true,
		`2["e"]`:              true,
		`2/a,["e",1,"\""]`:    true,
		`51-["e",1,"x"]`:      true,
		"2 [\"e\",\"x\" ] \n": true,
		`2["e",1]`:            false,
		`2["e",["x"]]`:        false,
		`2["e",{"a":"x"}]`:    false,
		`2[1]`:                false,
		`27["e","x"]`:         false,
		`3["e","x"]`:          false,
		`0{"sid":"x"}`:        false,
		`2`:                   false,
		`2]`:                  false,
		`2[]`:                 false,
		``:                    false,
	} {
		if got := packet.LastArgIsString([]byte(text)); got != want {
			t.Errorf("%s: got %v", text, got)
		}
	}
}

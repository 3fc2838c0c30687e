package wire

import (
	"reflect"
	"testing"
)

func TestShardedMessages(t *testing.T) {
	const uid = "ae2ebb64313e5a39"
	opts := &Opts{Rooms: []string{"room1"}}
	tests := []struct {
		body string
		want Sharded
	}{
		{`{"type":3,"data":{"packet":{"type":2,"data":["hello"]},"opts":{"rooms":["room1"],"except":[],"flags":{}}},"uid":"ae2ebb64313e5a39","nsp":"/"}`,
			Sharded{Broadcast: &Broadcast{UID: uid, Event: Event{Namespace: "/", Data: []byte(`["hello"]`)}, Opts: *opts}}},
		{`{"type":3,"data":{"requestId":"r","packet":{"type":2,"data":["q"]},"opts":{"rooms":[],"except":["a"],"flags":{"timeout":500}}},"uid":"ae2ebb64313e5a39","nsp":"/"}`,
			Sharded{Request: &Request{UID: uid, ID: "r", Type: BroadcastAck, Event: Event{Namespace: "/", Data: []byte(`["q"]`)}, Opts: &Opts{Except: []string{"a"}, Timeout: 500}}}},
		{`{"type":4,"data":{"opts":{"rooms":["room1"],"except":[],"flags":{}},"rooms":["r2"]},"uid":"ae2ebb64313e5a39","nsp":"/"}`,
			Sharded{Request: &Request{UID: uid, Type: RemoteJoin, Opts: opts, Rooms: []string{"r2"}}}},
		{`{"type":5,"data":{"opts":{"rooms":["room1"],"except":[],"flags":{}},"rooms":["r2"]},"uid":"ae2ebb64313e5a39","nsp":"/"}`,
			Sharded{Request: &Request{UID: uid, Type: RemoteLeave, Opts: opts, Rooms: []string{"r2"}}}},
		{`{"type":6,"data":{"opts":{"rooms":["room1"],"except":[],"flags":{}},"close":true},"uid":"ae2ebb64313e5a39","nsp":"/"}`,
			Sharded{Request: &Request{UID: uid, Type: RemoteDisconnect, Opts: opts, Closing: true}}},
		{`{"type":7,"data":{"requestId":"r","opts":{"rooms":["room1"],"except":[],"flags":{}}},"uid":"ae2ebb64313e5a39","nsp":"/"}`,
			Sharded{Request: &Request{UID: uid, ID: "r", Type: RemoteFetch, Opts: opts}}},
		{`{"type":8,"data":{"requestId":"r","sockets":[]},"uid":"ae2ebb64313e5a39","nsp":"/"}`,
			Sharded{Response: &Response{ID: "r", SocketIDs: []string{}, Sockets: []Socket{}}}},
		{`{"type":9,"data":{"requestId":"r","packet":["ping",1]},"uid":"ae2ebb64313e5a39","nsp":"/"}`,
			Sharded{Request: &Request{UID: uid, ID: "r", Type: ServerSideEmit, Event: Event{Data: []byte(`["ping",1]`)}}}},
		{`{"type":10,"data":{"requestId":"r","packet":{"pong":1}},"uid":"ae2ebb64313e5a39","nsp":"/"}`,
			Sharded{Response: &Response{ID: "r", Type: ServerSideEmit, Value: []byte(`{"pong":1}`)}}},
		{`{"type":11,"data":{"requestId":"r","clientCount":0},"uid":"ae2ebb64313e5a39","nsp":"/"}`,
			Sharded{Response: &Response{ID: "r", Type: ClientCount}}},
		{`{"type":12,"data":{"requestId":"r","packet":"A"},"uid":"ae2ebb64313e5a39","nsp":"/"}`,
			Sharded{Response: &Response{ID: "r", Type: Ack, Value: []byte(`"A"`)}}},
	}
	for _, tt := range tests {
		tt.want.UID, tt.want.Namespace = uid, "/"
		got, err := Decoder{}.Sharded(tt.body)
		if err != nil || !reflect.DeepEqual(*got, tt.want) {
			t.Errorf("%s: read %+v, %v", tt.body, got, err)
		}
		if sender := ShardedSender(tt.body); sender != uid {
			t.Errorf("%s: sender is %q", tt.body, sender)
		}
		if written, err := tt.want.Encode(); err != nil || string(written) != tt.body {
			t.Errorf("wrote\n%s, %v, want\n%s", written, err, tt.body)
		}
	}
	binary := Sharded{UID: uid, Namespace: "/", Broadcast: &Broadcast{UID: uid, Opts: Opts{Volatile: true},
		Event: Event{"/", []byte(`["b",{"_placeholder":true,"num":0}]`), [][]byte{{1, 2}}}}}
	body, err := binary.Encode()
	if err != nil || body[0] != 0x84 {
		t.Fatalf("wrote %x, %v", body, err)
	}
	if sender := ShardedSender(string(body)); sender != uid {
		t.Errorf("sender is %q", sender)
	}
	if got, err := (Decoder{}).Sharded(string(body)); err != nil || !reflect.DeepEqual(*got, binary) {
		t.Errorf("read %+v, %v", got, err)
	}
}

func TestMalformedShardedMessagesAreErrors(t *testing.T) {
	for _, data := range []string{
		`"type":3,"data":{}`, `"type":3,"data":{"packet":{"type":2,"data":["a"]}}`, `"type":3,"data":{"packet":{"type":1,"data":["a"]},"opts":{}}`,
		`"type":3,"data":{"packet":{"type":2,"data":["connect"]},"opts":{}}`, `"type":3,"data":{"packet":null,"opts":{}}`, `"type":4,"data":{"opts":{}}`,
		`"type":4,"data":{"rooms":[]}`, `"type":6,"data":{}`, `"type":7,"data":{"opts":{}}`, `"type":8,"data":{"requestId":"a"}`, `"type":8,"data":{"sockets":[]}`,
		`"type":9,"data":{}`, `"type":10,"data":{}`, `"type":11,"data":{"requestId":"a"}`, `"type":1,"data":{}`, `"type":99,"data":{"requestId":"a"}`, `"data":null`,
		`"type":3,"data":5`,
	} {
		body := `{` + data + `,"uid":"u","nsp":"/"}`
		if got, err := (Decoder{}).Sharded(body); err == nil {
			t.Errorf("%s was read as %+v", body, got)
		}
	}
	if _, err := (Decoder{}).Sharded(`{"type":6,"data":{"opts":{}}}`); err == nil {
		t.Error("a message without sender was read")
	}
}

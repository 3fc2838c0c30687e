package handlers

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"parley/socketio/packet"
	"parley/store"
)

// TestPeerIn finds the other side of a message by its text, whatever users and clients write.
func TestPeerIn(t *testing.T) {
	names := []string{"bob", `b"o\b`, "<\u2028é", `,"from":"eve","to":"eve"`, ""}
	for _, from := range names {
		for _, to := range names {
			for _, id := range []string{"id", `,"from":"eve","to":"eve`} {
				content := json.RawMessage(`{"from":"eve","to":"eve","x":",\"from\":\"eve\""}`)
				entry := store.Entry{ID: id, At: time.Now(), Data: encodeMessage(content, from, to)}
				_, args, err := messageEvent(entry)
				if err != nil {
					t.Fatal(err)
				}
				event, _, err := packet.EncodeArgs(append([]any{"private message"}, args...)...)
				if err != nil {
					t.Fatal(err)
				}
				for user, want := range map[string]string{to: from, from: to} { // a note to oneself is both
					if peer, ok := peerIn(event, user); !ok || string(peer) != want {
						t.Errorf("%s: with %q, not %q", event, peer, want)
					}
				}
			}
		}
	}
	for _, event := range []string{"", "[]", `["x",{"from":"bob"}]`, `["x",{"a":1,"from":"bob"}]`, `["x",{"a":1,"from":"bob","to":7}]`, `["x",{"a":1,"from":"b\`} {
		if peer, ok := peerIn([]byte(event), "bob"); ok {
			t.Errorf("%s: with %q", event, peer)
		}
	}
}

// TestPeerInCostsNoMemory, since it is asked of each message of other processes.
func TestPeerInCostsNoMemory(t *testing.T) {
	c := &Chat{}
	c.watchers.open("s", "alice")
	c.watchers.add("s", 2, store.User{ID: "bob"})
	event := []byte(`["private message",{"content":"` + strings.Repeat("x", 100) + `","from":"bob","to":"alice","id":"1","seq":1,"at":1}]`)
	if n := testing.AllocsPerRun(100, func() {
		if c.strange("alice", event) {
			t.Error("alice has bob")
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

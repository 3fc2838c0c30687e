package socketio_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"parley/metrics"
	"parley/socketio"
)

func TestNamespaceLimit(t *testing.T) {
	f := start(t, socketio.Options{MaxNamespaces: 2})
	f.Of("/third")
	c, _, _ := f.join("/")
	c.connect("/custom")
	c.send("40/third,")
	c.want(`44/third,{"message":"Too many namespaces"}`)
	f.wantCount(metrics.Limited, "namespaces", 1)
	c.send("41/custom,")
	c.connect("/third")
}

func TestAuthLimit(t *testing.T) {
	f := start(t, socketio.Options{})
	c := f.dial()
	c.send(`40{"token":"` + strings.Repeat("x", 64<<10) + `"}`)
	c.want(`44{"message":"Auth payload too large"}`)
	f.wantCount(metrics.Limited, "auth size", 1)
	c.connect("/", `{"token":"`+strings.Repeat("x", 60<<10)+`"}`)
}

func TestRoomLimit(t *testing.T) {
	f := start(t, socketio.Options{MaxRooms: 3})
	m := members(f, "/", 1)
	s := m[0].s
	check(t, s.Join("a", "b", "a"))
	if s.Join("c") == nil {
		t.Fatal("joined more rooms than allowed")
	}
	f.wantCount(metrics.Limited, "rooms", 1)
	if f.Of("/").SocketsJoin("d") == nil {
		t.Fatal("joined more rooms than allowed")
	}
	if rooms := s.Rooms(); len(rooms) != 3 {
		t.Fatalf("rooms %v", rooms)
	}
	check(t, s.Leave("a"))
	check(t, s.Join("c"))
}

func TestAttachmentLimit(t *testing.T) {
	f := start(t, socketio.Options{MaxAttachments: 2})
	m := members(f, "/", 1)
	c, s := m[0].client, m[0].s
	if s.Emit("x", []byte{1}, []byte{2}, []byte{3}) == nil {
		t.Fatal("emitted what clients refuse")
	}
	c.send(`453-["message"]`)
	c.wantClosed()
	f.wantCount(metrics.PacketsRejected, "attachment count out of range", 1)
}

func TestAttachmentTimeout(t *testing.T) {
	f := start(t, socketio.Options{AttachmentTimeout: 50 * time.Millisecond})
	c, _, _ := f.join("/")
	c.send(`452-["message",{"_placeholder":true,"num":0}]`)
	c.sendBinary([]byte{1})
	c.wantClosed()
	f.wantReason("forced close")
	f.wantCount(metrics.PacketsRejected, "attachment did not come in time", 1)

	// What came in time is not closed later.
	c, _, _ = f.join("/")
	c.send(`451-["message",{"_placeholder":true,"num":0}]`)
	c.sendBinary([]byte{1})
	c.want(`451-["message-back",{"_placeholder":true,"num":0}]`)
	c.wantBinary([]byte{1})
	late, _, _ := f.join("/")
	late.send(`451-["message",{"_placeholder":true,"num":0}]`)
	late.wantClosed() // so much time has passed
	c.sync("/")
}

func TestTextBetweenAttachments(t *testing.T) {
	f := start(t, socketio.Options{})
	c, _, _ := f.join("/")
	c.send(`451-["message",{"_placeholder":true,"num":0}]`, `42["message"]`)
	c.wantClosed()
	f.wantReason("forced close")
	f.wantCount(metrics.PacketsRejected, "text while attachments are pending", 1)
}

func TestPendingAckLimit(t *testing.T) {
	f := start(t, socketio.Options{MaxPendingAcks: 2})
	m := members(f, "/", 1)
	ctx, cancel := context.WithCancel(long(t))
	failed := make(chan error, 2)
	for i := range 2 {
		go func() {
			_, err := m[0].s.EmitWithAck(ctx, "ask", i)
			failed <- err
		}()
		m[0].match(`42\d+\["ask",` + fmt.Sprint(i) + `\]`)
	}
	_, err := m[0].s.EmitWithAck(long(t), "ask")
	wantError(t, err, socketio.ErrDisconnected)
	f.wantCount(metrics.Limited, "pending acks", 1)
	m[0].sync("/")
	cancel()
	wantError(t, <-failed, context.Canceled)
	wantError(t, <-failed, context.Canceled)
	_, err = m[0].s.EmitWithAck(short(t), "ask")
	wantError(t, err, socketio.ErrTimeout) // asked, and not answered
	m[0].match(`42\d+\["ask"\]`)
}

func TestEventRate(t *testing.T) {
	f := start(t, socketio.Options{EventRate: 1})
	c, _, _ := f.join("/") // a CONNECT counts too: the burst is 3
	for range 2 {
		c.sync("/")
	}
	c.send(`425["message-with-ack",1]`)
	c.want(`435[{"error":{"code":"rate_limited","message":"too many events, slow down"}}]`)
	c.send("40/custom,")
	c.want(`44/custom,{"message":"Too many requests"}`)
	f.wantCount(metrics.Limited, "event rate", 2)
	f.wantCount(metrics.EventsRefused, socketio.CodeRateLimited, 1)
	f.join("/") // another connection has its own
}

// An event without a payload has no effect, but counts.
func TestEventRateCountsEmptyEvents(t *testing.T) {
	f := start(t, socketio.Options{EventRate: 0.5})
	c, _, _ := f.join("/") // the burst is 2
	c.send("42", `425["message-with-ack",1]`)
	c.want(`435[{"error":{"code":"rate_limited","message":"too many events, slow down"}}]`)
}

// A connection that joins and leaves again and again has the application welcome it each time: that counts for more
// than events do.
func TestJoiningAgainAndAgain(t *testing.T) {
	f := start(t, socketio.Options{EventRate: 20, MaxNamespaces: 3}) // the burst is 41
	c := f.dial()
	joined := 0
	for range 35 {
		c.send("40", "41")
		if text := c.text(); text == `44{"message":"Too many requests"}` {
			break
		}
		joined++
	}
	if joined < 4 || joined > 20 {
		t.Errorf("joined %d times", joined)
	}
	f.wantCount(metrics.Limited, "event rate", 1)
}

func TestHostileInput(t *testing.T) {
	f := start(t, socketio.Options{})
	joined := sockets(f.Of("/"))
	for text, reason := range map[string]string{
		`451-["e",{"_placeholder":true,"num":-1}]`:   "bad attachment placeholder",
		`451-["e",{"_placeholder":true,"num":1e99}]`: "bad attachment placeholder",
		`451-["e",{"_placeholder":true,"num":"0"}]`:  "bad attachment placeholder",
		`451-["e",{"_placeholder":true}]`:            "bad attachment placeholder",
		`4599999999999999999999-["e"]`:               "attachment count out of range",
		`42[null]`:                                   "payload does not fit packet type",
		`42[{}]`:                                     "payload does not fit packet type",
		`42[true]`:                                   "payload does not fit packet type",
		`42[]`:                                       "payload does not fit packet type",
		`42["e"]x`:                                   "invalid json",
		`2,["e"]`:                                    "", // an Engine.IO ping
		`429007199254740992["e"]`:                    "ack id too large",
		`43{}`:                                       "payload does not fit packet type",
		`41{}`:                                       "payload does not fit packet type",
		`40[]`:                                       "payload does not fit packet type",
		`40"s"`:                                      "payload does not fit packet type",
		`40null`:                                     "payload does not fit packet type",
		`42["e",` + strings.Repeat("[", 1000) + strings.Repeat("]", 1000) + `]`:           "nested too deep",
		`42["e",` + strings.Repeat(`{"a":`, 1000) + "1" + strings.Repeat("}", 1000) + `]`: "nested too deep",
		`42["newListener"]`:  "reserved event name",
		`42["connec\u0074"]`: "reserved event name",
	} {
		before := f.metrics.Value(metrics.PacketsRejected, reason)
		c, _, _ := f.join("/")
		next(t, joined, "a socket")
		c.send(text)
		c.wantClosed()
		if reason != "" {
			f.wantCount(metrics.PacketsRejected, reason, before+1)
		}
	}
	// Nothing after the violation counts.
	c, _, _ := f.join("/")
	for _, text := range []string{"4x", `42["message","late"]`, "40/custom,"} {
		_ = c.conn.WriteString(text) // may find the connection closed
	}
	c.wantClosed()
	// Acknowledgements that nobody asked for, and events without payload.
	c, _, _ = f.join("/")
	for i := range 1000 {
		c.send(fmt.Sprintf("43%d[1]", i), "42", "43", fmt.Sprintf("42%d", i))
	}
	c.sync("/")
}

package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
)

// pair starts two processes on one Redis.
func pair(t *testing.T, args ...string) (*miniredis.Miniredis, [2]*running) {
	t.Helper()
	r := miniredis.RunT(t)
	args = append(args, "--redis-url=redis://"+r.Addr())
	return r, [2]*running{launch(t, args...), launch(t, args...)}
}

// TestClusterChat has two users on two processes see, reach and miss each other.
func TestClusterChat(t *testing.T) {
	_, p := pair(t)
	alice := p[0].mustConnect(`40{"username":"alice"}`)
	session, aliceID := alice.session()
	alice.until(`42["users",`)
	phone := p[1].mustConnect(`40{"sessionID":"` + session + `"}`)
	if _, id := phone.session(); id != aliceID {
		t.Fatalf("the session is %s's on the other process", id)
	}
	phone.until(`42["users",`)
	bob := p[1].mustConnect(`40{"username":"bob"}`)
	_, bobID := bob.session()
	if roster := bob.until(`42["users",`); !strings.Contains(roster, fmt.Sprintf(`"userID":%q,"username":"alice","connected":true`, aliceID)) {
		t.Errorf("bob's roster is %s", roster)
	}
	alice.until(fmt.Sprintf(`42["user connected",{"userID":%q`, bobID))

	for i := 1; i <= 20; i++ {
		if err := alice.WriteString(fmt.Sprintf(`42%d["private message",{"content":%d,"to":%q}]`, i, i, bobID)); err != nil {
			t.Fatal(err)
		}
		alice.until(fmt.Sprintf(`43%d[{"id":`, i))
	}
	for i := 1; i <= 20; i++ {
		for name, d := range map[string]*device{"bob": bob, "alice's phone": phone} {
			var args []json.RawMessage
			var m struct{ Content, Seq int }
			if err := json.Unmarshal([]byte(d.until(`42["private message",`)[2:]), &args); err != nil {
				t.Fatal(err)
			}
			if err := json.Unmarshal(args[1], &m); err != nil || m.Content != i || m.Seq != i {
				t.Fatalf("%s got %s as number %d", name, args[1], i)
			}
		}
	}

	// One device of two leaves unheard; the last is announced to the other process.
	if err := alice.NetConn().Close(); err != nil {
		t.Fatal(err)
	}
	if err := bob.WriteString(`421["history",{"with":"` + aliceID + `"}]`); err != nil {
		t.Fatal(err)
	}
	bob.until(`431[{"messages":[{"content":1,`)
	if err := phone.NetConn().Close(); err != nil {
		t.Fatal(err)
	}
	bob.until(fmt.Sprintf(`42["user disconnected",%q`, aliceID))
}

// TestClusterNotify has a notification reach the devices on both processes once, and what older processes
// publish too.
func TestClusterNotify(t *testing.T) {
	r, p := pair(t, "--notify-bus=classic")
	hello := `40/socket,{"token":"t","id":"u1"}`
	a, b := p[0].mustConnect(hello), p[1].mustConnect(hello)
	for _, d := range []*device{a, b} {
		// An event is handled after the welcome: when it is acknowledged the device follows its mailbox.
		if err := d.WriteString(`42/socket,0["message",{"event":"unknown"}]`); err != nil {
			t.Fatal(err)
		}
		d.until(`43/socket,0[`)
	}
	const updated = `42/socket,["message",{"event":"post_updated_notification"`
	for _, turn := range [][2]*device{{a, b}, {b, a}} {
		if err := turn[0].WriteString(`42/socket,1["message",{"event":"postUpdated"}]`); err != nil {
			t.Fatal(err)
		}
		turn[0].until(updated)
		turn[0].until(`43/socket,1[{"id":`)
		turn[1].until(updated)
	}

	deadline := time.Now().Add(patience)
	for r.Publish("message:outgoing_socket_message", `{"event":"old","id":"u1","args":{"x":1}}`) == 0 {
		if time.Now().After(deadline) {
			t.Fatal("nobody listens to the bus")
		}
	}
	r.Publish("message:outgoing_socket_message", `null`)
	r.Publish("message:outgoing_socket_message", `{"event":"end","id":"u1","args":null}`)
	for _, d := range []*device{a, b} {
		d.until(`42/socket,["message",{"event":"old","id":"u1","args":{"x":1}}]`)
		d.until(`42/socket,["message",{"event":"end","id":"u1","args":null}]`)
	}
}

// TestClusterWithoutRedis has Redis go away: senders get an error that tells them to try again, and health says so.
func TestClusterWithoutRedis(t *testing.T) {
	r, p := pair(t)
	alice := p[0].mustConnect(`40{"username":"alice"}`)
	_, id := alice.session()
	alice.until(`42["users",`)
	send := func(ack int) {
		t.Helper()
		if err := alice.WriteString(fmt.Sprintf(`42%d["private message",{"content":1,"to":%q,"id":"m"}]`, ack, id)); err != nil {
			t.Fatal(err)
		}
	}
	send(1)
	alice.until(`431[{"id":"m","seq":1,`)
	r.SetError("LOADING Redis is loading the dataset in memory")
	send(2)
	alice.until(`432[{"error":{"code":"unavailable"`)
	r.SetError("")
	for ack := 3; ; ack++ {
		send(ack)
		if strings.Contains(alice.until(fmt.Sprintf(`43%d[`, ack)), `"seq":1,`) {
			break
		}
		if ack > 1000 {
			t.Fatal("the store does not come back")
		}
	}
	if status, body, _ := p[0].request("/healthz", nil); status != 200 {
		t.Errorf("health is %d %s", status, body)
	}
}

// TestClusterRecovery has a client come back to another process before its old one noticed that it was gone, again
// and again: it is the same socket with nothing missing, and the old connection is closed.
func TestClusterRecovery(t *testing.T) {
	_, p := pair(t, "--ping-interval=1h")
	alice := p[0].mustConnect(`40{"username":"alice"}`)
	var hello struct{ SID, PID string }
	welcome := func(d *device) {
		t.Helper()
		sid := hello.SID
		if err := json.Unmarshal([]byte(strings.TrimPrefix(d.until(`40{"sid"`), "40")), &hello); err != nil {
			t.Fatal(err)
		}
		if sid != "" && hello.SID != sid {
			t.Fatalf("socket %s came back as %s", sid, hello.SID)
		}
	}
	welcome(alice)
	session, id := alice.session()
	alice.until(`42["users",`)
	bob := p[1].mustConnect(`40{"username":"bob"}`)
	bob.until(`42["users",`)
	offset := ""
	send := func(n int) {
		t.Helper()
		if err := bob.WriteString(fmt.Sprintf(`42%d["private message",{"content":%d,"to":%q}]`, n, n, id)); err != nil {
			t.Fatal(err)
		}
		bob.until(fmt.Sprintf(`43%d[{"id":`, n))
	}
	got := func(d *device, n int) {
		t.Helper()
		var args []json.RawMessage
		var m struct{ Content int }
		frame := d.until(`42["private message",`)
		if err := json.Unmarshal([]byte(frame[2:]), &args); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(args[1], &m); err != nil || m.Content != n {
			t.Fatalf("got %s instead of %d", frame, n)
		}
		offset = string(args[2])
	}
	send(0)
	got(alice, 0)
	for n := 1; n <= 6; n++ {
		send(2*n - 1) // which the client does not read over its old connection
		old := alice
		alice = p[n%2].mustConnect(fmt.Sprintf(`40{"sessionID":%q,"pid":%q,"offset":%s}`, session, hello.PID, offset))
		got(alice, 2*n-1) // ahead of the CONNECT packet
		welcome(alice)
		old.ended()
		send(2 * n)
		got(alice, 2*n)
	}
	// It is there once: when it leaves, all of it does.
	if err := alice.NetConn().Close(); err != nil {
		t.Fatal(err)
	}
	bob.until(fmt.Sprintf(`42["user disconnected",%q`, id))
}

// TestClusterStopsWithoutRedis has a process end well although Redis is away.
func TestClusterStopsWithoutRedis(t *testing.T) {
	r, p := pair(t, "--drain-timeout=100ms")
	for i := range 5 {
		d := p[0].mustConnect(fmt.Sprintf(`40{"username":"user%d"}`, i))
		d.until(`42["users",`)
	}
	r.Close()
	begin := time.Now()
	if err := p[0].stop(); err != nil {
		t.Errorf("stop: %v", err)
	}
	if took := time.Since(begin); took > 8*time.Second {
		t.Errorf("it took %v", took)
	}
}

// TestClusterStranger has those who write to each other past the roster limit introduced on the other process too, before
// the first message and once; and what is written meanwhile stays in order.
func TestClusterStranger(t *testing.T) {
	_, p := pair(t, "--roster-limit=2")
	crowd := func(prefix string) {
		for i := range 3 {
			p[0].mustConnect(fmt.Sprintf(`40{"username":"%s%d"}`, prefix, i)).until(`42["users",`)
		}
	}
	enter := func(r *running, who string) (d *device, session, user string) {
		d = r.mustConnect("40{" + who + "}")
		session, user = d.session()
		d.until(`42["users",`)
		d.ask(`"history",{"with":"nobody"}`)
		return d, session, user
	}
	crowd("a")
	alice, session, aliceID := enter(p[0], `"username":"al\"ice"`)
	phone, _, _ := enter(p[1], `"sessionID":"`+session+`"`)
	crowd("b")
	bob, _, bobID := enter(p[1], `"username":"bob"`)

	const messages = 20
	for i := 1; i <= messages; i++ {
		if err := alice.WriteString(fmt.Sprintf(`42%d["private message",{"content":{"n":%d,"from":"x"},"to":%q}]`, i, i, bobID)); err != nil {
			t.Fatal(err)
		}
	}
	last := fmt.Sprintf(`42["private message",{"content":{"n":%d,`, messages)
	for name, seen := range map[string]struct {
		*device
		other string
	}{"bob": {bob, aliceID}, "alice's phone": {phone, bobID}} {
		var got []string
		for len(got) == 0 || !strings.HasPrefix(got[len(got)-1], last) {
			if frame := seen.until(`42["`); !strings.HasPrefix(frame, `42["user connected",`) || strings.Contains(frame, seen.other) {
				got = append(got, frame)
			}
		}
		if len(got) != 1+messages || !strings.HasPrefix(got[0], fmt.Sprintf(`42["user connected",{"userID":%q,`, seen.other)) {
			t.Fatalf("%s got %d frames: %s", name, len(got), strings.Join(got, "\n"))
		}
		for i, frame := range got[1:] {
			if !strings.HasPrefix(frame, fmt.Sprintf(`42["private message",{"content":{"n":%d,`, i+1)) {
				t.Fatalf("%s got %s as number %d", name, frame, i+1)
			}
		}
	}

	// They hear of each other from now on.
	for _, d := range []*device{alice, phone} {
		if err := d.NetConn().Close(); err != nil {
			t.Fatal(err)
		}
	}
	bob.until(fmt.Sprintf(`42["user disconnected",%q,`, aliceID))
}

package handlers_test

import (
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"

	"parley/store"
)

// subscribe is a welcomed device of notify, in open mode.
func (f *fixture) subscribe(id string) *device {
	f.t.Helper()
	d := f.dial("websocket", url.Values{"token": {"t"}, "id": {id}}.Encode(), nil)
	d.subscribed()
	return d
}

// subscribed joins notify and takes the welcome.
func (d *device) subscribed() {
	d.t.Helper()
	d.send("40/socket,")
	ids := d.match(`40/socket,\{"sid":"` + anSID + `","pid":"` + anSID + `"\}`)
	d.sid, d.pid = ids[0], ids[1]
	d.quiet() // its welcome is over
}

// quiet is silent in notify.
func (d *device) quiet() {
	d.t.Helper()
	if _, before := d.ask("/socket", "message", map[string]any{"event": "no such"}); len(before) > 0 {
		d.t.Fatalf("came unexpected: %.1000s", before)
	}
}

// The notifications, of contracts.md B3.
const (
	sentFormat    = `42/socket,["message",{"event":"message_sent","id":%q,"args":{"message":"A message from user with id: %s has been send"}},`
	updatedFormat = `42/socket,["message",{"event":"post_updated_notification","id":%q,"args":{"message":"A post you have been mentioned in has been updated"}},`
)

// TestNotify is contracts.md B2 and B3, and D: B(2), (3), (4).
func TestNotify(t *testing.T) {
	for _, transport := range []string{"websocket", "polling"} {
		t.Run(transport, func(t *testing.T) {
			f := start(t)
			phone, laptop := f.dial(transport, "token=t&id=u1", nil), f.dial(transport, "token=other&id=u1", nil)
			other := f.dial(transport, "token=t&id=u2", nil)
			for _, d := range []*device{phone, laptop, other} {
				d.subscribed()
			}
			phone.send(`42/socket,["message",{"event":"sendMessage","args":{"to":"u2","__proto__":1}}]`)
			phone.send(`42/socket,["message",{"event":"unknown","args":{}}]`)
			laptop.until(fmt.Sprintf(sentFormat, "u1", "u1"))
			laptop.send(`42/socket,["message",{"event":"postUpdated","args":{}}]`)
			for _, want := range []string{fmt.Sprintf(sentFormat, "u1", "u1"), fmt.Sprintf(updatedFormat, "u1")} {
				phone.match(regexp.QuoteMeta(want) + anOffset + `\]`)
			}
			laptop.match(regexp.QuoteMeta(fmt.Sprintf(updatedFormat, "u1")) + anOffset + `\]`)
			for _, d := range []*device{phone, laptop, other} {
				d.quiet()
			}
		})
	}
}

// TestNotifyRefused is contracts.md B2 and D: B(1).
func TestNotifyRefused(t *testing.T) {
	f := start(t)
	const noToken = `44/socket,{"message":"Authorization failed, no token has been provided!"}`
	const noID = `44/socket,{"message":"Authorization failed, no id has been provided!"}`
	for _, refused := range []struct{ query, auth, want string }{
		{"", "", noToken},
		{"id=u1", "", noToken},
		{"token=&id=u1", "", noToken},
		{"id=u1", `{"token":5}`, noToken},
		{"id=u1", `{"token":""}`, noToken},
		{"id=u1", `{"token":["t"]}`, noToken},
		{"token=t", "", noID},
		{"token=t&id=", "", noID},
		{"token=t", `{"id":null}`, noID},
		{"token=t", `{"id":{"a":1}}`, noID},
		{"token=t&id=" + strings.Repeat("x", 1025), "", noID},
		{"token=t&id=%ff", "", noID},
	} {
		d := f.dial("websocket", refused.query, nil)
		d.send("40/socket," + refused.auth)
		d.expect(refused.want)
	}
}

// TestNotifySources: token and id come from the query, the CONNECT payload or headers, each on its own.
func TestNotifySources(t *testing.T) {
	f := start(t)
	for _, s := range []struct {
		query, auth string
		header      http.Header
	}{
		{query: "token=t&id=u1"},
		{auth: `{"token":"t","id":"u1"}`},
		{header: http.Header{"Token": {"t"}, "Id": {"u1"}}},
		{header: http.Header{"Authorization": {"Bearer t"}, "Id": {"u1"}}},
		{query: "id=u1", auth: `{"token":"t"}`},
		{query: "token=t&id=u1", auth: `{"id":"u2"}`, header: http.Header{"Id": {"u3"}}},
	} {
		for _, transport := range []string{"websocket", "polling"} {
			d := f.dial(transport, s.query, s.header)
			d.send("40/socket," + s.auth)
			d.until("40/socket,")
			d.send(`42/socket,["message",{"event":"sendMessage"}]`)
			d.until(fmt.Sprintf(sentFormat, "u1", "u1"))
			d.cut()
		}
	}
}

// TestHostileIDs: an id is but a name, whatever room or key is called so too.
func TestHostileIDs(t *testing.T) {
	f := start(t)
	victim := f.subscribe("victim")
	alice := f.login("alice")
	for _, id := range []string{
		"__proto__", "undefined", "\x00", "a,b", "/socket", "notify", strings.Repeat("x", 1024), `"]`, "all users",
		victim.sid, victim.pid, alice.userID, alice.sid, "victim ", "Victim",
	} {
		d := f.subscribe(id)
		d.send(`42/socket,["message",{"event":"sendMessage"}]`)
		name := encode(t, id)
		d.until(`42/socket,["message",{"event":"message_sent","id":` + name + `,"args":{"message":"A message from user with id: ` + name[1:len(name)-1])
		victim.send(`42/socket,["message",{"event":"sendMessage"}]`)
		victim.until(fmt.Sprintf(sentFormat, "victim", "victim"))
		alice.say(alice.userID, "note", "")
		d.quiet()
		victim.quiet()
		alice.silent()
	}
}

// TestNotifyRetry: a client-chosen id makes sending again harmless, and what was stored first stays.
func TestNotifyRetry(t *testing.T) {
	f := start(t)
	d, other := f.subscribe("u1"), f.subscribe("u1")
	first, _ := d.ask("/socket", "message", map[string]any{"event": "sendMessage", "id": "1"})
	if !regexp.MustCompile(`^\{"id":"1","seq":1,"at":1\d{12}\}$`).MatchString(first) {
		t.Errorf("acknowledged with %s", first)
	}
	second, before := d.ask("/socket", "message", map[string]any{"event": "postUpdated", "id": "1"})
	if second != first || len(before) != 0 {
		t.Errorf("a retry is acknowledged with %s, after %s", second, before)
	}
	other.until(fmt.Sprintf(sentFormat, "u1", "u1"))
	other.quiet()
	// The same where the first was stored, but neither acknowledged nor delivered.
	f.store.failing("Append answered", store.ErrUnavailable)
	if answer, _ := d.ask("/socket", "message", map[string]any{"event": "sendMessage", "id": "2"}); !strings.HasPrefix(answer, `{"error":{"code":"unavailable"`) {
		t.Errorf("answered %s", answer)
	}
	f.store.failWith(nil)
	d.ask("/socket", "message", map[string]any{"event": "postUpdated", "id": "2"})
	other.until(fmt.Sprintf(sentFormat, "u1", "u1"))
	other.quiet()
}

// TestNotifyMissed: a device that was away and recovers gets what was sent meanwhile; another user's private id
// is worth nothing.
func TestNotifyMissed(t *testing.T) {
	f := start(t)
	phone, laptop := f.subscribe("u1"), f.subscribe("u1")
	laptop.ask("/socket", "message", map[string]any{"event": "sendMessage"})
	offset := phone.match(`42/socket,\["message",.*,` + anOffset + `\]`)[0]
	phone.cut()
	laptop.ask("/socket", "message", map[string]any{"event": "postUpdated"})
	claim := fmt.Sprintf(`40/socket,{"pid":%q,"offset":%q}`, phone.pid, offset)

	thief := f.dial("websocket", "token=t&id=u2", nil)
	thief.send(claim)
	if ids := thief.match(`40/socket,\{"sid":"` + anSID + `","pid":"` + anSID + `"\}`); ids[0] == phone.sid || ids[1] == phone.pid {
		t.Error("another user took over the socket")
	}
	thief.quiet()

	again := f.dial("websocket", "token=t&id=u1", nil)
	again.send(claim)
	again.until(fmt.Sprintf(updatedFormat, "u1"))
	again.expect(fmt.Sprintf(`40/socket,{"sid":%q,"pid":%q}`, phone.sid, phone.pid))
	laptop.ask("/socket", "message", map[string]any{"event": "sendMessage"})
	again.until(fmt.Sprintf(sentFormat, "u1", "u1"))
	again.quiet()
}

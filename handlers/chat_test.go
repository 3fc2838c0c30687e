package handlers_test

import (
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"

	"parley/metrics"
	"parley/store"
)

// TestWelcome is contracts.md A3 and D(1), D(2): the frames of a connect, to the byte, over each transport.
func TestWelcome(t *testing.T) {
	for _, transport := range []string{"websocket", "polling"} {
		t.Run(transport, func(t *testing.T) {
			f := start(t)
			alice := f.dial(transport, "", nil).enter(map[string]string{"username": "alice"})
			alice.expect(fmt.Sprintf(`42["users",[{"userID":%q,"username":"alice","connected":true,"messages":[]}],"0-0"]`, alice.userID))
			if id := regexp.MustCompile(`^[0-9a-f]{16}$`); !id.MatchString(alice.sessionID) || !id.MatchString(alice.userID) {
				t.Errorf("ids %s and %s", alice.sessionID, alice.userID)
			}
			bob := f.dial(transport, "", nil).enter(map[string]string{"username": "<b>&\u2028"})
			alice.expect(fmt.Sprintf(`42["user connected",{"userID":%q,"username":"<b>&\u2028","connected":true,"messages":[]}]`, bob.userID))
			roster := bob.roster()
			if len(roster) != 2 || roster[alice.userID].Username != "alice" || !roster[alice.userID].Connected || !roster[bob.userID].Connected {
				t.Errorf("bob's roster: %v", roster)
			}
			alice.silent()
			bob.silent()
		})
	}
}

// TestRefused is contracts.md A2 and D(7).
func TestRefused(t *testing.T) {
	f := start(t)
	d := f.web()
	for _, auth := range []string{
		``, `{}`, `{"username":""}`, `{"sessionID":"0123456789abcdef"}`, `{"sessionID":"0123456789abcdef","username":""}`,
		`{"username":5}`, `{"username":null}`, `{"username":{"a":1}}`, `{"username":["a"]}`, `{"sessionID":{"$ne":1}}`,
		`{"sessionID":"` + strings.Repeat("x", 5000) + `"}`, `{"sessionID":"\u0000"}`, `{"__proto__":{"username":"x"}}`,
		`{"username":"` + strings.Repeat("é", 257) + `"}`,
	} {
		d.send("40" + auth)
		d.expect(`44{"message":"invalid username"}`)
	}
	if n, err := f.store.CountUsers(t.Context()); n != 0 || err != nil {
		t.Errorf("%d users were made (%v)", n, err)
	}
	// The connection is still good, and hostile names are but names.
	for i, name := range []string{"__proto__", "\x00", strings.Repeat("é", 256), `"]}`, "undefined"} {
		d := f.web().enter(map[string]string{"username": name})
		if roster := d.roster(); len(roster) != i+1 || roster[d.userID].Username != name {
			t.Errorf("%q: roster %v", name, roster)
		}
	}
}

// TestSessionBeatsUsername: contracts.md A2.1.
func TestSessionBeatsUsername(t *testing.T) {
	f := start(t)
	alice := f.login("alice")
	again := f.web().enter(map[string]any{"sessionID": alice.sessionID, "username": "mallory"})
	if again.userID != alice.userID || again.roster()[alice.userID].Username != "alice" {
		t.Error("a session was given another name or user")
	}
	anew := f.web().enter(map[string]any{"sessionID": "0123456789abcdef", "username": "alice"})
	if anew.userID == alice.userID || anew.sessionID == "0123456789abcdef" {
		t.Error("an unknown session id was taken over")
	}
}

// TestPrivateMessage is contracts.md A4 and D(3): who gets it and the bytes.
func TestPrivateMessage(t *testing.T) {
	f := start(t)
	alice, bob, carol := f.login("alice"), f.login("bob"), f.login("carol")
	tab, phone := f.tab(alice), f.tab(bob)
	for _, d := range []*device{alice, bob} {
		for range map[*device]int{alice: 2, bob: 1}[d] {
			d.until(`42["user connected",`)
		}
	}
	for i, content := range []string{`"hi bob"`, `{"b":1,"a":[null,1.50,"<&>"]}`, `null`, `0`, `""`, `"__proto__"`} {
		alice.send(fmt.Sprintf(`42["private message",{"content":%s,"to":%q}]`, content, bob.userID))
		pattern := regexp.QuoteMeta(fmt.Sprintf(`42["private message",{"content":%s,"from":%q,"to":%q,"id":`, content, alice.userID, bob.userID)) +
			fmt.Sprintf(`"[0-9a-f]{20}","seq":%d,"at":1\d{12}\},%s\]`, i+1, anOffset)
		bob.match(pattern)
		phone.match(pattern)
		tab.match(pattern)
	}
	for _, d := range []*device{alice, bob, carol, tab, phone} {
		d.silent()
	}
	answer, _ := alice.ask("/", "private message", map[string]any{"content": "x", "to": bob.userID, "id": "<1>"})
	if !regexp.MustCompile(`^\{"id":"<1>","seq":7,"at":1\d{12}\}$`).MatchString(answer) {
		t.Errorf("acknowledged with %s", answer)
	}
}

// TestNoteToSelf is D(4).
func TestNoteToSelf(t *testing.T) {
	f := start(t)
	alice := f.login("alice")
	tab := f.tab(alice)
	r := alice.say(alice.userID, "milk", "")
	if r.Seq != 1 {
		t.Errorf("a note has number %d", r.Seq)
	}
	tab.match(`42\["private message",\{"content":"milk".*`)
	tab.silent()
	alice.silent()
	roster := f.web().enter(map[string]string{"sessionID": alice.sessionID}).roster()
	if notes := roster[alice.userID].Messages; len(notes) != 1 || notes[0].ID != r.ID || notes[0].From != notes[0].To {
		t.Errorf("notes: %v", notes)
	}
}

// TestDisconnect is contracts.md A5 and D(5).
func TestDisconnect(t *testing.T) {
	f := start(t)
	bob, alice := f.login("bob"), f.login("alice")
	bob.expect(userEvent(alice.userID, "alice"))
	tab := f.tab(alice)
	f.drop(alice)
	third := f.tab(tab) // its turn comes after that of the one that left
	bob.silent()
	tab.send("41")
	f.drop(third)
	bob.expect(`42["user disconnected","` + alice.userID + `","0-0"]`)
	bob.silent()
	roster := f.web().enter(map[string]string{"username": "carol"}).roster()
	if u := roster[alice.userID]; u.Connected || u.Username != "alice" {
		t.Errorf("alice is offline: %v", u)
	}
}

// TestReturn is contracts.md A7 and D(6).
func TestReturn(t *testing.T) {
	f := start(t)
	alice, bob := f.login("alice"), f.login("bob")
	first := alice.say(bob.userID, "one", "")
	f.drop(bob)
	second := alice.say(bob.userID, "two", "")
	again := f.web().enter(map[string]string{"sessionID": bob.sessionID})
	if again.userID != bob.userID || again.sessionID != bob.sessionID {
		t.Error("bob is another user now")
	}
	got := again.roster()[alice.userID].Messages
	want := []message{
		{"one", alice.userID, bob.userID, first.ID, 1, first.At}, {"two", alice.userID, bob.userID, second.ID, 2, second.At},
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("history: %v, not %v", got, want)
	}
}

// TestRecovery: a client that was cut off gets what it missed and nothing twice, then the welcome.
func TestRecovery(t *testing.T) {
	f := start(t)
	alice, bob := f.login("alice"), f.login("bob")
	alice.say(bob.userID, "one", "")
	offset := bob.match(`42\["private message",\{"content":"one".*,` + anOffset + `\]`)[0]
	f.drop(bob)
	alice.say(bob.userID, "two", "")
	again := f.web()
	again.send(fmt.Sprintf(`40{"pid":%q,"offset":%q,"sessionID":%q}`, bob.pid, offset, bob.sessionID))
	again.match(`42\["private message",\{"content":"two".*\]`)
	again.expect(fmt.Sprintf(`40{"sid":%q,"pid":%q}`, bob.sid, bob.pid))
	again.expect(fmt.Sprintf(`42["session",{"sessionID":%q,"userID":%q}]`, bob.sessionID, bob.userID))
	if n := len(again.roster()[alice.userID].Messages); n != 2 {
		t.Errorf("%d messages in the roster", n)
	}
	alice.say(bob.userID, "three", "")
	again.match(`42\["private message",\{"content":"three".*\]`)
	again.silent()
}

// TestNoRecoveryBeforeTheRoster: a client that was cut off before it got its roster has nothing that could be added to.
func TestNoRecoveryBeforeTheRoster(t *testing.T) {
	f := start(t)
	alice, bob := f.login("alice"), f.login("bob")
	f.drop(bob)
	alice.say(bob.userID, "one", "")
	again := f.web().enter(map[string]string{"pid": bob.pid, "sessionID": bob.sessionID}) // it knows of no offset
	if again.pid == bob.pid || again.sid == bob.sid || again.userID != bob.userID {
		t.Error("it was recovered")
	}
	if n := len(again.roster()[alice.userID].Messages); n != 1 {
		t.Errorf("%d messages in the roster", n)
	}
}

// TestRecoveryOfAnother: a private id does not make one user of a page another.
func TestRecoveryOfAnother(t *testing.T) {
	f := start(t)
	alice, bob := f.login("alice"), f.login("bob")
	alice.say(bob.userID, "secret", "")
	offset := bob.match(`42\["private message",.*,` + anOffset + `\]`)[0]
	for _, claim := range []map[string]string{{"username": "carol"}, {"sessionID": alice.sessionID}} {
		f.drop(bob)
		claim["pid"], claim["offset"] = bob.pid, "0-0"
		other := f.web().enter(claim)
		if other.userID == bob.userID || other.pid == bob.pid || other.sid == bob.sid {
			t.Errorf("%v was let in as bob", claim)
		}
		// That was no fault of bob's, who recovers.
		bob = f.web()
		bob.send(fmt.Sprintf(`40{"pid":%q,"offset":%q}`, claim["pid"], offset))
		ids := bob.match(`40\{"sid":"` + anSID + `","pid":"` + claim["pid"] + `"\}`)
		bob.sid, bob.pid = ids[0], claim["pid"]
		bob.until(`42["users",`)
	}
}

// TestHistory is the paging through one conversation.
func TestHistory(t *testing.T) {
	f := start(t, func(s *setup) { s.chat.HistoryLimit = 3 })
	alice, bob, carol := f.login("alice"), f.login("bob"), f.login("carol")
	for i := 1; i <= 10; i++ {
		alice.say(bob.userID, fmt.Sprint(i), "")
		alice.say(carol.userID, "other", "")
	}
	for _, page := range []struct {
		ask  string
		want string
	}{
		{`{"with":"BOB"}`, `[8 9 10] true`},
		{`{"with":"BOB","before":15}`, `[5 6 7] true`},
		{`{"with":"BOB","before":15,"limit":1}`, `[7] true`},
		{`{"with":"BOB","before":7,"limit":3}`, `[1 2 3] false`},
		{`{"with":"BOB","before":1}`, `[] false`},
		{`{"with":"BOB","limit":200}`, `[1 2 3 4 5 6 7 8 9 10] false`},
		{`{"with":"BOB","before":18446744073709551615,"limit":1}`, `[10] true`},
		{`{"with":"nobody"}`, `[] false`},
		{`{"with":"__proto__"}`, `[] false`},
		{`{"with":"BOB","limit":201}`, `bad_argument`},
		{`{"with":"BOB","limit":-1}`, `bad_argument`},
		{`{"with":"BOB","before":-1}`, `bad_argument`},
		{`{"with":"BOB","before":1.5}`, `bad_argument`},
		{`{"with":5}`, `bad_argument`},
		{`{}`, `bad_argument`},
		{`null`, `bad_argument`},
		{`{"with":"` + strings.Repeat("x", 1025) + `"}`, `bad_argument`},
	} {
		var r struct {
			Messages []message
			More     bool
			Error    struct{ Code string }
		}
		ask := strings.ReplaceAll(page.ask, "BOB", bob.userID)
		answer := decode(t, alice, "history", ask, &r)
		got := r.Error.Code
		if got == "" {
			contents := make([]any, 0)
			for _, m := range r.Messages {
				contents = append(contents, m.Content)
			}
			got = fmt.Sprint(contents, r.More)
		}
		if got != page.want {
			t.Errorf("%.100s: %.200s, want %s", page.ask, answer, page.want)
		}
	}
	// The roster has the newest of each conversation.
	roster := f.web().enter(map[string]string{"sessionID": alice.sessionID}).roster()
	if m := roster[bob.userID].Messages; len(m) != 3 || m[0].Content != "8" || m[2].Seq != 19 {
		t.Errorf("roster: %v", m)
	}
}

// TestPagesAreBounded: large messages make a roster and a page no larger than their bound.
func TestPagesAreBounded(t *testing.T) {
	f := start(t)
	alice, bob, carol := f.login("alice"), f.login("bob"), f.login("carol")
	large := strings.Repeat("x", 60_000)
	alice.say(bob.userID, "from alice", "")
	for range 20 {
		carol.say(bob.userID, large, "")
	}
	again := f.web().enter(map[string]string{"sessionID": bob.sessionID})
	frame := again.until(`42["users",`)
	roster := readRoster(t, frame)
	if n := len(roster[carol.userID].Messages); len(frame) > 1_100_000 || n < 8 || roster[carol.userID].Messages[n-1].Seq != 21 {
		t.Errorf("a roster of %d bytes with %d large messages", len(frame), n)
	}
	if n := len(roster[alice.userID].Messages); n != 1 {
		t.Errorf("the large conversation has displaced the small one")
	}
	var page struct {
		Messages []message
		More     bool
	}
	answer := decode(t, again, "history", fmt.Sprintf(`{"with":%q,"limit":200}`, carol.userID), &page)
	if n := len(page.Messages); len(answer) > 1_100_000 || n < 16 || !page.More || page.Messages[n-1].Seq != 21 {
		t.Errorf("a page of %d bytes with %d messages, more: %v", len(answer), n, page.More)
	}
}

// TestStoreFails: whatever part of the store fails while a client connects, it is not left half welcomed, and
// nobody stays online that is not.
func TestStoreFails(t *testing.T) {
	for _, op := range []string{"SaveSession", "Connect", "Overview", "CountUsers", "Users", "Online", "Tail"} {
		t.Run(op, func(t *testing.T) {
			f := start(t)
			f.store.failing(op, store.ErrUnavailable)
			d, join := f.dial("websocket", "token=t&id=u", nil), `40{"username":"alice"}`
			if op == "Tail" {
				join = "40/socket,"
			}
			d.send(join)
			d.expectGone() // without a DISCONNECT, so that the client comes back by itself
			for len(d.frames) > 0 {
				if frame := d.next(); strings.HasPrefix(frame, "41") || strings.HasPrefix(frame, `42["users"`) {
					t.Errorf("sent %s", frame)
				}
			}
			f.store.failWith(nil)
			if op != "Tail" {
				eventually(t, "the socket is counted out", func() bool { return f.store.count("Disconnect") == 1 })
				alice := f.web().enter(map[string]string{"username": "alice"})
				for id, u := range alice.roster() {
					if u.Connected != (id == alice.userID) {
						t.Errorf("%v", u)
					}
				}
			}
		})
	}
	t.Run("Session", func(t *testing.T) {
		f := start(t)
		f.store.failing("Session", fmt.Errorf("disk sda1 on fire: %w", store.ErrUnavailable))
		d := f.web()
		d.send(`40{"sessionID":"0123456789abcdef"}`)
		d.expectGone() // without a CONNECT_ERROR, so that the client comes back by itself
	})
}

// TestErrorsTellNothing: what a client is told of a failure is a code and a sentence of ours.
func TestErrorsTellNothing(t *testing.T) {
	f := start(t)
	alice := f.login("alice")
	alice.silent() // its welcome is over
	inner := fmt.Errorf("open /var/lib/secret.db: %w", store.ErrUnavailable)
	for op, ask := range map[string][2]string{
		"UsersByID":    {"private message", `{"content":"<body>","to":"somebody who was not looked for yet"}`},
		"Append":       {"private message", `{"content":"<body>","to":"` + alice.userID + `"}`},
		"Conversation": {"history", `{"with":"` + alice.userID + `"}`},
		"Online":       {"users:page", `{}`},
	} {
		f.store.failing(op, inner)
		answer, _ := alice.askRaw("/", ask[0], ask[1])
		if !strings.HasPrefix(answer, `{"error":{"code":"unavailable","message":"`) || strings.Contains(answer, "secret") {
			t.Errorf("%s: %s", op, answer)
		}
	}
	f.store.failing("Append", fmt.Errorf("bug in /usr/src"))
	answer, _ := alice.askRaw("/", "private message", `{"content":"<body>","to":"`+alice.userID+`"}`)
	if answer != `{"error":{"code":"internal","message":"internal error"}}` {
		t.Error(answer)
	}
	if log := f.log.String(); strings.Contains(log, "<body>") || strings.Contains(log, alice.sessionID) || strings.Contains(log, alice.pid) {
		t.Errorf("the log has what is not for it: %s", log)
	}
	if f.metrics.Value(metrics.EventsRefused, "unavailable") != 4 || f.metrics.Value(metrics.EventsRefused, "internal") != 1 {
		t.Error("errors are not counted by their code")
	}
}

// TestOriginHeadersAreNotIdentity: nothing but the CONNECT payload says who a chat client is.
func TestOriginHeadersAreNotIdentity(t *testing.T) {
	f := start(t)
	alice := f.login("alice")
	d := f.dial("websocket", url.Values{"sessionID": {alice.sessionID}, "username": {"x"}}.Encode(), http.Header{"Sessionid": {alice.sessionID}})
	d.send("40")
	d.expect(`44{"message":"invalid username"}`)
}

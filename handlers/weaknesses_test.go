package handlers_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"parley/metrics"
	"parley/store"
)

// The tests here are named after the weaknesses of contracts.md section C that this code answers.

// TestC1 : past the limit a roster has the user, those they have talked with, and those seen last.
func TestC1(t *testing.T) {
	const limit = 5
	f := start(t, func(s *setup) { s.chat.RosterLimit = limit })
	friend, alice := f.login("friend"), f.login("alice")
	alice.say(friend.userID, "hi", "")
	f.drop(friend)
	crowd(t, f, 100)
	again := f.web().enter(map[string]string{"sessionID": alice.sessionID})
	roster := again.roster()
	if len(roster) != limit || !roster[alice.userID].Connected || roster[friend.userID].Connected || len(roster[friend.userID].Messages) != 1 {
		t.Errorf("%v", roster)
	}
	for _, name := range []string{"crowd099", "crowd098", "crowd097"} {
		if _, ok := roster[name]; !ok {
			t.Errorf("%s was seen of late, and is not in %v", name, roster)
		}
	}
}

// crowd makes users who are not there, seen one after the other.
func crowd(t *testing.T, f *fixture, n int) {
	t.Helper()
	for i := range n {
		name := fmt.Sprintf("crowd%03d", i)
		var last time.Time
		eventually(t, "the clock goes on", func() bool { // times are kept to the millisecond
			users, err := f.store.Store.Users(t.Context(), 1)
			if err == nil && len(users) > 0 {
				last = users[0].LastSeen
			}
			return time.Since(last) > time.Millisecond
		})
		if err := f.store.SaveSession(t.Context(), store.Session{ID: name, UserID: name, Username: name}); err != nil {
			t.Fatal(err)
		}
	}
}

// TestC2 : a further tab is not announced, and past the limit only those hear of a user who have them listed.
func TestC2(t *testing.T) {
	f := start(t, func(s *setup) { s.chat.RosterLimit = 3 })
	bob, alice := f.login("bob"), f.login("alice")
	bob.expect(userEvent(alice.userID, "alice"))
	f.tab(alice)
	bob.silent()
	crowd(t, f, 10)
	carol := f.login("carol") // sees herself and two of the crowd
	bob.expect(userEvent(carol.userID, "carol"))
	f.drop(bob)
	f.web().enter(map[string]string{"sessionID": bob.sessionID}).until(`42["users",`)
	carol.silent()
	member := f.web().enter(map[string]string{"sessionID": "crowd009"})
	carol.expect(userEvent("crowd009", "crowd009"))
	f.drop(member)
	carol.match(`42\["user disconnected","crowd009",` + anOffset + `\]`)
	carol.silent()
}

// TestC3 : what a mailbox keeps, and what a connect reads of it, is bounded.
func TestC3(t *testing.T) {
	f := start(t, func(s *setup) { s.store.MailboxLimit, s.chat.HistoryLimit = 20, 5 })
	alice, bob := f.login("alice"), f.login("bob")
	for i := range 40 {
		alice.say(bob.userID, fmt.Sprint(i), "")
	}
	roster := f.web().enter(map[string]string{"sessionID": bob.sessionID}).roster()
	if m := roster[alice.userID].Messages; len(m) != 5 || m[4].Content != "39" {
		t.Errorf("%v", m)
	}
	var page struct{ Messages []message }
	decode(t, bob, "history", fmt.Sprintf(`{"with":%q,"limit":200}`, alice.userID), &page)
	if m := page.Messages; len(m) != 20 || m[0].Content != "20" {
		t.Errorf("%v", m)
	}
}

// TestC5 : a client that goes at whatever moment leaves no ghost.
func TestC5(t *testing.T) {
	f := start(t)
	ctx := t.Context()
	for i := range 60 {
		d := f.web()
		d.send(`40{"username":"alice"}`)
		for range i % 4 {
			d.next()
		}
		if i%8 >= 4 {
			d.send("41")
		}
		d.cut()
	}
	watcher := f.web().enter(map[string]string{"username": "watcher"})
	eventually(t, "all of them are offline", func() bool {
		users, err := f.store.Store.Users(ctx, 100)
		if err != nil {
			t.Fatal(err)
		}
		online := 0
		for _, u := range users {
			is, err := f.store.Store.Online(ctx, []string{u.ID})
			if err != nil {
				t.Fatal(err)
			}
			if is[0] {
				online++
			}
		}
		return online == 1 && f.server.Len() == 1
	})
	// What the watcher is told comes to the same.
	states := make(map[string]bool)
	eventually(t, "the watcher knows that it is alone", func() bool {
		_, frames := watcher.askRaw("/", "history", "{}")
		for _, frame := range frames {
			note(t, states, frame)
		}
		for id, online := range states {
			if online != (id == watcher.userID) {
				return false
			}
		}
		return states[watcher.userID]
	})
}

// note keeps who is online as a client of the contract does.
func note(t *testing.T, states map[string]bool, frame string) {
	t.Helper()
	if strings.HasPrefix(frame, `42["users",`) {
		for id, u := range readRoster(t, frame) {
			states[id] = u.Connected
		}
		return
	}
	var args []json.RawMessage
	if err := json.Unmarshal([]byte(frame[2:]), &args); err != nil {
		t.Fatalf("%s: %v", frame, err)
	}
	var name, id string
	var u user
	_ = json.Unmarshal(args[0], &name)
	switch name {
	case "user connected":
		_ = json.Unmarshal(args[1], &u)
		states[u.UserID] = true
	case "user disconnected":
		_ = json.Unmarshal(args[1], &id)
		states[id] = false
	}
}

// TestC6 : the session of a socket that stays open does not expire.
func TestC6(t *testing.T) {
	const ttl = 200 * time.Millisecond
	f := start(t, func(s *setup) { s.store.SessionTTL, s.chat.SessionTTL = ttl, ttl })
	alice := f.login("alice")
	end := time.Now().Add(2 * ttl)
	eventually(t, "the session would have expired", func() bool { return time.Now().After(end) })
	tab := f.web().enter(map[string]string{"sessionID": alice.sessionID})
	if tab.userID != alice.userID || !tab.roster()[alice.userID].Connected {
		t.Error("the session is another")
	}
}

// TestC7 : what is sent as soon as the server has said anything, or even before, is handled.
func TestC7(t *testing.T) {
	f := start(t)
	bob := f.login("bob")
	alice := f.web()
	alice.send(`40{"username":"alice"}`)
	alice.send(fmt.Sprintf(`42["private message",{"content":"early","to":%q}]`, bob.userID))
	bob.until(`42["private message",{"content":"early"`)
	alice.until(`42["session"`)
	alice.send(fmt.Sprintf(`42["private message",{"content":"early, too","to":%q}]`, bob.userID))
	bob.until(`42["private message",{"content":"early, too"`)
}

// TestC8 : an acknowledged message is stored; one that is not stored is neither acknowledged nor delivered.
func TestC8(t *testing.T) {
	f := start(t)
	alice, bob := f.login("alice"), f.login("bob")
	alice.until(`42["user connected"`)
	f.store.failing("Append", store.ErrUnavailable)
	answer, _ := alice.ask("/", "private message", map[string]any{"content": "lost", "to": bob.userID})
	if !strings.HasPrefix(answer, `{"error":{"code":"unavailable"`) {
		t.Errorf("answered %s", answer)
	}
	bob.silent()
	f.store.failWith(nil)
	r := alice.say(bob.userID, "kept", "")
	entries, err := f.store.After(t.Context(), store.Box{App: "chat", User: bob.userID}, store.Offset{}, 10)
	if err != nil || len(entries) != 1 || entries[0].ID != r.ID {
		t.Errorf("stored: %v, %v", entries, err)
	}
}

// TestC9 : a retry is stored and delivered once, as it was first, and the order is that of the numbers.
func TestC9(t *testing.T) {
	f := start(t)
	alice, bob := f.login("alice"), f.login("bob")
	listener, tab, phone := f.tab(alice), f.tab(alice), f.tab(bob)
	first := alice.say(bob.userID, "first", "1")
	if again := alice.say(bob.userID, "changed", "1"); again != first {
		t.Errorf("a retry got %v, not %v", again, first)
	}
	if again := tab.say(bob.userID, "changed", "1"); again != first { // after a reconnect it comes from another socket
		t.Errorf("a retry got %v, not %v", again, first)
	}
	// Stored, but then the acknowledgement failed: nobody was told yet.
	f.store.failing("Append answered", errors.New("cut"))
	alice.ask("/", "private message", map[string]any{"content": "second", "to": bob.userID, "id": "2"})
	f.store.failWith(nil)
	if r := alice.say(bob.userID, "changed", "2"); r.Seq != 2 {
		t.Errorf("a retry got number %d", r.Seq)
	}
	// The same id to somebody else is another message.
	if r := alice.say(alice.userID, "note", "1"); r.Seq != 3 {
		t.Errorf("a note got number %d", r.Seq)
	}
	// Another user's ids are others.
	phone.say(alice.userID, "reply", "1")
	for d, want := range map[*device][]string{bob: {"first", "second", "reply"}, listener: {"first", "second", "note", "reply"}} {
		_, frames := d.askRaw("/", "history", "{}")
		var got []string
		for _, frame := range frames {
			if content, ok := strings.CutPrefix(frame, `42["private message",{"content":"`); ok {
				got = append(got, content[:strings.IndexByte(content, '"')])
			}
		}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("delivered %v, not %v", got, want)
		}
	}
}

// TestC10 : what is no message, or for nobody, is not stored, and says why.
func TestC10(t *testing.T) {
	f := start(t, func(s *setup) { s.chat.MaxMessage = 1000 })
	alice, bob := f.login("alice"), f.login("bob")
	for arg, code := range map[string]string{
		`{"content":"x"}`:                      "bad_argument",
		`{"content":"x","to":""}`:              "bad_argument",
		`{"content":"x","to":null}`:            "bad_argument",
		`{"content":"x","to":5}`:               "bad_argument",
		`{"content":"x","to":["BOB"]}`:         "bad_argument",
		`{"content":"x","to":{"_":1}}`:         "bad_argument",
		`{"to":"BOB"}`:                         "bad_argument",
		`{"content":"x","to":"BOB","id":5}`:    "bad_argument",
		`{"content":"x","to":"BOB","id":"LL"}`: "bad_argument",
		`{"content":"x","to":"LLLLLLLLL"}`:     "bad_argument",
		`"x"`:                                  "bad_argument",
		`null`:                                 "bad_argument",
		`[]`:                                   "bad_argument",
		`{"content":"x","to":"undefined"}`:     "unknown_user",
		`{"content":"x","to":"__proto__"}`:     "unknown_user",
		`{"content":"x","to":"all users"}`:     "unknown_user",
		`{"content":"x","to":"SOCKET"}`:        "unknown_user",
		`{"content":"LLLLLLLL","to":"BOB"}`:    "too_large",
	} {
		before := f.metrics.Value(metrics.EventsRefused, code)
		arg := strings.NewReplacer("BOB", bob.userID, "SOCKET", bob.sid, "L", strings.Repeat("x", 125)).Replace(arg)
		answer, _ := alice.askRaw("/", "private message", arg)
		if !strings.HasPrefix(answer, `{"error":{"code":"`+code+`","message":"`) {
			t.Errorf("%.60s: answered %.200s", arg, answer)
		}
		if f.metrics.Value(metrics.EventsRefused, code) != before+1 {
			t.Errorf("%.60s: not counted", arg)
		}
	}
	bob.silent()
	for _, id := range []string{"undefined", "__proto__", alice.userID, bob.userID} {
		if tail, err := f.store.Tail(t.Context(), store.Box{App: "chat", User: id}); err != nil || !tail.IsZero() {
			t.Errorf("%s has a mailbox: %v, %v", id, tail, err)
		}
	}
}

// hostile events, which do nothing but perhaps an error acknowledgement.
var hostile = []string{
	`["private message"]`, `["private message",null]`, `["private message",[]]`, `["private message",{"content":{"a":[[[]]]}}]`,
	`["history"]`, `["users:page"]`, `["users:page",{"cursor":5}]`, `["users:page",{"cursor":"\u0000","limit":-1}]`, `["users:search",{"prefix":{}}]`,
	`["message"]`, `["message",null]`, `["message",5]`, `["message",{"event":5}]`, `["message",{"event":["sendMessage"]}]`,
	`["message",{"event":"toString"}]`, `["message",{"event":"__proto__"}]`, `["message",{"event":"constructor"}]`, `["message",{"event":""}]`,
	`["message",{"event":"sendMessage","id":{}}]`, `["refresh",{"token":"x"}]`, `["__proto__"]`, `["toString",1]`, `[5]`,
}

// TestC11 : an argument that does not fit costs nobody anything. D: B(5).
func TestC11(t *testing.T) {
	f := start(t)
	bystander, listener := f.login("bystander"), f.subscribe("listener")
	alice, notify := f.login("alice"), f.subscribe("u1")
	bystander.until(`42["user connected"`)
	for _, event := range hostile {
		alice.send("42" + event)
		alice.send("4212" + event)
		notify.send("42/socket," + event)
		notify.send("42/socket,12" + event)
	}
	alice.ask("/", "history", map[string]any{}) // they are still there
	notify.ask("/socket", "message", map[string]any{"event": "no such"})
	bystander.silent()
	listener.quiet()
}

// TestC12 : names that every JavaScript object has are the names of no handlers.
func TestC12(t *testing.T) {
	f := start(t)
	d := f.subscribe("u1")
	for _, name := range []string{"toString", "__proto__", "constructor", "hasOwnProperty", "sendmessage", "sendMessage\x00"} {
		if answer, before := d.ask("/socket", "message", map[string]any{"event": name}); answer != "null" || len(before) > 0 {
			t.Errorf("%q: answered %s after %s", name, answer, before)
		}
	}
}

// TestC13 : without an id nobody comes in, so that no two strangers share one.
func TestC13(t *testing.T) {
	f := start(t)
	d := f.dial("websocket", "token=t", nil)
	d.send("40/socket,")
	d.expect(`44/socket,{"message":"Authorization failed, no id has been provided!"}`)
}

// TestC16 : that presence can't be told costs a log line.
func TestC16(t *testing.T) {
	f := start(t)
	bob, alice := f.login("bob"), f.login("alice")
	f.store.failing("Disconnect", errors.New("no answer"))
	f.drop(alice)
	eventually(t, "it is logged", func() bool { return strings.Contains(f.log.String(), "no answer") })
	f.store.failWith(nil)
	bob.until(`42["user connected"`)
	bob.silent()
}

// TestC17 : however tabs come and go, everybody is told in the order in which it happened.
func TestC17(t *testing.T) {
	f := start(t)
	watcher, alice := f.login("watcher"), f.login("alice")
	watcher.expect(userEvent(alice.userID, "alice"))
	f.drop(alice)
	watcher.match(`42\["user disconnected","` + alice.userID + `",` + anOffset + `\]`)
	const tabs, times = 4, 12
	var all sync.WaitGroup
	for range tabs {
		all.Go(func() {
			for range times {
				d := f.web()
				d.send(fmt.Sprintf(`40{"sessionID":%q}`, alice.sessionID))
				for range rand.N(4) {
					select {
					case <-d.frames:
					case <-d.gone:
					}
				}
				d.cut()
			}
		})
	}
	all.Wait()
	eventually(t, "all have left", func() bool {
		online, err := f.store.Store.Online(t.Context(), []string{alice.userID})
		return err == nil && !online[0] && f.server.Len() == 1
	})
	f.tab(alice) // comes after all announcements
	_, frames := watcher.askRaw("/", "history", "{}")
	online := false
	for _, frame := range frames {
		now := strings.HasPrefix(frame, `42["user connected",{"userID":"`+alice.userID+`"`)
		if !now && !strings.HasPrefix(frame, `42["user disconnected","`+alice.userID+`"`) {
			continue
		}
		if now == online {
			t.Fatalf("told twice that alice is online: %v", now)
		}
		online = now
	}
	if !online {
		t.Error("alice is online, and the watcher does not know")
	}
}

// TestC17Roster : a roster that was read before somebody left, and is sent after that was announced, is put
// right.
func TestC17Roster(t *testing.T) {
	f := start(t)
	alice := f.login("alice")
	alice.silent() // its welcome is over
	read, left := make(chan struct{}), make(chan struct{})
	var once atomic.Bool
	f.store.failWith(func(op string) error {
		if op == "Online answered" && once.CompareAndSwap(false, true) {
			close(read)
			<-left
		}
		return nil
	})
	bob := f.web()
	bob.send(`40{"username":"bob"}`)
	<-read
	f.drop(alice)
	again := f.web() // its turn comes when the announcement was made
	again.send(fmt.Sprintf(`40{"sessionID":%q}`, alice.sessionID))
	again.until(`42["users"`)
	f.drop(again)
	carol := f.login("carol")
	close(left)
	states := make(map[string]bool)
	bob.until(`42["session"`)
	_, frames := bob.askRaw("/", "history", "{}")
	for _, frame := range frames {
		note(t, states, frame)
	}
	if states[alice.userID] || !states[carol.userID] {
		t.Errorf("alice is %v, carol %v", states[alice.userID], states[carol.userID])
	}
}

// TestC18 : who sends too much is told so, who reads too little is let go, and both are counted.
func TestC18(t *testing.T) {
	f := start(t, func(s *setup) {
		s.socketio.EventRate = 5
		s.socketio.Engine.OutboundBytes = 100_000
	})
	alice := f.login("alice")
	for range 100 {
		alice.send(`421["users:page",{}]`)
	}
	alice.until(`431[{"error":{"code":"rate_limited","message":"`)
	if f.metrics.Value(metrics.Limited, "event rate") == 0 {
		t.Error("the limit is not counted")
	}
	// Bob does not read. His mailbox keeps what he misses.
	bob := f.login("bob")
	held := make(chan struct{})
	defer close(held)
	bob.stall(held)
	data := fmt.Appendf(nil, `{"content":%q,"from":"x","to":"y"}`, strings.Repeat("x", 50_000))
	b := store.Box{App: "chat", User: bob.userID}
	eventually(t, "bob is let go", func() bool {
		r, err := f.store.Append(context.Background(), store.Post{
			ID: fmt.Sprint(rand.Uint64()), Sender: "x", Data: data, To: []store.Delivery{{Box: b, Peer: "x"}},
		})
		if err != nil {
			t.Fatal(err)
		}
		err = f.server.Of("/").Deliver(context.Background(), b, store.Entry{Offset: r.Offsets[0], At: r.At, Data: data})
		if err != nil {
			t.Fatal(err)
		}
		return f.metrics.Value(metrics.ConnectionsClosed, "slow client") == 1
	})
}

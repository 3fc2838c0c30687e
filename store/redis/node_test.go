package redisstore

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"parley/store"
	"parley/store/storetest"
)

// push writes a message as the Node servers of the contract do (contracts.md A4).
func push(t *testing.T, c redis.UniversalClient, from, to, content string) {
	t.Helper()
	item := fmt.Sprintf(`{"content":"%s","from":"%s","to":"%s"}`, content, from, to)
	for _, user := range []string{from, to} {
		if err := c.RPush(t.Context(), "messages:"+user, item).Err(); err != nil {
			t.Fatal(err)
		}
		if err := c.Expire(t.Context(), "messages:"+user, 24*time.Hour).Err(); err != nil {
			t.Fatal(err)
		}
	}
}

func post(t testing.TB, s *Store, p store.Post) store.Receipt {
	t.Helper()
	r, err := s.Append(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// contents returns the numbers, ids of the posts or contents of what was pushed, and peers of entries.
func contents(t *testing.T, entries []store.Entry) []string {
	t.Helper()
	var got []string
	for _, e := range entries {
		var m struct{ Content, From, To string }
		if err := json.Unmarshal(e.Data, &m); err != nil {
			t.Fatalf("%q: %v", e.Data, err)
		}
		got = append(got, fmt.Sprintf("%d %s %s", e.Seq, m.Content, e.Peer))
	}
	return got
}

func same(t *testing.T, what string, got, want any) {
	t.Helper()
	if g, w := fmt.Sprintf("%+v", got), fmt.Sprintf("%+v", want); g != w {
		t.Fatalf("%s:\n got %s\nwant %s", what, g, w)
	}
}

// TestNodeReads checks what Node servers find.
func TestNodeReads(t *testing.T) {
	server := newServer(t)
	c := server.client(t)
	s := open(t, c, Options{})
	m := message("m1", "alice", "bob")
	m.At = time.UnixMilli(1700000000123)
	post(t, s, m)
	for _, user := range []string{"alice", "bob"} {
		list, err := c.LRange(t.Context(), "messages:"+user, 0, -1).Result()
		if err != nil {
			t.Fatal(err)
		}
		same(t, "list", list, []string{`{"content":"m1","from":"alice","to":"bob","id":"m1","seq":1,"at":1700000000123}`})
		for _, key := range []string{"messages:" + user, "{messages:" + user + "}:info", "{messages:" + user + "}:places"} {
			if life := c.TTL(t.Context(), key).Val(); life < 86390*time.Second || life > 86400*time.Second {
				t.Errorf("%s lives for %v", key, life)
			}
		}
	}
	if err := s.SaveSession(t.Context(), store.Session{ID: "s", UserID: "u", Username: "Alice"}); err != nil {
		t.Fatal(err)
	}
	same(t, "session", c.HMGet(t.Context(), "session:s", "userID", "username", "connected").Val(), []any{"u", "Alice", "true"})
	if life := c.TTL(t.Context(), "session:s").Val(); life < 86390*time.Second || life > 86400*time.Second {
		t.Errorf("the session lives for %v", life)
	}
}

// TestNodeWrites checks that what Node servers push is numbered, found and kept apart.
func TestNodeWrites(t *testing.T) {
	server := newServer(t)
	c := server.client(t)
	s := open(t, c, Options{})
	bob := store.Box{App: chatApp, User: "bob"}
	push(t, c, "alice", "bob", "n1")
	tail, err := s.Tail(t.Context(), bob)
	if err != nil || tail.Seq != 1 || tail.Epoch == 0 {
		t.Fatalf("tail %v, %v", tail, err)
	}
	r := post(t, s, message("p2", "carol", "bob"))
	same(t, "number", r.Offsets[1], store.Offset{Epoch: tail.Epoch, Seq: 2})
	push(t, c, "bob", "alice", "n3")
	push(t, c, "carol", "bob", "n4")

	entries, err := s.After(t.Context(), bob, store.Offset{}, 10)
	if err != nil {
		t.Fatal(err)
	}
	same(t, "entries", contents(t, entries), []string{"1 n1 alice", "2 p2 carol", "3 n3 alice", "4 n4 carol"})
	ids := map[string]bool{}
	for _, e := range entries {
		ids[e.ID] = true
		if age := time.Since(e.At); age < 0 || age > time.Minute {
			t.Errorf("%v is from %v", e.Offset, e.At)
		}
	}
	if len(ids) != 4 || ids[""] {
		t.Errorf("ids: %v", ids)
	}
	entries, err = s.Conversation(t.Context(), bob, "alice", 3, 10)
	same(t, "conversation", fmt.Sprint(contents(t, entries), err), "[1 n1 alice] <nil>")
	o, err := s.Overview(t.Context(), bob, 10, 1)
	if err != nil || len(o.Conversations) != 2 || o.Tail.Seq != 4 {
		t.Fatalf("overview %+v, %v", o, err)
	}
	same(t, "first conversation", contents(t, o.Conversations[0].Entries), []string{"4 n4 carol"})
	same(t, "second conversation", contents(t, o.Conversations[1].Entries), []string{"3 n3 alice"})
	again := post(t, s, message("p2", "carol", "bob"))
	if !again.Duplicate || again.Offsets[1].Seq != 2 {
		t.Errorf("retry %+v", again)
	}
}

// TestHostileItems checks that nothing that is pushed to a list stops its user from reading.
func TestHostileItems(t *testing.T) {
	server := newServer(t)
	c := server.client(t)
	s := open(t, c, Options{})
	items := []string{
		"", " ", "{", "null", "[]", `"text"`, "\xff\x00", `{"from":1,"to":{}}`, `{"from":"","to":""}`, strings.Repeat("[", 1<<16),
		`{"from":"a","to":"bob","id":"x","seq":1e999,"at":-1}`, `{"from":"a","to":"bob","id":"x","seq":7,"at":5}`, `{"a":1}` + "\n",
		`{"from":"` + strings.Repeat("x", 2000) + `","to":"bob"}`,
	}
	for _, item := range items {
		if err := c.RPush(t.Context(), "messages:bob", item).Err(); err != nil {
			t.Fatal(err)
		}
	}
	bob := store.Box{App: chatApp, User: "bob"}
	entries, err := s.After(t.Context(), bob, store.Offset{}, 100)
	if err != nil || len(entries) != len(items) {
		t.Fatalf("%d entries, %v", len(entries), err)
	}
	for i, e := range entries {
		if e.Seq != uint64(i+1) || e.ID == "" || !json.Valid(e.Data) || e.Data[0] != '{' || e.At.UnixMilli() <= 0 {
			t.Errorf("%.40q became %+v", items[i], e)
		}
	}
	if _, err := s.Overview(t.Context(), bob, 10, 10); err != nil {
		t.Error(err)
	}
	if r := post(t, s, message("m", "alice", "bob")); r.Offsets[1].Seq != uint64(len(items)+1) {
		t.Errorf("number %v", r.Offsets[1])
	}
}

// TestLongNodeList checks that a list that is much longer than the limit is cut at once and adopted in steps.
func TestLongNodeList(t *testing.T) {
	server := newServer(t)
	c := server.client(t)
	s := open(t, c, Options{Options: store.Options{MailboxLimit: 2000}})
	pipe := c.Pipeline()
	for i := range 5000 {
		pipe.RPush(t.Context(), "messages:bob", fmt.Sprintf(`{"content":"%d","from":"peer%d","to":"bob"}`, i, i%3))
	}
	if _, err := pipe.Exec(t.Context()); err != nil {
		t.Fatal(err)
	}
	bob := store.Box{App: chatApp, User: "bob"}
	o, err := s.Overview(t.Context(), bob, 10, 5000)
	if err != nil || o.Tail.Seq != 2000 || len(o.Conversations) != 3 {
		t.Fatalf("overview to %v with %d conversations, %v", o.Tail, len(o.Conversations), err)
	}
	n := 0
	for _, conv := range o.Conversations {
		n += len(conv.Entries)
		if !slices.IsSortedFunc(conv.Entries, func(a, b store.Entry) int { return int(a.Seq) - int(b.Seq) }) {
			t.Errorf("the entries of %s are not in order", conv.Peer)
		}
	}
	same(t, "entries", n, 2000)
	entries, err := s.After(t.Context(), bob, store.Offset{Epoch: o.Tail.Epoch, Seq: 100}, 5000)
	if err != nil || len(entries) != 1900 || entries[0].Seq != 101 {
		t.Fatalf("%d entries, %v", len(entries), err)
	}
	if n := c.LLen(t.Context(), "messages:bob").Val(); n != 2000 {
		t.Errorf("the list has %d entries", n)
	}
	// A large push later is trimmed with the posts that follow.
	for i := range 1500 {
		pipe.RPush(t.Context(), "messages:bob", fmt.Sprintf(`{"content":"%d","from":"peer","to":"bob"}`, i))
	}
	if _, err := pipe.Exec(t.Context()); err != nil {
		t.Fatal(err)
	}
	for i := range 4 {
		post(t, s, message(fmt.Sprint("m", i), "alice", "bob"))
	}
	if n := c.LLen(t.Context(), "messages:bob").Val(); n < 2000 || n > 2000*65/64 {
		t.Errorf("the list has %d entries", n)
	}
	entries, err = s.Conversation(t.Context(), bob, "peer", 0, 5000)
	if err != nil || len(entries) != 1500 {
		t.Errorf("%d entries of the new peer, %v", len(entries), err)
	}
}

// TestReplacedList checks that a mailbox whose list was replaced behind our back is another incarnation.
func TestReplacedList(t *testing.T) {
	server := newServer(t)
	c := server.client(t)
	s := open(t, c, Options{})
	bob := store.Box{App: chatApp, User: "bob"}
	old := post(t, s, message("m", "alice", "bob")).Offsets[1]
	if err := c.Del(t.Context(), "messages:bob").Err(); err != nil {
		t.Fatal(err)
	}
	push(t, c, "carol", "bob", "n")
	if _, err := s.After(t.Context(), bob, old, 10); !errors.Is(err, store.ErrUnknownOffset) {
		t.Fatalf("after the old offset: %v", err)
	}
	o, err := s.Overview(t.Context(), bob, 10, 10)
	if err != nil || o.Tail.Epoch <= old.Epoch || len(o.Conversations) != 1 || o.Conversations[0].Peer != "carol" {
		t.Fatalf("overview %+v, %v", o, err)
	}

	// What only Parley keeps is lost, as when it was not used for a day while Node servers were: the list tells enough.
	at := post(t, s, message("m2", "alice", "bob"))
	for _, part := range []string{"info", "places", "peers"} {
		if err := c.Del(t.Context(), "{messages:bob}:"+part).Err(); err != nil {
			t.Fatal(err)
		}
	}
	again := post(t, s, message("m2", "alice", "bob"))
	if !again.Duplicate || !again.At.Equal(at.At) || again.Offsets[1].Seq != 2 || again.Offsets[1].Epoch <= at.Offsets[1].Epoch {
		t.Errorf("retry %+v, first %+v", again, at)
	}
	entries, err := s.Conversation(t.Context(), bob, "alice", 0, 10)
	if err != nil || len(entries) != 1 || entries[0].ID != "m2" || string(entries[0].Data) != `{"content":"m2","from":"alice","to":"bob"}` {
		t.Errorf("entries %+v, %v", entries, err)
	}
}

// TestNodeUnread checks that what Node servers push counts as unread for those who get it alone, however much there is.
func TestNodeUnread(t *testing.T) {
	server := newServer(t)
	c := server.client(t)
	s := open(t, c, Options{})
	push(t, c, "alice", "bob", "1")
	post(t, s, message("m", "bob", "alice"))
	for i := range 40 {
		push(t, c, "bob", "alice", fmt.Sprint(i))
	}
	for i := range 700 { // more than is adopted at once
		push(t, c, "alice", "alice", fmt.Sprint(i))
	}
	unread := func(user, peer string, want int) store.Mark {
		t.Helper()
		marks, err := s.Marks(t.Context(), store.Box{App: chatApp, User: user}, []string{peer}, 0)
		if err != nil || marks[0].Unread != want {
			t.Errorf("%s of %s: %+v, %v", user, peer, marks, err)
		}
		return marks[0]
	}
	alice := store.Box{App: chatApp, User: "alice"}
	at, until, err := s.Reach(t.Context(), alice, "bob", 3)
	if err != nil || until.IsZero() {
		t.Error(until, err)
	}
	unread("alice", "bob", 41)
	unread("alice", "alice", 0)
	unread("bob", "alice", 1)
	if now, _, err := s.Advance(t.Context(), alice, "bob", store.Mark{Read: at}); err != nil || now.Unread != 39 {
		t.Errorf("%+v, %v", now, err)
	}
	unread("alice", "bob", 39)
}

// TestNodeSessions checks that sessions of Node servers are found, and enter the roster.
func TestNodeSessions(t *testing.T) {
	server := newServer(t)
	c := server.client(t)
	clock := storetest.NewClock()
	s := open(t, c, Options{Options: store.Options{Now: clock.Now}, Reconcile: time.Hour})
	for i := range 20 {
		key := fmt.Sprint("session:node", i)
		if err := c.HSet(t.Context(), key, "userID", fmt.Sprint("u", i), "username", fmt.Sprint("name", i), "connected", "true").Err(); err != nil {
			t.Fatal(err)
		}
		if err := c.Expire(t.Context(), key, 23*time.Hour).Err(); err != nil {
			t.Fatal(err)
		}
	}
	c.HSet(t.Context(), "session:damaged", "username", "x")
	got, err := s.Session(t.Context(), "node3")
	if err != nil || got.UserID != "u3" || got.Username != "name3" {
		t.Fatalf("%+v, %v", got, err)
	}
	if ago := clock.Now().Sub(got.LastSeen); ago < time.Hour-time.Second || ago > time.Hour+time.Minute {
		t.Errorf("seen %v ago", ago)
	}
	if _, err := s.Session(t.Context(), "damaged"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("a damaged session: %v", err)
	}
	// Written by a process that died before it came to the roster, and one whose session somebody removed.
	if err := s.SaveSession(t.Context(), store.Session{ID: "gone", UserID: "gone", Username: "gone"}); err != nil {
		t.Fatal(err)
	}
	c.Del(t.Context(), "session:gone")
	if err := s.reconcileOnce(t.Context()); err != nil {
		t.Fatal(err)
	}
	users, err := s.Users(t.Context(), 100)
	if err != nil || len(users) != 20 || !strings.HasPrefix(users[0].Username, "name") {
		t.Errorf("%d users, %v", len(users), err)
	}
	found, err := s.SearchUsers(t.Context(), "NAME7", 10)
	if err != nil || len(found) != 1 || found[0].ID != "u7" {
		t.Errorf("search %+v, %v", found, err)
	}
}

// TestSessionsAreMarked checks that Node servers see who is connected.
func TestSessionsAreMarked(t *testing.T) {
	server := newServer(t)
	c := server.client(t)
	s := open(t, c, Options{})
	if err := s.SaveSession(t.Context(), store.Session{ID: "s", UserID: "u", Username: "Alice"}); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if first, err := s.Connect(t.Context(), "u", "1"); err != nil || !first {
			t.Fatal(first, err)
		}
		if err := s.presence.tell(t.Context()); err != nil {
			t.Fatal(err)
		}
		same(t, "connected", c.HGet(t.Context(), "session:s", "connected").Val(), "true")
		if last, err := s.Disconnect(t.Context(), "u", "1"); err != nil || !last {
			t.Fatal(last, err)
		}
		if err := s.presence.tell(t.Context()); err != nil {
			t.Fatal(err)
		}
		same(t, "connected", c.HGet(t.Context(), "session:s", "connected").Val(), "false")
	}
	// A mark never brings an expired session back.
	c.Del(t.Context(), "session:s")
	if _, err := s.Connect(t.Context(), "u", "1"); err != nil {
		t.Fatal(err)
	}
	if err := s.presence.tell(t.Context()); err != nil {
		t.Fatal(err)
	}
	same(t, "session", c.Exists(t.Context(), "session:s").Val(), 0)
}

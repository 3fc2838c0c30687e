package redisstore

import (
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"parley/store"
)

// appendBefore is the script by which versions before this one added entries: it keeps places and header up to date, and
// does not say who has sent an entry.
func appendBefore(t *testing.T) *redis.Script {
	t.Helper()
	text, err := os.ReadFile("testdata/append_before.lua")
	if err != nil {
		t.Fatal(err)
	}
	return redis.NewScript(string(text))
}

// postBefore is post by a process of a version before this one.
func postBefore(t *testing.T, s *Store, script *redis.Script, p store.Post) (replies [][]any) {
	t.Helper()
	for _, to := range p.To {
		m := s.mailbox(to.Box)
		head, _ := itemHead(p.Data, p.ID, m.shared)
		sent := "0"
		if to.Sent {
			sent = "1"
		}
		args := append(m.args(), messageKey(p.Sender, p.ID), p.At.UnixMilli(), head, "1", to.Peer, p.Origin, sent)
		reply, err := script.Run(t.Context(), s.client, m.keys(), args...).Slice()
		if err != nil {
			t.Fatal(err)
		}
		replies = append(replies, reply)
	}
	return replies
}

// TestVersionBefore checks that processes of this version and of the one before use the same mailboxes, as they do while
// they are replaced one after the other.
func TestVersionBefore(t *testing.T) {
	server := newServer(t)
	c := server.client(t)
	s := open(t, c, Options{})
	before := appendBefore(t)
	alice, bob := store.Box{App: chatApp, User: "alice"}, store.Box{App: chatApp, User: "bob"}
	const count = 60
	at := time.UnixMilli(1700000000000)
	for i := range count {
		m := message(fmt.Sprint("m", i), "alice", "bob")
		m.At = at
		if i%7 < 3 {
			postBefore(t, s, before, m)
		} else {
			post(t, s, m)
		}
		if i == count/3 {
			push(t, c, "bob", "alice", "n")
		}
	}
	for i := range count { // each version knows what the other has stored
		m := message(fmt.Sprint("m", i), "alice", "bob")
		m.At = at.Add(time.Hour)
		if r := post(t, s, m); !r.Duplicate || !r.At.Equal(at) {
			t.Fatalf("%d: %+v", i, r)
		}
		for _, reply := range postBefore(t, s, before, m) {
			same(t, "known to the version before", fmt.Sprintf("%v %v", reply[2], reply[3]), fmt.Sprintf("%d 1", at.UnixMilli()))
		}
	}
	check := func() {
		t.Helper()
		for _, box := range []store.Box{alice, bob} {
			entries, err := s.After(t.Context(), box, store.Offset{}, 1000)
			if err != nil || len(entries) != count+1 {
				t.Fatalf("%d entries, %v", len(entries), err)
			}
			peer := "alice"
			if box == alice {
				peer = "bob"
			}
			found, err := s.Conversation(t.Context(), box, peer, 0, 1000)
			if err != nil {
				t.Fatal(err)
			}
			same(t, "conversation", found, entries)
		}
		for user, want := range map[string]int{"alice": 1, "bob": count} {
			peer := map[string]string{"alice": "bob", "bob": "alice"}[user]
			marks, err := s.Marks(t.Context(), store.Box{App: chatApp, User: user}, []string{peer}, 0)
			if err != nil || marks[0].Unread != want {
				t.Errorf("%s has not read %+v, %v", user, marks, err)
			}
		}
	}
	check()
	// Places that have expired are given anew, also to what the version before has added.
	if err := c.Del(t.Context(), "{messages:alice}:places", "{messages:bob}:peers").Err(); err != nil {
		t.Fatal(err)
	}
	check()
}

// TestVersionBeforeTrims checks that a mailbox is sound after a version before this one has cut it beyond what had places.
func TestVersionBeforeTrims(t *testing.T) {
	const limit = 100
	server := newServer(t)
	c := server.client(t)
	s := open(t, c, Options{Options: store.Options{MailboxLimit: limit}})
	before := appendBefore(t)
	bob := store.Box{App: chatApp, User: "bob"}
	n := 0
	next := func() store.Post {
		n++
		m := message(fmt.Sprint("m", n), "alice", "bob")
		m.At = time.UnixMilli(1700000000000)
		return m
	}
	for range 50 {
		post(t, s, next())
	}
	for range 2 * limit {
		postBefore(t, s, before, next())
	}
	if r := post(t, s, next()); r.Offsets[1].Seq != uint64(n) {
		t.Fatalf("number %d, want %d", r.Offsets[1].Seq, n)
	}
	entries, err := s.After(t.Context(), bob, store.Offset{}, 1000)
	if err != nil || len(entries) < limit || entries[len(entries)-1].Seq != uint64(n) {
		t.Fatalf("%d entries, %v", len(entries), err)
	}
	found, err := s.Conversation(t.Context(), bob, "alice", 0, 1000)
	if err != nil {
		t.Fatal(err)
	}
	same(t, "conversation", found, entries)
	length, err := c.HLen(t.Context(), "{messages:bob}:info").Result()
	if err != nil || length > 2*int64(len(entries))+16 {
		t.Errorf("%d fields for %d entries, %v", length, len(entries), err)
	}
}

// TestPlacesAreGivenLater checks that what is added without a place gets it from whoever reads first, however much it is,
// and that the places need not outlive what is added.
func TestPlacesAreGivenLater(t *testing.T) {
	server := newServer(t)
	c := server.client(t)
	s := open(t, c, Options{})
	bob := store.Box{App: chatApp, User: "bob"}
	const count = 600
	for i := range count {
		post(t, s, message(fmt.Sprint("m", i), fmt.Sprint("peer", i%3), "bob"))
	}
	if n := c.ZCard(t.Context(), "{messages:bob}:places").Val(); n == 0 || n > 512 {
		t.Errorf("%d places were given ahead", n)
	}
	if err := c.Del(t.Context(), "{messages:bob}:places", "{messages:bob}:peers").Err(); err != nil {
		t.Fatal(err)
	}
	last, _, err := s.Reach(t.Context(), bob, "peer0", count-2)
	if err != nil || last.Seq != count-2 {
		t.Errorf("reach %v, %v", last, err)
	}
	if err := c.Del(t.Context(), "{messages:bob}:places", "{messages:bob}:peers").Err(); err != nil {
		t.Fatal(err)
	}
	mark, moved, err := s.Advance(t.Context(), bob, "peer2", store.Mark{Read: store.Offset{Epoch: last.Epoch, Seq: 300}})
	if err != nil || !moved || mark.Unread != 100 {
		t.Errorf("%+v, %v, %v", mark, moved, err)
	}
	o, err := s.Overview(t.Context(), bob, 10, 1000)
	if err != nil || len(o.Conversations) != 3 || o.Conversations[0].Peer != "peer2" {
		t.Fatalf("%d conversations, %v", len(o.Conversations), err)
	}
	for _, conv := range o.Conversations {
		same(t, "entries of "+conv.Peer, len(conv.Entries), count/3)
	}
	for _, part := range []string{"messages:bob", "{messages:bob}:info", "{messages:bob}:places", "{messages:bob}:peers"} {
		if life := c.TTL(t.Context(), part).Val(); life < 86390*time.Second || life > 86400*time.Second {
			t.Errorf("%s lives for %v", part, life)
		}
	}
}

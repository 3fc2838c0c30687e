package handlers_test

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"parley/store"
)

// late is a store in which something happens between that presence is read and that the reader has it.
type late struct {
	store.Store
	meanwhile atomic.Pointer[func()] // once
}

func (l *late) Online(ctx context.Context, users []string) ([]bool, error) {
	online, err := l.Store.Online(ctx, users)
	if f := l.meanwhile.Swap(nil); f != nil {
		(*f)()
	}
	return online, err
}

// TestChangesMeanwhile: who is given a roster that is too old is told what has changed since, however much that was.
func TestChangesMeanwhile(t *testing.T) {
	for _, more := range []int{0, 600} {
		t.Run(fmt.Sprint(more), func(t *testing.T) {
			f := start(t)
			slow := &late{Store: f.store.Store}
			f.store.Store = slow
			alice, bob, carol, dave := f.login("alice"), f.login("bob"), f.login("carol"), f.login("dave")
			f.drop(carol)
			dave.until(`42["user disconnected","` + carol.userID)
			meanwhile := func() {
				f.drop(bob)
				alice.until(`42["user disconnected","` + bob.userID)
				f.tab(carol)
				alice.until(`42["user connected",{"userID":"` + carol.userID)
				f.drop(dave)
				alice.until(`42["user disconnected","` + dave.userID)
				f.tab(dave)
				alice.until(`42["user connected",{"userID":"` + dave.userID)
				for range more {
					f.chat.SettlePresence(alice.userID, true)
				}
			}
			slow.meanwhile.Store(&meanwhile)
			erin := f.web().enter(map[string]string{"username": "erin"})
			roster := erin.roster()
			if !roster[bob.userID].Connected || roster[carol.userID].Connected || !roster[dave.userID].Connected {
				t.Fatalf("the roster is newer than the test means it to be: %v", roster)
			}
			for range 2 { // in either order
				if frame := erin.next(); strings.HasPrefix(frame, `42["user disconnected","`+bob.userID+`",`) {
					roster[bob.userID] = user{}
				} else if frame == userEvent(carol.userID, "carol") {
					roster[carol.userID] = user{Connected: true}
				} else {
					t.Errorf("came unexpected: %s", frame)
				}
			}
			if roster[bob.userID].Connected || !roster[carol.userID].Connected {
				t.Errorf("erin was not told all that had changed: %v", roster)
			}
			erin.silent()
		})
	}
}

// TestRosterOfConversations: each user's messages are with them, among those who have none.
func TestRosterOfConversations(t *testing.T) {
	f := start(t)
	crowd(t, f, 2)
	alice, bob := f.login("alice"), f.login("bob")
	crowd(t, f, 3)
	carol := f.login("carol")
	for i := range 3 {
		bob.say(alice.userID, fmt.Sprint("b", i), "")
	}
	carol.say(alice.userID, "c", "")
	alice.say(alice.userID, "note", "")
	for _, test := range []struct {
		*device
		want map[string]int // messages by user
	}{
		{alice, map[string]int{alice.userID: 1, bob.userID: 3, carol.userID: 1}},
		{bob, map[string]int{alice.userID: 3}},
	} {
		roster := f.web().enter(map[string]string{"sessionID": test.sessionID}).roster()
		if len(roster) != 6 {
			t.Errorf("%d users", len(roster))
		}
		for id, u := range roster {
			if len(u.Messages) != test.want[id] || u.Messages == nil {
				t.Errorf("%d messages with %s: %v", len(u.Messages), u.Username, u.Messages)
			}
			for i, m := range u.Messages {
				if m.From != id && m.To != id || u.Username == "bob" && m.Content != fmt.Sprint("b", i) {
					t.Errorf("with %s: %v", u.Username, m)
				}
			}
		}
	}
}

// TestChangesWhileSettling: a user goes before the roster arrives, and is back, with very much else, while the socket is told of
// it.
func TestChangesWhileSettling(t *testing.T) {
	for _, more := range []int{0, 600} {
		t.Run(fmt.Sprint(more), func(t *testing.T) {
			f := start(t)
			slow := &late{Store: f.store.Store}
			f.store.Store = slow
			alice, bob := f.login("alice"), f.login("bob")
			var settling atomic.Bool
			f.server.Of("/").OnAnyOutgoing(func(event string, _ []any) {
				if event != "user disconnected" || !settling.CompareAndSwap(true, false) {
					return
				}
				f.tab(bob)
				alice.until(`42["user connected",{"userID":"` + bob.userID)
				for range more {
					f.chat.SettlePresence(alice.userID, true)
				}
			})
			meanwhile := func() {
				f.drop(bob)
				alice.until(`42["user disconnected","` + bob.userID)
				settling.Store(true)
			}
			slow.meanwhile.Store(&meanwhile)
			erin := f.web().enter(map[string]string{"username": "erin"})
			online := erin.roster()[bob.userID].Connected
			_, before := erin.ask("/", "history", map[string]any{})
			for _, frame := range before {
				if strings.Contains(frame, bob.userID) {
					online = strings.HasPrefix(frame, `42["user connected"`)
				}
			}
			if !online {
				t.Errorf("the last that is said of bob is that he went: %q", before)
			}
		})
	}
}

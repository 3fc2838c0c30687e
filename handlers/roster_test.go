package handlers_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"
)

// users is an answer to users:page and users:search.
type users struct {
	Users []user
	Next  string
	Error struct{ Code string }
}

func (u users) names() (names []string) {
	for _, u := range u.Users {
		names = append(names, u.Username)
	}
	return names
}

// TestUsersPage: past the limit all users can be paged through, each once, and who was shown is watched.
func TestUsersPage(t *testing.T) {
	f := start(t, func(s *setup) { s.chat.RosterLimit = 10 })
	crowd(t, f, 25)
	alice := f.login("alice")
	seen := make(map[string]bool)
	for cursor, pages := "", 0; ; pages++ {
		var page users
		decode(t, alice, "users:page", fmt.Sprintf(`{"cursor":%q,"limit":10}`, cursor), &page)
		for _, name := range page.names() {
			if seen[name] {
				t.Errorf("%s is there twice", name)
			}
			seen[name] = true
		}
		if len(page.Users) > 10 || pages > 10 {
			t.Fatalf("page %d has %d users", pages, len(page.Users))
		}
		if cursor = page.Next; cursor == "" {
			break
		}
	}
	if len(seen) != 26 {
		t.Errorf("%d users", len(seen))
	}
	f.web().enter(map[string]string{"sessionID": "crowd000"})
	alice.expect(userEvent("crowd000", "crowd000"))
	for _, hostile := range []string{`{"cursor":"` + strings.Repeat("x", 5000) + `"}`, `{"cursor":"\u0000"}`, `{"limit":-5}`, `{"limit":99999}`} {
		var page users
		decode(t, alice, "users:page", hostile, &page)
		if len(page.Users) > 200 {
			t.Errorf("%s: %d users", hostile, len(page.Users))
		}
	}
}

// TestUsersSearch finds by the beginning of the name, and tells who is there.
func TestUsersSearch(t *testing.T) {
	f := start(t, func(s *setup) { s.chat.RosterLimit = 2 })
	crowd(t, f, 5)
	bob := f.login("Bobby")
	alice := f.login("alice")
	var found users
	decode(t, alice, "users:search", `{"prefix":"BOB"}`, &found)
	if len(found.Users) != 1 || found.Users[0].UserID != bob.userID || !found.Users[0].Connected || found.Users[0].Messages == nil {
		t.Errorf("%v", found)
	}
	decode(t, alice, "users:search", `{"prefix":"crowd","limit":3}`, &found)
	if fmt.Sprint(found.names()) != "[crowd000 crowd001 crowd002]" {
		t.Errorf("%v", found)
	}
	decode(t, alice, "users:search", `{"prefix":"`+strings.Repeat("x", 1025)+`"}`, &found)
	if found.Error.Code != "bad_argument" {
		t.Errorf("%v", found)
	}
}

// TestStranger: past the limit, whoever writes is introduced first, since a client of the contract drops the
// messages of users that it does not know; and so is to the sender's other devices whom they write to.
func TestStranger(t *testing.T) {
	f := start(t, func(s *setup) { s.chat.RosterLimit = 2 })
	bob := f.login("bob")
	f.drop(bob)
	crowd(t, f, 5)
	alice := f.login("alice")
	f.drop(alice)
	crowd(t, f, 5)
	bob, alice = f.tab(bob), f.tab(alice) // bob's list is full of the crowd and himself
	phone := f.tab(alice)
	crowd(t, f, 5)
	laptop := f.tab(bob)
	laptop.silent()
	for i, content := range []string{"hi", "again"} {
		alice.say(bob.userID, content, "")
		if i == 0 {
			laptop.expect(userEvent(alice.userID, "alice"))
		}
		laptop.match(`42\["private message",\{"content":"` + content + `".*`)
	}
	laptop.silent()
	phone.until(`42["private message",{"content":"again"`)
	// Presence follows, on both sides.
	f.drop(alice)
	f.drop(phone)
	laptop.match(`42\["user disconnected","` + alice.userID + `",` + anOffset + `\]`)
	// Somebody who is not there is introduced as such.
	dave := f.login("dave")
	watching := f.tab(dave)
	watching.silent() // and so its welcome is over
	dave.say("crowd000", "anybody?", "")
	watching.expect(userEvent("crowd000", "crowd000"))
	watching.match(`42\["user disconnected","crowd000",` + anOffset + `\]`)
	watching.match(`42\["private message",\{"content":"anybody\?".*`)
	watching.silent()
}

// TestStorm: hundreds of clients at once all get a roster that, with what they are told beside it, is right.
func TestStorm(t *testing.T) {
	const clients = 150
	f := start(t)
	devices := make([]*device, clients)
	for i := range devices {
		devices[i] = f.web()
	}
	var all sync.WaitGroup
	for i, d := range devices {
		all.Go(func() { d.send(fmt.Sprintf(`40{"username":"user%d"}`, i)) })
	}
	all.Wait()
	for _, d := range devices {
		d.match(`40.*`)
		frame := d.until(`42["session"`)
		d.userID = frame[len(frame)-19 : len(frame)-3]
	}
	states := make([]map[string]bool, clients)
	for i, d := range devices {
		states[i] = make(map[string]bool)
		frame := d.until(`42["users",`)
		note(t, states[i], frame)
	}
	// All rosters are out, so all announcements are, too. But what came before a roster counts as well: a
	// contract's client merges. It is enough that nobody is missing from both.
	for i, d := range devices {
		_, frames := d.askRaw("/", "history", "{}")
		for _, frame := range frames {
			note(t, states[i], frame)
		}
		if !states[i][d.userID] {
			t.Fatalf("client %d does not see itself", i)
		}
	}
}

package storetest

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	"parley/store"
)

func (h *harness) save(id, user, name string) {
	h.Helper()
	h.ok(h.SaveSession(h.ctx(), store.Session{ID: id, UserID: user, Username: name}))
}

func names(users []store.User) []string {
	var names []string
	for _, u := range users {
		names = append(names, u.Username)
	}
	return names
}

func (h *harness) users(limit int) []string {
	h.Helper()
	users, err := h.Users(h.ctx(), limit)
	h.ok(err)
	return names(users)
}

func (h *harness) search(prefix string, limit int) []string {
	h.Helper()
	users, err := h.SearchUsers(h.ctx(), prefix, limit)
	h.ok(err)
	return names(users)
}

func (h *harness) count() int {
	h.Helper()
	n, err := h.CountUsers(h.ctx())
	h.ok(err)
	return n
}

// walk returns the ids of all users, page by page, sorted.
func (h *harness) walk(limit int) []string {
	h.Helper()
	var all []string
	cursor := ""
	for range 10000 {
		users, next, err := h.UserPage(h.ctx(), cursor, limit)
		h.ok(err)
		if len(users) > limit {
			h.Fatalf("page of %d users, asked for %d", len(users), limit)
		}
		for _, u := range users {
			all = append(all, u.ID)
		}
		if next == "" {
			slices.Sort(all)
			return all
		}
		cursor = next
	}
	h.Fatal("the pages do not end")
	return nil
}

var sessionTests = map[string]func(*harness){
	"save and find": func(h *harness) {
		h.start(store.Options{})
		_, err := h.Session(h.ctx(), "s")
		h.is(err, store.ErrNotFound)
		h.is(h.TouchSession(h.ctx(), "s"), store.ErrNotFound)
		h.save("s", "u", "Alice")
		s, err := h.Session(h.ctx(), "s")
		h.ok(err)
		if s.LastSeen.IsZero() {
			h.Fatal("no time")
		}
		h.same("session", s, store.Session{ID: "s", UserID: "u", Username: "Alice", LastSeen: s.LastSeen})
		users, err := h.Users(h.ctx(), 10)
		h.ok(err)
		h.same("users", users, []store.User{{ID: "u", Username: "Alice", LastSeen: s.LastSeen}})
		h.advance(time.Minute)
		h.ok(h.TouchSession(h.ctx(), "s"))
		touched, err := h.Session(h.ctx(), "s")
		h.ok(err)
		if got := touched.LastSeen.Sub(s.LastSeen); got < time.Minute {
			h.Fatalf("seen %v later", got)
		}
	},

	"expiry": func(h *harness) {
		h.start(store.Options{SessionTTL: time.Hour})
		h.save("s1", "u1", "alice")
		h.save("s2", "u2", "bob")
		h.save("s3", "u3", "carol")
		h.advance(40 * time.Minute)
		h.ok(h.TouchSession(h.ctx(), "s1"))
		h.save("s2", "u2", "bob")
		h.advance(40 * time.Minute)
		for _, id := range []string{"s1", "s2"} {
			_, err := h.Session(h.ctx(), id)
			h.ok(err)
		}
		_, err := h.Session(h.ctx(), "s3")
		h.is(err, store.ErrNotFound)
		h.is(h.TouchSession(h.ctx(), "s3"), store.ErrNotFound)
		h.same("count", h.count(), 2)
		h.same("users", len(h.users(10)), 2)
		h.same("walk", h.walk(10), []string{"u1", "u2"})
		h.same("search", h.search("", 10), []string{"alice", "bob"})
		users, err := h.UsersByID(h.ctx(), []string{"u3", "u2"})
		h.ok(err)
		h.same("by id", names(users), []string{"bob"})
		h.advance(time.Hour)
		h.same("count at the end", h.count(), 0)
		h.same("users at the end", len(h.users(10)), 0)
		h.same("walk at the end", len(h.walk(10)), 0)
		h.save("s3", "u4", "carol again")
		h.same("an expired session's id with another user", h.users(10), []string{"carol again"})
		h.same("count", h.count(), 1)
	},

	"several sessions": func(h *harness) {
		h.start(store.Options{SessionTTL: time.Hour})
		h.save("old", "u", "alice")
		h.advance(30 * time.Minute)
		h.save("new", "u", "Alicia")
		h.same("count", h.count(), 1)
		h.same("name of the latest", h.users(10), []string{"Alicia"})
		h.same("search by the former name", len(h.search("alice", 10)), 0)
		h.ok(h.TouchSession(h.ctx(), "old"))
		h.same("name after the other was seen", h.users(10), []string{"Alicia"})
		h.advance(45 * time.Minute)
		_, err := h.Session(h.ctx(), "old")
		h.ok(err)
		h.advance(10 * time.Minute)
		h.same("lives with the newest session", h.count(), 1)
		_, err = h.Session(h.ctx(), "old")
		h.ok(err)
		h.advance(10 * time.Minute)
		h.same("gone with the last session", h.count(), 0)
	},

	"most recent first": func(h *harness) {
		h.start(store.Options{})
		for i := range 20 {
			h.save(fmt.Sprint("s", i), fmt.Sprint("u", i), fmt.Sprint("name", i))
			h.advance(time.Second)
		}
		h.same("three", h.users(3), []string{"name19", "name18", "name17"})
		h.ok(h.TouchSession(h.ctx(), "s5"))
		h.advance(time.Second)
		h.save("s7", "u7", "name7")
		h.same("after being seen", h.users(3), []string{"name7", "name5", "name19"})
		h.same("all", len(h.users(math.MaxInt)), 20)
		for _, none := range []int{0, -1} {
			h.same("none", len(h.users(none)), 0)
			h.same("none found", len(h.search("", none)), 0)
		}
		users, err := h.UsersByID(h.ctx(), []string{"u3", "nobody", "u1", ""})
		h.ok(err)
		h.same("by id", names(users), []string{"name3", "name1"})
		users, err = h.UsersByID(h.ctx(), nil)
		h.ok(err)
		h.same("by no id", len(users), 0)
	},

	"pages": func(h *harness) {
		h.start(store.Options{})
		var want []string
		for i := range 50 {
			id := fmt.Sprint("u", i)
			want = append(want, id)
			h.save(fmt.Sprint("s", i), id, "same name")
			h.save(fmt.Sprint("t", i), id, "same name")
		}
		slices.Sort(want)
		for _, limit := range []int{1, 7, 50, 1000, math.MaxInt} {
			h.same(fmt.Sprint("pages of ", limit), h.walk(limit), want)
		}
		for _, cursor := range []string{"no cursor", "\x00", "-1", strings.Repeat("z", 1<<20)} {
			if users, _, err := h.UserPage(h.ctx(), cursor, 10); err == nil && len(users) > 10 {
				h.Fatalf("cursor %.10q: %d users", cursor, len(users))
			}
		}
	},

	"search": func(h *harness) {
		h.start(store.Options{})
		for i, name := range []string{
			"Bob", "bobby", "BOBBIE", "alice", "Ålesund", "ålborg", "straße", "bo\x00b", "bo", "", "\u212Aelvin", "kelly", "ΣΊΣΥΦΟΣ",
		} {
			h.save(fmt.Sprint("s", i), fmt.Sprint("u", i), name)
		}
		h.same("bob", h.search("bob", 10), []string{"Bob", "BOBBIE", "bobby"})
		h.same("BOB", h.search("BOB", 10), []string{"Bob", "BOBBIE", "bobby"})
		h.same("two of bob", h.search("bob", 2), []string{"Bob", "BOBBIE"})
		h.same("bo and zero", h.search("bo\x00", 10), []string{"bo\x00b"})
		h.same("å", h.search("Å", 10), []string{"ålborg", "Ålesund"})
		h.same("kelvin sign", h.search("K", 10), []string{"kelly", "\u212Aelvin"})
		h.same("sigma", h.search("σίσυφος", 10), []string{"ΣΊΣΥΦΟΣ"})
		h.same("none", len(h.search("zed", 10)), 0)
		h.same("all", len(h.search("", 100)), 13)
		h.same("too long", len(h.search(strings.Repeat("b", 1<<20), 100)), 0)
		h.save("s0", "u0", "Robert")
		h.same("after a change of name", h.search("bob", 10), []string{"BOBBIE", "bobby"})
		h.same("by the new name", h.search("rob", 10), []string{"Robert"})
	},

	"hostile ids": func(h *harness) {
		h.start(store.Options{})
		for _, id := range hostileIDs {
			h.save(id, id, id)
		}
		h.same("count", h.count(), len(hostileIDs))
		h.same("users", len(h.users(1000)), len(hostileIDs))
		want := slices.Sorted(slices.Values(hostileIDs))
		h.same("walk", h.walk(3), want)
		h.same("search", len(h.search("", 1000)), len(hostileIDs))
		for _, id := range hostileIDs {
			s, err := h.Session(h.ctx(), id)
			h.ok(err)
			h.same("session", s, store.Session{ID: id, UserID: id, Username: id, LastSeen: s.LastSeen})
			if !slices.Contains(h.search(id, 1000), id) {
				h.Fatalf("search does not find %.20q", id)
			}
		}
		for _, bad := range badIDs {
			h.is(h.SaveSession(h.ctx(), store.Session{ID: bad, UserID: "u"}), store.ErrInvalid)
			h.is(h.SaveSession(h.ctx(), store.Session{ID: "s", UserID: bad}), store.ErrInvalid)
			h.is(h.SaveSession(h.ctx(), store.Session{ID: "s", UserID: "u", Username: badIDs[1]}), store.ErrInvalid)
			_, err := h.Session(h.ctx(), bad)
			h.is(err, store.ErrInvalid)
			h.is(h.TouchSession(h.ctx(), bad), store.ErrInvalid)
		}
		h.same("count after refusals", h.count(), len(hostileIDs))
	},

	"concurrent": func(h *harness) {
		h.start(store.Options{})
		var wait sync.WaitGroup
		for i := range 8 {
			wait.Go(func() {
				for j := range 20 {
					user := fmt.Sprint("u", j)
					if err := h.SaveSession(h.ctx(), store.Session{ID: fmt.Sprint(i, "-", j), UserID: user, Username: user}); err != nil {
						h.Error(err)
					}
					if err := h.TouchSession(h.ctx(), fmt.Sprint(i, "-", j)); err != nil {
						h.Error(err)
					}
					if _, err := h.Users(h.ctx(), 5); err != nil {
						h.Error(err)
					}
				}
			})
		}
		wait.Wait()
		h.same("count", h.count(), 20)
		h.same("walk", len(h.walk(6)), 20)
		h.same("search", len(h.search("u", 100)), 20)
		h.same("users", len(h.users(100)), 20)
	},
}

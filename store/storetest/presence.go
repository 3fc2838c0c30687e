package storetest

import (
	"fmt"
	"sync"
	"sync/atomic"

	"parley/store"
)

func (h *harness) connect(user, socket string) bool {
	h.Helper()
	first, err := h.Connect(h.ctx(), user, socket)
	h.ok(err)
	return first
}

func (h *harness) disconnect(user, socket string) bool {
	h.Helper()
	last, err := h.Disconnect(h.ctx(), user, socket)
	h.ok(err)
	return last
}

func (h *harness) online(users ...string) []bool {
	h.Helper()
	online, err := h.Online(h.ctx(), users)
	h.ok(err)
	return online
}

var presenceTests = map[string]func(*harness){
	"first and last": func(h *harness) {
		h.start(store.Options{})
		h.same("nobody", h.online("alice", "bob"), []bool{false, false})
		h.same("first", h.connect("alice", "1"), true)
		h.same("again", h.connect("alice", "1"), false)
		h.same("second", h.connect("alice", "2"), false)
		h.same("socket of another", h.connect("bob", "1"), true)
		h.same("online", h.online("alice", "nobody", "bob", "alice", ""), []bool{true, false, true, true, false})
		h.same("unknown socket", h.disconnect("alice", "3"), false)
		h.same("one of two", h.disconnect("alice", "1"), false)
		h.same("it again", h.disconnect("alice", "1"), false)
		h.same("still online", h.online("alice"), []bool{true})
		h.same("last", h.disconnect("alice", "2"), true)
		h.same("it again", h.disconnect("alice", "2"), false)
		h.same("online", h.online("alice", "bob"), []bool{false, true})
		h.same("back", h.connect("alice", "1"), true)
		h.same("no users", len(h.online()), 0)
	},

	"transitions alternate": func(h *harness) {
		h.start(store.Options{})
		var firsts, lasts atomic.Int64
		var wait sync.WaitGroup
		for i := range 16 {
			wait.Go(func() {
				socket := fmt.Sprint(i)
				for range 100 {
					first, err := h.Connect(h.ctx(), "alice", socket)
					if err != nil {
						h.Error(err)
					}
					if first {
						firsts.Add(1)
					}
					last, err := h.Disconnect(h.ctx(), "alice", socket)
					if err != nil {
						h.Error(err)
					}
					if last {
						lasts.Add(1)
					}
				}
			})
		}
		wait.Wait()
		h.same("online", h.online("alice"), []bool{false})
		if firsts.Load() != lasts.Load() || firsts.Load() == 0 {
			h.Fatalf("%d times first, %d times last", firsts.Load(), lasts.Load())
		}
	},

	"hostile ids": func(h *harness) {
		h.start(store.Options{})
		for _, user := range hostileIDs {
			for i, socket := range hostileIDs {
				h.same("first", h.connect(user, socket), i == 0)
			}
		}
		for _, user := range hostileIDs {
			for i, socket := range hostileIDs {
				h.same("last", h.disconnect(user, socket), i == len(hostileIDs)-1)
			}
		}
		for _, bad := range badIDs {
			_, err := h.Connect(h.ctx(), bad, "1")
			h.is(err, store.ErrInvalid)
			_, err = h.Connect(h.ctx(), "alice", bad)
			h.is(err, store.ErrInvalid)
			_, err = h.Disconnect(h.ctx(), bad, "1")
			h.is(err, store.ErrInvalid)
			_, err = h.Disconnect(h.ctx(), "alice", bad)
			h.is(err, store.ErrInvalid)
		}
	},
}

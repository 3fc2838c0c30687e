package storetest

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"parley/store"
)

var recoveryTests = map[string]func(*harness){
	"save and take": func(h *harness) {
		h.start(store.Options{})
		_, err := h.TakeRecovery(h.ctx(), "p")
		h.is(err, store.ErrNotFound)
		r := store.Recovery{
			PID: "p", SID: "s", Namespace: "/", User: "alice", Box: box("alice"), Rooms: []string{"s", "", "room\x00"},
			Data: []byte(`{"a":1}`), Disconnected: time.UnixMilli(1600000000123).UTC(),
		}
		h.ok(h.SaveRecovery(h.ctx(), r, time.Minute))
		want := fmt.Sprintf("%+v", r)
		copy(r.Data, "other")
		r.Rooms[0] = "changed"
		got, err := h.TakeRecovery(h.ctx(), "p")
		h.ok(err)
		got.Disconnected = got.Disconnected.UTC()
		h.same("recovery", fmt.Sprintf("%+v", got), want)
		_, err = h.TakeRecovery(h.ctx(), "p")
		h.is(err, store.ErrNotFound)

		h.ok(h.SaveRecovery(h.ctx(), store.Recovery{PID: "p"}, time.Minute))
		got, err = h.TakeRecovery(h.ctx(), "p")
		h.ok(err)
		h.same("empty", got, store.Recovery{PID: "p"})
	},

	"replace and delete": func(h *harness) {
		h.start(store.Options{})
		h.ok(h.SaveRecovery(h.ctx(), store.Recovery{PID: "p", SID: "1"}, time.Minute))
		h.ok(h.SaveRecovery(h.ctx(), store.Recovery{PID: "p", SID: "2"}, time.Hour))
		h.advance(2 * time.Minute)
		r, err := h.TakeRecovery(h.ctx(), "p")
		h.ok(err)
		h.same("the later", r.SID, "2")
		h.ok(h.SaveRecovery(h.ctx(), store.Recovery{PID: "p"}, time.Minute))
		h.ok(h.DeleteRecovery(h.ctx(), "p"))
		h.ok(h.DeleteRecovery(h.ctx(), "p"))
		_, err = h.TakeRecovery(h.ctx(), "p")
		h.is(err, store.ErrNotFound)
	},

	"expiry": func(h *harness) {
		h.start(store.Options{})
		h.ok(h.SaveRecovery(h.ctx(), store.Recovery{PID: "p"}, time.Minute))
		h.ok(h.SaveRecovery(h.ctx(), store.Recovery{PID: "q"}, time.Hour))
		h.advance(61 * time.Second)
		_, err := h.TakeRecovery(h.ctx(), "p")
		h.is(err, store.ErrNotFound)
		_, err = h.TakeRecovery(h.ctx(), "q")
		h.ok(err)
	},

	"one taker": func(h *harness) {
		h.start(store.Options{})
		for round := range 10 {
			pid := fmt.Sprint(round)
			h.ok(h.SaveRecovery(h.ctx(), store.Recovery{PID: pid}, time.Minute))
			var taken atomic.Int64
			var wait sync.WaitGroup
			for range 8 {
				wait.Go(func() {
					_, err := h.TakeRecovery(h.ctx(), pid)
					if err == nil {
						taken.Add(1)
					} else if !errors.Is(err, store.ErrNotFound) {
						h.Error(err)
					}
				})
			}
			wait.Wait()
			h.same("takers", taken.Load(), 1)
		}
	},

	"many": func(h *harness) {
		h.start(store.Options{})
		const each = 80
		var wait sync.WaitGroup
		for i := range 8 {
			wait.Go(func() {
				for j := range each {
					pid := fmt.Sprint(i, "-", j)
					if err := h.SaveRecovery(h.ctx(), store.Recovery{PID: pid, Rooms: []string{pid}}, time.Minute); err != nil {
						h.Error(err)
					}
				}
			})
		}
		wait.Wait()
		for i := range 8 {
			wait.Go(func() {
				for j := range each {
					if _, err := h.TakeRecovery(h.ctx(), fmt.Sprint(i, "-", j)); err != nil {
						h.Error(err)
					}
				}
			})
		}
		wait.Wait()
	},

	"hostile ids": func(h *harness) {
		h.start(store.Options{})
		for _, pid := range hostileIDs {
			h.ok(h.SaveRecovery(h.ctx(), store.Recovery{PID: pid, User: pid, Rooms: hostileIDs}, time.Minute))
		}
		for _, pid := range hostileIDs {
			r, err := h.TakeRecovery(h.ctx(), pid)
			h.ok(err)
			h.same("user", r.User, pid)
			h.same("rooms", r.Rooms, hostileIDs)
		}
		for _, bad := range badIDs {
			h.is(h.SaveRecovery(h.ctx(), store.Recovery{PID: bad}, time.Minute), store.ErrInvalid)
			_, err := h.TakeRecovery(h.ctx(), bad)
			h.is(err, store.ErrInvalid)
			h.is(h.DeleteRecovery(h.ctx(), bad), store.ErrInvalid)
		}
		for _, r := range []store.Recovery{
			{PID: "p", SID: badIDs[1]}, {PID: "p", Rooms: []string{strings.Repeat("x", store.MaxIDBytes+1)}},
			{PID: "p", Rooms: make([]string, store.MaxRooms+1)},
		} {
			h.is(h.SaveRecovery(h.ctx(), r, time.Minute), store.ErrInvalid)
		}
	},
}

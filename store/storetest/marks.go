package storetest

import (
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"parley/store"
)

// mark returns the mark of one conversation.
func (h *harness) mark(b store.Box, peer string) store.Mark {
	h.Helper()
	marks, err := h.Marks(h.ctx(), b, []string{peer}, 0)
	h.ok(err)
	h.same("number of marks", len(marks), 1)
	return marks[0]
}

// move moves a mark that has to be there.
func (h *harness) move(b store.Box, peer string, to store.Mark) (now store.Mark, moved bool) {
	h.Helper()
	now, moved, err := h.Advance(h.ctx(), b, peer, to)
	h.ok(err)
	return now, moved
}

func millis(ms int64) time.Time { return time.UnixMilli(ms).UTC() }

var markTests = map[string]func(*harness){
	"advance and read": func(h *harness) {
		h.start(store.Options{})
		h.same("without a mailbox", h.mark(box("alice"), "bob"), store.Mark{})
		var offsets []store.Offset
		for i := range 3 {
			offsets = append(offsets, h.post(message(fmt.Sprint(i), "bob", "alice")).Offsets[1])
		}
		fresh := store.Mark{Newest: offsets[2], Unread: 3}
		h.same("fresh", h.mark(box("alice"), "bob"), fresh)
		h.same("of another peer", h.mark(box("alice"), "carol"), store.Mark{})

		want := fresh
		want.Read, want.Unread = offsets[1], 1
		now, moved := h.move(box("alice"), "bob", store.Mark{Read: offsets[1]})
		h.same("read", now, want)
		h.same("moved", moved, true)
		want.Received, want.Seen = millis(1700000000123), millis(1600000000456)
		now, moved = h.move(box("alice"), "bob", store.Mark{Received: want.Received.Add(999 * time.Microsecond), Seen: want.Seen})
		h.same("received and seen", now, want)
		h.same("moved", moved, true)
		h.same("all", h.mark(box("alice"), "bob"), want)
		h.same("the other side's", h.mark(box("bob"), "alice").Read, store.Offset{})

		// What comes later moves the newest alone.
		want.Newest = h.post(message("later", "alice", "bob")).Offsets[0]
		h.same("with a newer entry", h.mark(box("alice"), "bob"), want)

		marks, err := h.Marks(h.ctx(), box("alice"), []string{"carol", "bob", "", "bob"}, 0)
		h.ok(err)
		h.same("several", marks, []store.Mark{{}, want, {}, want})
		marks, err = h.Marks(h.ctx(), box("alice"), nil, 0)
		h.ok(err)
		h.same("none", len(marks), 0)
	},

	"forward only": func(h *harness) {
		h.start(store.Options{})
		var offsets []store.Offset
		for i := range 3 {
			offsets = append(offsets, h.post(message(fmt.Sprint(i), "bob", "alice")).Offsets[1])
		}
		high := store.Mark{Newest: offsets[2], Read: offsets[2], Received: millis(3000), Seen: millis(2000)}
		now, moved := h.move(box("alice"), "bob", high)
		h.same("moved", moved, true)
		h.same("mark", now, high)
		for _, low := range []store.Mark{
			{}, high, {Read: offsets[0]}, {Received: millis(2999)}, {Seen: millis(1)}, {Read: offsets[1], Received: millis(1), Seen: millis(1999)},
			{Newest: store.Offset{Epoch: 1 << 63, Seq: 9}}, {Received: millis(3000).Add(999 * time.Microsecond)},
		} {
			now, moved := h.move(box("alice"), "bob", low)
			h.same(fmt.Sprintf("moved to %+v", low), moved, false)
			h.same(fmt.Sprintf("mark after %+v", low), now, high)
		}
		now, moved = h.move(box("alice"), "bob", store.Mark{Read: offsets[0], Seen: millis(2001)})
		high.Seen = millis(2001)
		h.same("one of them", now, high)
		h.same("moved", moved, true)
	},

	"not there": func(h *harness) {
		h.start(store.Options{})
		_, _, err := h.Advance(h.ctx(), box("alice"), "bob", store.Mark{Seen: millis(1)})
		h.is(err, store.ErrNotFound)
		tail := h.tail(box("alice"))
		h.same("no mailbox was made", tail, store.Offset{})
		at := h.post(message("m", "bob", "alice")).Offsets[1]
		_, _, err = h.Advance(h.ctx(), box("alice"), "carol", store.Mark{Seen: millis(1)})
		h.is(err, store.ErrNotFound)
		for _, epoch := range []uint64{1, at.Epoch - 1, at.Epoch + 1, 1<<64 - 1} {
			_, _, err = h.Advance(h.ctx(), box("alice"), "bob", store.Mark{Read: store.Offset{Epoch: epoch, Seq: 1}, Seen: millis(1)})
			h.is(err, store.ErrNotFound)
		}
		h.same("mark", h.mark(box("alice"), "bob"), store.Mark{Newest: at, Unread: 1})
	},

	"life": func(h *harness) {
		h.start(store.Options{MessageTTL: time.Hour})
		first := h.post(message("1", "bob", "alice")).Offsets[1]
		h.move(box("alice"), "bob", store.Mark{Read: first, Received: millis(1000)})
		// It lives with the mailbox, whichever conversation keeps that alive,
		h.advance(45 * time.Minute)
		h.post(message("2", "carol", "alice"))
		h.advance(45 * time.Minute)
		h.same("kept", h.mark(box("alice"), "bob"), store.Mark{Newest: first, Read: first, Received: millis(1000)})
		// and dies with it.
		h.advance(20 * time.Minute)
		h.same("expired", h.mark(box("alice"), "bob"), store.Mark{})
		_, _, err := h.Advance(h.ctx(), box("alice"), "bob", store.Mark{Read: first})
		h.is(err, store.ErrNotFound)
		next := h.post(message("3", "bob", "alice")).Offsets[1]
		h.same("the next incarnation", h.mark(box("alice"), "bob"), store.Mark{Newest: next, Unread: 1})
		_, _, err = h.Advance(h.ctx(), box("alice"), "bob", store.Mark{Read: first})
		h.is(err, store.ErrNotFound)
	},

	"trimmed": func(h *harness) {
		h.start(store.Options{MailboxLimit: 4})
		h.move(box("alice"), "bob", store.Mark{Read: h.post(message("1", "bob", "alice")).Offsets[1], Seen: millis(1)})
		last := h.post(message("2", "bob", "alice")).Offsets[1]
		for i := range 3 {
			h.post(message(fmt.Sprint(i), "carol", "alice"))
		}
		// The first entry is gone, which the mark names, but there is another.
		h.same("with an entry", h.mark(box("alice"), "bob"),
			store.Mark{Newest: last, Read: store.Offset{Epoch: last.Epoch, Seq: 1}, Seen: millis(1), Unread: 1})
		h.post(message("3", "carol", "alice"))
		h.same("without", h.mark(box("alice"), "bob"), store.Mark{})
		_, _, err := h.Advance(h.ctx(), box("alice"), "bob", store.Mark{Read: last})
		h.is(err, store.ErrNotFound)
		again := h.post(message("4", "bob", "alice")).Offsets[1]
		now := h.mark(box("alice"), "bob")
		h.same("newest", now.Newest, again)
	},

	"many": func(h *harness) {
		h.start(store.Options{})
		const peers, steps = 6, 20
		last := map[string]store.Offset{}
		for i := range peers * steps {
			peer := fmt.Sprint("peer", i%peers)
			last[peer] = h.post(message(fmt.Sprint(i), peer, "alice")).Offsets[1]
		}
		// Each peer's mark is moved to the same places by two at once: of those one moves it.
		var moves atomic.Int64
		h.together(2*peers, func(i int) error {
			peer := fmt.Sprint("peer", i%peers)
			for seq := range uint64(peers * steps) {
				at := store.Offset{Epoch: last[peer].Epoch, Seq: seq + 1}
				now, moved, err := h.Advance(h.ctx(), box("alice"), peer, store.Mark{Read: at, Seen: millis(int64(seq + 1))})
				if err != nil {
					return err
				}
				if moved {
					moves.Add(1)
				}
				if now.Read.Seq < at.Seq || now.Seen.Before(millis(int64(at.Seq))) {
					return fmt.Errorf("%v after a move to %v", now, at)
				}
			}
			return nil
		})
		h.same("moves", moves.Load(), peers*peers*steps)
		for peer, newest := range last {
			h.same(peer, h.mark(box("alice"), peer), store.Mark{
				Newest: newest, Read: store.Offset{Epoch: newest.Epoch, Seq: peers * steps}, Seen: millis(peers * steps),
			})
		}
	},

	"unread": func(h *harness) {
		h.start(store.Options{MailboxLimit: 400})
		// Of four messages bob sends one, alice two, and carol one in between.
		at := h.post(message("first", "bob", "alice")).Offsets[1]
		want := 1
		for i := range 40 {
			h.post(message(fmt.Sprint("a", i), "alice", "bob"))
			h.post(message(fmt.Sprint("b", i), "bob", "alice"))
			h.post(message(fmt.Sprint("c", i), "carol", "alice"))
			h.post(message(fmt.Sprint("d", i), "alice", "bob"))
			want++
		}
		h.same("all", h.mark(box("alice"), "bob").Unread, want)
		h.same("of carol", h.mark(box("alice"), "carol").Unread, 40)
		h.same("of the other side", h.mark(box("bob"), "alice").Unread, 80)
		for _, seq := range []uint64{1, 2, 3, 4, 5, 60, 61, 62, 63, 160, 161} {
			at.Seq = seq
			now, _ := h.move(box("alice"), "bob", store.Mark{Read: at})
			h.same(fmt.Sprint("read to ", seq), now.Unread, 40-(int(seq)+1)/4)
			h.same(fmt.Sprint("read to ", seq), h.mark(box("alice"), "bob").Unread, now.Unread)
		}
		// Below a number, for several at once.
		for i, below := range []uint64{1, 2, 4, 5, 161, 162, 1000, 1<<64 - 1, 0} {
			marks, err := h.Marks(h.ctx(), box("alice"), []string{"carol", "bob", "dave", "carol"}, below)
			h.ok(err)
			n := []int{0, 0, 0, 1, 40, 40, 40, 40, 40}[i]
			h.same(fmt.Sprint("below ", below), []int{marks[0].Unread, marks[1].Unread, marks[2].Unread, marks[3].Unread}, []int{n, 0, 0, n})
		}
		// It ends where counting does; one's own at the end of it change nothing; and what is trimmed is not counted.
		for i := range 150 {
			h.post(message(fmt.Sprint("e", i), "dave", "alice"))
		}
		for i := range 150 {
			h.post(message(fmt.Sprint("f", i), "alice", "dave"))
		}
		h.same("many", h.mark(box("alice"), "dave").Unread, store.MaxUnread)
		h.same("trimmed", h.mark(box("alice"), "carol").Unread, 25)
		for i := range 249 {
			h.post(message(fmt.Sprint("g", i), "alice", "dave"))
		}
		h.same("one is left", h.mark(box("alice"), "dave").Unread, 1)
		h.post(message("last", "alice", "dave"))
		h.same("none", h.mark(box("alice"), "dave"), store.Mark{Newest: h.tail(box("alice"))})
		// A note to oneself is sent by its owner, whatever the second delivery says.
		note := message("note", "bob", "bob")
		h.post(note)
		h.same("note", h.mark(box("bob"), "bob").Unread, 0)
	},

	"reach": func(h *harness) {
		h.start(store.Options{MailboxLimit: 60})
		post := func(id, from, to string, at int64) store.Offset {
			p := message(id, from, to)
			p.At = millis(at)
			return h.post(p).Offsets[1]
		}
		reach := func(peer string, seq uint64, want int64) {
			h.Helper()
			at, until, err := h.Reach(h.ctx(), box("alice"), peer, seq)
			h.ok(err)
			h.same("offset", at, store.Offset{Epoch: h.tail(box("alice")).Epoch, Seq: seq})
			if want == 0 {
				h.same("until", until.IsZero(), true)
				return
			}
			h.same(fmt.Sprint("until ", seq), until, millis(want))
		}
		lacks := func(peer string, seq uint64) {
			h.Helper()
			_, _, err := h.Reach(h.ctx(), box("alice"), peer, seq)
			h.is(err, store.ErrNotFound)
		}
		lacks("bob", 1)
		post("own", "alice", "bob", 500)
		reach("bob", 1, 0)
		post("1", "bob", "alice", 1000)
		post("2", "bob", "alice", 900) // by a clock that is behind
		post("other", "carol", "alice", 5000)
		for i := range 30 {
			post(fmt.Sprint("own", i), "alice", "bob", 6000)
		}
		post("3", "bob", "alice", 7000)
		reach("bob", 1, 0)
		reach("bob", 2, 1000)
		reach("bob", 3, 1000)
		reach("bob", 5, 1000)
		reach("bob", 34, 1000)
		reach("bob", 35, 7000)
		reach("carol", 4, 5000)
		for _, seq := range []uint64{0, 4, 36, 1000, 1 << 53, 1<<64 - 1} {
			lacks("bob", seq)
		}
		lacks("carol", 3)
		lacks("dave", 1)
		lacks("", 1)
		for i := range 28 { // the first three are trimmed
			post(fmt.Sprint("late", i), "carol", "alice", 8000)
		}
		lacks("bob", 3)
		reach("bob", 34, 0)
		reach("bob", 35, 7000)
	},

	"many conversations": func(h *harness) {
		h.start(store.Options{})
		const n = 700
		var peers []string
		var want []store.Mark
		for i := range n {
			peer := fmt.Sprint("peer", i)
			at := h.post(message("m", peer, "alice")).Offsets[1]
			mark := store.Mark{Newest: at, Unread: 1}
			if i%3 == 0 {
				mark, _ = h.move(box("alice"), peer, store.Mark{Read: at})
			}
			peers, want = append(peers, peer), append(want, mark)
		}
		marks, err := h.Marks(h.ctx(), box("alice"), peers, 0)
		h.ok(err)
		h.same("marks", marks, want)
	},

	"hostile ids": func(h *harness) {
		h.start(store.Options{})
		peers := append([]string{""}, hostileIDs...)
		var want []store.Mark
		for i, peer := range peers {
			to := store.Delivery{Box: box("alice"), Peer: peer}
			at := h.post(store.Post{ID: "m" + fmt.Sprint(i), Sender: "s", Data: []byte("{}"), To: []store.Delivery{to}}).Offsets[0]
			now, _ := h.move(box("alice"), peer, store.Mark{Read: at, Seen: millis(int64(i + 1))})
			want = append(want, now)
		}
		marks, err := h.Marks(h.ctx(), box("alice"), peers, 0)
		h.ok(err)
		for i := range marks {
			h.same(fmt.Sprintf("mark of %.20q", peers[i]), marks[i], want[i])
			h.same("seen", marks[i].Seen, millis(int64(i+1)))
		}
		for _, user := range hostileIDs {
			h.post(store.Post{ID: "m", Sender: user, Data: []byte("{}"), To: []store.Delivery{{Box: box(user), Peer: "\x01"}}})
			now, _ := h.move(box(user), "\x01", store.Mark{Received: millis(7)})
			h.same("mark", h.mark(box(user), "\x01"), now)
		}
		long := strings.Repeat("x", store.MaxIDBytes+1)
		_, _, err = h.Advance(h.ctx(), box("alice"), long, store.Mark{})
		h.is(err, store.ErrInvalid)
		_, err = h.Marks(h.ctx(), box("alice"), []string{long}, 0)
		h.is(err, store.ErrInvalid)
		_, _, err = h.Reach(h.ctx(), box("alice"), long, 1)
		h.is(err, store.ErrInvalid)
		for _, bad := range badIDs {
			_, _, err := h.Advance(h.ctx(), box(bad), "bob", store.Mark{})
			h.is(err, store.ErrInvalid)
			_, err = h.Marks(h.ctx(), box(bad), nil, 0)
			h.is(err, store.ErrInvalid)
			_, _, err = h.Reach(h.ctx(), box(bad), "bob", 1)
			h.is(err, store.ErrInvalid)
		}
	},
}

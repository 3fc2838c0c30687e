package storetest

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"time"

	"parley/store"
)

func box(user string) store.Box { return store.Box{App: "chat", User: user} }

// message returns a private message as the chat posts it.
func message(id, from, to string) store.Post {
	return store.Post{
		ID: id, Sender: from, Origin: "socket of " + from, Data: []byte(`"` + id + `"`),
		To: []store.Delivery{{Box: box(from), Peer: to, Sent: true}, {Box: box(to), Peer: from}},
	}
}

func (h *harness) post(p store.Post) store.Receipt {
	h.Helper()
	receipt, err := h.Append(h.ctx(), p)
	h.ok(err)
	if len(receipt.Offsets) != len(p.To) || receipt.ID != p.ID {
		h.Fatalf("receipt %+v for %+v", receipt, p)
	}
	return receipt
}

func (h *harness) after(b store.Box, o store.Offset, limit int) []store.Entry {
	h.Helper()
	entries, err := h.After(h.ctx(), b, o, limit)
	h.ok(err)
	return entries
}

func (h *harness) conversation(b store.Box, peer string, before uint64, limit int) []store.Entry {
	h.Helper()
	entries, err := h.Conversation(h.ctx(), b, peer, before, limit)
	h.ok(err)
	return entries
}

func (h *harness) overview(b store.Box, peers, perPeer int) store.Overview {
	h.Helper()
	o, err := h.Overview(h.ctx(), b, peers, perPeer)
	h.ok(err)
	return o
}

func (h *harness) tail(b store.Box) store.Offset {
	h.Helper()
	o, err := h.Tail(h.ctx(), b)
	h.ok(err)
	return o
}

// ids returns the ids of entries, in their order.
func ids(entries []store.Entry) []string {
	var ids []string
	for _, e := range entries {
		ids = append(ids, e.ID)
	}
	return ids
}

func seqs(entries []store.Entry) []uint64 {
	var seqs []uint64
	for _, e := range entries {
		seqs = append(seqs, e.Seq)
	}
	return seqs
}

var mailboxTests = map[string]func(*harness){
	"append and read": func(h *harness) {
		h.start(store.Options{})
		h.same("tail of none", h.tail(box("bob")), store.Offset{})
		h.same("entries of none", h.after(box("bob"), store.Offset{}, 10), []store.Entry(nil))
		h.same("conversation of none", h.conversation(box("bob"), "alice", 0, 10), []store.Entry(nil))
		h.same("overview of none", h.overview(box("bob"), 10, 10), store.Overview{})
		h.same("tail after reading", h.tail(box("bob")), store.Offset{})

		at := time.UnixMilli(1600000000123).UTC()
		post := message("m1", "alice", "bob")
		post.At = at.Add(456 * time.Microsecond)
		r := h.post(post)
		if r.Duplicate || !r.At.Equal(at) || r.Offsets[0].Seq != 1 || r.Offsets[1].Seq != 1 || r.Offsets[0].Epoch == 0 {
			h.Fatalf("receipt: %+v", r)
		}
		entries := h.after(box("bob"), store.Offset{}, 10)
		if len(entries) != 1 || !entries[0].At.Equal(at) {
			h.Fatalf("entries: %+v", entries)
		}
		entries[0].At = at
		h.same("entry", entries[0], store.Entry{
			Offset: r.Offsets[1], ID: "m1", At: at, Peer: "alice", Origin: "socket of alice", Data: []byte(`"m1"`),
		})
		h.same("peer of the sender's entry", h.after(box("alice"), store.Offset{}, 10)[0].Peer, "bob")
		h.same("tail", h.tail(box("bob")), r.Offsets[1])

		r = h.post(message("m2", "bob", "alice"))
		h.same("numbers", []uint64{r.Offsets[0].Seq, r.Offsets[1].Seq}, []uint64{2, 2})
		if r.At.IsZero() {
			h.Error("the store gave no time")
		}
		h.same("other application", h.after(store.Box{App: "notify", User: "bob"}, store.Offset{}, 10), []store.Entry(nil))
	},

	"limits of reading": func(h *harness) {
		h.start(store.Options{})
		for i := range 10 {
			h.post(message(fmt.Sprint(i), "alice", "bob"))
		}
		start := h.after(box("bob"), store.Offset{}, 3)
		h.same("first three", ids(start), []string{"0", "1", "2"})
		h.same("next", ids(h.after(box("bob"), start[2].Offset, 100)), []string{"3", "4", "5", "6", "7", "8", "9"})
		h.same("after the tail", len(h.after(box("bob"), h.tail(box("bob")), 5)), 0)
		for _, none := range []int{0, -1, math.MinInt} {
			h.same("no entries", len(h.after(box("bob"), store.Offset{}, none)), 0)
			h.same("no page", len(h.conversation(box("bob"), "alice", 0, none)), 0)
			h.same("no conversations", len(h.overview(box("bob"), none, none).Conversations), 0)
		}
		h.same("all", len(h.after(box("bob"), store.Offset{}, math.MaxInt)), 10)
		h.same("all of a conversation", len(h.conversation(box("bob"), "alice", 0, math.MaxInt)), 10)
		h.same("all of the overview", len(h.overview(box("bob"), math.MaxInt, math.MaxInt).Conversations[0].Entries), 10)
	},

	"unknown offsets": func(h *harness) {
		h.start(store.Options{})
		epoch := h.post(message("m", "alice", "bob")).Offsets[1].Epoch
		for _, o := range []store.Offset{
			{Epoch: epoch, Seq: 2}, {Epoch: epoch, Seq: math.MaxUint64}, {Epoch: epoch + 1, Seq: 1}, {Epoch: epoch - 1, Seq: 1},
			{Epoch: 0, Seq: 1}, {Epoch: math.MaxUint64, Seq: math.MaxUint64},
		} {
			_, err := h.After(h.ctx(), box("bob"), o, 10)
			h.is(err, store.ErrUnknownOffset)
		}
		_, err := h.After(h.ctx(), box("nobody"), store.Offset{Epoch: epoch, Seq: 1}, 10)
		h.is(err, store.ErrUnknownOffset)
		h.same("before the first", ids(h.after(box("bob"), store.Offset{Epoch: epoch}, 10)), []string{"m"})
	},

	"retry": func(h *harness) {
		h.start(store.Options{})
		first := h.post(message("m", "alice", "bob"))
		h.post(message("n", "alice", "bob"))
		h.advance(time.Minute)
		again := message("m", "alice", "bob")
		again.Data = []byte(`"other"`)
		again.At = first.At.Add(time.Hour)
		r := h.post(again)
		if !r.Duplicate || !r.At.Equal(first.At) {
			h.Fatalf("retry: %+v, first: %+v", r, first)
		}
		h.same("offsets of the retry", r.Offsets, first.Offsets)
		h.same("entries", ids(h.after(box("bob"), store.Offset{}, 10)), []string{"m", "n"})
		h.same("data", string(h.after(box("bob"), store.Offset{}, 1)[0].Data), `"m"`)

		// The same id of another sender is another message.
		if r := h.post(message("m", "bob", "alice")); r.Duplicate || r.Offsets[0].Seq != 3 {
			h.Fatalf("the same id of another sender: %+v", r)
		}
	},

	// An id that was made for its post is looked for as any other when it is sent again.
	"retry of a fresh id": func(h *harness) {
		h.start(store.Options{})
		fresh := message("m", "alice", "bob")
		fresh.Fresh = true
		first := h.post(fresh)
		if first.Duplicate || first.Offsets[0].Seq != 1 {
			h.Fatalf("fresh: %+v", first)
		}
		other := message("n", "alice", "bob")
		other.Fresh = true
		if r := h.post(other); r.Duplicate || r.Offsets[0].Seq != 2 {
			h.Fatalf("fresh: %+v", r)
		}
		h.advance(time.Minute)
		if r := h.post(message("m", "alice", "bob")); !r.Duplicate || !r.At.Equal(first.At) || !slices.Equal(r.Offsets, first.Offsets) {
			h.Fatalf("retry: %+v, first: %+v", r, first)
		}
		h.same("entries", ids(h.after(box("bob"), store.Offset{}, 10)), []string{"m", "n"})
	},

	// A post that reached some of its mailboxes before it failed is completed by its retry.
	"retry completes": func(h *harness) {
		for done := range 2 {
			h.start(store.Options{})
			whole := message("m", "alice", "bob")
			part := whole
			part.To = whole.To[done : done+1]
			first := h.post(part)
			h.advance(time.Minute)
			r := h.post(whole)
			if r.Duplicate || !r.At.Equal(first.At) || r.Offsets[done] != first.Offsets[0] || r.Offsets[1-done].Seq != 1 {
				h.Fatalf("completed: %+v, first: %+v", r, first)
			}
			for _, user := range []string{"alice", "bob"} {
				entries := h.after(box(user), store.Offset{}, 10)
				if len(entries) != 1 || !entries[0].At.Equal(first.At) {
					h.Fatalf("mailbox of %s: %+v", user, entries)
				}
			}
			if r := h.post(whole); !r.Duplicate {
				h.Fatalf("third: %+v", r)
			}
		}
	},

	"note to self": func(h *harness) {
		h.start(store.Options{})
		r := h.post(message("m", "alice", "alice"))
		if r.Duplicate || r.Offsets[0] != r.Offsets[1] || r.Offsets[0].Seq != 1 {
			h.Fatalf("receipt: %+v", r)
		}
		h.same("entries", ids(h.after(box("alice"), store.Offset{}, 10)), []string{"m"})
		h.same("conversation", ids(h.conversation(box("alice"), "alice", 0, 10)), []string{"m"})
		if r := h.post(message("m", "alice", "alice")); !r.Duplicate {
			h.Fatalf("retry: %+v", r)
		}
	},

	"mailbox limit": func(h *harness) {
		h.start(store.Options{MailboxLimit: 10})
		old := h.post(message("old", "carol", "bob")).Offsets[1]
		for i := range 24 {
			h.post(message(fmt.Sprint(i), "alice", "bob"))
		}
		entries := h.after(box("bob"), store.Offset{}, 100)
		h.same("numbers", seqs(entries), []uint64{16, 17, 18, 19, 20, 21, 22, 23, 24, 25})
		_, err := h.After(h.ctx(), box("bob"), old, 100)
		h.is(err, store.ErrUnknownOffset)
		_, err = h.After(h.ctx(), box("bob"), store.Offset{Epoch: old.Epoch, Seq: 14}, 100)
		h.is(err, store.ErrUnknownOffset)
		_, err = h.After(h.ctx(), box("bob"), store.Offset{Epoch: old.Epoch}, 100)
		h.is(err, store.ErrUnknownOffset)
		h.same("just before the oldest", len(h.after(box("bob"), store.Offset{Epoch: old.Epoch, Seq: 15}, 100)), 10)
		h.same("conversation", seqs(h.conversation(box("bob"), "alice", 0, 100)), seqs(entries))
		h.same("conversation before what is gone", len(h.conversation(box("bob"), "alice", 16, 100)), 0)
		h.same("trimmed conversation", len(h.conversation(box("bob"), "carol", 0, 100)), 0)
		o := h.overview(box("bob"), 10, 3)
		if len(o.Conversations) != 1 || o.Conversations[0].Peer != "alice" || o.Tail.Seq != 25 {
			h.Fatalf("overview: %+v", o)
		}
		// What was trimmed is forgotten; what is kept is not.
		if r := h.post(message("23", "alice", "bob")); !r.Duplicate || r.Offsets[1].Seq != 25 {
			h.Fatalf("retry of a kept one: %+v", r)
		}
		// Carol's own mailbox keeps it; bob's gets it anew.
		if r := h.post(message("old", "carol", "bob")); r.Offsets[0].Seq != 1 || r.Offsets[1].Seq != 26 {
			h.Fatalf("retry of a trimmed one: %+v", r)
		}
	},

	"conversation pages": func(h *harness) {
		h.start(store.Options{})
		for i := range 20 {
			h.post(message(fmt.Sprint("a", i), "alice", "bob"))
			h.post(message(fmt.Sprint("c", i), "carol", "bob"))
			h.post(message(fmt.Sprint("b", i), "bob", "alice"))
		}
		var all []store.Entry
		before := uint64(0)
		for {
			page := h.conversation(box("bob"), "alice", before, 7)
			if len(page) == 0 {
				break
			}
			all = append(page, all...)
			before = page[0].Seq
		}
		var want []string
		for i := range 20 {
			want = append(want, fmt.Sprint("a", i), fmt.Sprint("b", i))
		}
		h.same("all pages", ids(all), want)
		h.same("before a number of another conversation", ids(h.conversation(box("bob"), "alice", 2, 7)), []string{"a0"})
		h.same("before the first", len(h.conversation(box("bob"), "alice", 1, 7)), 0)
		h.same("before a number to come", ids(h.conversation(box("bob"), "alice", math.MaxUint64, 1)), []string{"b19"})
		h.same("unknown peer", len(h.conversation(box("bob"), "nobody", 0, 7)), 0)
		h.same("start of a peer's name", len(h.conversation(box("bob"), "alic", 0, 7)), 0)
	},

	"overview": func(h *harness) {
		h.start(store.Options{})
		for round := range 5 {
			for peer := range 20 {
				h.post(message(fmt.Sprint(peer, "-", round), fmt.Sprint("peer", peer), "bob"))
			}
		}
		h.post(message("last", "bob", "peer3"))
		o := h.overview(box("bob"), 3, 2)
		h.same("tail", o.Tail, h.tail(box("bob")))
		var got [][]string
		for _, c := range o.Conversations {
			got = append(got, append([]string{c.Peer}, ids(c.Entries)...))
		}
		h.same("overview", got, [][]string{{"peer3", "3-4", "last"}, {"peer19", "19-3", "19-4"}, {"peer18", "18-3", "18-4"}})
		h.same("all", len(h.overview(box("bob"), 100, 100).Conversations), 20)
	},

	"mailbox expiry": func(h *harness) {
		h.start(store.Options{MessageTTL: time.Hour})
		first := h.post(message("m", "alice", "bob")).Offsets[1]
		h.advance(50 * time.Minute)
		h.post(message("n", "alice", "bob"))
		h.advance(50 * time.Minute)
		h.same("kept by the second message", ids(h.after(box("bob"), store.Offset{}, 10)), []string{"m", "n"})
		h.advance(11 * time.Minute)
		h.same("expired", len(h.after(box("bob"), store.Offset{}, 10)), 0)
		h.same("tail", h.tail(box("bob")), store.Offset{})
		h.same("overview", h.overview(box("bob"), 10, 10), store.Overview{})
		h.same("conversation", len(h.conversation(box("bob"), "alice", 0, 10)), 0)
		_, err := h.After(h.ctx(), box("bob"), first, 10)
		h.is(err, store.ErrUnknownOffset)

		r := h.post(message("m", "alice", "bob"))
		if r.Duplicate || r.Offsets[1].Seq != 1 || r.Offsets[1].Epoch <= first.Epoch {
			h.Fatalf("after expiry: %+v, the former epoch %d", r, first.Epoch)
		}
		_, err = h.After(h.ctx(), box("bob"), first, 10)
		h.is(err, store.ErrUnknownOffset)
		h.same("entries", ids(h.after(box("bob"), store.Offset{}, 10)), []string{"m"})
		h.same("conversation", ids(h.conversation(box("bob"), "alice", 0, 10)), []string{"m"})
	},

	"ownership": func(h *harness) {
		h.start(store.Options{})
		post := message("m", "alice", "bob")
		r := h.post(post)
		copy(post.Data, "other")
		post.To[0] = store.Delivery{}
		r.Offsets[0] = store.Offset{}
		for range 2 {
			for _, entries := range [][]store.Entry{
				h.after(box("bob"), store.Offset{}, 1), h.conversation(box("bob"), "alice", 0, 1),
				h.overview(box("bob"), 1, 1).Conversations[0].Entries, h.after(box("alice"), store.Offset{}, 1),
			} {
				h.same("data", string(entries[0].Data), `"m"`)
				copy(entries[0].Data, "YYY")
				_ = append(entries[0].Data, "ZZZ"...)
			}
		}
	},

	"hostile ids": func(h *harness) {
		h.start(store.Options{})
		// Sender, id and peer change roles, so that keys that run together would meet. Each user and application is a
		// mailbox of its own.
		h.together(len(hostileIDs), func(n int) error {
			user := hostileIDs[n]
			for _, app := range slices.Compact([]string{"chat", "{", user}) {
				b := store.Box{App: app, User: user}
				for i, id := range hostileIDs {
					r, err := h.Append(h.ctx(), store.Post{ID: id, Sender: user, To: []store.Delivery{{Box: b, Peer: id}}})
					if err != nil || r.Duplicate || r.Offsets[0].Seq != uint64(i+1) {
						return fmt.Errorf("app %.20q user %.20q id %.20q: %+v, %v", app, user, id, r, err)
					}
				}
				o, err := h.Overview(h.ctx(), b, 1000, 1)
				if err != nil || len(o.Conversations) != len(hostileIDs) {
					return fmt.Errorf("app %.20q user %.20q: %d conversations, %v", app, user, len(o.Conversations), err)
				}
				for _, id := range hostileIDs {
					page, err := h.Conversation(h.ctx(), b, id, 0, 10)
					if err != nil || len(page) != 1 || page[0].ID != id || page[0].Peer != id {
						return fmt.Errorf("app %.20q user %.20q peer %.20q: %d entries, %v", app, user, id, len(page), err)
					}
				}
			}
			return nil
		})
		// Every pair of sender and id is a message of its own.
		h.together(len(hostileIDs), func(n int) error {
			for _, id := range hostileIDs {
				r, err := h.Append(h.ctx(), store.Post{ID: id, Sender: hostileIDs[n], To: []store.Delivery{{Box: box("everyone")}}})
				if err != nil || r.Duplicate {
					return fmt.Errorf("sender %.20q id %.20q: %+v, %v", hostileIDs[n], id, r, err)
				}
			}
			return nil
		})
	},

	"invalid": func(h *harness) {
		h.start(store.Options{})
		good := message("m", "alice", "bob")
		for _, bad := range badIDs {
			for _, p := range []store.Post{
				{ID: bad, Sender: "alice", To: good.To},
				{ID: "m", Sender: bad, To: good.To},
				{ID: "m", Sender: "alice", To: []store.Delivery{good.To[0], {Box: store.Box{App: bad, User: "bob"}}}},
				{ID: "m", Sender: "alice", To: []store.Delivery{good.To[0], {Box: box(bad)}}},
				{ID: "m", Sender: "alice", To: good.To, Origin: badIDs[1]},
				{ID: "m", Sender: "alice", To: []store.Delivery{{Box: box("bob"), Peer: badIDs[1]}}},
				{ID: "m", Sender: "alice"},
				{ID: "m", Sender: "alice", To: make([]store.Delivery, store.MaxDeliveries+1)},
			} {
				_, err := h.Append(h.ctx(), p)
				h.is(err, store.ErrInvalid)
			}
			for _, b := range []store.Box{box(bad), {App: bad, User: "bob"}} {
				_, err := h.After(h.ctx(), b, store.Offset{}, 1)
				h.is(err, store.ErrInvalid)
				_, err = h.Tail(h.ctx(), b)
				h.is(err, store.ErrInvalid)
				_, err = h.Conversation(h.ctx(), b, "alice", 0, 1)
				h.is(err, store.ErrInvalid)
				_, err = h.Overview(h.ctx(), b, 1, 1)
				h.is(err, store.ErrInvalid)
			}
		}
		h.same("what refused posts left", len(h.after(box("alice"), store.Offset{}, 10)), 0)
		h.same("conversation with a peer that cannot be", len(h.conversation(box("bob"), badIDs[2], 0, 10)), 0)

		large := message("large", "alice", "bob")
		large.Data = make([]byte, 3<<20)
		h.post(large)
		h.same("large data", len(h.after(box("bob"), store.Offset{}, 1)[0].Data), 3<<20)
		empty := message("empty", "alice", "bob")
		empty.Data = nil
		h.post(empty)
		h.same("empty data", len(h.conversation(box("bob"), "alice", 0, 1)[0].Data), 0)
	},

	// Many senders at once: numbers are dense and in the order of the receipts, and readers never see a gap.
	"concurrent senders": func(h *harness) {
		h.start(store.Options{})
		const senders, each, total = 16, 50, 16 * 50
		var mu sync.Mutex
		numbers := map[uint64]string{}
		var wait sync.WaitGroup
		for sender := range senders {
			wait.Go(func() {
				last := uint64(0)
				for i := range each {
					id := fmt.Sprint(sender, "-", i)
					r, err := h.Append(h.ctx(), message(id, fmt.Sprint("sender", sender), "bob"))
					if err != nil {
						h.Error(err)
						return
					}
					seq := r.Offsets[1].Seq
					if seq <= last {
						h.Errorf("number %d after %d", seq, last)
					}
					last = seq
					mu.Lock()
					if other, ok := numbers[seq]; ok {
						h.Errorf("number %d for %s and %s", seq, other, id)
					}
					numbers[seq] = id
					mu.Unlock()
				}
			})
		}
		for range 2 {
			wait.Go(func() {
				at, n := store.Offset{}, uint64(0)
				for n < total && !h.Failed() {
					entries, err := h.After(h.ctx(), box("bob"), at, 7)
					if err != nil {
						h.Error(err)
						return
					}
					for _, e := range entries {
						n++
						if e.Seq != n {
							h.Errorf("read number %d, want %d", e.Seq, n)
							return
						}
						at = e.Offset
					}
				}
			})
			wait.Go(func() {
				for last := uint64(0); last < total && !h.Failed(); {
					o, err := h.Overview(h.ctx(), box("bob"), 3, 2)
					if err != nil {
						h.Error(err)
						return
					}
					if o.Tail.Seq < last {
						h.Errorf("tail went from %d to %d", last, o.Tail.Seq)
						return
					}
					last = o.Tail.Seq
					for _, c := range o.Conversations {
						if newest := c.Entries[len(c.Entries)-1].Seq; newest > last {
							h.Errorf("overview with tail %d has %d", last, newest)
							return
						}
					}
				}
			})
		}
		wait.Wait()
		entries := h.after(box("bob"), store.Offset{}, total+1)
		if len(entries) != total {
			h.Fatalf("%d entries, want %d", len(entries), total)
		}
		for i, e := range entries {
			if e.Seq != uint64(i+1) || numbers[e.Seq] != e.ID {
				h.Fatalf("entry %d is number %d, %s; its sender was told %s", i, e.Seq, e.ID, numbers[e.Seq])
			}
		}
	},

	"concurrent retries": func(h *harness) {
		h.start(store.Options{})
		for round := range 20 {
			receipts := make([]store.Receipt, 8)
			var wait sync.WaitGroup
			for i := range receipts {
				wait.Go(func() {
					var err error
					if receipts[i], err = h.Append(h.ctx(), message(fmt.Sprint(round), "alice", "bob")); err != nil {
						h.Error(err)
					}
				})
			}
			wait.Wait()
			for _, r := range receipts {
				if h.Failed() {
					return
				}
				h.same("offsets", r.Offsets, receipts[0].Offsets)
			}
			h.same("entries", len(h.after(box("bob"), store.Offset{}, 100)), round+1)
		}
	},

	// Two users write to each other at once, which must not lock up.
	"crossing messages": func(h *harness) {
		h.start(store.Options{})
		var wait sync.WaitGroup
		for _, from := range []string{"alice", "bob"} {
			to := map[string]string{"alice": "bob", "bob": "alice"}[from]
			for sender := range 4 {
				wait.Go(func() {
					for i := range 50 {
						if _, err := h.Append(h.ctx(), message(fmt.Sprint(sender, "-", i), from, to)); err != nil {
							h.Error(err)
						}
					}
				})
			}
		}
		wait.Wait()
		for _, user := range []string{"alice", "bob"} {
			h.same("entries", len(h.after(box(user), store.Offset{}, 1000)), 400)
		}
	},

	"offsets parse": func(h *harness) {
		h.start(store.Options{})
		o := h.post(message("m", "alice", "bob")).Offsets[0]
		parsed, err := store.ParseOffset(o.String())
		if err != nil || parsed != o {
			h.Fatalf("%v: %v, %v", o, parsed, err)
		}
		if _, err := store.ParseOffset("m"); err == nil || errors.Is(err, store.ErrUnknownOffset) {
			h.Fatalf("a word for an offset: %v", err)
		}
	},
}

package redisstore

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vmihailenco/msgpack/v5"

	"parley/store"
)

// announced returns the post with announcements that are lists of number, epoch and number.
func announced(p store.Post) store.Post {
	for i := range p.To {
		p.To[i].Announcement = &store.Announcement{Channel: "of " + p.To[i].Box.User, Parts: [4]string{"\x93"}}
	}
	return p
}

// TestAnnouncements checks that other processes are told of each entry as it is added, once, with its offset.
func TestAnnouncements(t *testing.T) {
	server := newServer(t)
	c := server.client(t)
	s := open(t, c, Options{})
	heard := c.Subscribe(t.Context(), "of alice", "of bob")
	defer func() { _ = heard.Close() }()
	for range 2 {
		if _, err := heard.Receive(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	hears := func(what string, r store.Receipt, want ...int) {
		t.Helper()
		for _, i := range want {
			m, err := heard.ReceiveMessage(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			var got []uint64
			at := r.Offsets[i]
			if err := msgpack.Unmarshal([]byte(m.Payload), &got); err != nil || !slices.Equal(got, []uint64{at.Seq, at.Epoch, at.Seq}) {
				t.Fatalf("%s: %s hears %x: %v %v, want %v", what, m.Channel, m.Payload, got, err, at)
			}
			if to := []string{"of alice", "of bob"}[i]; m.Channel != to {
				t.Fatalf("%s: said on %s, not %s", what, m.Channel, to)
			}
		}
	}
	// The 256th takes another way, and so does what a Node server has pushed ahead of a message.
	for i := range 300 {
		if i == 280 {
			if err := c.RPush(t.Context(), "messages:bob", `{"content":1,"from":"carol","to":"bob"}`).Err(); err != nil {
				t.Fatal(err)
			}
		}
		r := post(t, s, announced(message(fmt.Sprint("m", i), "alice", "bob")))
		if !slices.Equal(r.Announced, []bool{true, true}) {
			t.Fatalf("message %d: %v", i, r.Announced)
		}
		hears(fmt.Sprint("message ", i), r, 0, 1)
	}
	// What is there with the very same time is what a broken connection has hidden the reply of; what has an earlier one was
	// posted by somebody who may not have told anybody.
	first, again := announced(message("again", "alice", "bob")), announced(message("again", "alice", "bob"))
	first.At = time.UnixMilli(1_790_000_000_000)
	hears("the first", post(t, s, first), 0, 1)
	for _, late := range []time.Duration{0, time.Millisecond} {
		again.At = first.At.Add(late)
		if r := post(t, s, again); !r.Duplicate || !slices.Equal(r.Announced, []bool{late == 0, late == 0}) {
			t.Errorf("again %v later: %+v", late, r)
		}
	}
	if r := post(t, s, message("unannounced", "alice", "bob")); slices.Contains(r.Announced, true) {
		t.Errorf("without an announcement: %+v", r)
	}
	half := announced(message("half", "alice", "bob"))
	half.To[0].Announcement = nil
	r := post(t, s, half)
	if !slices.Equal(r.Announced, []bool{false, true}) {
		t.Errorf("with one announcement: %+v", r)
	}
	hears("with one announcement", r, 1)
}

// TestAnnouncedNumbers checks the arithmetic, in numbers that Lua does not have.
func TestAnnouncedNumbers(t *testing.T) {
	server := newServer(t)
	c := server.client(t)
	heard := c.Subscribe(t.Context(), "channel")
	defer func() { _ = heard.Close() }()
	if _, err := heard.Receive(t.Context()); err != nil {
		t.Fatal(err)
	}
	script := newScript("announce").text + "\nannounce(ARGV[1], tonumber(ARGV[2]))"
	numbers := []uint64{1, 127, 128, 255, 256, 65535, 65536, 16777216, 1<<32 - 1, 1 << 32, 1<<32 + 1, 1<<40 + 12345, 1<<53 - 1}
	epochs := []uint64{1, 999, 1000, 1001, 1 << 32, 1790000000123456000, 1790000000123456789, 9007199254740991999}
	for i := range max(len(numbers), len(epochs)) {
		seq, epoch := numbers[i%len(numbers)], epochs[i%len(epochs)]
		args := []any{fmt.Sprint(epoch), seq, "", "", "", "", "", "", "channel", "\x96\x01", "\x02", "\x03", ""}
		if err := c.Eval(t.Context(), script, nil, args...).Err(); err != nil && !strings.Contains(err.Error(), "nil") {
			t.Fatal(err)
		}
		m, err := heard.ReceiveMessage(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		var got []uint64
		if err := msgpack.Unmarshal([]byte(m.Payload), &got); err != nil || !slices.Equal(got, []uint64{1, seq, 2, epoch, 3, seq}) {
			t.Errorf("number %d and epoch %d became %v (%x): %v", seq, epoch, got, m.Payload, err)
		}
	}
}

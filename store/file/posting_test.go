package file

import (
	"context"
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	"parley/store"
)

// TestContextEnds has a sync that takes longer than the sender waits, and then a sender who must not get its answer.
func TestContextEnds(t *testing.T) {
	s := open(t, t.TempDir(), Options{})
	post(t, s, message("1", "alice", "bob"))
	syncing, release := make(chan bool), make(chan bool)
	sync := s.journal.sync
	// The appender reads this when it gets its next group.
	s.journal.sync = func(f *os.File) error {
		syncing <- true
		<-release
		return sync(f)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	answer := make(chan error)
	go func() {
		_, err := s.Append(ctx, message("2", "alice", "bob"))
		answer <- err
	}()
	<-syncing
	cancel()
	if err := <-answer; !errors.Is(err, context.Canceled) {
		t.Errorf("the one who did not wait got %v", err)
	}
	go func() {
		r, err := s.Append(t.Context(), message("3", "carol", "bob"))
		if err == nil && (r.Duplicate || r.Offsets[0].Seq != 1 || r.Offsets[1].Seq != 3) {
			err = fmt.Errorf("%+v", r)
		}
		answer <- err
	}()
	release <- true
	<-syncing
	release <- true
	if err := <-answer; err != nil {
		t.Errorf("the next one got %v", err)
	}
	if found := fmt.Sprint(ids(t, s, "bob")); found != "[1 2 3]" {
		t.Errorf("bob has %s", found)
	}
}

// TestRepeatedMailboxes posts to mailboxes that occur more than once, few and many, one after the other.
func TestRepeatedMailboxes(t *testing.T) {
	s := open(t, t.TempDir(), Options{})
	for round, boxes := range []int{1, 2, fewDeliveries / 2, fewDeliveries, 3 * fewDeliveries, 2} {
		p := store.Post{ID: fmt.Sprint(round), Sender: "alice"}
		for i := range 2 * boxes {
			p.To = append(p.To, store.Delivery{Box: store.Box{App: "chat", User: fmt.Sprint(round, "user", i%boxes)}, Peer: "alice"})
		}
		r := post(t, s, p)
		for i, o := range r.Offsets {
			if o.Seq != 1 || o != r.Offsets[i%boxes] || i > 0 && i < boxes && o.Epoch == r.Offsets[i-1].Epoch {
				t.Errorf("%d mailboxes twice: %v", boxes, r.Offsets)
				break
			}
		}
	}
}

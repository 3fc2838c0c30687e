package memory

import (
	"fmt"
	"testing"

	"parley/store"
)

// filled returns a store in which one user has exchanged messages with a number of peers.
func filled(b *testing.B, peers, each int) (*Store, store.Box) {
	s := New(store.Options{})
	b.Cleanup(func() { _ = s.Close() })
	ann := store.Box{App: "chat", User: "ann"}
	data := []byte(`{"content":"a message of the usual length, more or less","from":"0123456789abcdef","to":"ann"}`)
	for i := range peers * each {
		peer := fmt.Sprintf("%016x", i%peers)
		_, err := s.Append(b.Context(), store.Post{
			ID: fmt.Sprint(i), Sender: peer, Data: data, To: []store.Delivery{{Box: ann, Peer: peer}},
		})
		if err != nil {
			b.Fatal(err)
		}
	}
	return s, ann
}

// BenchmarkAfter reads what a device missed that was away for a moment.
func BenchmarkAfter(b *testing.B) {
	s, ann := filled(b, 20, 100)
	tail, err := s.Tail(b.Context(), ann)
	if err != nil {
		b.Fatal(err)
	}
	from := store.Offset{Epoch: tail.Epoch, Seq: tail.Seq - 10}
	b.ReportAllocs()
	for b.Loop() {
		if entries, err := s.After(b.Context(), ann, from, 100); err != nil || len(entries) != 10 {
			b.Fatal(len(entries), err)
		}
	}
}

// BenchmarkOverview reads what a chat's roster shows when a device connects.
func BenchmarkOverview(b *testing.B) {
	for _, peers := range []int{1, 100} {
		b.Run(fmt.Sprintf("peers=%d", peers), func(b *testing.B) {
			s, ann := filled(b, peers, 50)
			b.ReportAllocs()
			for b.Loop() {
				if o, err := s.Overview(b.Context(), ann, 1000, 50); err != nil || len(o.Conversations) != peers {
					b.Fatal(len(o.Conversations), err)
				}
			}
		})
	}
}

package file

import (
	"fmt"
	"os"
	"sync/atomic"
	"testing"

	"parley/store"
)

// benchmarkAppend has a number of senders append private messages as fast as the acks allow.
func benchmarkAppend(b *testing.B, senders, users int) {
	s := open(b, benchDir(b), Options{})
	data := []byte(`{"content":"a message of the usual length, more or less","from":"0123456789abcdef","to":"0123456789abcdef"}`)
	var next atomic.Int64
	done := make(chan error, senders)
	b.ReportAllocs()
	b.ResetTimer()
	for range senders {
		go func() {
			for {
				i := next.Add(1)
				if i > int64(b.N) {
					done <- nil
					return
				}
				// A walk over all pairs of users, as if at random.
				from, to := fmt.Sprintf("%016x", i*7919%int64(users)), fmt.Sprintf("%016x", i*104729%int64(users))
				_, err := s.Append(b.Context(), store.Post{
					ID: fmt.Sprintf("message-%d", i), Sender: from, Origin: "0123456789abcdefghij", Data: data,
					To: []store.Delivery{{Box: store.Box{App: "chat", User: from}, Peer: to}, {Box: store.Box{App: "chat", User: to}, Peer: from}},
				})
				if err != nil {
					done <- err
					return
				}
			}
		}()
	}
	for range senders {
		if err := <-done; err != nil {
			b.Fatal(err)
		}
	}
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "messages/s")
	b.ReportMetric(float64(s.grouped.Load())/float64(s.groups.Load()), "messages/sync")
	if info, err := os.Stat(s.path); err == nil {
		b.ReportMetric(float64(info.Size())/float64(b.N), "file-B/message")
	}
}

// benchDir is a directory on the disk that DATA_DIR names, or that of temporary files.
func benchDir(b *testing.B) string {
	dir, err := os.MkdirTemp(os.Getenv("DATA_DIR"), "bench")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func BenchmarkAppend(b *testing.B) {
	for _, senders := range []int{1, 64, 512} {
		for _, users := range []int{100, 10000} {
			b.Run(fmt.Sprintf("senders=%d/users=%d", senders, users), func(b *testing.B) { benchmarkAppend(b, senders, users) })
		}
	}
}

// BenchmarkAfter reads what a device missed that was away for a moment: partly in the journal, partly folded.
func BenchmarkAfter(b *testing.B) {
	s := open(b, benchDir(b), Options{})
	ann := store.Box{App: "chat", User: "ann"}
	for i := range 1000 {
		_, err := s.Append(b.Context(), store.Post{
			ID: fmt.Sprint(i), Sender: "bob", Data: []byte(`{"content":"a message","from":"bob","to":"ann"}`), To: []store.Delivery{{Box: ann, Peer: "bob"}},
		})
		if err != nil {
			b.Fatal(err)
		}
	}
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

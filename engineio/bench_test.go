package engineio_test

import (
	"fmt"
	"io"
	"net"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"parley/engineio"
)

// BenchmarkSend is what a shard does for each socket in a turn: some Enqueues and one Flush.
func BenchmarkSend(b *testing.B) {
	for _, n := range []int{1, 10, 100} {
		for _, size := range []int{100, 1000} {
			b.Run(fmt.Sprintf("messages=%d/bytes=%d", n, size), func(b *testing.B) {
				f := start(b, engineio.Options{})
				w := f.dial("EIO=4&transport=websocket")
				sidOf(f.t, w.text())
				p := f.peer()
				_ = w.conn.SetDeadline(time.Time{})
				go func() { _, _ = io.Copy(io.Discard, w.conn) }()
				m := engineio.NewMessage([]byte(strings.Repeat("x", size)))
				b.SetBytes(int64(n * m.Size()))
				b.ReportAllocs()
				for b.Loop() {
					for range n {
						p.Enqueue(m, 0)
					}
					p.Flush()
					for engineio.Draining(p.Conn) { // the reader is slower than we are
						runtime.Gosched()
					}
				}
			})
		}
	}
}

// BenchmarkReceive is one message of a client, from its write to Receive: the kernel's part is most of it.
func BenchmarkReceive(b *testing.B) {
	for _, size := range []int{100, 1000, 100_000} {
		b.Run(fmt.Sprintf("bytes=%d", size), func(b *testing.B) {
			var received atomic.Int64
			f := start(b, engineio.Options{}, func(f *fixture) {
				f.react = func(*peer, []byte, bool) { received.Add(1) }
			})
			w, _ := f.wsHandshake()
			_ = w.conn.SetDeadline(time.Time{})
			frame := clientFrame(0x80|opText, true, []byte("4"+strings.Repeat("x", size)))
			b.SetBytes(int64(len(frame)))
			b.ReportAllocs()
			for n := int64(1); b.Loop(); n++ {
				if _, err := w.conn.Write(frame); err != nil {
					b.Fatal(err)
				}
				for received.Load() < n {
					runtime.Gosched()
				}
			}
		})
	}
}

// BenchmarkIdle reports what a connection costs that does nothing: live heap, and stack, in bytes.
func BenchmarkIdle(b *testing.B) {
	for _, transport := range []string{engineio.WebSocket, engineio.Polling} {
		b.Run(transport, func(b *testing.B) {
			const conns = 1000
			f := start(b, engineio.Options{})
			open := func() {
				if transport == engineio.Polling {
					f.handshake()
					return
				}
				w := f.dial("EIO=4&transport=websocket")
				sidOf(f.t, w.text())
				w.r, w.res = nil, nil // the client's side is not what is measured
				f.peer()
			}
			open()
			var before, after runtime.MemStats
			for b.Loop() {
				runtime.GC()
				runtime.GC()
				runtime.ReadMemStats(&before)
				for range conns {
					open()
				}
				runtime.GC()
				runtime.GC()
				runtime.ReadMemStats(&after)
			}
			b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/conns, "heap-B/conn")
			b.ReportMetric(float64(after.HeapObjects-before.HeapObjects)/conns, "objects/conn")
			b.ReportMetric(float64(after.StackInuse-before.StackInuse)/conns, "stack-B/conn")
		})
	}
}

func BenchmarkNewMessage(b *testing.B) {
	text := []byte(strings.Repeat("x", 100))
	b.ReportAllocs()
	for b.Loop() {
		engineio.NewMessage(text)
	}
}

// BenchmarkHandshake opens a WebSocket and closes it, past net/http and through it. The client's part is in the figures.
func BenchmarkHandshake(b *testing.B) {
	for _, behind := range []bool{false, true} {
		b.Run(fmt.Sprintf("through-net-http=%t", behind), func(b *testing.B) {
			f := start(b, engineio.Options{}, func(f *fixture) { f.behind = behind })
			reply := make([]byte, 1024)
			b.ReportAllocs()
			for b.Loop() {
				conn, err := net.Dial("tcp", f.addr)
				if err != nil {
					b.Fatal(err)
				}
				if _, err := io.WriteString(conn, upgradeLine+upgradeLines+"\r\n"); err != nil {
					b.Fatal(err)
				}
				if n, err := conn.Read(reply); err != nil || !strings.HasPrefix(string(reply[:n]), "HTTP/1.1 101 ") {
					b.Fatalf("%q: %v", reply[:n], err)
				}
				p := f.peer()
				_ = conn.Close()
				<-p.closed
			}
		})
	}
}

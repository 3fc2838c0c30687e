package engineio_test

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"parley/engineio"
	"parley/metrics"
)

func TestVolatile(t *testing.T) {
	m := metrics.New()
	f := start(t, engineio.Options{Metrics: m})
	message := func(text string) *engineio.Message { return engineio.NewMessage([]byte(text)) }

	// On WebSocket it is dropped behind anything that waits for Flush.
	w, p := f.wsHandshake()
	p.Enqueue(message("a"), 0)
	if !p.Enqueue(message("b"), engineio.Volatile) {
		t.Error("a dropped message looks like a closed connection")
	}
	p.Enqueue(message("c"), 0)
	p.Flush()
	p.Enqueue(message("d"), engineio.Volatile)
	p.Enqueue(message("e"), engineio.Volatile)
	p.Flush()
	for _, want := range []string{"4a", "4c", "4d"} {
		w.want(want)
	}

	// On polling also while no GET is held.
	q := f.handshake()
	q.Enqueue(message("a"), engineio.Volatile)
	held := f.hold(q)
	q.Enqueue(message("b"), engineio.Volatile)
	q.Enqueue(message("c"), engineio.Volatile)
	q.Flush()
	wait(t, held, "the reply").want(t, 200, "4b")

	if n := m.Value(metrics.VolatileDropped, "slow"); n != 4 {
		t.Errorf("counted %v", n)
	}
	p.Close(engineio.ForcedClose)
	if p.Enqueue(message("f"), engineio.Volatile) {
		t.Error("enqueued to a closed connection")
	}
}

func TestSlowClientIsClosed(t *testing.T) {
	for _, tt := range []struct {
		name    string
		options engineio.Options
		size    int
	}{
		{"by bytes", engineio.Options{OutboundBytes: 1 << 20}, 100_000},
		{"by messages", engineio.Options{OutboundMessages: 10}, 1 << 20},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := metrics.New()
			tt.options.Metrics = m
			f := start(t, tt.options)
			w, p := f.wsHandshake()
			message := engineio.NewMessage(make([]byte, tt.size))
			n := 0
			for p.Enqueue(message, 0) {
				if p.Flush(); n == 10_000 {
					t.Fatal("a client that doesn't read is still open")
				}
				n++
			}
			p.wantReason(t, engineio.SlowClient)
			if p.Enqueue(message, 0) || m.Value(metrics.ConnectionsClosed, string(engineio.SlowClient)) != 1 {
				t.Error("it is not closed once")
			}
			// TCP is cut, so that the kernel keeps nothing for it either.
			if _, err := io.Copy(io.Discard, w.r); err == nil {
				t.Error("the connection ended well")
			}
			eventually(t, "the table is empty", func() bool { return f.Len() == 0 && engineio.Leaving(f.Server) == 0 })
		})
	}
}

func TestSlowPollingClientIsClosed(t *testing.T) {
	f := start(t, engineio.Options{OutboundMessages: 10})
	p := f.handshake()
	for range 10 {
		if !p.send("a") {
			t.Fatal("closed too early")
		}
	}
	if p.send("b") {
		t.Fatal("not closed")
	}
	p.wantReason(t, engineio.SlowClient)
	f.poll(p.ID()).want(t, 400, errorBody(1, "Session ID unknown"))
}

func TestOneLargeMessageFitsAnEmptyOutbox(t *testing.T) {
	f := start(t, engineio.Options{OutboundBytes: 10, OutboundMessages: 1})
	w, p := f.wsHandshake()
	large := strings.Repeat("x", 5<<20)
	p.Enqueue(engineio.NewMessage([]byte(large)), 0)
	p.Flush()
	w.want("4" + large)
}

func TestStuckClientIsClosedByWriteTimeout(t *testing.T) {
	f := start(t, engineio.Options{WriteTimeout: 50 * time.Millisecond, OutboundBytes: 1 << 30})
	_, p := f.wsHandshake()
	p.Enqueue(engineio.NewMessage(make([]byte, 64<<20)), 0)
	p.Flush()
	p.wantReason(t, engineio.SlowClient)
}

// A client that pauses gets everything in order, and the goroutine that helped is gone then.
func TestDrain(t *testing.T) {
	f := start(t, engineio.Options{OutboundBytes: 1 << 30, OutboundMessages: 1 << 20})
	w, p := f.wsHandshake()
	pad := strings.Repeat("x", 1000)
	sent := 0
	send := func() {
		p.Enqueue(engineio.NewMessage(fmt.Appendf(nil, "%d %s", sent, pad)), 0)
		sent++
	}
	for !engineio.Draining(p.Conn) {
		send()
		if sent%7 == 0 {
			p.Flush()
		}
	}
	for range 1000 { // behind what the kernel didn't take
		send()
	}
	p.Flush()
	for i := range sent {
		w.want(fmt.Sprintf("4%d %s", i, pad))
	}
	eventually(t, "the goroutine has ended", func() bool { return !engineio.Draining(p.Conn) })
	if n := engineio.Waiting(p.Conn); n != 0 {
		t.Errorf("%d messages wait", n)
	}
	send()
	p.Flush()
	w.want(fmt.Sprintf("4%d %s", sent-1, pad))
}

func TestCloseFrameFollowsWhatIsDrained(t *testing.T) {
	f := start(t, engineio.Options{OutboundBytes: 1 << 30})
	w, p := f.wsHandshake()
	for !engineio.Draining(p.Conn) {
		p.send(strings.Repeat("x", 100_000))
	}
	p.Enqueue(engineio.NewMessage([]byte("last")), 0)
	p.Close(engineio.ForcedClose)
	p.wantReason(t, engineio.ForcedClose)
	for {
		if text := w.text(); text == "4last" {
			break
		}
	}
	w.wantClose(0)
}

// Without a connection that can be written to without blocking, a goroutine writes everything.
func TestPipe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, dial, stop := startPipe(t, engineio.Options{})
		defer stop()
		w := dial("EIO=4&transport=websocket")
		sidOf(t, w.text())
		p := f.peer()
		for i := range 100 {
			p.Enqueue(engineio.NewMessage(fmt.Append(nil, i)), 0)
		}
		p.Flush()
		for i := range 100 {
			w.want(fmt.Sprint("4", i))
		}
		synctest.Wait()
		if engineio.Draining(p.Conn) {
			t.Error("the goroutine has not ended")
		}
		p.send("never read")
		time.Sleep(11 * time.Second)
		p.wantReason(t, engineio.SlowClient)
		w.conn.Close()
	})
}

// Many goroutines send to many connections; each client gets all of each sender's messages in order.
func TestConcurrentSenders(t *testing.T) {
	const senders, messages, clients = 4, 300, 5
	f := start(t, engineio.Options{})
	var readers, writers sync.WaitGroup
	var peers []*peer
	for range clients {
		w, p := f.wsHandshake()
		peers = append(peers, p)
		readers.Go(func() {
			var next [senders]int
			for range senders * messages {
				var s, i int
				if _, err := fmt.Sscanf(w.text(), "4%d %d", &s, &i); err != nil || next[s] != i {
					t.Errorf("got number %d of sender %d, want %d: %v", i, s, next[s], err)
					return
				}
				next[s]++
			}
		})
	}
	for s := range senders {
		writers.Go(func() {
			for i := range messages {
				m := engineio.NewMessage(fmt.Appendf(nil, "%d %d", s, i), nil...)
				for _, p := range peers {
					p.Enqueue(m, 0)
				}
				for _, p := range peers {
					p.Flush()
				}
			}
		})
	}
	writers.Wait()
	readers.Wait()
}

func TestSendingDoesNotAllocate(t *testing.T) {
	if engineio.RaceEnabled {
		t.Log("the race detector allocates; counted without it")
		return
	}
	f := start(t, engineio.Options{})
	w, p := f.wsHandshake()
	go func() { _, _ = io.Copy(io.Discard, w.conn) }()
	for _, n := range []int{1, 2, 20} {
		m := engineio.NewMessage([]byte(`2["message","hello"]`))
		allocs := testing.AllocsPerRun(1000, func() {
			for range n {
				p.Enqueue(m, 0)
			}
			p.Flush()
		})
		if allocs >= 1 {
			t.Errorf("%d messages and a flush allocate %v times", n, allocs)
		}
	}
	p.wantOpen(t)
}

// A client that reads is not slow because more than the bound comes at once.
func TestMoreThanTheBoundAtOnce(t *testing.T) {
	f := start(t, engineio.Options{OutboundMessages: 4})
	w, p := f.wsHandshake()
	for i := range 100 {
		if !p.Enqueue(engineio.NewMessage([]byte(fmt.Sprint(i))), 0) {
			t.Fatalf("closed at message %d", i)
		}
	}
	p.Flush()
	for i := range 100 {
		w.want(fmt.Sprint("4", i))
	}
}

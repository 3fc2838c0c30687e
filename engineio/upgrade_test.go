package engineio_test

import (
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"parley/engineio"
)

func TestUpgradeWithoutProbe(t *testing.T) {
	f := start(t, engineio.Options{})
	p := f.handshake()
	p.send("buffered")
	w := f.probe(p)
	if p.Transport() != engineio.Polling {
		t.Errorf("transport %s", p.Transport())
	}
	w.send("5")
	w.want("4buffered")
	w.send("2probe") // is no probe any more
	w.wantClose(0)
	p.wantReason(t, engineio.TransportError)
}

func TestProbesAreAnswered(t *testing.T) {
	f := start(t, engineio.Options{})
	p := f.handshake()
	w := f.probe(p)
	for range 3 {
		w.send("2probe")
		w.want("3probe")
	}
	// Each GET that is held meanwhile is ended.
	for range 2 {
		f.poll(p.ID()).want(t, 200, "6")
	}
	// Traffic stays on polling until the end.
	f.post(p.ID(), "4polling").want(t, 200, "ok")
	f.poll(p.ID()).want(t, 200, "4polling")
	w.send("5")
	eventually(t, "it is on WebSocket", func() bool { return p.Transport() == engineio.WebSocket })
	f.post(p.ID(), "4late").want(t, 400, errorBody(3, "Bad request"))
	w.send("4websocket")
	w.want("4websocket")
}

// A GET that is held when the client says "5" is ended, except that one which came just before is taken to have
// come just after: it may have overtaken the "5".
func TestGetHeldAtTheUpgrade(t *testing.T) {
	for _, tt := range []struct {
		held time.Duration
		want reply
	}{
		{60 * time.Millisecond, reply{status: 200, body: "1"}},
		{10 * time.Millisecond, reply{status: 400, body: errorBody(3, "Bad request")}},
	} {
		synctest.Test(t, func(t *testing.T) {
			f, dial, stop := startPipe(t, engineio.Options{})
			defer stop()
			p := f.handshake()
			w := dial("EIO=4&transport=websocket&sid=" + p.ID())
			defer w.conn.Close()
			got := make(chan reply)
			go func() { got <- f.poll(p.ID()) }()
			time.Sleep(tt.held)
			w.send("5")
			(<-got).want(t, tt.want.status, tt.want.body)
			w.send("4upgraded")
			w.want("4upgraded")
		})
	}
}

func TestBrokenProbes(t *testing.T) {
	f := start(t, engineio.Options{})
	p := f.handshake()
	for _, packet := range []string{"2", "2other", "3", "4hello", "6", "1", "abc", ""} {
		w := f.probe(p)
		w.send(packet)
		w.wantClose(0)
		w.send("5") // too late
		w.frame(0x80|opClose, true, nil)
		w.wantEnd()
	}
	w := f.probe(p)
	w.sendBinary([]byte("5"))
	w.wantClose(0)
	w = f.probe(p)
	w.conn.Close() // goes away
	eventually(t, "the probe is forgotten", func() bool { return !engineio.Probing(p.Conn) })
	w = f.probe(p)
	w.frame(0x80|opClose, true, []byte{0x03, 0xe9})
	w.wantClose(1001)
	eventually(t, "the probe is forgotten", func() bool { return !engineio.Probing(p.Conn) })
	p.wantOpen(t)
	f.upgrade(p)
	eventually(t, "it is on WebSocket", func() bool { return p.Transport() == engineio.WebSocket })
}

func TestRefusedUpgrades(t *testing.T) {
	f := start(t, engineio.Options{})
	w, p := f.wsHandshake()
	f.probe(p).wantClose(0) // born on WebSocket
	w.send("4alive")
	w.want("4alive")

	f = start(t, engineio.Options{NoUpgrades: true})
	r := f.request("GET", pollQuery, "")
	if !strings.Contains(r.body, `"upgrades":[]`) {
		t.Errorf("open packet %s", r.body)
	}
	p = f.peer()
	f.probe(p).wantClose(0)
	f.post(p.ID(), "4alive")
	f.poll(p.ID()).want(t, 200, "4alive")
}

func TestUpgradeTimeout(t *testing.T) {
	for _, probing := range []bool{false, true} {
		t.Run(fmt.Sprintf("probing=%v", probing), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f, dial, stop := startPipe(t, engineio.Options{})
				defer stop()
				p := f.handshake()
				w := dial("EIO=4&transport=websocket&sid=" + p.ID())
				begin := time.Now()
				if probing {
					w.send("2probe")
					w.want("3probe")
				}
				w.wantClose(0)
				if at := time.Since(begin); at != 10*time.Second {
					t.Errorf("closed after %v", at)
				}
				w.conn.Close()
				p.wantOpen(t)
				p.send("alive")
				f.poll(p.ID()).want(t, 200, "4alive")
				again := dial("EIO=4&transport=websocket&sid=" + p.ID())
				again.send("5")
				again.send("4upgraded")
				again.want("4upgraded")
				again.conn.Close()
			})
		})
	}
}

func TestProbingDoesNotExtendTheUpgrade(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, dial, stop := startPipe(t, engineio.Options{})
		defer stop()
		p := f.handshake()
		w := dial("EIO=4&transport=websocket&sid=" + p.ID())
		defer w.conn.Close()
		begin := time.Now()
		for time.Since(begin) < 9990*time.Millisecond {
			w.send("2probe")
			w.want("3probe")
			time.Sleep(45 * time.Millisecond)
		}
		w.wantClose(0)
		if at := time.Since(begin); at != 10*time.Second {
			t.Errorf("closed after %v", at)
		}
		p.wantOpen(t)
	})
}

func TestNoopTimes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, dial, stop := startPipe(t, engineio.Options{})
		defer stop()
		p := f.handshake()
		w := dial("EIO=4&transport=websocket&sid=" + p.ID())
		defer w.conn.Close()
		w.send("2probe")
		w.want("3probe")
		begin := time.Now()
		for _, want := range []time.Duration{100, 200, 300} {
			f.poll(p.ID()).want(t, 200, "6")
			if at := time.Since(begin); at != want*time.Millisecond {
				t.Errorf("noop at %v, want %v", at, want*time.Millisecond)
			}
		}
	})
}

// Both sides send numbers all the time while the transport changes; all must arrive, in order, once.
func TestUpgradeLosesNothing(t *testing.T) {
	const n = 3000
	got := make(chan int, n)
	f := start(t, engineio.Options{}, func(f *fixture) {
		f.react = func(p *peer, data []byte, binary bool) {
			i, err := strconv.Atoi(string(data))
			if err != nil {
				t.Errorf("received %q", data)
			}
			got <- i
		}
	})
	p := f.handshake()
	var all sync.WaitGroup

	all.Go(func() { // the server sends
		for i := range n {
			for !p.Enqueue(engineio.NewMessage(strconv.AppendInt(nil, int64(i), 10)), 0) {
				t.Error("the connection is closed")
				return
			}
			if i%3 == 0 {
				p.Flush()
			}
		}
		p.Flush()
	})

	// The client does as the official one: it polls and posts, probes, waits for its requests, and switches.
	next := 0
	receive := func(packet string) {
		if packet == "6" {
			return
		}
		if packet != "4"+strconv.Itoa(next) {
			t.Errorf("received %q, want number %d", packet, next)
		}
		next++
	}
	sent := 0
	batch := func() string {
		var b strings.Builder
		for range 10 {
			if sent < n {
				if b.Len() > 0 {
					b.WriteByte(0x1e)
				}
				fmt.Fprintf(&b, "4%d", sent)
				sent++
			}
		}
		return b.String()
	}
	probed := make(chan *ws, 1)
	all.Go(func() {
		w := f.probe(p)
		w.send("2probe")
		w.want("3probe")
		probed <- w
	})
	var w *ws
	for w == nil {
		select {
		case w = <-probed:
		default:
			if sent < n/2 {
				f.post(p.ID(), batch()).want(t, 200, "ok")
			}
			r := f.poll(p.ID())
			if r.status != 200 {
				t.Fatalf("%d %s", r.status, r.body)
			}
			for packet := range strings.SplitSeq(r.body, "\x1e") {
				receive(packet)
			}
		}
	}
	w.send("5")
	all.Go(func() {
		for sent < n {
			for packet := range strings.SplitSeq(batch(), "\x1e") {
				w.send(packet)
			}
		}
	})
	for next < n && !t.Failed() {
		receive(w.text())
	}
	for i := range n {
		if x := wait(t, got, "a number"); x != i {
			t.Fatalf("the server received %d, want %d", x, i)
		}
	}
	all.Wait()
	p.wantOpen(t)
}

// A WebSocket that never says what it wants costs little, and no other can come for the same connection.
func TestHalfOpenUpgradesAreBounded(t *testing.T) {
	f := start(t, engineio.Options{OutboundMessages: 10})
	p := f.handshake()
	first := f.probe(p)
	for range 20 {
		f.probe(p).wantClose(0)
	}
	first.send("2probe")
	first.want("3probe")
	first.send("5")
	first.send("4a")
	first.want("4a")
}

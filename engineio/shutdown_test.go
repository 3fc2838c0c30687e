package engineio_test

import (
	"context"
	"errors"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"parley/engineio"
)

func TestShutdown(t *testing.T) {
	f := start(t, engineio.Options{})
	w, a := f.wsHandshake()
	b := f.handshake()
	held := f.hold(b)
	c := f.handshake() // holds no GET
	d := f.handshake()
	probe := f.probe(d)
	probe.send("2probe")
	probe.want("3probe")
	if f.Len() != 4 {
		t.Errorf("%d connections", f.Len())
	}
	done := make(chan error)
	go func() { done <- f.Shutdown(context.Background()) }()
	w.wantClose(0)
	w.conn.Close()
	probe.wantClose(0)
	probe.conn.Close()
	wait(t, held, "the held GET").want(t, 200, "1")
	if err := wait(t, done, "the end of Shutdown"); err != nil {
		t.Error(err)
	}
	for _, p := range []*peer{a, b, c, d} {
		select {
		case reason := <-p.closed:
			if reason != engineio.ServerShuttingDown {
				t.Errorf("closed with %q", reason)
			}
		default:
			t.Error("Shutdown returned before Closed")
		}
	}
	f.request("GET", pollQuery, "").want(t, 503, errorBody(3, "Server shutting down"))
	if w := f.dial("EIO=4&transport=websocket"); w.res.StatusCode != 503 {
		t.Errorf("got %s", w.res.Status)
	}
	f.poll(c.ID()).want(t, 400, errorBody(1, "Session ID unknown"))
}

// slowReceiver takes its time in Closed, or in Receive.
type slowReceiver struct{ release chan struct{} }

func (r slowReceiver) Receive([]byte, bool)   { <-r.release }
func (r slowReceiver) Closed(engineio.Reason) { <-r.release }

func TestShutdownIsBoundedByItsContext(t *testing.T) {
	r := slowReceiver{make(chan struct{})}
	s, err := engineio.NewServer(engineio.Options{}, func(*engineio.Conn) engineio.Receiver { return r })
	if err != nil {
		t.Fatal(err)
	}
	h := httptest.NewServer(s)
	defer h.Close()
	f := &fixture{Server: s, t: t, url: h.URL, addr: h.Listener.Addr().String(), client: h.Client()}
	w := f.dial("EIO=4&transport=websocket")
	sidOf(t, w.text())
	w.send("4blocks the reader")
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := s.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) || !strings.HasPrefix(err.Error(), "engineio: ") {
		t.Errorf("got %v", err)
	}
	close(r.release)
	if err := s.Shutdown(t.Context()); err != nil { // now it can end
		t.Error(err)
	}
}

// A client that neither reads nor closes must not hold up Shutdown.
func TestShutdownCutsWhatStays(t *testing.T) {
	f := start(t, engineio.Options{OutboundBytes: 1 << 30, WriteTimeout: time.Hour})
	_, p := f.wsHandshake()
	for !engineio.Draining(p.Conn) {
		p.send(strings.Repeat("x", 100_000))
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := f.Shutdown(ctx); err != nil {
		t.Error(err)
	}
	p.wantReason(t, engineio.ServerShuttingDown)
}

func TestShutdownIsPaced(t *testing.T) {
	tests := []struct {
		conns  int
		budget time.Duration
		want   time.Duration // until the last is closed
	}{
		{10, 10 * time.Second, 9 * 50 * time.Millisecond}, // few need no spreading
		{100, 4 * time.Second, 99 * 30 * time.Millisecond},
		{10, 0, 0},
	}
	for _, tt := range tests {
		synctest.Test(t, func(t *testing.T) {
			f, _, stop := startPipe(t, engineio.Options{})
			defer stop()
			var peers []*peer
			for range tt.conns {
				peers = append(peers, f.handshake())
			}
			ctx := context.Background()
			if tt.budget > 0 {
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(ctx, tt.budget)
				defer cancel()
			}
			begin := time.Now()
			if err := f.Shutdown(ctx); err != nil {
				t.Error(err)
			}
			if took := time.Since(begin); took != tt.want {
				t.Errorf("%d connections took %v of %v, want %v", tt.conns, took, tt.budget, tt.want)
			}
			for _, p := range peers {
				p.wantReason(t, engineio.ServerShuttingDown)
			}
		})
	}
}

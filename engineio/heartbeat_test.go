package engineio_test

import (
	"testing"
	"testing/synctest"
	"time"

	"parley/engineio"
)

// short has the times of the official test suites.
var short = engineio.Options{PingInterval: 300 * time.Millisecond, PingTimeout: 200 * time.Millisecond}

// heartbeat runs a test in a bubble with a WebSocket connection; at returns the time since it opened.
func heartbeat(t *testing.T, test func(t *testing.T, w *ws, p *peer, at func(time.Duration))) {
	synctest.Test(t, func(t *testing.T) {
		f, dial, stop := startPipe(t, short)
		defer stop()
		w := dial("EIO=4&transport=websocket")
		defer w.conn.Close()
		sidOf(t, w.text())
		begin := time.Now()
		test(t, w, f.peer(), func(want time.Duration) {
			t.Helper()
			if got := time.Since(begin); got != want*time.Millisecond {
				t.Fatalf("it is %v, want %v", got, want*time.Millisecond)
			}
		})
	})
}

func TestPingsFollowPongs(t *testing.T) {
	heartbeat(t, func(t *testing.T, w *ws, p *peer, at func(time.Duration)) {
		for _, want := range []time.Duration{300, 750, 1200} {
			w.want("2")
			at(want)
			time.Sleep(150 * time.Millisecond)
			w.send("3")
		}
	})
}

func TestUnsolicitedPongRestartsTheInterval(t *testing.T) {
	heartbeat(t, func(t *testing.T, w *ws, p *peer, at func(time.Duration)) {
		time.Sleep(200 * time.Millisecond)
		w.send("3whatever")
		w.want("2")
		at(500)
	})
}

func TestDataExtendsThePongsTimeOnce(t *testing.T) {
	heartbeat(t, func(t *testing.T, w *ws, p *peer, at func(time.Duration)) {
		w.want("2")
		for range 2 { // at 400 and 500: only the first counts
			time.Sleep(100 * time.Millisecond)
			w.send("4data")
			w.want("4data")
		}
		w.wantClose(0)
		at(600)
		p.wantReason(t, engineio.PingTimeout)
	})
}

func TestDataIsNoPong(t *testing.T) {
	heartbeat(t, func(t *testing.T, w *ws, p *peer, at func(time.Duration)) {
		time.Sleep(250 * time.Millisecond)
		w.send("4data")
		w.want("4data")
		w.want("2")
		at(300)
		w.wantClose(0)
		at(500)
	})
}

func TestHeartbeatOnPolling(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, _, stop := startPipe(t, short)
		defer stop()
		p := f.handshake()
		begin := time.Now()
		for range 3 {
			f.poll(p.ID()).want(t, 200, "2")
			f.post(p.ID(), "3").want(t, 200, "ok")
		}
		if at := time.Since(begin); at != 900*time.Millisecond {
			t.Errorf("three pings took %v", at)
		}
		f.poll(p.ID()).want(t, 200, "2")
		f.poll(p.ID()).want(t, 200, "1") // held until the pong's time is over
		p.wantReason(t, engineio.PingTimeout)
		f.poll(p.ID()).want(t, 400, errorBody(1, "Session ID unknown"))
	})
}

func TestPingTimeoutWithoutPoll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, _, stop := startPipe(t, short)
		defer stop()
		p := f.handshake()
		time.Sleep(500 * time.Millisecond)
		synctest.Wait()
		f.poll(p.ID()).want(t, 400, errorBody(1, "Session ID unknown"))
		p.wantReason(t, engineio.PingTimeout)
	})
}

func TestUpgradeDropsThePendingPong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, dial, stop := startPipe(t, short)
		defer stop()
		p := f.handshake()
		f.poll(p.ID()).want(t, 200, "2") // never answered
		w := dial("EIO=4&transport=websocket&sid=" + p.ID())
		defer w.conn.Close()
		w.send("5")
		begin := time.Now()
		w.want("2")
		if at := time.Since(begin); at != 300*time.Millisecond {
			t.Errorf("the next ping came after %v", at)
		}
		w.send("3")
		w.want("2")
		p.wantOpen(t)
	})
}

// A frame that never ends keeps the pong away, so the heartbeat bounds it.
func TestEndlessFragmentsEndWithTheHeartbeat(t *testing.T) {
	heartbeat(t, func(t *testing.T, w *ws, p *peer, at func(time.Duration)) {
		w.frame(opText, true, []byte("4"))
		w.want("2")
		stop := make(chan struct{})
		defer close(stop)
		go func() {
			for {
				select {
				case <-stop:
					return
				case <-time.After(10 * time.Millisecond):
					_, _ = w.conn.Write(clientFrame(opContinuation, true, nil))
				}
			}
		}()
		w.wantClose(0)
		at(500)
		p.wantReason(t, engineio.PingTimeout)
	})
}

package relay

import (
	"context"
	"io"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
)

// TestRelease has a process stop that forwards polls: those who hold them are asked to answer until they do, what is sent
// meanwhile is forwarded on, and a further poll is answered at once, and not forwarded.
func TestRelease(t *testing.T) {
	r := miniredis.RunT(t)
	poll := func(r *http.Request) { r.URL.RawQuery = "transport=polling&sid=x" }
	held, released := make(chan struct{}), make(chan struct{})
	var asked atomic.Int32
	a := newProcess(t, r, Options{}, func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Header.Get("Poll") == "":
			if asked.Add(1) == 2 { // it may not have had the poll at the first time
				close(released)
			}
		default:
			close(held)
			<-released
			_, _ = io.WriteString(w, "released")
		}
	})
	b := newProcess(t, r, Options{}, nobody)
	answer := make(chan string)
	go func() {
		answer <- b.ask("GET", a.Node(), "", poll, func(r *http.Request) { r.Header.Set("Poll", "1") })
	}()
	<-held
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	b.Relay.Close(ctx)
	if got := <-answer; got != "200 released" {
		t.Errorf("got %s", got)
	}
	if got := b.ask("GET", a.Node(), "", poll); got != "200 6" {
		t.Errorf("a further poll: %s", got)
	}
	b.want("POST", a.Node(), "x", "400 unknown") // the listener should be closed by now
	b.counted("stopping", 1)
}

// TestCloseIsBounded has a client that does not read its reply when the process stops.
func TestCloseIsBounded(t *testing.T) {
	r := miniredis.RunT(t)
	stuck := make(chan bool)
	a := newProcess(t, r, Options{}, func(w http.ResponseWriter, r *http.Request) {
		chunk := make([]byte, 1<<20)
		for i := 0; ; i++ {
			control := http.NewResponseController(w)
			_ = control.SetWriteDeadline(time.Now().Add(300 * time.Millisecond))
			if _, err := w.Write(chunk); err != nil {
				close(stuck)
				return
			}
		}
	})
	b := newProcess(t, r, Options{WriteTimeout: time.Hour}, nobody)
	b.raw("GET /x HTTP/1.1\r\nHost: a\r\nNode: " + a.Node() + "\r\n\r\n")
	<-stuck
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	b.Relay.Close(ctx)
	eventually(t, "nothing is forwarded", func() bool {
		b.mu.Lock()
		defer b.mu.Unlock()
		return len(b.forwards) == 0
	})
}

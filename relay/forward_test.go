package relay

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"

	"parley/metrics"
)

func TestForward(t *testing.T) {
	r := miniredis.RunT(t)
	from := make(chan string, 10)
	a := newProcess(t, r, Options{}, func(w http.ResponseWriter, r *http.Request) {
		from <- r.RemoteAddr
		w.Header().Set("Access-Control-Allow-Origin", "*")
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		if r.Header.Get("Parley-Relay") != "" {
			t.Error("the handler gets the signature")
		}
		_, _ = fmt.Fprint(w, r.Method, " ", r.RequestURI, " ", r.Host, " ", r.Header.Get("X-Forwarded-For"), " ", string(body), "|") //nolint:gosec // read by this test alone
	})
	b := newProcess(t, r, Options{}, nobody)
	host := strings.TrimPrefix(b.Server.URL, "http://")
	for _, method := range []string{"GET", "POST"} {
		sent := map[string]string{"POST": strings.Repeat("x", 300_000)}[method]
		b.want(method, a.Node(), sent, "200 "+method+" /path?a=1&b=%20 "+host+" 192.0.2.1 "+sent+"|", func(r *http.Request) {
			r.Header.Set("X-Forwarded-For", "192.0.2.1")
		})
		if address := <-from; address == "" || address == strings.TrimPrefix(a.Server.URL, "http://") {
			t.Errorf("the client is %s", address)
		}
	}
	for label, want := range map[string]float64{"GET": 1, "POST": 1} {
		if got := b.metrics.Value(metrics.RelayForwarded, label); got != want {
			t.Errorf("%s: %v", label, got)
		}
	}
}

// TestLastReply has this process end the client's TCP connection with a reply of another one.
func TestLastReply(t *testing.T) {
	r := miniredis.RunT(t)
	a := newProcess(t, r, Options{}, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok") })
	b := newProcess(t, r, Options{}, nobody)
	for _, last := range []bool{false, true} {
		front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if last {
				w.Header().Set("Connection", "close")
			}
			if !b.Forward(w, r, a.Node()) {
				t.Error("not forwarded")
			}
		}))
		defer front.Close()
		res, err := front.Client().Get(front.URL + "/path")
		if err != nil {
			t.Fatal(err)
		}
		if _ = res.Body.Close(); res.StatusCode != http.StatusOK || res.Close != last {
			t.Errorf("status %d, the last reply: %v, not %v", res.StatusCode, res.Close, last)
		}
	}
}

// TestBrokenReply has a process break off: that alone does not tell that it is gone.
func TestBrokenReply(t *testing.T) {
	r := miniredis.RunT(t)
	a := newProcess(t, r, Options{}, func(_ http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			panic(http.ErrAbortHandler)
		}
	})
	b := newProcess(t, r, Options{}, nobody)
	b.want("GET", a.Node(), "", "200")
	r.FlushAll()
	b.want("POST", a.Node(), "x", "503 The process of this connection can't be reached")
	b.want("GET", a.Node(), "", "200")
	b.counted("broken", 1)
}

func TestBounds(t *testing.T) {
	r := miniredis.RunT(t)
	held, release := make(chan bool, 10), make(chan bool)
	a := newProcess(t, r, Options{}, func(_ http.ResponseWriter, r *http.Request) {
		held <- true
		select {
		case <-release:
		case <-r.Context().Done():
			held <- false
		}
	})
	b := newProcess(t, r, Options{MaxForwards: 1}, nobody)
	ctx, leave := context.WithCancel(t.Context())
	gone := make(chan string)
	go func() {
		gone <- b.ask("GET", a.Node(), "", func(r *http.Request) { *r = *r.WithContext(ctx) })
	}()
	<-held
	b.want("GET", a.Node(), "", "503 This process forwards as many")
	b.counted("busy", 1)
	leave() // and the other process is told
	<-gone
	if <-held {
		t.Fatal("another request was held")
	}
	eventually(t, "a place is free", func() bool { return strings.HasPrefix(b.ask("GET", "AAAAA", ""), "400") })

	c := newProcess(t, r, Options{ResponseTimeout: 20 * time.Millisecond}, nobody)
	c.want("GET", a.Node(), "", "504 The process of this connection does not answer")
	c.counted("slow", 1)
	if !<-held || <-held {
		t.Fatal("the other process goes on with a request that nobody waits for")
	}

	// Closing ends what is under way.
	answer := make(chan string)
	go func() { answer <- b.ask("GET", a.Node(), "") }()
	if !<-held {
		t.Fatal("the request is not held")
	}
	b.Relay.Close(t.Context())
	if got := <-answer; got != "400 unknown" {
		t.Errorf("got %s", got)
	}
	b.counted("stopping", 1)
	close(release)
}

func TestSlowBody(t *testing.T) {
	r := miniredis.RunT(t)
	a := newProcess(t, r, Options{}, func(_ http.ResponseWriter, r *http.Request) {
		if body, err := io.ReadAll(r.Body); err == nil {
			t.Errorf("the other process takes half a request for a whole one: %s", body)
		}
	})
	b := newProcess(t, r, Options{}, nobody)
	limited := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(30 * time.Millisecond))
		b.Forward(w, r, a.Node())
	}))
	defer limited.Close()
	c, err := net.Dial("tcp", limited.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(c, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\nConnection: close\r\n\r\nabc"); err != nil {
		t.Fatal(err)
	}
	if got, _ := io.ReadAll(c); !strings.HasPrefix(string(got), "HTTP/1.1 408 ") {
		t.Errorf("got %s", got)
	}
	b.counted("body", 1)
}

// TestChunkedGet has a client send a GET with a body that has no length.
func TestChunkedGet(t *testing.T) {
	r := miniredis.RunT(t)
	a := newProcess(t, r, Options{}, func(w http.ResponseWriter, r *http.Request) {
		_, _ = fmt.Fprint(w, "encoding ", r.TransferEncoding, " length ", r.ContentLength) //nolint:gosec // read by this test alone
	})
	b := newProcess(t, r, Options{}, nobody)
	for method, want := range map[string]string{"GET": "encoding [] length 0", "POST": "encoding [] length 3"} {
		chunks := map[string]string{"GET": "0\r\n\r\n", "POST": "3\r\nabc\r\n0\r\n\r\n"}[method]
		c := b.raw(method + " /x HTTP/1.1\r\nHost: a\r\nNode: " + a.Node() + "\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks)
		if got, err := io.ReadAll(c); !strings.HasSuffix(string(got), want) {
			t.Errorf("%s: %s, %v", method, got, err)
		}
	}
}

// TestBodies has clients that stop in the middle of what they send: they are in nobody's way.
func TestBodies(t *testing.T) {
	r := miniredis.RunT(t)
	wait, release := make(chan bool), make(chan bool)
	a := newProcess(t, r, Options{}, func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if strings.HasPrefix(string(body), "wait") {
			wait <- true
			<-release
		}
		_, _ = fmt.Fprint(w, len(body), err)
	})
	const limit = 100_000
	b := newProcess(t, r, Options{MaxForwards: 2, MaxPayload: limit, MaxBodies: 2 * limit}, nobody)
	held := func(want int) {
		t.Helper()
		eventually(t, fmt.Sprint(want, " bytes are held"), func() bool {
			b.bodies.mu.Lock()
			defer b.bodies.mu.Unlock()
			return b.bodies.held == want
		})
	}
	answered := func(c net.Conn, want string) {
		t.Helper()
		if got, err := io.ReadAll(c); !strings.HasPrefix(string(got), "HTTP/1.1 "+want) || !strings.Contains(string(got), "Allow-Origin: mine") {
			t.Errorf("got %s, %v", got, err)
		}
	}
	head := "POST /x HTTP/1.1\r\nHost: a\r\nConnection: close\r\nNode: " + a.Node() + "\r\nContent-Length: "
	for range 4 {
		b.raw(head + "90000\r\n\r\nabc")
	}
	held(4 << 10)
	b.want("GET", a.Node(), "", "200 0")
	b.want("POST", a.Node(), "abc", "200 3")
	first := b.raw(head + "90000\r\n\r\n" + strings.Repeat("x", 70_000))
	held(4<<10 + limit + 1) // its buffer may grow no more
	second := b.raw(head + "90000\r\n\r\n" + strings.Repeat("x", 70_000))
	answered(first, "503 ") // and the four before it
	held(limit + 1)
	// One that is complete need not make room; one that is not, must.
	big := "wait" + strings.Repeat("x", limit-4)
	whole := make(chan string)
	go func() { whole <- b.ask("POST", a.Node(), big) }()
	<-wait
	answered(second, "503 ")
	held(limit + 1)
	go func() { whole <- b.ask("POST", a.Node(), big[:limit/2]) }()
	<-wait
	b.want("POST", a.Node(), big[:limit/2], "503 This process has no room")
	b.counted("busy", 7)
	b.want("POST", a.Node(), big+"x", "413 ")
	b.raw(head + "9\r\n\r\nabc").Close() // goes away
	close(release)
	for range 2 {
		if got := <-whole; !strings.HasSuffix(got, "0000 <nil>") {
			t.Errorf("got %s", got)
		}
	}
	held(0)
	eventually(t, "the one that went away is counted", func() bool { return b.metrics.Value(metrics.RelayFailed, "body") == 2 })
}

package engineio_test

import (
	"bytes"
	"compress/gzip"
	"compress/zlib"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"parley/engineio"
	"parley/metrics"
)

func TestGetIsHeldUntilThereIsAMessage(t *testing.T) {
	f := start(t, engineio.Options{})
	p := f.handshake()
	held := f.hold(p)
	p.Enqueue(engineio.NewMessage([]byte("a")), 0)
	p.Enqueue(engineio.NewMessage([]byte("b"), []byte{1, 2, 3, 4}), 0)
	p.Enqueue(engineio.NewBinary([]byte{5}), 0)
	p.Flush()
	p.Flush() // of nothing
	wait(t, held, "the reply").want(t, 200, "4a\x1e4b\x1ebAQIDBA==\x1ebBQ==")
	if f.hold(p); !p.send("c") {
		t.Error("the connection is closed")
	}
}

func TestRepliesAreBoundedByMaxPayload(t *testing.T) {
	f := start(t, engineio.Options{MaxPayload: 20})
	p := f.handshake()
	long := strings.Repeat("x", 50)
	for _, m := range []string{"12345678", "123456789", "a", long, "b"} {
		p.send(m)
	}
	for _, want := range []string{"412345678\x1e4123456789", "4a", "4" + long, "4b"} {
		f.poll(p.ID()).want(t, 200, want)
	}
}

func TestAbortedGetClosesAtOnce(t *testing.T) {
	f := start(t, engineio.Options{})
	p := f.handshake()
	ctx, abort := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = f.try("GET", pollQuery+"&sid="+p.ID(), nil, func(r *http.Request) { *r = *r.WithContext(ctx) })
	}()
	eventually(t, "the GET is held", func() bool { return engineio.Held(p.Conn) })
	abort()
	p.wantReason(t, engineio.TransportError)
	<-done
	f.poll(p.ID()).want(t, 400, errorBody(1, "Session ID unknown"))
}

// The GET that follows an aborted one may be processed before it.
func TestAbortedGetIsOvertaken(t *testing.T) {
	f := start(t, engineio.Options{})
	p := f.handshake()
	held := f.hold(p)
	conn, err := net.Dial("tcp", f.addr)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = fmt.Fprintf(conn, "GET /engine.io/?%s&sid=%s HTTP/1.1\r\nHost: a\r\n\r\n", pollQuery, p.ID())
	conn.Close()
	wait(t, held, "the held GET").want(t, 400, errorBody(1, "Session ID unknown"))
	p.wantReason(t, engineio.TransportError)
}

// A GET that is held longer than the http.Server lets requests be read is no aborted one.
func TestReadTimeoutOfTheServerDoesNotEndHeldGets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, err := engineio.NewServer(engineio.Options{}, func(c *engineio.Conn) engineio.Receiver {
			return &peer{Conn: c, closed: make(chan engineio.Reason, 1)}
		})
		if err != nil {
			t.Fatal(err)
		}
		l := newPipeListener()
		h := &http.Server{Handler: s, ReadTimeout: time.Second, WriteTimeout: 2 * time.Second}
		go func() { _ = h.Serve(l) }()
		transport := &http.Transport{DialContext: l.Dial}
		f := &fixture{Server: s, t: t, url: "http://pipe", client: &http.Client{Transport: transport}}
		sid := sidOf(t, f.request("GET", pollQuery, "").body)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		r, err := f.try("GET", pollQuery+"&sid="+sid, nil, func(r *http.Request) { *r = *r.WithContext(ctx) })
		if err != nil || r.body != "2" {
			t.Errorf("got %+v, %v", r, err)
		}
		_ = s.Shutdown(t.Context())
		transport.CloseIdleConnections()
		_ = h.Close()
	})
}

func TestPostReplies(t *testing.T) {
	f := start(t, engineio.Options{})
	p := f.handshake()
	r := f.request("POST", pollQuery+"&sid="+p.ID(), "4a", header("Content-Type", "text/plain;charset=UTF-8"), header("User-Agent", "x;MSIE 10"))
	r.want(t, 200, "ok")
	for key, want := range map[string]string{"Content-Type": "text/html", "Content-Length": "2", "Cache-Control": "no-store", "X-Xss-Protection": "0"} {
		if got := r.header.Get(key); got != want {
			t.Errorf("%s: %q, want %q", key, got, want)
		}
	}
	r = f.request("GET", pollQuery+"&sid="+p.ID(), "", header("User-Agent", "Mozilla/5.0 (Trident/7.0)"))
	if r.header.Get("X-Xss-Protection") != "0" || r.header.Get("Etag") != "" {
		t.Errorf("GET: %v", r.header)
	}
}

// TestBadPosts has what costs a polling connection its life, and what a held GET is told.
func TestBadPosts(t *testing.T) {
	tests := []struct {
		name, body   string
		change       func(*http.Request)
		status       int
		reply, held  string
		reason       engineio.Reason
		counted      string
		alreadyGiven string // what the held GET gets because of an earlier packet in the body
	}{
		{name: "no packet", body: "abc", status: 400, held: "1", reason: engineio.ParseError, counted: "no packet"},
		{name: "empty", body: "", status: 400, held: "1", reason: engineio.ParseError, counted: "no packet"},
		{name: "bad base64", body: "b!", status: 400, held: "1", reason: engineio.ParseError, counted: "no packet"},
		{name: "invalid UTF-8", body: "4\xff", status: 400, held: "1", reason: engineio.ParseError, counted: "invalid UTF-8"},
		{name: "ping", body: "2", status: 200, reply: "ok", held: "1", reason: engineio.TransportError, counted: "ping from the client"},
		{name: "close", body: "1", status: 200, reply: "ok", held: "6", reason: engineio.TransportClose},
		{name: "binary", body: "4a", change: header("Content-Type", "application/octet-stream; x=y"), status: 400, held: "1",
			reason: engineio.TransportError, counted: "binary POST"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m := metrics.New()
			f := start(t, engineio.Options{Metrics: m})
			p := f.handshake()
			held := f.hold(p)
			change := tt.change
			if change == nil {
				change = func(*http.Request) {}
			}
			f.request("POST", pollQuery+"&sid="+p.ID(), tt.body, change).want(t, tt.status, tt.reply)
			wait(t, held, "the held GET").want(t, 200, tt.held)
			p.wantReason(t, tt.reason)
			f.poll(p.ID()).want(t, 400, errorBody(1, "Session ID unknown"))
			f.post(p.ID(), "4a").want(t, 400, errorBody(1, "Session ID unknown"))
			if m.Value(metrics.ConnectionsClosed, string(tt.reason)) != 1 {
				t.Error("the close is not counted")
			}
			if tt.counted != "" && m.Value(metrics.InputRejected, tt.counted) != 1 {
				t.Error("the input is not counted")
			}
		})
	}
}

// A client sends its GET before the POST that closes, but they may be processed the other way round.
func TestGetIsOvertakenByClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, _, stop := startPipe(t, engineio.Options{})
		defer stop()
		p := f.handshake()
		posted := make(chan reply)
		go func() { posted <- f.post(p.ID(), "1") }()
		synctest.Wait()
		f.poll(p.ID()).want(t, 200, "6")
		(<-posted).want(t, 200, "ok")
		f.poll(p.ID()).want(t, 400, errorBody(1, "Session ID unknown"))

		p = f.handshake()
		begin := time.Now()
		f.post(p.ID(), "1").want(t, 200, "ok")
		if took := time.Since(begin); took > 100*time.Millisecond {
			t.Errorf("took %v", took)
		}
		f.poll(p.ID()).want(t, 400, errorBody(1, "Session ID unknown"))
	})
}

func TestPacketsBeforeABadOneAreDelivered(t *testing.T) {
	got := make(chan string, 10)
	f := start(t, engineio.Options{}, func(f *fixture) {
		f.react = func(_ *peer, data []byte, binary bool) { got <- fmt.Sprint(string(data), binary) }
	})
	p := f.handshake()
	f.post(p.ID(), "4a\x1e6\x1e5\x1e0\x1ebAQ==\x1eabc\x1e4c").want(t, 400, "")
	p.wantReason(t, engineio.ParseError)
	if a, b := <-got, <-got; a != "afalse" || b != "\x01true" || len(got) != 0 {
		t.Errorf("got %q, %q and %d more", a, b, len(got))
	}
}

func TestBodyLimit(t *testing.T) {
	f := start(t, engineio.Options{MaxPayload: 1000})
	p := f.handshake()
	exact := strings.Repeat("4", 1000)
	f.post(p.ID(), exact).want(t, 200, "ok")
	f.poll(p.ID()).want(t, 200, exact)
	f.post(p.ID(), exact+"4").want(t, 413, "")
	// Chunked, so that the length is not announced.
	r, err := f.try("POST", pollQuery+"&sid="+p.ID(), io.MultiReader(strings.NewReader(exact), strings.NewReader("4")))
	if err != nil {
		t.Fatal(err)
	}
	r.want(t, 413, "")
	f.post(p.ID(), "4alive").want(t, 200, "ok")
	f.poll(p.ID()).want(t, 200, "4alive")
	p.wantOpen(t)
}

// rawPost writes a request by hand, so that it can stay incomplete.
func (f *fixture) rawPost(sid string, contentLength int, body string) net.Conn {
	f.t.Helper()
	conn, err := net.Dial("tcp", f.addr)
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(patience))
	_, _ = fmt.Fprintf(conn, "POST /engine.io/?%s&sid=%s HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%s", pollQuery, sid, contentLength, body)
	return conn
}

func TestInterruptedPost(t *testing.T) {
	f := start(t, engineio.Options{})
	p := f.handshake()
	held := f.hold(p)
	conn := f.rawPost(p.ID(), 100, "4a")
	eventually(t, "the POST is being read", func() bool { return engineio.Posting(p.Conn) })
	conn.Close()
	wait(t, held, "the held GET").want(t, 200, "1")
	p.wantReason(t, engineio.TransportError)
}

func TestOverlappingPosts(t *testing.T) {
	f := start(t, engineio.Options{})
	p := f.handshake()
	held := f.hold(p)
	first := f.rawPost(p.ID(), 100, "4a")
	eventually(t, "the POST is being read", func() bool { return engineio.Posting(p.Conn) })
	f.post(p.ID(), "4b").want(t, 400, "")
	wait(t, held, "the held GET").want(t, 200, "1")
	p.wantReason(t, engineio.TransportError)
	if b, _ := io.ReadAll(first); len(b) != 0 {
		t.Errorf("the first POST was answered %q", b)
	}
}

func TestSlowBodyIsBounded(t *testing.T) {
	f := start(t, engineio.Options{BodyTimeout: 20 * time.Millisecond})
	p := f.handshake()
	conn := f.rawPost(p.ID(), 100, "4a")
	p.wantReason(t, engineio.TransportError)
	b, _ := io.ReadAll(conn)
	if !bytes.HasPrefix(b, []byte("HTTP/1.1 408 ")) {
		t.Errorf("answered %q", b)
	}
}

// The deadline for the body must not end a handler that takes longer.
func TestSlowReceiverIsNoSlowBody(t *testing.T) {
	release := make(chan struct{})
	f := start(t, engineio.Options{BodyTimeout: 20 * time.Millisecond}, func(f *fixture) {
		f.react = func(p *peer, data []byte, binary bool) { <-release }
	})
	p := f.handshake()
	done := make(chan reply)
	go func() {
		r, _ := f.try("POST", pollQuery+"&sid="+p.ID(), strings.NewReader("4a"))
		done <- r
	}()
	time.AfterFunc(60*time.Millisecond, func() { close(release) })
	wait(t, done, "the reply").want(t, 200, "ok")
	p.wantOpen(t)
}

func TestManyTinyPackets(t *testing.T) {
	n := 0
	f := start(t, engineio.Options{}, func(f *fixture) { f.react = func(*peer, []byte, bool) { n++ } })
	p := f.handshake()
	begin := time.Now()
	f.post(p.ID(), strings.Repeat("6\x1e", 499_999)+"6").want(t, 200, "ok")
	f.post(p.ID(), strings.Repeat("3\x1e", 499_999)+"3").want(t, 200, "ok")
	f.post(p.ID(), strings.Repeat("4\x1e", 499_999)+"4").want(t, 200, "ok")
	if took := time.Since(begin); took > patience {
		t.Errorf("took %v", took)
	}
	if n != 500_000 {
		t.Errorf("got %d messages", n)
	}
}

func TestCompression(t *testing.T) {
	long := strings.Repeat("the quick brown fox ", 100)
	tests := []struct {
		name, accept, text string
		flags              engineio.Flags
		want               string
	}{
		{name: "gzip", accept: "gzip, deflate, br", text: long, want: "gzip"},
		{name: "deflate", accept: "deflate", text: long, want: "deflate"},
		{name: "preferred", accept: "gzip;q=0.5, deflate;q=0.8", text: long, want: "deflate"},
		{name: "excluded", accept: "gzip;q=0, *", text: long, want: "deflate"},
		{name: "any", accept: "*", text: long, want: "gzip"},
		{name: "none", accept: "identity", text: long},
		{name: "short", accept: "gzip", text: strings.Repeat("x", 1022)},
		{name: "threshold", accept: "gzip", text: strings.Repeat("x", 1023), want: "gzip"},
		{name: "flag", accept: "gzip", text: long, flags: engineio.NoCompress},
	}
	f := start(t, engineio.Options{})
	p := f.handshake()
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p.Enqueue(engineio.NewMessage([]byte(tt.text)), tt.flags)
			r := f.request("GET", pollQuery+"&sid="+p.ID(), "", header("Accept-Encoding", tt.accept))
			if got := r.header.Get("Content-Encoding"); got != tt.want {
				t.Fatalf("encoding %q, want %q", got, tt.want)
			}
			var body io.Reader = strings.NewReader(r.body)
			var err error
			switch tt.want {
			case "gzip":
				body, err = gzip.NewReader(body)
			case "deflate":
				body, err = zlib.NewReader(body)
			}
			if err != nil {
				t.Fatal(err)
			}
			if got, err := io.ReadAll(body); err != nil || string(got) != "4"+tt.text {
				t.Errorf("got %q, %v", got, err)
			}
		})
	}
}

func TestOrderlyCloseOnPolling(t *testing.T) {
	f := start(t, engineio.Options{})

	t.Run("held GET", func(t *testing.T) {
		p := f.handshake()
		held := f.hold(p)
		p.Close(engineio.ForcedClose)
		p.Close(engineio.ParseError) // too late
		wait(t, held, "the reply").want(t, 200, "1")
		p.wantReason(t, engineio.ForcedClose)
		f.poll(p.ID()).want(t, 400, errorBody(1, "Session ID unknown"))
	})
	t.Run("no GET", func(t *testing.T) {
		p := f.handshake()
		p.Close(engineio.ForcedClose)
		p.wantReason(t, engineio.ForcedClose)
		f.post(p.ID(), "4ignored").want(t, 200, "ok")
		f.poll(p.ID()).want(t, 200, "6\x1e1")
		f.poll(p.ID()).want(t, 400, errorBody(1, "Session ID unknown"))
	})
	t.Run("messages wait", func(t *testing.T) {
		p := f.handshake()
		p.send(`2["last"]`)
		p.send("1")
		p.Close(engineio.ForcedClose)
		p.wantReason(t, engineio.ForcedClose)
		if p.send("too late") {
			t.Error("enqueued to a closed connection")
		}
		f.poll(p.ID()).want(t, 200, "42[\"last\"]\x1e41")
		f.poll(p.ID()).want(t, 200, "6\x1e1")
		f.poll(p.ID()).want(t, 400, errorBody(1, "Session ID unknown"))
	})
	t.Run("messages wait for a held GET", func(t *testing.T) {
		p := f.handshake()
		held := f.hold(p)
		p.Enqueue(engineio.NewMessage([]byte("a")), 0)
		p.Close(engineio.ForcedClose)
		wait(t, held, "the reply").want(t, 200, "4a")
		f.poll(p.ID()).want(t, 200, "6\x1e1")
	})
	t.Run("upgrade", func(t *testing.T) {
		p := f.handshake()
		w := f.probe(p)
		w.send("2probe")
		w.want("3probe")
		p.Close(engineio.ForcedClose)
		w.wantClose(0)
		f.probe(p).wantClose(0)
		f.poll(p.ID()).want(t, 200, "6\x1e1")
	})
}

func TestCloseGraceEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, _, stop := startPipe(t, engineio.Options{})
		defer stop()
		p, q := f.handshake(), f.handshake()
		p.Close(engineio.ForcedClose)
		q.Close(engineio.ForcedClose)
		time.Sleep(29 * time.Second)
		f.poll(q.ID()).want(t, 200, "6\x1e1")
		time.Sleep(2 * time.Second)
		f.poll(p.ID()).want(t, 400, errorBody(1, "Session ID unknown"))
		if f.Len() != 0 {
			t.Errorf("%d connections", f.Len())
		}
	})
}

func TestUnreadReplyIsBounded(t *testing.T) {
	f := start(t, engineio.Options{WriteTimeout: 20 * time.Millisecond, MaxPayload: 64 << 20})
	p := f.handshake()
	p.send(strings.Repeat("x", 32<<20)) // more than the kernel buffers
	conn, err := net.Dial("tcp", f.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_, _ = fmt.Fprintf(conn, "GET /engine.io/?%s&sid=%s HTTP/1.1\r\nHost: a\r\n\r\n", pollQuery, p.ID())
	p.wantReason(t, engineio.TransportError)
}

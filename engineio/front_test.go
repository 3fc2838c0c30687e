package engineio_test

import (
	"bufio"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"parley/engineio"
)

// upgradeLines are a handshake by WebSocket, without its first line and its end.
const upgradeLines = "Host: parley.test:80\r\nConnection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\n" +
	"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"

const upgradeLine = "GET /engine.io/?EIO=4&transport=websocket HTTP/1.1\r\n"

// raw sends bytes on a connection of their own.
func (f *fixture) raw(pieces ...string) *ws {
	f.t.Helper()
	conn, err := net.Dial("tcp", f.addr)
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(patience))
	for i, piece := range pieces {
		if i > 0 {
			<-time.After(20 * time.Millisecond) // so that it is a segment of its own
		}
		if _, err := io.WriteString(conn, piece); err != nil {
			f.t.Fatal(err)
		}
	}
	return &ws{t: f.t, conn: conn, r: bufio.NewReader(conn)}
}

// TestFront has what is served past net/http, and what is not, and that nobody can tell from the reply.
func TestFront(t *testing.T) {
	direct := make(chan bool, 1)
	f := start(t, engineio.Options{
		AllowRequest: func(r *http.Request) error {
			direct <- r.Context().Value(http.ServerContextKey) == nil
			if r.URL.Query().Get("token") == "bad" {
				return errors.New("no <you>")
			}
			return nil
		},
		CORS:    &engineio.CORS{Allow: func(*http.Request) bool { return true }, Credentials: true},
		Headers: func(_ *http.Request, h http.Header) { h.Set("X-Served-By", "test") },
	})
	for _, tt := range []struct {
		name    string
		request string
		more    string // sent later
		direct  bool
		status  int
	}{
		{name: "plain", request: upgradeLine + upgradeLines + "\r\n", direct: true, status: 101},
		{name: "with an origin", request: upgradeLine + upgradeLines + "Origin: http://a.test\r\n\r\n", direct: true, status: 101},
		{name: "refused", request: strings.Replace(upgradeLine, "EIO", "token=bad&EIO", 1) + upgradeLines + "\r\n", direct: true, status: 400},
		{name: "old version", request: strings.Replace(upgradeLine, "=4", "=3", 1) + upgradeLines + "\r\n", direct: true, status: 400},
		{name: "no sid", request: strings.Replace(upgradeLine, "EIO", "asid=a&EIO", 1) + upgradeLines + "\r\n", direct: true, status: 101},
		{name: "escaped key", request: strings.Replace(upgradeLine, "EIO", "%73id=&EIO", 1) + upgradeLines + "\r\n", status: 101},
		{name: "in pieces", request: upgradeLine + upgradeLines, more: "\r\n", status: 101},
		{name: "byte by byte", request: "G", more: strings.TrimPrefix(upgradeLine+upgradeLines+"\r\n", "G"), status: 101},
		{name: "bare line feeds", request: strings.ReplaceAll(upgradeLine+upgradeLines, "\r\n", "\n") + "\n", status: 101},
		{name: "large header", request: upgradeLine + upgradeLines + "Cookie: " + strings.Repeat("x", 9000) + "\r\n\r\n", status: 101},
		{name: "header larger than all bounds", request: upgradeLine + upgradeLines + "Cookie: " + strings.Repeat("x", 2<<20) + "\r\n\r\n", status: 431},
		{name: "folded header", request: upgradeLine + upgradeLines + "Cookie: a\r\n b\r\n\r\n", direct: true, status: 101},
		{name: "old protocol", request: strings.Replace(upgradeLine, "/1.1", "/1.0", 1) + upgradeLines + "\r\n", status: 101},
		{name: "no host", request: upgradeLine + strings.TrimPrefix(upgradeLines, "Host: parley.test:80\r\n") + "\r\n", status: 400},
		{name: "two hosts", request: upgradeLine + "Host: a.test\r\n" + upgradeLines + "\r\n", status: 400},
		{name: "bad host", request: upgradeLine + strings.Replace(upgradeLines, "parley.test:80", "a b", 1) + "\r\n", status: 400},
		{name: "unusual host", request: upgradeLine + strings.Replace(upgradeLines, "parley.test:80", "a~b", 1) + "\r\n", status: 101},
		{name: "control character", request: upgradeLine + upgradeLines + "Cookie: a\x01\r\n\r\n", status: 400},
		{name: "no header name", request: upgradeLine + upgradeLines + ": a\r\n\r\n", status: 400},
		{name: "space in a header name", request: upgradeLine + upgradeLines + "a b: c\r\n\r\n", status: 400},
		{name: "expectation", request: upgradeLine + upgradeLines + "Expect: miracles\r\n\r\n", status: 417},
		{name: "two lengths", request: upgradeLine + upgradeLines + "Content-Length: 1\r\nContent-Length: 2\r\n\r\nab", status: 400},
		{name: "unknown encoding", request: upgradeLine + upgradeLines + "Transfer-Encoding: zip\r\n\r\n", status: 501},
		{name: "session", request: strings.Replace(upgradeLine, "EIO", "sid=a&EIO", 1) + upgradeLines + "\r\n", status: 400},
		{name: "transport unknown", request: strings.Replace(upgradeLine, "=websocket", "=x", 1) + upgradeLines + "\r\n", status: 400},
		{name: "no key", request: upgradeLine + strings.Split(upgradeLines, "Sec-WebSocket-Key")[0] + "\r\n", direct: true, status: 400},
		{name: "polling", request: strings.Replace(upgradeLine, "websocket", "polling", 1) + "Host: a.test\r\nConnection: close\r\n\r\n", status: 200},
		{name: "other path", request: "GET /other?transport=websocket HTTP/1.1\r\n" + upgradeLines + "\r\n", status: 404},
		{name: "nonsense", request: "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", status: 400},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f.t = t
			w := f.raw(tt.request, tt.more)
			res, err := http.ReadResponse(w.r, nil)
			if err != nil {
				t.Fatal(err)
			}
			defer res.Body.Close()
			if res.StatusCode != tt.status {
				t.Errorf("status %d, want %d", res.StatusCode, tt.status)
			}
			select {
			case got := <-direct:
				if got != tt.direct && tt.more == "" { // what comes in pieces may still be seen as one
					t.Errorf("past net/http: %t", got)
				}
			default:
				if tt.direct && tt.name != "no key" {
					t.Error("it was not allowed")
				}
			}
			if res.StatusCode == 101 {
				sidOf(t, w.text())
				w.send("4hello")
				w.want("4hello")
			}
		})
	}
}

// date is the only header that differs between two replies.
var date = regexp.MustCompile(`Date: [^\r]*`)

func TestFrontRepliesLikeNetHTTP(t *testing.T) {
	server, err := engineio.NewServer(engineio.Options{
		AllowRequest: func(*http.Request) error { return errors.New("no <you>") },
		CORS:         &engineio.CORS{Allow: func(*http.Request) bool { return true }, Credentials: true},
		Headers:      func(_ *http.Request, h http.Header) { h.Set("X-Served-By", "test") },
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	handlers := map[string]http.HandlerFunc{
		"refused": server.ServeHTTP,
		"empty":   func(http.ResponseWriter, *http.Request) {},
		"text": func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, "<html>")
			w.WriteHeader(http.StatusInternalServerError) // too late
		},
		"nothing":    func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) },
		"error":      func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", 599) },
		"broken off": func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
	}
	replies := make(map[string]string)
	for _, behind := range []bool{false, true} {
		h := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Connection", "close")
			handlers[r.Header.Get("Cookie")](w, r)
		}))
		h.Config.ErrorLog = log.New(io.Discard, "", 0)
		if !behind {
			h.Listener = engineio.Front(h.Listener, "/engine.io", h.Config)
		}
		h.Start()
		f := &fixture{t: t, addr: h.Listener.Addr().String()}
		for name := range handlers {
			w := f.raw(upgradeLine + upgradeLines + "Origin: http://a.test\r\nCookie: " + name + "\r\n\r\n\x81\x80pipelined")
			got, err := io.ReadAll(w.r)
			if err != nil && name != "broken off" { // which leaves input unread
				t.Errorf("%s: %v", name, err)
			}
			text := date.ReplaceAllString(string(got), "Date: now")
			if other, again := replies[name]; again && other != text {
				t.Errorf("%s: got\n%s\nwant\n%s", name, other, text)
			}
			replies[name] = text
		}
		h.Close()
	}
}

func TestFrontContainsPanics(t *testing.T) {
	logged := make(lines, 10)
	h := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic("boo") }))
	h.Config.ErrorLog = log.New(logged, "", 0)
	h.Listener = engineio.Front(h.Listener, "/engine.io/", h.Config)
	h.Start()
	f := &fixture{t: t, addr: h.Listener.Addr().String()}
	for range 2 {
		f.raw(upgradeLine + upgradeLines + "\r\n").wantEnd()
		if line := wait(t, logged, "a line"); !strings.Contains(line, "panic serving 127.0.0.1") {
			t.Errorf("logged %q", line)
		}
	}
	h.Close()
}

// lines gets what is logged.
type lines chan string

func (l lines) Write(p []byte) (int, error) {
	l <- string(p)
	return len(p), nil
}

func TestFrontClosesWhoSaysNothing(t *testing.T) {
	f := start(t, engineio.Options{}, func(f *fixture) { f.headerTimeout = 400 * time.Millisecond })
	silent, slow, halfOpen := f.raw(), f.raw("GET /engine.io/?EIO=4&transp"), f.raw()
	_ = halfOpen.conn.(*net.TCPConn).CloseWrite()
	halfOpen.wantEnd()
	silent.wantEnd()
	if b, err := io.ReadAll(slow.r); err != nil || !strings.HasPrefix(string(b), "HTTP/1.1 400 ") {
		t.Errorf("%q: %v", b, err)
	}
	w := f.raw(upgradeLine + upgradeLines + "\r\n")
	if _, err := http.ReadResponse(w.r, nil); err != nil { //nolint:bodyclose // it is upgraded
		t.Fatal(err)
	}
	sidOf(t, w.text())
	<-time.After(500 * time.Millisecond) // the time is for the handshake alone
	w.send("4hello")
	w.want("4hello")
}

// failingListener fails once before it accepts.
type failingListener struct {
	net.Listener
	once sync.Once
}

type temporary struct{ error }

func (temporary) Temporary() bool { return true }
func (temporary) Timeout() bool   { return false }

func (l *failingListener) Accept() (c net.Conn, err error) {
	l.once.Do(func() { err = temporary{errors.New("too many open files")} })
	if err != nil {
		return nil, err
	}
	return l.Listener.Accept()
}

func TestFrontGivesErrorsToTheServer(t *testing.T) {
	h := httptest.NewUnstartedServer(http.NotFoundHandler())
	logged := make(lines, 10)
	h.Config.ErrorLog = log.New(logged, "", 0)
	h.Listener = engineio.Front(&failingListener{Listener: h.Listener}, "/engine.io/", h.Config)
	h.Start()
	res, err := h.Client().Get(h.URL)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	h.Close()
	if line := wait(t, logged, "a line"); !strings.Contains(line, "too many open files") {
		t.Errorf("logged %q", line)
	}
}

func TestFrontCloses(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	front := engineio.Front(l, "/engine.io/", &http.Server{Handler: http.NotFoundHandler()}) //nolint:gosec // not served
	f := &fixture{t: t, addr: l.Addr().String()}
	silent, waiting := f.raw(), f.raw("GET / HTTP/1.1\r\n\r\n")
	first, err := front.Accept() // of both connections, the one that said something
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	again := f.raw("GET / HTTP/1.1\r\n\r\n") // nobody accepts it
	for range 2 {
		if err := front.Close(); err != nil {
			t.Error(err)
		}
	}
	if _, err := front.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("accepted: %v", err)
	}
	silent.wantEnd()
	again.wantEnd()
	if _, err := io.WriteString(first, "answer"); err != nil {
		t.Error(err)
	}
	if b, err := waiting.r.Peek(6); err != nil || string(b) != "answer" {
		t.Errorf("%q: %v", b, err)
	}
	if _, err := net.Dial("tcp", f.addr); err == nil {
		t.Error("it still listens")
	}
}

package engineio_test

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"parley/engineio"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds every wait of a test for something that must happen.
const patience = 10 * time.Second

// peer is the Receiver of one connection. It notes what happens and, unless told otherwise, echoes.
type peer struct {
	*engineio.Conn
	react  func(p *peer, data []byte, binary bool) // nil echoes
	closed chan engineio.Reason
}

func (p *peer) Receive(data []byte, binary bool) {
	if p.react != nil {
		p.react(p, data, binary)
		return
	}
	m := engineio.NewMessage(data)
	if binary {
		m = engineio.NewBinary(data)
	}
	p.Enqueue(m, 0)
	p.Flush()
}

func (p *peer) Closed(reason engineio.Reason) {
	p.closed <- reason
	close(p.closed) // a second call would panic
}

func (p *peer) send(text string) bool {
	ok := p.Enqueue(engineio.NewMessage([]byte(text)), 0)
	p.Flush()
	return ok
}

// fixture is a server behind a real listener.
type fixture struct {
	*engineio.Server
	t      testing.TB
	url    string
	addr   string
	client *http.Client
	peers  chan *peer
	react  func(p *peer, data []byte, binary bool)
	behind bool // all requests go through net/http

	headerTimeout time.Duration // of the http.Server
}

func start(t testing.TB, o engineio.Options, configure ...func(*fixture)) *fixture {
	t.Helper()
	f := &fixture{t: t, peers: make(chan *peer, 10_000)}
	for _, c := range configure {
		c(f)
	}
	if o.PingInterval == 0 {
		o.PingInterval = 300 * time.Second
	}
	s, err := engineio.NewServer(o, func(c *engineio.Conn) engineio.Receiver {
		p := &peer{Conn: c, react: f.react, closed: make(chan engineio.Reason, 1)}
		f.peers <- p
		return p
	})
	if err != nil {
		t.Fatal(err)
	}
	f.Server = s
	h := httptest.NewUnstartedServer(s)
	h.Config.ReadHeaderTimeout = f.headerTimeout
	if !f.behind {
		h.Listener = engineio.Front(h.Listener, "/engine.io/", h.Config)
	}
	h.Start()
	f.url, f.addr, f.client = h.URL, h.Listener.Addr().String(), h.Client()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := s.Shutdown(ctx); err != nil {
			t.Error(err)
		}
		if n := s.Len(); n != 0 {
			t.Errorf("%d connections are left after Shutdown", n)
		}
		h.Close()
	})
	return f
}

// peer returns the server's side of the connection that was opened last.
func (f *fixture) peer() *peer {
	f.t.Helper()
	return wait(f.t, f.peers, "a connection")
}

// reply is the answer to an HTTP request.
type reply struct {
	status int
	body   string
	header http.Header
}

// request sends one request and returns its reply. Changes to the request come as functions.
func (f *fixture) request(method, query, body string, change ...func(*http.Request)) reply {
	f.t.Helper()
	r, err := f.try(method, query, strings.NewReader(body), change...)
	if err != nil {
		f.t.Fatalf("%s %s: %v", method, query, err)
	}
	return r
}

func (f *fixture) try(method, query string, body io.Reader, change ...func(*http.Request)) (reply, error) {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(f.t.Context(), patience)
	defer cancel()
	target := f.url + "/engine.io/?" + query
	if strings.HasPrefix(query, "/") {
		target = f.url + query
	}
	if b, ok := body.(*strings.Reader); ok && b.Len() == 0 {
		body = nil // a GET with a body hides the end of its connection
	}
	req, err := http.NewRequestWithContext(ctx, method, target, body)
	if err != nil {
		f.t.Fatal(err)
	}
	for _, c := range change {
		c(req)
	}
	res, err := f.client.Do(req)
	if err != nil {
		return reply{}, err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	return reply{res.StatusCode, string(b), res.Header}, err
}

func header(key, value string) func(*http.Request) {
	return func(r *http.Request) { r.Header.Set(key, value) }
}

// poll and its kind address the connection with an id.
const pollQuery = "EIO=4&transport=polling"

func (f *fixture) poll(sid string) reply {
	f.t.Helper()
	return f.request("GET", pollQuery+"&sid="+sid, "")
}

func (f *fixture) post(sid, body string) reply {
	f.t.Helper()
	return f.request("POST", pollQuery+"&sid="+sid, body)
}

// hold sends a GET and returns once the server holds it; the reply comes through the channel.
func (f *fixture) hold(p *peer) <-chan reply {
	f.t.Helper()
	replies := make(chan reply, 1)
	go func() {
		r, err := f.try("GET", pollQuery+"&sid="+p.ID(), nil)
		if err != nil {
			r.body = err.Error()
		}
		replies <- r
	}()
	eventually(f.t, "the GET is held", func() bool { return engineio.Held(p.Conn) })
	return replies
}

// handshake opens a connection by polling.
func (f *fixture) handshake(extra ...string) *peer {
	f.t.Helper()
	r := f.request("GET", pollQuery+strings.Join(extra, ""), "")
	if r.status != 200 {
		f.t.Fatalf("handshake: %d %s", r.status, r.body)
	}
	if sid := sidOf(f.t, r.body); sid == "" {
		f.t.Fatalf("handshake: %s", r.body)
	}
	return f.peer()
}

func sidOf(t testing.TB, open string) string {
	t.Helper()
	var v struct{ SID string }
	if !strings.HasPrefix(open, "0") || json.Unmarshal([]byte(open[1:]), &v) != nil {
		t.Fatalf("%q is no open packet", open)
	}
	if !regexp.MustCompile(`^[A-Za-z0-9_-]{20}$`).MatchString(v.SID) {
		t.Fatalf("sid %q", v.SID)
	}
	return v.SID
}

// ws is a WebSocket client that can break every rule.
type ws struct {
	t    testing.TB
	conn net.Conn
	r    *bufio.Reader
	res  *http.Response
}

// The opcodes of frames.
const (
	opContinuation = 0
	opText         = 1
	opBinary       = 2
	opClose        = 8
	opPing         = 9
	opPong         = 10
)

// dial opens a WebSocket, which may be refused.
func (f *fixture) dial(query string, change ...func(*http.Request)) *ws {
	f.t.Helper()
	conn, err := net.Dial("tcp", f.addr)
	if err != nil {
		f.t.Fatal(err)
	}
	return upgradeConn(f.t, conn, "/engine.io/?"+query, change...)
}

func upgradeConn(t testing.TB, conn net.Conn, target string, change ...func(*http.Request)) *ws {
	t.Helper()
	t.Cleanup(func() { conn.Close() })
	req, err := http.NewRequest("GET", "http://parley.test"+target, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", "websocket")
	req.Header.Set("Sec-WebSocket-Version", "13")
	req.Header.Set("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")
	for _, c := range change {
		c(req)
	}
	_ = conn.SetDeadline(time.Now().Add(patience))
	if err := req.Write(conn); err != nil {
		t.Fatal(err)
	}
	w := &ws{t: t, conn: conn, r: bufio.NewReader(conn)}
	if w.res, err = http.ReadResponse(w.r, req); err != nil { //nolint:bodyclose // conn is closed, and that is all
		t.Fatal(err)
	}
	return w
}

// wsHandshake opens a connection by WebSocket and reads the open packet.
func (f *fixture) wsHandshake(extra ...string) (*ws, *peer) {
	f.t.Helper()
	w := f.dial("EIO=4&transport=websocket" + strings.Join(extra, ""))
	if w.res.StatusCode != 101 {
		f.t.Fatalf("handshake: %s", w.res.Status)
	}
	sidOf(f.t, w.text())
	return w, f.peer()
}

// probe opens a WebSocket for a connection that is on polling.
func (f *fixture) probe(p *peer) *ws {
	f.t.Helper()
	w := f.dial("EIO=4&transport=websocket&sid=" + p.ID())
	if w.res.StatusCode != 101 {
		f.t.Fatalf("probe: %s", w.res.Status)
	}
	return w
}

// upgrade takes a connection from polling to WebSocket.
func (f *fixture) upgrade(p *peer) *ws {
	f.t.Helper()
	w := f.probe(p)
	w.send("2probe")
	w.want("3probe")
	w.send("5")
	return w
}

func (w *ws) frame(first byte, masked bool, payload []byte) {
	w.t.Helper()
	if _, err := w.conn.Write(clientFrame(first, masked, payload)); err != nil {
		w.t.Fatalf("write a frame: %v", err)
	}
}

func clientFrame(first byte, masked bool, payload []byte) []byte {
	b := []byte{first, 0}
	switch n := len(payload); {
	case n < 126:
		b[1] = byte(n)
	case n < 1<<16:
		b[1] = 126
		b = binary.BigEndian.AppendUint16(b, uint16(n))
	default:
		b[1] = 127
		b = binary.BigEndian.AppendUint64(b, uint64(n))
	}
	if masked {
		b[1] |= 0x80
		mask := [4]byte{1, 2, 3, 4}
		b = append(b, mask[:]...)
		for i, c := range payload {
			b = append(b, c^mask[i%4])
		}
		return b
	}
	return append(b, payload...)
}

func (w *ws) send(text string)       { w.t.Helper(); w.frame(0x80|opText, true, []byte(text)) }
func (w *ws) sendBinary(data []byte) { w.t.Helper(); w.frame(0x80|opBinary, true, data) }

// next reads one frame; the opcode is -1 at the end of the connection.
func (w *ws) next() (first byte, opcode int, payload []byte) {
	w.t.Helper()
	first, payload, err := readFrame(w.r)
	if err != nil {
		if ne, ok := err.(net.Error); ok && ne.Timeout() {
			w.t.Fatal("no frame came")
		}
		return 0, -1, nil
	}
	return first, int(first & 0x0f), payload
}

func readFrame(r *bufio.Reader) (first byte, payload []byte, err error) {
	var h [8]byte
	if _, err = io.ReadFull(r, h[:2]); err != nil {
		return
	}
	first = h[0]
	n := uint64(h[1] & 0x7f)
	switch n {
	case 126:
		_, err = io.ReadFull(r, h[:2])
		n = uint64(binary.BigEndian.Uint16(h[:2]))
	case 127:
		_, err = io.ReadFull(r, h[:8])
		n = binary.BigEndian.Uint64(h[:8])
	}
	if err != nil {
		return
	}
	payload = make([]byte, n)
	_, err = io.ReadFull(r, payload)
	return
}

func (w *ws) text() string {
	w.t.Helper()
	_, op, payload := w.next()
	if op != opText {
		w.t.Fatalf("got opcode %d with %q, want text", op, payload)
	}
	return string(payload)
}

func (w *ws) want(text string) {
	w.t.Helper()
	if got := w.text(); got != text {
		w.t.Fatalf("got %q, want %q", got, text)
	}
}

// wantClose reads frames up to a close frame with code, 0 for an empty one, and then the end.
func (w *ws) wantClose(code uint16) {
	w.t.Helper()
	_, op, payload := w.next()
	if op != opClose {
		w.t.Fatalf("got opcode %d with %q, want a close frame", op, payload)
	}
	got := uint16(0)
	if len(payload) >= 2 {
		got = binary.BigEndian.Uint16(payload)
	}
	if got != code || code == 0 && len(payload) > 0 {
		w.t.Fatalf("got a close frame %q, want code %d", payload, code)
	}
}

func (w *ws) wantEnd() {
	w.t.Helper()
	if _, op, payload := w.next(); op != -1 {
		w.t.Fatalf("got opcode %d with %q, want the end of the connection", op, payload)
	}
}

// wantReason waits for Closed.
func (p *peer) wantReason(t testing.TB, want engineio.Reason) {
	t.Helper()
	if got := wait(t, p.closed, "Closed"); got != want {
		t.Fatalf("closed with %q, want %q", got, want)
	}
}

func (p *peer) wantOpen(t testing.TB) {
	t.Helper()
	select {
	case reason := <-p.closed:
		t.Fatalf("closed with %q", reason)
	default:
	}
}

func (r reply) want(t testing.TB, status int, body string) {
	t.Helper()
	if r.status != status || r.body != body {
		t.Fatalf("got %d %q, want %d %q", r.status, r.body, status, body)
	}
}

func errorBody(code int, message string) string {
	return fmt.Sprintf(`{"code":%d,"message":%q}`, code, message)
}

func wait[T any](t testing.TB, c <-chan T, what string) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(patience):
		t.Fatalf("%s didn't come", what)
		panic("unreachable")
	}
}

// eventually waits for a condition that nothing signals.
func eventually(t testing.TB, what string, condition func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !condition(); <-time.After(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("it didn't come to be that %s", what)
		}
	}
}

// pipeListener is a listener of in-memory connections, for tests of time.
type pipeListener struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func newPipeListener() *pipeListener {
	return &pipeListener{conns: make(chan net.Conn), done: make(chan struct{})}
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error   { l.once.Do(func() { close(l.done) }); return nil }
func (l *pipeListener) Addr() net.Addr { return &net.UnixAddr{Name: "pipe"} }

func (l *pipeListener) Dial(context.Context, string, string) (net.Conn, error) {
	client, server := net.Pipe()
	select {
	case l.conns <- server:
		return client, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

// startPipe is start without a network, to be used inside a bubble of synctest. The caller calls stop at the
// end of the bubble.
func startPipe(t testing.TB, o engineio.Options) (f *fixture, dial func(query string) *ws, stop func()) {
	t.Helper()
	f = &fixture{t: t, peers: make(chan *peer, 100)}
	s, err := engineio.NewServer(o, func(c *engineio.Conn) engineio.Receiver {
		p := &peer{Conn: c, closed: make(chan engineio.Reason, 1)}
		f.peers <- p
		return p
	})
	if err != nil {
		t.Fatal(err)
	}
	f.Server = s
	l := newPipeListener()
	h := &http.Server{Handler: s}
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = h.Serve(l)
	}()
	transport := &http.Transport{DialContext: l.Dial}
	f.url, f.client = "http://pipe", &http.Client{Transport: transport}
	dial = func(query string) *ws {
		conn, err := l.Dial(t.Context(), "", "")
		if err != nil {
			t.Fatal(err)
		}
		w := upgradeConn(t, conn, "/engine.io/?"+query)
		_ = conn.SetDeadline(time.Time{})
		return w
	}
	stop = func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := s.Shutdown(ctx); err != nil {
			t.Error(err)
		}
		transport.CloseIdleConnections()
		_ = h.Close()
		<-served
	}
	return f, dial, stop
}

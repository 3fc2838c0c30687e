package socketio_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lxzan/gws"
	"go.uber.org/goleak"

	"parley/metrics"
	"parley/socketio"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds every wait of a test for something that must happen.
const patience = 10 * time.Second

// fixture is a server behind a real listener.
type fixture struct {
	*socketio.Server
	t       *testing.T
	http    *httptest.Server
	metrics *metrics.Metrics
	reasons chan socketio.Reason // of every socket of the namespaces that were watched
	stop    sync.Once
}

// start returns a server with the echo application on "/" and "/custom".
func start(t *testing.T, o socketio.Options) *fixture {
	t.Helper()
	if o.Metrics == nil {
		o.Metrics = metrics.New()
	}
	server, err := socketio.NewServer(o)
	if err != nil {
		t.Fatal(err)
	}
	f := &fixture{
		Server: server, t: t, http: httptest.NewServer(server), metrics: o.Metrics,
		reasons: make(chan socketio.Reason, 10_000),
	}
	t.Cleanup(f.shutdown)
	f.echo("/")
	f.echo("/custom")
	return f
}

func (f *fixture) shutdown() {
	f.stop.Do(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := f.Shutdown(ctx); err != nil {
			f.t.Error(err)
		}
		f.http.Close()
	})
}

// echo serves what the vectors of the specification expect, and notes why sockets end.
func (f *fixture) echo(name string) *socketio.Namespace {
	n := f.Of(name)
	f.serveEcho(n)
	return n
}

func (f *fixture) serveEcho(n *socketio.Namespace) {
	n.OnEvent("message", func(_ context.Context, e *socketio.Event) error {
		return e.Socket.Emit("message-back", e.Args.Raw()...)
	})
	n.OnEvent("message-with-ack", func(_ context.Context, e *socketio.Event) error {
		return e.Ack(e.Args.Raw()...)
	})
	n.OnEvent("sync", func(_ context.Context, e *socketio.Event) error { return e.Ack() })
	n.OnDisconnect(func(_ context.Context, _ *socketio.Socket, r socketio.Reason) { f.reasons <- r })
}

// sockets collects the sockets that join a namespace.
func sockets(n *socketio.Namespace) <-chan *socketio.Socket {
	joined := make(chan *socketio.Socket, 10_000)
	n.OnConnection(func(_ context.Context, s *socketio.Socket) { joined <- s })
	return joined
}

func (f *fixture) wantReason(want socketio.Reason) {
	f.t.Helper()
	if got := next(f.t, f.reasons, "a disconnect"); got != want {
		f.t.Fatalf("disconnected with %q, want %q", got, want)
	}
}

func (f *fixture) wantCount(name metrics.Name, reason string, atLeast float64) {
	f.t.Helper()
	eventually(f.t, fmt.Sprintf("%s counts %q", name, reason), func() bool {
		return f.metrics.Value(name, reason) >= atLeast
	})
}

// client is a WebSocket client that can send anything.
type client struct {
	gws.BuiltinEventHandler
	t      *testing.T
	conn   *gws.Conn
	frames chan frame
	ended  chan struct{} // closed when the connection is over
	gone   chan struct{} // closed when nobody reads frames any more
	pause  chan struct{} // closed to stop reading
	leave  sync.Once
}

type frame struct {
	text   string
	binary []byte // nil in a text frame
}

func (c *client) OnMessage(_ *gws.Conn, m *gws.Message) {
	defer m.Close()
	select {
	case <-c.pause:
		<-c.gone
	default:
	}
	fr := frame{text: m.Data.String()}
	if m.Opcode == gws.OpcodeBinary {
		fr = frame{binary: append([]byte{}, m.Bytes()...)}
	}
	select {
	case c.frames <- fr:
	case <-c.gone:
	}
}

func (c *client) OnClose(*gws.Conn, error) { close(c.ended) }

// dial opens a connection without joining a namespace.
func (f *fixture) dial(query ...string) *client {
	f.t.Helper()
	c := f.dialRaw("EIO=4&transport=websocket" + strings.Join(query, ""))
	if open := c.text(); !strings.HasPrefix(open, "0{") {
		f.t.Fatalf("got %q, want an open packet", open)
	}
	return c
}

func (f *fixture) dialRaw(query string) *client {
	f.t.Helper()
	c := &client{t: f.t, frames: make(chan frame, 1024), ended: make(chan struct{}), gone: make(chan struct{}), pause: make(chan struct{})}
	conn, res, err := gws.NewClient(c, &gws.ClientOption{
		Addr:               "ws" + strings.TrimPrefix(f.http.URL, "http") + "/socket.io/?" + query,
		ReadMaxPayloadSize: 64 << 20,
	})
	if err != nil {
		f.t.Fatal(err)
	}
	defer res.Body.Close() // is empty
	c.conn = conn
	go conn.ReadLoop()
	f.t.Cleanup(c.drop)
	return c
}

// drop cuts the connection without a word and waits for the end of its goroutine.
func (c *client) drop() {
	c.leave.Do(func() {
		close(c.gone)
		_ = c.conn.NetConn().Close()
		<-c.ended
	})
}

// join dials and joins namespace, and returns its ids.
func (f *fixture) join(namespace string, auth ...string) (c *client, sid, pid string) {
	f.t.Helper()
	c = f.dial()
	sid, pid = c.connect(namespace, auth...)
	return c, sid, pid
}

// connect joins a namespace on an open connection.
func (c *client) connect(namespace string, auth ...string) (sid, pid string) {
	c.t.Helper()
	c.send("40" + prefix(namespace) + strings.Join(auth, ""))
	return c.connected(namespace)
}

// connected reads the answer to a CONNECT.
func (c *client) connected(namespace string) (sid, pid string) {
	c.t.Helper()
	return parseConnect(c.t, namespace, c.text())
}

var idPattern = regexp.MustCompile(`^[A-Za-z0-9_-]{20}$`)

func parseConnect(t *testing.T, namespace, text string) (sid, pid string) {
	t.Helper()
	var ids struct{ SID, PID string }
	body, ok := strings.CutPrefix(text, "40"+prefix(namespace))
	if !ok || json.Unmarshal([]byte(body), &ids) != nil || !idPattern.MatchString(ids.SID) {
		t.Fatalf("got %q, want a CONNECT of %s", text, namespace)
	}
	if ids.PID != "" && !idPattern.MatchString(ids.PID) {
		t.Fatalf("pid %q", ids.PID)
	}
	return ids.SID, ids.PID
}

func prefix(namespace string) string {
	if namespace == "/" {
		return ""
	}
	return namespace + ","
}

func (c *client) send(texts ...string) {
	c.t.Helper()
	for _, text := range texts {
		if err := c.conn.WriteString(text); err != nil {
			c.t.Fatalf("send %.40q: %v", text, err)
		}
	}
}

func (c *client) sendBinary(data ...[]byte) {
	c.t.Helper()
	for _, d := range data {
		if err := c.conn.WriteMessage(gws.OpcodeBinary, d); err != nil {
			c.t.Fatal(err)
		}
	}
}

func (c *client) frame() frame {
	c.t.Helper()
	select {
	case fr := <-c.frames:
		return fr
	default:
	}
	select {
	case fr := <-c.frames:
		return fr
	case <-c.ended:
		select {
		case fr := <-c.frames:
			return fr
		default:
			c.t.Fatal("the connection ended")
		}
	case <-time.After(patience):
		c.t.Fatal("no frame came")
	}
	panic("unreachable")
}

func (c *client) text() string {
	c.t.Helper()
	fr := c.frame()
	if fr.binary != nil {
		c.t.Fatalf("got the binary frame %x, want text", fr.binary)
	}
	return fr.text
}

func (c *client) want(texts ...string) {
	c.t.Helper()
	for _, text := range texts {
		if got := c.text(); got != text {
			c.t.Fatalf("got %.200q, want %.200q", got, text)
		}
	}
}

func (c *client) wantBinary(data ...[]byte) {
	c.t.Helper()
	for _, d := range data {
		if fr := c.frame(); !bytes.Equal(fr.binary, d) || fr.binary == nil {
			c.t.Fatalf("got %+v, want the binary frame %x", fr, d)
		}
	}
}

// match reads a text frame that pattern describes, and returns its submatches.
func (c *client) match(pattern string) []string {
	c.t.Helper()
	text := c.text()
	found := regexp.MustCompile("^" + pattern + "$").FindStringSubmatch(text)
	if found == nil {
		c.t.Fatalf("got %.200q, want %s", text, pattern)
	}
	return found[1:]
}

// sync proves that nothing is on its way to the client in a namespace, and that the server has handled all that
// it sent before.
func (c *client) sync(namespace string) {
	c.t.Helper()
	c.send("42" + prefix(namespace) + `77["sync"]`)
	c.want("43" + prefix(namespace) + "77[]")
}

// wantClosed reads the end of the connection, with nothing before it.
func (c *client) wantClosed() {
	c.t.Helper()
	select {
	case <-c.ended:
	case <-time.After(patience):
		c.t.Fatal("the connection was not closed")
	}
	select {
	case fr := <-c.frames:
		c.t.Fatalf("got %+v, want the end of the connection", fr)
	default:
	}
}

// poller is a client on HTTP long-polling.
type poller struct {
	t    *testing.T
	url  string
	sid  string
	wait []string // packets that were read and not looked at
}

func (f *fixture) poll() *poller {
	f.t.Helper()
	p := &poller{t: f.t, url: f.http.URL + "/socket.io/?EIO=4&transport=polling"}
	var open struct{ SID string }
	if err := json.Unmarshal([]byte(strings.TrimPrefix(p.packet(), "0")), &open); err != nil {
		f.t.Fatal(err)
	}
	p.sid = open.SID
	p.url += "&sid=" + open.SID
	return p
}

func (p *poller) request(method, body string) (int, string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, p.url, strings.NewReader(body))
	if err != nil {
		return 0, "", err
	}
	if body == "" {
		req.Body = nil
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	return res.StatusCode, string(text), err
}

// post sends packets and wants them taken.
func (p *poller) post(packets ...string) {
	p.t.Helper()
	status, body, err := p.request("POST", strings.Join(packets, "\x1e"))
	if err != nil || status != 200 || body != "ok" {
		p.t.Fatalf("POST: %d %q %v", status, body, err)
	}
}

// packet returns the next packet, polling if none waits.
func (p *poller) packet() string {
	p.t.Helper()
	if len(p.wait) == 0 {
		status, body, err := p.request("GET", "")
		if err != nil || status != 200 {
			p.t.Fatalf("GET: %d %q %v", status, body, err)
		}
		p.wait = strings.Split(body, "\x1e")
	}
	first := p.wait[0]
	p.wait = p.wait[1:]
	return first
}

func (p *poller) want(packets ...string) {
	p.t.Helper()
	for _, want := range packets {
		if got := p.packet(); got != want {
			p.t.Fatalf("got %.200q, want %.200q", got, want)
		}
	}
}

// wantEnd reads that the connection is closed: a GET that is held then is answered with a close packet, and a
// later one with a noop before it.
func (p *poller) wantEnd() {
	p.t.Helper()
	if packet := p.packet(); packet != "1" && packet != "6" || packet == "6" && p.packet() != "1" {
		p.t.Fatalf("got %q, want the end of the connection", packet)
	}
}

func next[T any](t *testing.T, c <-chan T, what string) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(patience):
		t.Fatalf("%s did not come", what)
		panic("unreachable")
	}
}

// eventually waits for a condition that nothing signals.
func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !condition(); <-time.After(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("it did not come to be that %s", what)
		}
	}
}

// check fails a test from any goroutine.
func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Error(err)
	}
}

func wantError(t *testing.T, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("got error %v, want %v", err, want)
	}
}

// short is a context for something that does not come.
func short(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	t.Cleanup(cancel)
	return ctx
}

// long is a context for something that must come.
func long(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

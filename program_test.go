package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/lxzan/gws"
	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	"parley/config"
	"parley/store"
)

func TestMain(m *testing.M) {
	// The Redis client looks once a second whether its pool was closed, while it finds no Redis.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/redis/go-redis/v9/internal/pool.(*ConnPool).tryDial"))
}

// patience bounds every wait of a test for something that must happen.
const patience = 30 * time.Second

// buffer is a bytes.Buffer for many goroutines.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// running is a program under test.
type running struct {
	*program
	t    *testing.T
	url  string
	log  *buffer
	stop func() error // may be called more than once
}

// launch starts the program on a free port with these settings.
func launch(t *testing.T, args ...string) *running {
	t.Helper()
	cfg, err := config.Parse(append([]string{"--port=0", "--drain-timeout=0"}, args...))
	if err != nil {
		t.Fatal(err)
	}
	r := &running{t: t, log: new(buffer)}
	ctx, cancel := context.WithCancel(t.Context())
	r.program, err = start(ctx, cfg, zerolog.New(r.log))
	cancel() // which is for the start alone
	if err != nil {
		t.Fatal(err)
	}
	r.url = "http://" + r.addr.String()
	r.stop = sync.OnceValue(r.program.stop)
	t.Cleanup(func() {
		if err := r.stop(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			for line := range strings.Lines(r.log.String()) {
				if !strings.Contains(line, `"debug"`) {
					t.Logf("logged: %s", line)
				}
			}
		}
	})
	return r
}

// request returns the answer to a GET.
func (r *running) request(path string, header http.Header) (status int, body string, h http.Header) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, r.url+path, nil)
	if err != nil {
		r.t.Fatal(err)
	}
	maps.Copy(req.Header, header)
	transport := &http.Transport{DisableKeepAlives: true}
	res, err := transport.RoundTrip(req)
	if err != nil {
		r.t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	return res.StatusCode, string(text), res.Header
}

// device is a client on WebSocket that sees what is on the wire, heartbeats aside.
type device struct {
	gws.BuiltinEventHandler
	*gws.Conn
	t      *testing.T
	frames chan string
	closed chan error
}

func (d *device) OnMessage(c *gws.Conn, m *gws.Message) {
	defer m.Close()
	if text := m.Data.String(); text == "2" {
		_ = c.WriteString("3") // fails when it is closed
	} else {
		d.frames <- text
	}
}

func (d *device) OnClose(_ *gws.Conn, err error) { d.closed <- err }

// connect opens a connection and sends its first frame.
func (r *running) connect(hello string, header http.Header) (*device, error) {
	d := &device{t: r.t, frames: make(chan string, 10_000), closed: make(chan error, 1)}
	h := http.Header{}
	maps.Copy(h, header)
	c, res, err := gws.NewClient(d, &gws.ClientOption{
		Addr: "ws" + strings.TrimPrefix(r.url, "http") + "/socket.io/?EIO=4&transport=websocket", RequestHeader: h,
	})
	if res != nil {
		defer res.Body.Close()
	}
	if err != nil {
		return nil, err
	}
	d.Conn = c
	go d.ReadLoop()
	r.t.Cleanup(func() { d.NetConn().Close() })
	return d, d.WriteString(hello)
}

func (r *running) mustConnect(hello string) *device {
	r.t.Helper()
	d, err := r.connect(hello, nil)
	if err != nil {
		r.t.Fatal(err)
	}
	return d
}

// until returns the next frame that starts so, past all others.
func (d *device) until(start string) string {
	d.t.Helper()
	end := time.After(patience)
	for {
		select {
		case frame := <-d.frames:
			if strings.HasPrefix(frame, start) {
				return frame
			}
		case err := <-d.closed:
			d.closed <- err
			if len(d.frames) == 0 {
				d.t.Fatalf("the connection ended: %v, and no frame %s came", err, start)
			}
		case <-end:
			d.t.Fatalf("no frame %s came", start)
		}
	}
}

// ended waits for the end of the connection.
func (d *device) ended() {
	d.t.Helper()
	select {
	case err := <-d.closed:
		d.closed <- err
	case <-time.After(patience):
		d.t.Fatal("the connection stays open")
	}
}

// session reads the ids of the session event.
func (d *device) session() (sessionID, userID string) {
	d.t.Helper()
	var args []json.RawMessage
	var ids struct{ SessionID, UserID string }
	if err := json.Unmarshal([]byte(d.until(`42["session",`)[2:]), &args); err != nil {
		d.t.Fatal(err)
	}
	if err := json.Unmarshal(args[1], &ids); err != nil {
		d.t.Fatal(err)
	}
	return ids.SessionID, ids.UserID
}

func TestPages(t *testing.T) {
	r := launch(t, "--store=memory")
	if status, body, h := r.request("/", nil); status != 200 || !strings.Contains(body, "<html") || !strings.HasPrefix(h.Get("Content-Type"), "text/html") {
		t.Errorf("/: %d %.100s", status, body)
	}
	if status, body, _ := r.request("/healthz", nil); status != 200 || body != "ok\n" {
		t.Errorf("/healthz: %d %s", status, body)
	}
	if status, _, _ := r.request("/nothing", nil); status != 404 {
		t.Errorf("/nothing: %d", status)
	}
	if status, body, _ := r.request("/socket.io/?EIO=4&transport=polling", nil); status != 200 || !strings.HasPrefix(body, `0{"sid":"`) {
		t.Errorf("/socket.io/: %d %s", status, body)
	}
	r.draining.Store(true)
	if status, _, _ := r.request("/healthz", nil); status != 503 {
		t.Errorf("/healthz while draining: %d", status)
	}
}

// sick is a store that can't be written any more.
type sick struct{ store.Store }

func (sick) Health() error { return errors.New("input/output error in /secret/path") }

func TestHealthOfStore(t *testing.T) {
	r := launch(t, "--data-dir="+t.TempDir())
	if status, body, _ := r.request("/healthz", nil); status != 200 || body != "ok\n" {
		t.Errorf("%d %s", status, body)
	}
	r.store = sick{r.store}
	if status, body, _ := r.request("/healthz", nil); status != 503 || !strings.Contains(body, "check the disk") || strings.Contains(body, "secret") {
		t.Errorf("of a store that can't be written: %d %s", status, body)
	}
}

// deadlines is a reply whose connection notes its deadlines.
type deadlines struct {
	*httptest.ResponseRecorder
	read, write time.Time
}

func (d *deadlines) SetReadDeadline(t time.Time) error  { d.read = t; return nil }
func (d *deadlines) SetWriteDeadline(t time.Time) error { d.write = t; return nil }

// TestRequestsAreBounded has a client promise a body that it may never send, and take its time to read: net/http reads what
// nobody has read of a body before it answers.
func TestRequestsAreBounded(t *testing.T) {
	r := launch(t, "--store=memory", "--client-dist="+t.TempDir())
	for _, path := range []string{
		"/", "/nothing", "/healthz", "/metrics", "/chat/history", "//cleaned", "/socket.io", "/socket.io/", "/socket.io/socket.io.js",
		"/socket.io/../cleaned", "/socket.io/?EIO=4&transport=nonsense",
	} {
		req := httptest.NewRequest(http.MethodGet, path, strings.NewReader("0123456789"))
		w := &deadlines{ResponseRecorder: httptest.NewRecorder()}
		r.http.Handler.ServeHTTP(w, req)
		if w.read.IsZero() || w.write.IsZero() {
			t.Errorf("%s: status %d, to be read until %v, to be written until %v", path, w.Code, w.read, w.write)
		}
	}
}

func TestMetricsAccess(t *testing.T) {
	open := launch(t, "--store=memory")
	if status, body, _ := open.request("/metrics", nil); status != 200 || !strings.Contains(body, "parley_connections 0") {
		t.Errorf("from this machine: %d %.200s", status, body)
	}
	for _, proxied := range []string{"X-Forwarded-For", "Forwarded"} {
		if status, _, _ := open.request("/metrics", http.Header{proxied: {"for=203.0.113.1"}}); status != 403 {
			t.Errorf("with %s: %d", proxied, status)
		}
	}
	const key = "a key of 16 bytes or more"
	keyed := launch(t, "--store=memory", "--api-key="+key)
	for authorization, want := range map[string]int{"": 401, "Bearer wrong": 401, "Bearer ": 401, key: 401, "Bearer " + key: 200} {
		if status, _, _ := keyed.request("/metrics", http.Header{"Authorization": {authorization}}); status != want {
			t.Errorf("with %q: %d, not %d", authorization, status, want)
		}
	}
	if strings.Contains(keyed.log.String(), key) {
		t.Error("the log has the key")
	}
}

func TestOrigins(t *testing.T) {
	r := launch(t, "--store=memory", "--cors-origins=https://app.example")
	for origin, allowed := range map[string]bool{
		"": true, r.url: true, "http://localhost:8080": true, "https://app.example": true,
		"https://evil.example": false, "null": false, "https://app.example.evil.example": false, "http://localhost.evil.example": false,
	} {
		header := http.Header{}
		if origin != "" {
			header.Set("Origin", origin)
		}
		status, body, h := r.request("/socket.io/?EIO=4&transport=polling", header)
		if (status == 200) != allowed || !allowed && status != 403 {
			t.Errorf("polling from %q: %d %s", origin, status, body)
		}
		if got := h.Get("Access-Control-Allow-Origin"); allowed && got != origin || !allowed && got != "" {
			t.Errorf("polling from %q: allows %q", origin, got)
		}
		if _, err := r.connect("40", header); (err == nil) != allowed {
			t.Errorf("WebSocket from %q: %v", origin, err)
		}
	}
}

func TestStartLine(t *testing.T) {
	for _, mode := range []struct{ args, word string }{
		{"--log-level=info", "open: anybody"},
		{"--jwt-secret=0123456789012345678901234567890123456789", "authenticated"},
	} {
		r := launch(t, "--store=memory", "--host=127.0.0.1", "--shards=3", mode.args)
		first, _, _ := strings.Cut(r.log.String(), "\n")
		var line struct {
			Level, Address, Store, Mode, Message string
			Shards                               int
		}
		if err := json.Unmarshal([]byte(first), &line); err != nil {
			t.Fatalf("%s: %v", first, err)
		}
		if line.Level != "info" || line.Address != r.addr.String() || line.Shards != 3 || !strings.HasPrefix(line.Store, "memory") ||
			!strings.HasPrefix(line.Mode, mode.word) || !strings.Contains(line.Message, "http://localhost:") {
			t.Errorf("%s", first)
		}
		if strings.Contains(first, "0123456789012345") {
			t.Error("the start line has the secret")
		}
	}
}

// TestRestart: sessions, history and recovery outlive the process, and clients are told to come back.
func TestRestart(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "made", "on demand")
	first := launch(t, "--data-dir="+dir)
	alice := first.mustConnect(`40{"username":"alice"}`)
	session, user := alice.session()
	alice.until(`42["users"`)
	if err := alice.WriteString(fmt.Sprintf(`421["private message",{"content":"note","to":%q}]`, user)); err != nil {
		t.Fatal(err)
	}
	alice.until(`431[{"id":`)

	cfg, err := config.Parse([]string{"--port=0", "--data-dir=" + dir})
	if err != nil {
		t.Fatal(err)
	}
	if second, err := start(t.Context(), cfg, zerolog.Nop()); err == nil || !strings.Contains(err.Error(), "another process") {
		t.Errorf("a second process on the same directory: %v, %v", second, err)
	}

	if err := first.stop(); err != nil {
		t.Fatal(err)
	}
	alice.ended()
	for len(alice.frames) > 0 {
		if frame := <-alice.frames; strings.HasPrefix(frame, "41") {
			t.Error("a DISCONNECT was sent, after which clients stay away")
		}
	}

	again := launch(t, "--data-dir="+dir)
	back := again.mustConnect(fmt.Sprintf(`40{"sessionID":%q}`, session))
	if s, u := back.session(); s != session || u != user {
		t.Errorf("session %s of %s, not %s of %s", s, u, session, user)
	}
	if roster := back.until(`42["users"`); !strings.Contains(roster, `"content":"note"`) {
		t.Errorf("%s", roster)
	}
}

// TestStop: held polls are answered, new connections refused, and nothing waits for what does not come.
func TestStop(t *testing.T) {
	r := launch(t, "--store=memory", "--drain-timeout=5s")
	_, body, _ := r.request("/socket.io/?EIO=4&transport=polling", nil)
	sid := body[len(`0{"sid":"`):][:20]
	ws := r.mustConnect(`40{"username":"alice"}`)
	ws.until(`42["users"`)
	held := make(chan string)
	go func() {
		_, body, _ := r.request("/socket.io/?EIO=4&transport=polling&sid="+sid, nil)
		held <- body
	}()
	began := time.Now()
	if err := r.stop(); err != nil {
		t.Error(err)
	}
	if took := time.Since(began); took > 4*time.Second {
		t.Errorf("took %s for two connections", took)
	}
	// The poll may come before or after the stop; in no case is it left hanging.
	if answer := <-held; !strings.HasSuffix(answer, "1") && !strings.HasPrefix(answer, `{"code":`) {
		t.Errorf("the held poll was answered %s", answer)
	}
	ws.ended()
	if _, err := net.DialTimeout("tcp", r.addr.String(), patience); err == nil {
		t.Error("still listening")
	}
}

// TestStartFails: what can't be started is said in one sentence, and nothing is left behind.
func TestStartFails(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	plain := filepath.Join(t.TempDir(), "plain")
	if err := os.WriteFile(plain, []byte("not a directory"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ args, want string }{
		{fmt.Sprintf("--port=%d", taken.Addr().(*net.TCPAddr).Port), "set PORT or HOST"},
		{"--store=file --data-dir=" + plain, "plain"},
		{"--jwt-jwks-url=http://user:password@127.0.0.1:1/keys?secret", "fetch the JWT keys"},
	} {
		cfg, err := config.Parse(append([]string{"--store=memory", "--port=0"}, strings.Fields(c.args)...))
		if err != nil {
			t.Fatal(err)
		}
		_, err = start(t.Context(), cfg, zerolog.Nop())
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.ContainsAny(err.Error(), "\n") {
			t.Errorf("%s: %v", c.args, err)
		}
		if err != nil && (strings.Contains(err.Error(), "password") || strings.Contains(err.Error(), "secret")) {
			t.Errorf("tells a secret: %v", err)
		}
	}
}

// command runs the whole command and returns its exit code and what it printed. Once it has printed ready, it
// is sent SIGTERM.
func command(t *testing.T, ready string, args ...string) (code int, out, errs string) {
	t.Helper()
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer read.Close()
	printed := make(chan string, 1)
	go func() {
		var all []byte
		for part := make([]byte, 4096); ; {
			n, err := read.Read(part)
			all = append(all, part[:n]...)
			if ready != "" && bytes.Contains(all, []byte(ready)) {
				ready = ""
				if err := syscall.Kill(os.Getpid(), syscall.SIGTERM); err != nil {
					panic(err)
				}
			}
			if err != nil {
				break
			}
		}
		printed <- string(all)
	}()
	var stdout bytes.Buffer
	code = run(args, &stdout, write)
	write.Close()
	return code, stdout.String(), <-printed
}

func TestCommand(t *testing.T) {
	code, out, errs := command(t, "", "--help")
	if code != 0 || errs != "" || !strings.Contains(out, "DRAIN_TIMEOUT") || !strings.Contains(out, "PORT") {
		t.Errorf("--help: %d, %s, %.100s", code, errs, out)
	}
	for _, args := range [][]string{
		{"--port=x"}, {"--port=70000"}, {"--no-such"}, {"word"}, {"--jwt-secret=short"}, {"--store=redis"}, {"--cors-origins=nonsense"},
		{"--ping-interval=25"}, {"--redis-url=http://localhost"},
	} {
		code, out, errs := command(t, "", args...)
		if code != 2 || out != "" || !strings.HasPrefix(errs, "parley: ") || strings.Count(errs, "\n") != 1 {
			t.Errorf("%s: %d, %s", args, code, errs)
		}
	}
	t.Setenv("PORT", "nonsense")
	if code, _, errs := command(t, ""); code != 2 || !strings.Contains(errs, "PORT") {
		t.Errorf("PORT=nonsense: %d, %s", code, errs)
	}
	t.Setenv("PORT", "0")
	code, out, errs = command(t, "Parley serves", "--store=memory")
	if code != 0 || out != "" || strings.Count(errs, "\n") != 3 || !strings.Contains(errs, `"message":"stopped"`) {
		t.Errorf("SIGTERM: %d, %s", code, errs)
	}
	for line := range strings.Lines(errs) {
		if !json.Valid([]byte(line)) {
			t.Errorf("not JSON: %s", line)
		}
	}
}

// TestStorm: five hundred clients at once all get their roster.
func TestStorm(t *testing.T) {
	const clients = 500
	r := launch(t, "--store=memory")
	devices := make([]*device, clients)
	errs := make(chan error, clients)
	for i := range devices {
		go func() {
			var err error
			devices[i], err = r.connect(fmt.Sprintf(`40{"username":"user%d"}`, i), nil)
			errs <- err
		}()
	}
	for range devices {
		if err := <-errs; err != nil {
			t.Fatal(err)
		}
	}
	for _, d := range devices {
		_, user := d.session()
		if roster := d.until(`42["users"`); !strings.Contains(roster, user) {
			t.Fatalf("%s is not in their roster", user)
		}
	}
}

package relay

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	"parley/metrics"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds every wait of a test for something that must happen.
const patience = 10 * time.Second

// process is a Relay with an HTTP server, whose requests for other nodes come with the header Node. Its own are
// answered by serve.
type process struct {
	*Relay
	*httptest.Server
	t       *testing.T
	metrics *metrics.Metrics
}

func newProcess(t *testing.T, r *miniredis.Miniredis, opts Options, serve http.HandlerFunc) *process {
	t.Helper()
	opts.Client = redis.NewClient(&redis.Options{Addr: r.Addr(), MaxRetries: -1})
	opts.Metrics = metrics.New()
	p := &process{t: t, metrics: opts.Metrics}
	var err error
	if p.Relay, err = Join(t.Context(), opts); err != nil {
		t.Fatal(err)
	}
	p.Server = httptest.NewServer(p.Receive(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		node := r.Header.Get("Node")
		switch {
		case node == p.Node(), node == "": // a release has no such header
			serve(w, r)
		default:
			w.Header().Set("Access-Control-Allow-Origin", "mine")
			if !p.Forward(w, r, node) {
				http.Error(w, "unknown", http.StatusBadRequest)
			}
		}
	})))
	if err := p.Advertise(t.Context(), p.Server.URL); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.Relay.Close(context.Background())
		p.Server.Close()
		opts.Client.Close()
	})
	return p
}

// ask sends a request for a node and returns status and body.
func (p *process) ask(method, node, body string, change ...func(*http.Request)) string {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.t.Context(), patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, p.Server.URL+"/path?a=1&b=%20", strings.NewReader(body))
	if err != nil {
		p.t.Fatal(err)
	}
	req.Header.Set("Node", node)
	for _, c := range change {
		c(req)
	}
	res, err := p.Client().Do(req)
	if err != nil {
		return err.Error()
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		return err.Error()
	}
	// What this process answers has its headers, what another one answers has not.
	headers := strings.Join(res.Header.Values("Access-Control-Allow-Origin"), ", ")
	if node != p.Node() && (headers == "mine") != (res.StatusCode >= 400 || string(text) == "6") {
		p.t.Errorf("status %d with the header %q", res.StatusCode, headers)
	}
	return fmt.Sprint(res.StatusCode, " ", strings.TrimSpace(string(text)))
}

func (p *process) want(method, node, body, want string, change ...func(*http.Request)) {
	p.t.Helper()
	if got := p.ask(method, node, body, change...); !strings.HasPrefix(got, want) {
		p.t.Errorf("%s: got %s, want %s", method, got, want)
	}
}

func (p *process) counted(reason string, want float64) {
	p.t.Helper()
	if got := p.metrics.Value(metrics.RelayFailed, reason); got != want {
		p.t.Errorf("counted %v as %q, want %v", got, reason, want)
	}
}

func nobody(http.ResponseWriter, *http.Request) {}

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

func TestNoSuchProcess(t *testing.T) {
	r := miniredis.RunT(t)
	a := newProcess(t, r, Options{}, nobody)
	b := newProcess(t, r, Options{}, nobody)
	a.want("GET", "AAAAA", "", "400 unknown")
	a.counted("absent", 1)

	// One that was killed is known until its lease ends.
	b.Server.Close()
	a.want("POST", b.Node(), "x", "400 unknown")
	a.want("GET", b.Node(), "", "400 unknown")
	a.counted("absent", 3)

	// One that left is forgotten at once, even if its address answers still.
	c := newProcess(t, r, Options{}, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "here") })
	a.want("GET", c.Node(), "", "200 here")
	c.Relay.Close(t.Context())
	a.stale(c.Node(), 0)
	a.want("GET", c.Node(), "", "400 unknown")
	if ttl := r.TTL(prefixSeat + c.Node()); ttl != 10*time.Second {
		t.Errorf("the name of a process that left is kept for %v", ttl)
	}
}

// stale has the directory ask for a node again, which it has missed for that long.
func (p *process) stale(node string, missing time.Duration) {
	d := p.directory
	d.mu.Lock()
	defer d.mu.Unlock()
	known := d.known[node]
	known.until = time.Now()
	if missing > 0 {
		known.missing = known.until.Add(-missing)
	}
	d.known[node] = known
}

// TestRedisForgets has a Redis that comes back empty, or later than the leases: who was there is taken to be there still,
// but not for ever.
func TestRedisForgets(t *testing.T) {
	r := miniredis.RunT(t)
	a := newProcess(t, r, Options{}, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "here") })
	b := newProcess(t, r, Options{}, nobody)
	b.want("GET", a.Node(), "", "200 here")
	r.FlushAll()
	b.stale(a.Node(), 0)
	b.want("GET", a.Node(), "", "200 here")
	b.stale(a.Node(), 9*time.Second)
	b.want("GET", a.Node(), "", "200 here")
	if err := a.beat(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.stale(a.Node(), 9*time.Second)
	b.want("GET", a.Node(), "", "200 here")
	r.FlushAll()
	b.stale(a.Node(), 0)
	b.want("GET", a.Node(), "", "200 here") // the time begins anew
	b.stale(a.Node(), 10*time.Second)
	b.want("GET", a.Node(), "", "400 unknown")
	b.counted("absent", 1)
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

func TestLease(t *testing.T) {
	r := miniredis.RunT(t)
	a := newProcess(t, r, Options{Lease: 60 * time.Millisecond}, nobody)
	key := prefixSeat + a.Node()
	if ttl := r.TTL(key); ttl != 60*time.Millisecond {
		t.Errorf("the lease is %v", ttl)
	}
	r.FastForward(time.Second)
	if r.Exists(key) {
		t.Fatal("the lease does not end")
	}
	eventually(t, "it is taken again", func() bool { return r.Exists(key) })

	// A name that another process has is not taken from it.
	if err := r.Set(key, "other http://192.0.2.1"); err != nil {
		t.Fatal(err)
	}
	if mine, err := a.renew(t.Context()); mine || err != nil {
		t.Errorf("took another's name: %v", err)
	}
	a.Relay.Close(t.Context())
	if got, _ := r.Get(key); got != "other http://192.0.2.1" {
		t.Errorf("the other's entry is %q", got)
	}
}

func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !condition(); {
		if time.Now().After(deadline) {
			t.Fatalf("waited for: %s", what)
		}
	}
}

func TestRedisAway(t *testing.T) {
	r := miniredis.RunT(t)
	a := newProcess(t, r, Options{}, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "here") })
	b := newProcess(t, r, Options{}, nobody)
	b.want("GET", a.Node(), "", "200 here")
	r.SetError("LOADING")
	b.stale(a.Node(), 0)
	b.want("GET", a.Node(), "", "200 here")
	b.want("GET", "AAAAA", "", "503 The process of this connection can't be looked up")
	b.counted("directory", 1)
	r.SetError("")
}

// TestDirectoryIsBounded has clients make up names.
func TestDirectoryIsBounded(t *testing.T) {
	r := miniredis.RunT(t)
	a := newProcess(t, r, Options{}, nobody)
	b := newProcess(t, r, Options{}, nobody)
	d := a.directory
	if _, err := d.find(b.Node()); err != nil {
		t.Fatal(err)
	}
	for i := range 3 * maxNames {
		if u, err := d.find(fmt.Sprintf("%05d", i)); u != nil || err != nil {
			t.Fatal(u, err)
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.absent) > maxNames || d.known[b.Node()].url == nil {
		t.Errorf("%d names are kept, and %d that are known", len(d.absent), len(d.known))
	}
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

func TestSignature(t *testing.T) {
	r := miniredis.RunT(t)
	a := newProcess(t, r, Options{}, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, r.RemoteAddr) //nolint:gosec // read by this test alone
	})
	sign := func(header string) func(*http.Request) {
		return func(r *http.Request) { r.Header.Set("Parley-Relay", header) }
	}
	const uri = "/path?a=1&b=%20"
	good := a.sign("GET", uri, "192.0.2.1:5")
	a.want("GET", a.Node(), "", "200 192.0.2.1:5", sign(good))
	a.want("POST", a.Node(), "", "403 ", sign(good))
	a.want("GET", a.Node(), "", "403 ", sign(strings.Replace(good, "192.0.2.1", "192.0.2.2", 1)))
	a.want("GET", a.Node(), "", "403 ", sign(a.sign("GET", "/path", "192.0.2.1:5")))
	a.want("GET", a.Node(), "", "403 ", sign("x"))
	a.want("GET", a.Node(), "", "403 ", sign("1 a zz"))
	key, _ := a.keys.get()
	old := fmt.Sprintf("1 a %x", mac(key, "GET", uri, "1", "a"))
	a.want("GET", a.Node(), "", "403 The header Parley-Relay is for Parley's own processes: the signature is too old", sign(old))
	a.counted("signature", 6)

	// What was forwarded once is not again.
	b := newProcess(t, r, Options{}, nobody)
	a.want("GET", b.Node(), "", "400 unknown", sign(good))
	a.counted("misdirected", 1)

	// Redis loses the key: they agree on another, and take each other's until all know it.
	r.Del(keySecret)
	if err := b.agree(t.Context()); err != nil {
		t.Fatal(err)
	}
	if now, _ := b.keys.get(); now != key {
		t.Error("the key that is known was not given back to Redis")
	}
	if err := r.Set(keySecret, "another key"); err != nil {
		t.Fatal(err)
	}
	if err := a.agree(t.Context()); err != nil {
		t.Fatal(err)
	}
	a.want("GET", a.Node(), "", "200 192.0.2.1:5", sign(b.sign("GET", uri, "192.0.2.1:5")))
	a.want("GET", a.Node(), "", "200 192.0.2.1:5", sign(a.sign("GET", uri, "192.0.2.1:5")))
}

// TestKeyOfANewProcess has Redis lose the key, and a new process set its own before the others give theirs back.
func TestKeyOfANewProcess(t *testing.T) {
	r := miniredis.RunT(t)
	here := func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "here") }
	a, b := newProcess(t, r, Options{}, here), newProcess(t, r, Options{}, here)
	r.Del(keySecret)
	c := newProcess(t, r, Options{}, here)
	old, _ := b.keys.get()
	if key, _ := c.keys.get(); key == old {
		t.Fatal("the key is not lost")
	}
	c.want("GET", b.Node(), "", "200 here")
	a.want("GET", c.Node(), "", "200 here")

	// However many signatures are bad, Redis is not asked each time.
	before := r.CommandCount()
	for range 50 {
		b.want("GET", b.Node(), "", "403 ", func(r *http.Request) { r.Header.Set(header, "1 a 00") })
	}
	if asked := r.CommandCount() - before; asked > 10 {
		t.Errorf("Redis was asked %d times", asked)
	}

	// Who is refused all the same says so as the other failures do, and gets it right from then on.
	c.keys.mu.Lock()
	c.keys.current, c.keys.last = "another", ""
	c.keys.mu.Unlock()
	b.keys.asking.Lock()
	b.keys.asked = time.Now().Add(time.Hour)
	b.keys.asking.Unlock()
	c.want("GET", b.Node(), "", "503 The process of this connection does not trust this one")
	c.counted("refused", 1)
	c.want("GET", b.Node(), "", "200 here")
}

func TestJoinWithoutRedis(t *testing.T) {
	r := miniredis.RunT(t)
	client := redis.NewClient(&redis.Options{Addr: r.Addr(), MaxRetries: -1})
	defer client.Close()
	r.SetError("LOADING")
	if _, err := Join(t.Context(), Options{Client: client}); err == nil || !strings.Contains(err.Error(), "register") {
		t.Error(err)
	}
	// It says that it waits, upon which Redis answers.
	log := zerolog.New(writerFunc(func() { r.SetError("") }))
	joined, err := Join(t.Context(), Options{Client: client, Wait: time.Minute, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	r.SetError("LOADING")
	if err := joined.Advertise(t.Context(), "http://127.0.0.1:1"); err != nil {
		t.Error(err) // the next renewal does it
	}
	joined.Close(t.Context())
}

type writerFunc func()

func (f writerFunc) Write(p []byte) (int, error) {
	f()
	return len(p), nil
}

type address string

func (a address) Network() string { return "tcp" }
func (a address) String() string  { return string(a) }

func TestURL(t *testing.T) {
	for listening, want := range map[string]string{
		"127.0.0.1:3000": "http://127.0.0.1:3000",
		"[::1]:3000":     "http://[::1]:3000",
		"10.1.2.3:80":    "http://10.1.2.3:80",
	} {
		if got, err := URL(address(listening)); got != want || err != nil {
			t.Errorf("%s: %s, %v", listening, got, err)
		}
	}
	for _, listening := range []string{"[::]:3000", "0.0.0.0:3000"} {
		if got, err := URL(address(listening)); err != nil || !strings.HasSuffix(got, ":3000") || strings.Contains(got, "[::]") || strings.Contains(got, "0.0.0.0") {
			t.Errorf("%s: %s, %v", listening, got, err)
		}
	}
	if _, err := URL(address("/tmp/socket")); err == nil {
		t.Error("a path was taken")
	}
}

// TestWebSocket has a connection that is no HTTP any more end from each side.
func TestWebSocket(t *testing.T) {
	r := miniredis.RunT(t)
	ended := make(chan error, 1)
	a := newProcess(t, r, Options{}, func(w http.ResponseWriter, r *http.Request) {
		c, buffered, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nhello\n")
		line, err := buffered.ReadString('\n')
		if line == "bye\n" {
			return
		}
		ended <- err
	})
	b := newProcess(t, r, Options{}, nobody)
	dial := func() net.Conn {
		t.Helper()
		c, err := net.Dial("tcp", b.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		_ = c.SetDeadline(time.Now().Add(patience))
		_, _ = io.WriteString(c, "GET /x HTTP/1.1\r\nHost: a\r\nNode: "+a.Node()+"\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")
		text := ""
		for buf := make([]byte, 1); !strings.HasSuffix(text, "hello\n"); {
			if _, err := c.Read(buf); err != nil {
				t.Fatalf("%v after %s", err, text)
			}
			text += string(buf)
		}
		return c
	}
	c := dial()
	_, _ = io.WriteString(c, "bye\n")
	if rest, err := io.ReadAll(c); len(rest) > 0 || err != nil {
		t.Errorf("after the other process ended: %q, %v", rest, err)
	}
	c.Close()

	dial().Close()
	if err := <-ended; !errors.Is(err, io.EOF) {
		t.Errorf("after the client ended: %v", err)
	}
	c = dial()
	defer c.Close()
	b.Drain(t.Context())
	if _, err := io.ReadAll(c); err != nil {
		t.Error(err)
	}
	if err := <-ended; err == nil {
		t.Error("the other process is not told that this one stops")
	}
	eventually(t, "nothing is forwarded", func() bool {
		b.mu.Lock()
		defer b.mu.Unlock()
		return len(b.forwards) == 0
	})
}

// raw opens a TCP connection to the process, and sends what is given.
func (p *process) raw(text string) net.Conn {
	p.t.Helper()
	c, err := net.Dial("tcp", p.Listener.Addr().String())
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(c, text); err != nil {
		p.t.Fatal(err)
	}
	return c
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

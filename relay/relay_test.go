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
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
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
		case node == p.Node():
			serve(w, r)
		case !p.Forward(w, r, node):
			http.Error(w, "unknown", http.StatusBadRequest)
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

	// One that left is forgotten at once.
	b.Relay.Close(t.Context())
	if r.Exists(prefixSeat + b.Node()) {
		t.Error("a process that left is registered")
	}
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
	b.directory.mu.Lock()
	p := b.directory.known[a.Node()]
	p.until = time.Now()
	b.directory.known[a.Node()] = p
	b.directory.mu.Unlock()
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

func TestJoinWithoutRedis(t *testing.T) {
	r := miniredis.RunT(t)
	client := redis.NewClient(&redis.Options{Addr: r.Addr(), MaxRetries: -1})
	defer client.Close()
	r.SetError("LOADING")
	if _, err := Join(t.Context(), Options{Client: client}); err == nil || !strings.Contains(err.Error(), "register") {
		t.Error(err)
	}
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

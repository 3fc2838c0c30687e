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

func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !condition(); {
		if time.Now().After(deadline) {
			t.Fatalf("waited for: %s", what)
		}
	}
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

type writerFunc func()

func (f writerFunc) Write(p []byte) (int, error) {
	f()
	return len(p), nil
}

type address string

func (a address) Network() string { return "tcp" }

func (a address) String() string { return string(a) }

package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"parley/internal/client"
)

// roundRobin is a proxy without stickiness: each request goes to the next process.
type roundRobin struct {
	*httptest.Server
	handshakes *running // gets these, if not nil; to be set before there are clients
	mu         sync.Mutex
	turn       int
	processes  []*running
	failed     []string // replies that are errors
}

// serve says to which processes requests go from now on.
func (p *roundRobin) serve(processes ...*running) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.processes = processes
}

func (p *roundRobin) next() *running {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.turn++
	return p.processes[p.turn%len(p.processes)]
}

func newRoundRobin(t *testing.T, processes ...*running) *roundRobin {
	t.Helper()
	p := new(roundRobin)
	p.serve(processes...)
	transport := &http.Transport{}
	p.Server = httptest.NewServer(&httputil.ReverseProxy{
		Transport: transport,
		Rewrite: func(r *httputil.ProxyRequest) {
			process := p.next()
			if p.handshakes != nil && !r.In.URL.Query().Has("sid") {
				process = p.handshakes
			}
			to, err := url.Parse(process.url)
			if err != nil {
				t.Error(err)
			}
			r.SetURL(to)
		},
		ModifyResponse: func(res *http.Response) error {
			if res.StatusCode >= 400 {
				p.mu.Lock()
				defer p.mu.Unlock()
				p.failed = append(p.failed, fmt.Sprintf("%s %s: %s", res.Request.Method, res.Request.URL, res.Status))
			}
			return nil
		},
	})
	t.Cleanup(func() {
		transport.CloseIdleConnections()
		p.Close()
	})
	return p
}

// relayed connects a user, and returns their id and what arrives for them, of which room messages may wait.
func relayed(ctx context.Context, t *testing.T, url string, transport client.Transport, name string, room int) (*client.Client, string, chan string) {
	t.Helper()
	got, known := make(chan string, room), make(chan string, 1)
	c, err := client.Connect(ctx, client.Options{
		URL: url, Transport: transport, Auth: map[string]string{"username": name},
		OnEvent: func(_ *client.Client, e client.Event) {
			var session struct{ UserID string }
			var message struct{ Content string }
			switch e.Name {
			case "session":
				_ = e.Decode(0, &session) // then no message finds its way
				known <- session.UserID
			case "private message":
				_ = e.Decode(0, &message)
				got <- message.Content
			}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	select {
	case id := <-known:
		return c, id, got
	case <-ctx.Done():
		t.Fatal("no session")
		return nil, "", nil
	}
}

// TestRelayRoundRobin has clients chat whose requests, upgrades included, arrive anywhere.
func TestRelayRoundRobin(t *testing.T) {
	_, p := pair(t)
	proxy := newRoundRobin(t, p[0], p[1])
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()

	const users, each = 6, 10
	var ids [users]string
	var clients [users]*client.Client
	var got [users]chan string
	for i := range users {
		transport := client.Polling
		if i%3 == 2 {
			transport = client.Upgrade
		}
		clients[i], ids[i], got[i] = relayed(ctx, t, proxy.URL, transport, fmt.Sprint("user ", i), users*each)
	}
	var sending errgroup.Group
	for i := range users {
		sending.Go(func() error {
			for n := range each {
				_, err := clients[i].EmitWithAck(ctx, "private message",
					map[string]any{"content": fmt.Sprint(n), "to": ids[(i+1)%users]})
				if err != nil {
					return fmt.Errorf("user %d, message %d: %w", i, n, err)
				}
			}
			return nil
		})
	}
	if err := sending.Wait(); err != nil {
		t.Error(err)
	}
	for i := range users {
		for n := range each {
			select {
			case content := <-got[i]:
				if content != fmt.Sprint(n) {
					t.Fatalf("user %d got %q as message %d", i, content, n)
				}
			case <-ctx.Done():
				t.Fatalf("user %d has no message %d", i, n)
			}
		}
	}
	proxy.mu.Lock()
	failed := proxy.failed
	proxy.mu.Unlock()
	if len(failed) > 0 {
		t.Errorf("%d requests failed: %q", len(failed), failed)
	}
	for _, c := range clients {
		if c.Err() != nil {
			t.Error(c.Err())
		}
		c.Close()
		<-c.Done()
	}
}

const polling = "/socket.io/?EIO=4&transport=polling"

// open makes a handshake by polling and returns the path of the connection.
func (r *running) open() string {
	r.t.Helper()
	status, body, _ := r.request(polling, nil)
	var hello struct{ SID string }
	if status != 200 || json.Unmarshal([]byte(body[1:]), &hello) != nil || len(hello.SID) != 20 {
		r.t.Fatalf("handshake: %d %s", status, body)
	}
	return polling + "&sid=" + hello.SID
}

func (r *running) post(path, body string) string {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, r.url+path, strings.NewReader(body))
	if err != nil {
		r.t.Fatal(err)
	}
	res, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(req)
	if err != nil {
		r.t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	return fmt.Sprint(res.StatusCode, " ", string(text))
}

const unknownSession = `{"code":1,"message":"Session ID unknown"}`

// metric waits for a line of the metrics.
func (r *running) metric(want string) {
	r.t.Helper()
	for deadline := time.Now().Add(patience); ; {
		_, metrics, _ := r.request("/metrics", nil)
		if strings.Contains(metrics, want) {
			return
		}
		if time.Now().After(deadline) {
			r.t.Fatalf("%s is not in the metrics", want)
		}
	}
}

// TestRelayOwnerGone has requests at one process follow the other until that stops.
func TestRelayOwnerGone(t *testing.T) {
	_, p := pair(t)
	path := p[0].open()
	if got := p[1].post(path, "40/socket,"+`{"token":"t","id":"u"}`); got != "200 ok" {
		t.Fatalf("POST: %s", got)
	}
	status, body, h := p[1].request(path, http.Header{"Origin": {"http://localhost"}})
	if status != 200 || !strings.HasPrefix(body, "40/socket,") {
		t.Fatalf("GET: %d %s", status, body)
	}
	for name, want := range map[string]string{
		"Access-Control-Allow-Origin": "http://localhost", "Access-Control-Allow-Credentials": "true",
		"Content-Type": "text/plain; charset=UTF-8", "Cache-Control": "no-store", "Parley-Relay": "",
	} {
		if got := strings.Join(h.Values(name), " and "); got != want {
			t.Errorf("%s: %s", name, got)
		}
	}
	p[1].metric(`parley_relay_forwarded_total{reason="GET"} 1`)
	if err := p[0].stop(); err != nil {
		t.Fatal(err)
	}
	if got := p[1].post(path, "3"); got != "400 "+unknownSession {
		t.Errorf("POST: %s", got)
	}
	if status, body, _ := p[1].request(path, nil); status != 400 || body != unknownSession {
		t.Errorf("GET: %d %s", status, body)
	}
}

// hold sends a GET that is held, over a TCP connection of its own.
func (r *running) hold(path string) net.Conn {
	r.t.Helper()
	c, err := net.Dial("tcp", r.addr.String())
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { c.Close() })
	if _, err := io.WriteString(c, "GET "+path+" HTTP/1.1\r\nHost: a\r\n\r\n"); err != nil {
		r.t.Fatal(err)
	}
	r.metric("parley_relay_forwards 1")
	return c
}

// TestRelayClientGoes has clients go away from the poll that another process holds for them.
func TestRelayClientGoes(t *testing.T) {
	_, p := pair(t)
	for deadline := time.Now().Add(patience); ; {
		if err := p[1].hold(p[0].open()).Close(); err != nil {
			t.Fatal(err)
		}
		p[1].metric("parley_relay_forwards 0")
		_, metrics, _ := p[0].request("/metrics", nil)
		if strings.Contains(metrics, `parley_input_rejected_total{reason="aborted GET"}`) {
			return
		}
		if time.Now().After(deadline) { // one may go before its poll has got there
			t.Fatal("the connection's process does not get to know")
		}
	}
}

// TestRelayStops has the process stop through which a client polls: the client is made to poll again, elsewhere, and has lost
// nothing.
func TestRelayStops(t *testing.T) {
	_, p := pair(t)
	path := p[0].open()
	c := p[1].hold(path)
	if err := p[1].stop(); err != nil {
		t.Fatal(err)
	}
	_ = c.SetReadDeadline(time.Now().Add(patience))
	res, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if body, err := io.ReadAll(res.Body); err != nil || res.StatusCode != 200 || string(body) != "6" {
		t.Errorf("%s %s %v", res.Status, body, err)
	}
	if got := p[0].post(path, "40/socket,"+`{"token":"t","id":"u"}`); got != "200 ok" {
		t.Errorf("POST: %s", got)
	}
	if status, body, _ := p[0].request(path, nil); status != 200 || !strings.HasPrefix(body, "40/socket,") {
		t.Errorf("GET: %d %s", status, body)
	}
}

// TestRelayRollingRestart has clients of one process poll through three others, which stop one after the other: no request
// fails, no message is lost, and no connection ends.
func TestRelayRollingRestart(t *testing.T) {
	_, p := pair(t)
	owner := p[0]
	others := []*running{p[1]}
	for range 2 {
		others = append(others, launch(t, "--redis-url="+owner.cfg.RedisURL))
	}
	proxy := newRoundRobin(t, others...)
	proxy.handshakes = owner
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()

	const users = 8
	ids := make([]string, users)
	clients := make([]*client.Client, users)
	got := make([]chan string, users)
	for i := range users {
		clients[i], ids[i], got[i] = relayed(ctx, t, proxy.URL, client.Polling, fmt.Sprint("user ", i), 100)
	}
	chat := func(round int) {
		var talk errgroup.Group
		for i := range users {
			talk.Go(func() error {
				want := fmt.Sprint("round ", round)
				_, err := clients[i].EmitWithAck(ctx, "private message", map[string]any{"content": want, "to": ids[(i+1)%users]})
				if err != nil {
					return fmt.Errorf("user %d, round %d: %w", i, round, err)
				}
				select {
				case content := <-got[i]:
					if content != want {
						return fmt.Errorf("user %d got %q in round %d", i, content, round)
					}
				case <-ctx.Done():
					return fmt.Errorf("user %d has no message in round %d", i, round)
				}
				return nil
			})
		}
		if err := talk.Wait(); err != nil {
			t.Fatal(err)
		}
	}
	// held waits until all clients have a poll held, and returns how many of them r forwards.
	held := func(r *running, all ...*running) (n int) {
		for ctx.Err() == nil {
			sum := 0
			for _, each := range all {
				_, text, _ := each.request("/metrics", nil)
				_, after, _ := strings.Cut(text, "\nparley_relay_forwards ")
				var forwards int
				if _, err := fmt.Sscan(after, &forwards); err != nil {
					t.Fatal(err)
				}
				if sum += forwards; each == r {
					n = forwards
				}
			}
			if sum == users {
				return n
			}
		}
		t.Fatal("polls are missing")
		return 0
	}
	round := 0
	for len(others) > 1 {
		r := others[0]
		for chat(round); held(r, others...) == 0; chat(round) {
			round++
		}
		round++
		others = others[1:]
		proxy.serve(others...)
		if err := r.stop(); err != nil {
			t.Error(err)
		}
		held(nil, others...)
	}
	chat(round)
	proxy.mu.Lock()
	failed := proxy.failed
	proxy.mu.Unlock()
	if len(failed) > 0 {
		t.Errorf("%d requests failed: %q", len(failed), failed)
	}
	for _, c := range clients {
		if c.Err() != nil {
			t.Error(c.Err())
		}
		c.Close()
		<-c.Done()
	}
}

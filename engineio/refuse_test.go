package engineio_test

import (
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"parley/engineio"
	"parley/metrics"
)

// TestUpgradeRefusals has the requests that must be refused before 101, with plain text.
func TestUpgradeRefusals(t *testing.T) {
	f := start(t, engineio.Options{AllowRequest: func(r *http.Request) error {
		if token := r.URL.Query().Get("token"); token == "bad" {
			return errors.New("token expired")
		} else if token == "none" {
			return errors.New("")
		}
		return nil
	}})
	sid := f.handshake().ID()
	tests := []struct {
		name, query, want string
		change            func(*http.Request)
	}{
		{name: "transport unknown", query: "EIO=4", want: "Transport unknown"},
		{name: "polling", query: "EIO=4&transport=polling", want: "Bad request"},
		{name: "session unknown", query: "EIO=4&transport=websocket&sid=zzz", want: "Session ID unknown"},
		{name: "version", query: "EIO=3&transport=websocket", want: "Unsupported protocol version"},
		{name: "version of a session", query: "transport=websocket&sid=" + sid, want: "Bad request"},
		{name: "not allowed", query: "EIO=4&transport=websocket&token=bad", want: "token expired"},
		{name: "not allowed, no text", query: "EIO=4&transport=websocket&token=none", want: "Forbidden"},
		{name: "method", query: "EIO=4&transport=websocket", want: "Bad request", change: func(r *http.Request) { r.Method = "POST" }},
		{name: "WebSocket version", query: "EIO=4&transport=websocket", want: "Bad request", change: header("Sec-WebSocket-Version", "8")},
		{name: "no key", query: "EIO=4&transport=websocket", want: "Bad request", change: func(r *http.Request) { r.Header.Del("Sec-WebSocket-Key") }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if tt.change == nil {
				tt.change = func(*http.Request) {}
			}
			w := f.dial(tt.query, tt.change)
			body, _ := io.ReadAll(w.res.Body)
			if w.res.StatusCode != 400 || string(body) != tt.want || !w.res.Close || w.res.Header.Get("Content-Type") != "text/html" {
				t.Fatalf("%s %q, %v", w.res.Status, body, w.res.Header)
			}
			w.wantEnd()
		})
	}
}

func TestRefusals(t *testing.T) {
	m := metrics.New()
	f := start(t, engineio.Options{Metrics: m, AllowRequest: func(r *http.Request) error {
		if r.Header.Get("Token") != "" {
			return errors.New(`"bad" token`)
		}
		return nil
	}})
	r := f.request("GET", pollQuery, "", header("Token", "x"))
	r.want(t, 403, `{"code":4,"message":"\"bad\" token"}`)
	if n := m.Value(metrics.HandshakesRefused, "Forbidden"); n != 1 {
		t.Errorf("counted %v", n)
	}

	sid := f.handshake().ID()
	// AllowRequest is not asked about open connections.
	f.request("POST", pollQuery+"&sid="+sid, "4a", header("Token", "x")).want(t, 200, "ok")
	f.request("GET", "EIO=4&transport=websocket&sid="+sid, "").want(t, 400, errorBody(3, "Bad request"))
	f.request("GET", "EIO=3&transport=polling&sid="+sid, "").want(t, 400, errorBody(3, "Bad request"))
	f.request("GET", "transport=polling&sid="+sid, "").want(t, 400, errorBody(3, "Bad request"))
	for _, method := range []string{"PUT", "HEAD", "DELETE", "OPTIONS"} {
		f.request(method, pollQuery+"&sid="+sid, "").want(t, 500, "")
	}
	f.poll(sid).want(t, 200, "4a")

	_, p := f.wsHandshake()
	f.poll(p.ID()).want(t, 400, errorBody(3, "Bad request"))
	f.request("GET", "EIO=4&transport=websocket&sid="+p.ID(), "").want(t, 400, errorBody(3, "Bad request"))
}

func TestPath(t *testing.T) {
	for _, path := range []string{"/socket.io", "/socket.io/"} {
		f := start(t, engineio.Options{Path: path})
		if r := f.request("GET", "/socket.io/?"+pollQuery, ""); r.status != 200 {
			t.Errorf("%s: %d %s", path, r.status, r.body)
		}
		if r := f.request("GET", "/socket.io/foo/bar?"+pollQuery, ""); r.status != 200 {
			t.Errorf("%s: %d %s", path, r.status, r.body)
		}
		f.request("GET", "/socket.io/x.js", "").want(t, 400, errorBody(0, "Transport unknown"))
		for _, other := range []string{"/socket.io?" + pollQuery, "/engine.io/?" + pollQuery, "/"} {
			if r := f.request("GET", other, ""); r.status != 404 {
				t.Errorf("%s: %s got %d", path, other, r.status)
			}
		}
	}
}

// net/http refuses control characters itself, other servers that may call the handler need not.
func TestOriginWithControlCharacters(t *testing.T) {
	f := start(t, engineio.Options{})
	w := httptest.NewRecorder()
	r := httptest.NewRequest("GET", "/engine.io/?"+pollQuery, nil)
	r.Header.Set("Origin", "http://a\x01b")
	f.ServeHTTP(w, r)
	if w.Code != 400 || w.Body.String() != errorBody(3, "Bad request") {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
}

// HTTP/2, and a test's recorder, have no TCP connection to take over.
func TestUpgradeThatCanNotBe(t *testing.T) {
	f := start(t, engineio.Options{ConnsPerAddress: 2})
	sid := f.handshake().ID()
	for _, query := range []string{"EIO=4&transport=websocket", "EIO=4&transport=websocket&sid=" + sid} {
		for range 3 {
			w := httptest.NewRecorder()
			r := httptest.NewRequest("GET", "/engine.io/?"+query, nil)
			for key, value := range map[string]string{"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "x"} {
				r.Header.Set(key, value)
			}
			f.ServeHTTP(w, r)
			if w.Code != 400 || w.Body.String() != "Bad request" {
				t.Errorf("%s: %d %s", query, w.Code, w.Body)
			}
		}
	}
	if f.Len() != 1 {
		t.Errorf("%d connections", f.Len())
	}
}

func TestTransportsOption(t *testing.T) {
	f := start(t, engineio.Options{Transports: []string{engineio.WebSocket}})
	f.request("GET", pollQuery, "").want(t, 400, errorBody(0, "Transport unknown"))
	f.wsHandshake()

	f = start(t, engineio.Options{Transports: []string{engineio.Polling}})
	if r := f.request("GET", pollQuery, ""); !strings.Contains(r.body, `"upgrades":[]`) {
		t.Errorf("got %s", r.body)
	}
	if w := f.dial("EIO=4&transport=websocket"); w.res.StatusCode != 400 {
		t.Errorf("got %s", w.res.Status)
	}
}

// A proxy on this machine brings everybody's connections.
func TestConnsPerAddressLeavesOutThisMachine(t *testing.T) {
	f := start(t, engineio.Options{ConnsPerAddress: 1})
	for range 3 {
		f.handshake()
	}
	if f.Len() != 3 {
		t.Errorf("%d connections", f.Len())
	}
}

func TestConnsPerAddress(t *testing.T) {
	f := start(t, engineio.Options{ConnsPerAddress: 2, Address: func(r *http.Request) string { return r.Header.Get("From") }})
	from := func(a string) func(*http.Request) { return header("From", a) }
	open := func(address string) int { return f.request("GET", pollQuery, "", from(address)).status }
	if a, b := open("192.0.2.1"), open("::ffff:192.0.2.1"); a != 200 || b != 200 {
		t.Fatalf("got %d and %d", a, b)
	}
	f.request("GET", pollQuery, "", from("192.0.2.1")).want(t, 429, errorBody(4, "Too many connections"))
	if w := f.dial("EIO=4&transport=websocket", from("192.0.2.1")); w.res.StatusCode != 429 {
		t.Errorf("got %s", w.res.Status)
	}
	if a, b, c := open("2001:db8::1"), open("2001:db8::2"), open("2001:db8::3"); a != 200 || b != 200 || c != 429 {
		t.Errorf("one IPv6 network got %d, %d, %d", a, b, c)
	}
	if a := open("2001:db8:0:1::1"); a != 200 {
		t.Errorf("another IPv6 network got %d", a)
	}
	if a := open("not an address"); a != 200 {
		t.Errorf("got %d", a)
	}
	p := f.peer()
	if got := p.Handshake().Address; got != "192.0.2.1" {
		t.Errorf("address %s", got)
	}
	f.post(p.ID(), "1")
	if a := open("192.0.2.1"); a != 200 {
		t.Errorf("got %d after one has closed", a)
	}
}

func TestOptions(t *testing.T) {
	tests := []struct {
		options engineio.Options
		want    string
	}{
		{engineio.Options{PingInterval: -1}, "PingInterval"},
		{engineio.Options{PingTimeout: time.Microsecond}, "PingTimeout"},
		{engineio.Options{MaxPayload: -1}, "MaxPayload"},
		{engineio.Options{OutboundMessages: -1}, "OutboundMessages"},
		{engineio.Options{ConnsPerAddress: -1}, "ConnsPerAddress"},
		{engineio.Options{Path: "socket.io"}, "Path"},
		{engineio.Options{Transports: []string{"webtransport"}}, "Transports"},
		{engineio.Options{CORS: &engineio.CORS{Credentials: true}}, "CORS"},
		{engineio.Options{Cookie: &http.Cookie{Name: "a b"}}, "Cookie"}, //nolint:gosec // must be refused
	}
	for _, tt := range tests {
		_, err := engineio.NewServer(tt.options, nil)
		if err == nil || !strings.Contains(err.Error(), "option "+tt.want) {
			t.Errorf("%+v: %v", tt.options, err)
		}
	}
}

func TestHandshakeIsWhatTheClientSent(t *testing.T) {
	f := start(t, engineio.Options{Headers: func(r *http.Request, h http.Header) { h.Set("X-Served", r.Method) }})
	before := time.Now()
	r := f.request("GET", pollQuery+"&token=abc&sid=", "", header("Origin", "http://a.example"), header("X-Test", "1"))
	if r.header.Get("X-Served") != "GET" {
		t.Errorf("headers %v", r.header)
	}
	h := f.peer().Handshake()
	if h.Query().Get("token") != "abc" || h.Header().Get("X-Test") != "1" || h.URL != "/engine.io/?"+pollQuery+"&token=abc&sid=" ||
		h.Address != "127.0.0.1" || h.Secure || !h.XDomain || h.Issued.Before(before) {
		t.Errorf("%+v", h)
	}
	w := f.dial("EIO=4&transport=websocket")
	if w.res.Header.Get("X-Served") != "GET" {
		t.Errorf("headers of 101: %v", w.res.Header)
	}
	if h := f.peer().Handshake(); h.XDomain {
		t.Errorf("%+v", h)
	}
}

func TestCookie(t *testing.T) {
	f := start(t, engineio.Options{Cookie: &http.Cookie{}})
	r := f.request("GET", pollQuery, "")
	p := f.peer()
	if got, want := r.header.Get("Set-Cookie"), "io="+p.ID()+"; Path=/; HttpOnly; SameSite=Lax"; got != want {
		t.Errorf("Set-Cookie: %s, want %s", got, want)
	}
	if r := f.post(p.ID(), "4a"); r.header.Get("Set-Cookie") != "" {
		t.Errorf("POST: %v", r.header)
	}
	if w := f.dial("EIO=4&transport=websocket"); w.res.Header.Get("Set-Cookie") != "" {
		t.Errorf("101: %v", w.res.Header)
	}
	f = start(t, engineio.Options{Cookie: &http.Cookie{Name: "id", Path: "/x", Secure: true, SameSite: http.SameSiteStrictMode}}) //nolint:gosec // HttpOnly is set by the server
	r = f.request("GET", pollQuery, "")
	if got, want := r.header.Get("Set-Cookie"), "id="+f.peer().ID()+"; Path=/x; HttpOnly; Secure; SameSite=Strict"; got != want {
		t.Errorf("Set-Cookie: %s, want %s", got, want)
	}
}

func TestAcceptMayRefuseOrPanic(t *testing.T) {
	m := metrics.New()
	var conns []*engineio.Conn
	s, err := engineio.NewServer(engineio.Options{Metrics: m}, func(c *engineio.Conn) engineio.Receiver {
		conns = append(conns, c)
		if c.Handshake().Query().Has("panic") {
			panic("on purpose")
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	h := httptest.NewServer(s)
	defer h.Close()
	f := &fixture{Server: s, t: t, url: h.URL, addr: h.Listener.Addr().String(), client: h.Client()}
	for i, q := range []string{"", "&panic=1"} {
		sid := sidOf(t, f.request("GET", pollQuery+q, "").body)
		f.poll(sid).want(t, 200, "6\x1e1")
		f.poll(sid).want(t, 400, errorBody(1, "Session ID unknown"))
		w := f.dial("EIO=4&transport=websocket" + q)
		sidOf(t, w.text())
		w.wantClose(0)
		w.conn.Close()
		if n := m.Value(metrics.InputRejected, "panic in accept"); n != float64(2*i) {
			t.Errorf("counted %v panics", n)
		}
	}
	if conns[0].Enqueue(engineio.NewMessage(nil), 0) {
		t.Error("enqueued to a closed connection")
	}
	if err := s.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
}

// A body that nobody reads must not keep the connection for longer than one that somebody does: net/http reads
// what is left of it before it answers.
func TestUnreadBodyIsBounded(t *testing.T) {
	f := start(t, engineio.Options{BodyTimeout: 20 * time.Millisecond, PingInterval: 50 * time.Millisecond, MaxPayload: 100})
	p := f.handshake()
	poll := "/engine.io/?EIO=4&transport=polling"
	for _, request := range []string{
		"GET " + poll,
		"GET " + poll + "&sid=" + p.ID(), // held until the ping
		"POST " + poll,
		"POST " + poll + "&sid=unknown",
		"OPTIONS " + poll,
		"POST /elsewhere",
	} {
		conn, err := net.Dial("tcp", f.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(conn, request+" HTTP/1.1\r\nHost: a\r\nContent-Length: 200\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		if reply, err := io.ReadAll(conn); err != nil || !strings.HasPrefix(string(reply), "HTTP/1.1 ") {
			t.Errorf("%s: %q, %v", request, reply, err)
		}
	}
}

// TestRefusalsNobodyReads has a client ask for more refusals than its connection has room for, and read none.
func TestRefusalsNobodyReads(t *testing.T) {
	f := start(t, engineio.Options{WriteTimeout: 50 * time.Millisecond})
	c, err := net.Dial("tcp", f.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	requests := []byte(strings.Repeat("GET /engine.io/?EIO=4&transport=none HTTP/1.1\r\nHost: a\r\n\r\n", 1000))
	_ = c.SetWriteDeadline(time.Now().Add(patience))
	for err == nil {
		_, err = c.Write(requests)
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("the server holds the connection")
	}
}

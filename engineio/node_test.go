package engineio_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"

	"parley/engineio"
)

// TestForwardsWhatAnotherNodeHas has the requests that are offered to another server, and those that are not.
func TestForwardsWhatAnotherNodeHas(t *testing.T) {
	var asked []string
	f := start(t, engineio.Options{Node: "node1", CORS: &engineio.CORS{}, Forward: func(w http.ResponseWriter, r *http.Request, node string) bool {
		asked = append(asked, r.Method+" "+node)
		if node == "gone_" {
			return false
		}
		_, _ = io.WriteString(w, "forwarded")
		return true
	}})
	p := f.handshake()
	if !regexp.MustCompile(`^node1[A-Za-z0-9_-]{15}$`).MatchString(p.ID()) {
		t.Errorf("the id is %s", p.ID())
	}
	if other := f.handshake(); other.ID()[5:] == p.ID()[5:] {
		t.Error("the ids are not random")
	}
	const tail = "0123456789abcde"
	unknown := errorBody(1, "Session ID unknown")
	for _, tt := range []struct{ method, sid, want, asked string }{
		{"GET", "node2" + tail, "forwarded", "GET node2"},
		{"POST", "no-_2" + tail, "forwarded", "POST no-_2"},
		{"GET", "gone_" + tail, unknown, "GET gone_"},
		{"GET", "node1" + tail, unknown, ""},
		{"GET", "node2" + tail + "f", unknown, ""},
		{"GET", "node2", unknown, ""},
		{"GET", "node%2F" + tail, unknown, ""},
		{"PUT", "node2" + tail, unknown, ""},
		{"OPTIONS", "node2" + tail, "", ""},
	} {
		asked = nil
		r := f.request(tt.method, pollQuery+"&sid="+tt.sid, "")
		if got := strings.Join(asked, ", "); r.body != tt.want || got != tt.asked {
			t.Errorf("%s %s: %d %s, asked %q", tt.method, tt.sid, r.status, r.body, got)
		}
		if r.header.Get("Access-Control-Allow-Origin") != "*" {
			t.Errorf("%s %s: no CORS headers", tt.method, tt.sid)
		}
	}
	asked = nil
	f.dial("EIO=4&transport=websocket&sid=node2" + tail)
	if len(asked) != 1 || asked[0] != "GET node2" {
		t.Errorf("an upgrade: asked %q", asked)
	}
	f.request("GET", "EIO=4&sid=node2"+tail, "").want(t, 400, errorBody(0, "Transport unknown"))
}

func TestNodeOption(t *testing.T) {
	forward := func(http.ResponseWriter, *http.Request, string) bool { return false }
	for _, o := range []engineio.Options{{Node: "node"}, {Node: "node10"}, {Node: "a b c"}, {Forward: forward}} {
		if _, err := engineio.NewServer(o, nil); err == nil || !strings.Contains(err.Error(), "Node") {
			t.Errorf("%q: %v", o.Node, err)
		}
	}
}

// TestReleaseGet has held GETs given back, while messages come: each message arrives once, in its place.
func TestReleaseGet(t *testing.T) {
	f := start(t, engineio.Options{})
	p := f.handshake()
	release := func() {
		t.Helper()
		r := httptest.NewRequestWithContext(t.Context(), "RELEASE", "/engine.io/?"+pollQuery+"&sid="+p.ID(), nil)
		w := httptest.NewRecorder()
		if f.ServeHTTP(w, engineio.ReleaseGet(r)); w.Code != http.StatusOK || w.Body.Len() > 0 {
			t.Errorf("the release: %d %s", w.Code, w.Body)
		}
	}
	release() // of nothing
	held := f.hold(p)
	release()
	release()
	wait(t, held, "the reply").want(t, 200, "6")
	held = f.hold(p)
	p.send("a")
	release() // too late
	wait(t, held, "the reply").want(t, 200, "4a")
	const messages = 200
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := range messages {
			p.send(fmt.Sprint(i))
			release()
		}
		p.send("end")
	}()
	for next := 0; next <= messages; {
		for _, got := range strings.Split(f.poll(p.ID()).body, "\x1e") {
			want := fmt.Sprint("4", next)
			if next == messages {
				want = "4end"
			}
			switch got {
			case "6":
			case want:
				next++
			default:
				t.Fatalf("got %s, want %s", got, want)
			}
		}
	}
	<-done

	w := f.upgrade(p)
	r := httptest.NewRequestWithContext(t.Context(), "RELEASE", "/engine.io/?"+pollQuery+"&sid="+p.ID(), nil)
	f.ServeHTTP(httptest.NewRecorder(), engineio.ReleaseGet(r))
	p.send("still here")
	w.want("4still here")
}

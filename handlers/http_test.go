package handlers_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/golang-jwt/jwt/v5"

	"parley/store"
)

// historyOf serves history and returns what asks it: a method, a query and a bearer token, and what else is to be changed.
func historyOf(t *testing.T, f *fixture, allow func(*http.Request) bool) func(method, query, bearer string, change ...func(http.Header)) (int, string, http.Header) {
	t.Helper()
	server := httptest.NewServer(f.chat.History(allow))
	t.Cleanup(server.Close)
	return func(method, query, bearer string, change ...func(http.Header)) (int, string, http.Header) {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), method, server.URL+"/?"+query, nil)
		if err != nil {
			t.Fatal(err)
		}
		if bearer != "" {
			r.Header.Set("Authorization", "Bearer "+bearer)
		}
		for _, c := range change {
			c(r.Header)
		}
		res, err := server.Client().Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		body, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		return res.StatusCode, string(body), res.Header
	}
}

// TestHistoryOverHTTP has pages asked for without a socket: they are those of the history event, for who has the session.
func TestHistoryOverHTTP(t *testing.T) {
	f := start(t)
	alice, bob := f.web().enter(map[string]string{"username": "alice"}), f.web().enter(map[string]string{"username": "bob"})
	for i := range 5 {
		alice.say(bob.userID, fmt.Sprint(i), "")
	}
	ask := historyOf(t, f, func(r *http.Request) bool { return r.Header.Get("Origin") == "http://good" })
	with := "with=" + url.QueryEscape(alice.userID)
	for _, page := range []struct {
		query    string
		argument map[string]any
	}{
		{"", nil},
		{"&limit=2", map[string]any{"limit": 2}},
		{"&limit=2&before=4", map[string]any{"limit": 2, "before": 4}},
		{"&before=1", map[string]any{"before": 1}},
	} {
		argument := map[string]any{"with": alice.userID}
		for k, v := range page.argument {
			argument[k] = v
		}
		want, _ := bob.ask("/", "history", argument)
		status, got, h := ask("GET", with+page.query, bob.sessionID)
		if status != 200 || got != want || h.Get("Cache-Control") != "no-store" || h.Get("Content-Type") != "application/json" {
			t.Errorf("%s: %d %s, not %s", page.query, status, got, want)
		}
	}
	for _, bad := range []struct {
		method, query, bearer, origin string
		status                        int
		code                          string
	}{
		{"GET", with, "", "", 401, "unauthorized"},
		{"GET", with, "no session", "", 401, "unauthorized"},
		{"GET", with, strings.Repeat("x", 10_000), "", 401, "unauthorized"},
		{"GET", with, bob.userID, "", 401, "unauthorized"},
		{"GET", "", bob.sessionID, "", 400, "bad_argument"},
		{"GET", "with=" + strings.Repeat("x", 10_000), bob.sessionID, "", 400, "bad_argument"},
		{"GET", with + "&limit=201", bob.sessionID, "", 400, "bad_argument"},
		{"GET", with + "&limit=-1", bob.sessionID, "", 400, "bad_argument"},
		{"GET", with + "&limit=x", bob.sessionID, "", 400, "bad_argument"},
		{"GET", with + "&before=-1", bob.sessionID, "", 400, "bad_argument"},
		{"POST", with, bob.sessionID, "", 405, "bad_argument"},
		{"GET", with, bob.sessionID, "http://evil", 403, "unauthorized"},
		{"OPTIONS", with, "", "http://evil", 403, "unauthorized"},
	} {
		status, body, h := ask(bad.method, bad.query, bad.bearer, origin(bad.origin))
		var reply struct{ Error struct{ Code string } }
		if err := json.Unmarshal([]byte(body), &reply); err != nil || status != bad.status || reply.Error.Code != bad.code {
			t.Errorf("%.60v: %d %s", bad, status, body)
		}
		if h.Get("Access-Control-Allow-Origin") != "" || (status == 401) != (h.Get("WWW-Authenticate") == "Bearer") {
			t.Errorf("%.60v: headers %v", bad, h)
		}
	}
	status, _, h := ask("OPTIONS", "", "", origin("http://good"))
	if status != 204 || h.Get("Access-Control-Allow-Origin") != "http://good" || h.Get("Access-Control-Allow-Headers") != "Authorization" {
		t.Errorf("a preflight: %d %v", status, h)
	}
	if status, _, h := ask("GET", with, bob.sessionID, origin("http://good")); status != 200 || h.Get("Access-Control-Allow-Origin") != "http://good" {
		t.Errorf("a page of another origin: %d %v", status, h)
	}
	f.store.failWith(func(string) error { return store.ErrUnavailable })
	if status, body, _ := ask("GET", with, bob.sessionID); status != 503 || !strings.Contains(body, `"unavailable"`) {
		t.Errorf("without the store: %d %s", status, body)
	}
}

func origin(o string) func(http.Header) {
	return func(h http.Header) {
		if o != "" {
			h.Set("Origin", o)
		}
	}
}

// TestHistoryOverHTTPWithTokens: where tokens are wanted a session is none; and a user has so many pages and no more.
func TestHistoryOverHTTPWithTokens(t *testing.T) {
	f := authenticated(t)
	alice := f.web().enter(map[string]string{"token": token(t, "alice", secret, nil)})
	alice.say("alice", "note", "")
	ask := historyOf(t, f, nil)
	for _, bearer := range []string{"", alice.sessionID, token(t, "alice", secret, jwt.MapClaims{"exp": 1000})} {
		if status, body, _ := ask("GET", "with=alice", bearer); status != 401 {
			t.Errorf("%.10s: %d %s", bearer, status, body)
		}
	}
	good := token(t, "alice", secret, nil)
	status, body, h := ask("GET", "with=alice", good)
	for n := 1; status == 200 && n < 1000; n++ {
		if !strings.Contains(body, `"note"`) {
			t.Fatal(body)
		}
		status, body, h = ask("GET", "with=alice", good)
	}
	if status != 429 || !strings.Contains(body, `"rate_limited"`) || h.Get("Retry-After") != "1" {
		t.Errorf("one too many: %d %s", status, body)
	}
	if status, body, _ := ask("GET", "with=alice", token(t, "bob", secret, nil)); status != 200 || body != `{"messages":[],"more":false}` {
		t.Errorf("bob: %d %s", status, body)
	}
}

// stuck is the reply to somebody who does not read it.
type stuck struct {
	*httptest.ResponseRecorder
	writing chan<- struct{}
	read    <-chan struct{}
}

func (w stuck) Write(p []byte) (int, error) {
	w.writing <- struct{}{}
	<-w.read
	return w.ResponseRecorder.Write(p)
}

// TestHistoryThatNobodyReads: who does not read what they asked for keeps others from nothing.
func TestHistoryThatNobodyReads(t *testing.T) {
	f := start(t)
	alice, bob := f.web().enter(map[string]string{"username": "alice"}), f.web().enter(map[string]string{"username": "bob"})
	h := f.chat.History(nil)
	request := func(session string) *http.Request {
		r := httptest.NewRequestWithContext(t.Context(), "GET", "/?with="+bob.userID, nil)
		r.Header.Set("Authorization", "Bearer "+session)
		return r
	}
	writing, read := make(chan struct{}), make(chan struct{})
	var asking sync.WaitGroup
	for range 2 {
		asking.Go(func() { h.ServeHTTP(stuck{httptest.NewRecorder(), writing, read}, request(alice.sessionID)) })
		<-writing
	}
	for session, want := range map[string]int{alice.sessionID: 429, bob.sessionID: 200} {
		w := httptest.NewRecorder()
		if h.ServeHTTP(w, request(session)); w.Code != want {
			t.Errorf("%d %s, want %d", w.Code, w.Body, want)
		}
	}
	close(read)
	asking.Wait()
	w := httptest.NewRecorder()
	if h.ServeHTTP(w, request(alice.sessionID)); w.Code != 200 {
		t.Errorf("afterwards: %d %s", w.Code, w.Body)
	}
}

// A message that is larger than a page is one by itself: a client could not get past a page without any.
func TestHistoryOfLargeMessages(t *testing.T) {
	f := start(t, func(s *setup) {
		s.chat.MaxMessage, s.socketio.Engine.MaxPayload = 2<<20, 3<<20
	})
	alice, bob := f.login("alice"), f.login("bob")
	first := alice.say(bob.userID, "small", "")
	second := alice.say(bob.userID, strings.Repeat("x", 3<<19), "")
	for _, page := range []struct {
		before, want uint64
		more         bool
	}{{0, second.Seq, true}, {second.Seq, first.Seq, false}} {
		answer, _ := alice.ask("/", "history", map[string]any{"with": bob.userID, "before": page.before})
		var reply struct {
			Messages []struct{ Seq uint64 }
			More     bool
		}
		if err := json.Unmarshal([]byte(answer), &reply); err != nil {
			t.Fatal(err)
		}
		if len(reply.Messages) != 1 || reply.Messages[0].Seq != page.want || reply.More != page.more {
			t.Errorf("before %d: %v", page.before, reply)
		}
	}
}

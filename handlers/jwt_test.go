package handlers_test

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"parley/auth"
)

const secret = "a secret of at least 32 bytes, for tests"

// token signs one.
func token(t *testing.T, subject, key string, claims jwt.MapClaims) string {
	t.Helper()
	all := jwt.MapClaims{"sub": subject, "exp": time.Now().Add(time.Hour).Unix()}
	maps.Copy(all, claims)
	text, err := jwt.NewWithClaims(jwt.SigningMethodHS256, all).SignedString([]byte(key))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// authenticated is a fixture whose clients need a token.
func authenticated(t *testing.T) *fixture {
	t.Helper()
	v, err := auth.NewJWT(t.Context(), auth.JWTOptions{Secret: secret})
	if err != nil {
		t.Fatal(err)
	}
	return start(t, func(s *setup) { s.chat.Verifier = v })
}

// TestC4 : with a secret set the token alone says who one is, on both namespaces and both transports.
func TestC4(t *testing.T) {
	f := authenticated(t)
	good := token(t, "user-1", secret, jwt.MapClaims{"name": "Alice"})
	for _, transport := range []string{"websocket", "polling"} {
		for i, offer := range []struct {
			query, auth string
			header      http.Header
		}{
			{auth: `"token":"` + good + `",`},
			{query: url.Values{"token": {good}}.Encode()},
			{header: http.Header{"Authorization": {"Bearer " + good}}},
			{header: http.Header{"Token": {good}}},
		} {
			d := f.dial(transport, offer.query+"&id=mallory", offer.header)
			d.send(`40{` + offer.auth + `"username":"mallory","userID":"mallory","id":"mallory"}`)
			d.until(`42["session",`)
			if u := d.roster()["user-1"]; u.Username != "Alice" || !u.Connected {
				t.Errorf("%s %d: %v", transport, i, u)
			}
			d.send(`40/socket,{` + offer.auth + `"id":"mallory"}`)
			d.until("40/socket,")
			d.send(`42/socket,["message",{"event":"sendMessage"}]`)
			d.until(fmt.Sprintf(sentFormat, "user-1", "user-1"))
			d.cut()
		}
	}
}

// TestBadTokens: nothing but a good token lets in, and the reason does not quote it.
func TestBadTokens(t *testing.T) {
	f := authenticated(t)
	expired := token(t, "user-1", secret, jwt.MapClaims{"exp": time.Now().Add(-time.Minute).Unix()})
	none, err := jwt.NewWithClaims(jwt.SigningMethodNone, jwt.MapClaims{"sub": "x", "exp": 1 << 40}).SignedString(jwt.UnsafeAllowNoneSignatureType)
	if err != nil {
		t.Fatal(err)
	}
	d := f.web()
	for _, bad := range []struct{ auth, chat, notify string }{
		{`{}`, "no token has been provided", "Authorization failed, no token has been provided!"},
		{`{"username":"alice"}`, "no token has been provided", "Authorization failed, no token has been provided!"},
		{`{"token":""}`, "no token has been provided", "Authorization failed, no token has been provided!"},
		{`{"token":{"a":1}}`, "no token has been provided", "Authorization failed, no token has been provided!"},
		{`{"token":"nonsense"}`, "the token is not valid", ""},
		{`{"token":"` + expired + `"}`, "the token has expired: get a new one and connect again", ""},
		{`{"token":"` + none + `"}`, "the token is not valid", ""},
		{`{"token":"` + token(t, "user-1", strings.Repeat("k", 40), nil) + `"}`, "the token is not valid", ""},
		{`{"token":"` + token(t, "", secret, nil) + `"}`, "the token is not valid", ""},
		{`{"token":"` + token(t, "all users", secret, nil) + `"}`, "the token is not valid", ""},
		{`{"token":"` + token(t, "a\x00b", secret, nil) + `"}`, "the token is not valid", ""},
		{`{"token":"` + token(t, "x", secret, jwt.MapClaims{"exp": nil}) + `"}`, "the token is not valid", ""},
	} {
		d.send("40" + bad.auth)
		if frame := d.until("44"); !strings.HasPrefix(frame, `44{"message":"`+bad.chat+`"`) {
			t.Errorf("%.60s: %s", bad.auth, frame)
		}
		d.send("40/socket," + bad.auth)
		if bad.notify == "" {
			bad.notify = bad.chat
		}
		if frame := d.until("44"); !strings.HasPrefix(frame, `44/socket,{"message":"`+bad.notify+`"`) {
			t.Errorf("%.60s: %s", bad.auth, frame)
		}
	}
	if log := f.log.String(); strings.Contains(log, expired) {
		t.Error("the log has a token")
	}
}

// TestTokenAndSession: a session of one's own is kept, another's is ignored.
func TestTokenAndSession(t *testing.T) {
	f := authenticated(t)
	enter := func(subject, session string) *device {
		d := f.web().enter(map[string]string{"token": token(t, subject, secret, nil), "sessionID": session})
		d.until(`42["users"`)
		return d
	}
	alice := enter("alice", "")
	if again := enter("alice", alice.sessionID); again.sessionID != alice.sessionID || again.userID != "alice" {
		t.Error("alice's session is not kept")
	}
	if bob := enter("bob", alice.sessionID); bob.sessionID == alice.sessionID || bob.userID != "bob" {
		t.Error("bob got alice's session")
	}
	// A session is no token.
	d := f.web()
	d.send(`40{"sessionID":"` + alice.sessionID + `"}`)
	d.match(`44\{"message":"no token has been provided".*`)
}

// TestTokenAndRecovery: a private id does not stand in for a token, and keeps its worth for its own user.
func TestTokenAndRecovery(t *testing.T) {
	f := authenticated(t)
	alice := f.web().enter(map[string]string{"token": token(t, "alice", secret, nil)})
	alice.until(`42["users"`)
	tab := f.web().enter(map[string]string{"token": token(t, "alice", secret, nil)})
	tab.until(`42["users"`)
	f.drop(alice)
	tab.say("alice", "note", "")
	claim := func(token string) *device {
		d := f.web()
		d.send(fmt.Sprintf(`40{"pid":%q,"offset":"0-0","token":%q}`, alice.pid, token))
		return d
	}
	claim("").match(`44\{"message":"no token has been provided".*`)
	claim(token(t, "alice", secret, jwt.MapClaims{"exp": 1000})).match(`44\{"message":"the token has expired.*`)
	bob := claim(token(t, "bob", secret, nil))
	if ids := bob.match(`40\{"sid":"` + anSID + `","pid":"` + anSID + `"\}`); ids[0] == alice.sid || ids[1] == alice.pid {
		t.Error("bob took over alice's socket")
	}
	if bob.until(`42["session"`); strings.Contains(bob.until(`42["users"`), "note") {
		t.Error("bob was sent alice's note")
	}
	again := claim(token(t, "alice", secret, nil))
	again.match(`42\["private message",\{"content":"note".*`)
	again.expect(fmt.Sprintf(`40{"sid":%q,"pid":%q}`, alice.sid, alice.pid))
	again.expect(fmt.Sprintf(`42["session",{"sessionID":%q,"userID":"alice"}]`, alice.sessionID))
}

// TestStolenPrivateID: whoever knows a client's private id, but has no token of its user, does nothing to its connection.
func TestStolenPrivateID(t *testing.T) {
	f := authenticated(t)
	alice := f.web().enter(map[string]string{"token": token(t, "alice", secret, nil)})
	alice.until(`42["users"`)
	for _, stolen := range []string{"", token(t, "bob", secret, nil)} {
		thief := f.web()
		thief.send(fmt.Sprintf(`40{"pid":%q,"offset":"0-0","token":%q}`, alice.pid, stolen))
		if frame := thief.until("4"); strings.Contains(frame, alice.pid) || strings.Contains(frame, alice.sid) {
			t.Errorf("the thief got %s", frame)
		}
	}
	alice.say("alice", "still here", "")
	f.drop(alice)
	again := f.web()
	again.send(fmt.Sprintf(`40{"pid":%q,"offset":"0-0","token":%q}`, alice.pid, token(t, "alice", secret, nil)))
	again.until(fmt.Sprintf(`40{"sid":%q,"pid":%q}`, alice.sid, alice.pid))
}

// passes is a verifier whose tokens are what a test says.
type passes struct {
	mu    sync.Mutex
	known map[string]auth.Identity
}

func (p *passes) grant(token, user string, d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.known == nil {
		p.known = make(map[string]auth.Identity)
	}
	p.known[token] = auth.Identity{User: user, Name: user, Expires: time.Now().Add(d)}
}

func (p *passes) Verify(_ context.Context, token string) (auth.Identity, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if id, ok := p.known[token]; ok {
		return id, nil
	}
	return auth.Identity{}, auth.ErrInvalid
}

// TestExpiry: a socket ends with its token, unless it was refreshed with another of the same user.
func TestExpiry(t *testing.T) {
	p := new(passes)
	f := start(t, func(s *setup) { s.chat.Verifier = p })
	p.grant("short", "alice", 150*time.Millisecond)
	p.grant("long", "alice", time.Hour)
	p.grant("bob's", "bob", time.Hour)

	refreshed, notify, idle := f.web(), f.web(), f.web()
	refreshed.enter(map[string]string{"token": "short"})
	notify.send(`40/socket,{"token":"short"}`)
	notify.until("40/socket,")
	idle.enter(map[string]string{"token": "short"})
	for token, want := range map[string]string{
		"bob's": `{"error":{"code":"unauthorized","message":"the token is another user's"}}`,
		"wrong": `{"error":{"code":"unauthorized","message":"the token is not valid"}}`,
	} {
		if answer, _ := idle.ask("/", "refresh", map[string]string{"token": token}); answer != want {
			t.Errorf("refreshed with %s: %s", token, answer)
		}
	}
	answer, _ := refreshed.ask("/", "refresh", map[string]string{"token": "long"})
	if !strings.HasPrefix(answer, `{"expires":1`) {
		t.Errorf("refreshed: %s", answer)
	}
	notify.until("41/socket,")
	idle.until("41")
	refreshed.say("alice", "still here", "")

	// The private id is worth nothing after that.
	late := f.web()
	late.send(fmt.Sprintf(`40{"pid":%q,"offset":"0-0","token":"long"}`, idle.pid))
	if frame := late.until("40"); strings.Contains(frame, idle.pid) || strings.Contains(frame, idle.sid) {
		t.Error("recovered after the end of the token")
	}
	// In the open there is nothing to refresh, and nobody answers.
	if log := f.log.String(); strings.Contains(log, `"error"`) || strings.Contains(log, `"warn"`) {
		t.Errorf("logged: %s", log)
	}
}

// Package auth answers who is connecting and from where: it verifies tokens, finds them in a request, and
// decides which web pages may talk to the server.
//
// Without a configured key Parley is open and uses no [Verifier] at all; [Origins] applies in both modes.
package auth

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// What a [Verifier] refuses a token with. Errors wrap one of these, and their text says why without quoting
// the token, so it may be shown to the client.
var (
	ErrNoToken = errors.New("no token has been provided")
	ErrExpired = errors.New("the token has expired: get a new one and connect again")
	ErrInvalid = errors.New("the token is not valid")
)

// Identity is who a verified token speaks for.
type Identity struct {
	User    string    // the token's subject: 1 to 255 printable ASCII characters without spaces
	Name    string    // for people to read: never empty, at most 100 characters, no control characters
	Expires time.Time // from this moment on the token is worth nothing
}

// Verifier tells whether a token is good and whom it speaks for. It is safe for concurrent use. Verify may
// wait for a key to be fetched, bounded by ctx and by a deadline of its own.
type Verifier interface {
	Verify(ctx context.Context, token string) (Identity, error)
}

// Token returns the first token that a client offered: in the auth payload of its CONNECT packet
// ({"token": "…"}), as the query parameter token, or in the header "Authorization: Bearer …". It returns ""
// when there is none. Any of the three may be nil.
func Token(header http.Header, query url.Values, auth json.RawMessage) string {
	var payload struct {
		Token any `json:"token"`
	}
	// A payload without a token, or with something else in its place, leaves the other two.
	if len(auth) > 0 && json.Unmarshal(auth, &payload) == nil {
		if t, ok := payload.Token.(string); ok && t != "" {
			return t
		}
	}
	if t := query.Get("token"); t != "" {
		return t
	}
	return Bearer(header)
}

// Bearer returns the token of the header "Authorization: Bearer …" (RFC 6750, section 2.1), or "".
func Bearer(header http.Header) string {
	scheme, token, ok := strings.Cut(header.Get("Authorization"), " ")
	if !ok || !strings.EqualFold(scheme, "bearer") {
		return ""
	}
	return strings.TrimSpace(token)
}

// SameKey tells whether given is the key wanted, in a time that says nothing about either. An empty wanted
// key matches nothing: no key configured means nobody has it.
func SameKey(given, wanted string) bool {
	// Hashing first hides the lengths, which ConstantTimeCompare does not.
	a, b := sha256.Sum256([]byte(given)), sha256.Sum256([]byte(wanted))
	return subtle.ConstantTimeCompare(a[:], b[:]) == 1 && wanted != ""
}

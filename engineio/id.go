package engineio

import (
	"crypto/rand"
	"encoding/base64"
	"net/http"
	"strings"
)

// NodeLength is the length of Options.Node. It leaves an id 90 random bits.
const NodeLength = 5

// idLength is the length of a connection's id, which peers of the reference server expect.
const idLength = 20

// newID returns an id: node, and random characters of [A-Za-z0-9_-]. Who knows it may act for the client on
// polling.
func newID(node string) string {
	var b [idLength * 6 / 8]byte
	_, _ = rand.Read(b[:]) // never fails
	return node + base64.RawURLEncoding.EncodeToString(b[:])[len(node):]
}

// urlSafe says whether s has only characters of ids.
func urlSafe(s string) bool {
	return !strings.ContainsFunc(s, func(c rune) bool {
		return (c < '0' || c > '9') && (c < 'A' || c > 'Z') && (c < 'a' || c > 'z') && c != '-' && c != '_'
	})
}

// forward offers a request of a connection that this server does not have to Options.Forward, if its id is one
// that another server may have given. It reports whether the request is answered.
func (s *Server) forward(w http.ResponseWriter, r *http.Request, id string) bool {
	switch {
	case s.opts.Forward == nil || r.Method != http.MethodGet && r.Method != http.MethodPost:
		return false
	case len(id) != idLength || !urlSafe(id) || strings.HasPrefix(id, s.opts.Node):
		return false
	}
	return s.opts.Forward(w, r, id[:NodeLength])
}

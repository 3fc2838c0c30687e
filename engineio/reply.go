package engineio

import (
	"html"
	"net/http"
	"strconv"
	"strings"
	"time"

	"parley/metrics"
)

// refusal is a reply that refuses a request (section 5 of the Engine.IO contract).
type refusal struct {
	status  int
	code    int
	message string
}

// codeUnknownSession is the protocol's code for a request of a connection that there is none of.
const codeUnknownSession = 1

func badRequest(code int, message string) *refusal {
	return &refusal{http.StatusBadRequest, code, message}
}

func unknownTransport() *refusal   { return badRequest(0, "Transport unknown") }
func unknownSession() *refusal     { return badRequest(codeUnknownSession, "Session ID unknown") }
func badMethod() *refusal          { return badRequest(2, "Bad handshake method") }
func badRequestShape() *refusal    { return badRequest(3, "Bad request") }
func unsupportedVersion() *refusal { return badRequest(5, "Unsupported protocol version") }
func tooManyConns() *refusal {
	return &refusal{http.StatusTooManyRequests, 4, "Too many connections"}
}
func shuttingDown() *refusal {
	return &refusal{http.StatusServiceUnavailable, 3, "Server shutting down"}
}

// forbidden is what AllowRequest's error becomes. Its text goes to the client.
func forbidden(err error) *refusal {
	f := &refusal{http.StatusForbidden, 4, err.Error()}
	if f.message == "" {
		f.message = "Forbidden"
	}
	return f
}

// refuse answers r with f. An upgrade request gets the plain text that a WebSocket client expects instead of
// JSON, with a status of 400 instead of 403, and the end of its TCP connection.
func (s *Server) refuse(w http.ResponseWriter, r *http.Request, f *refusal) {
	label := f.message
	if f.status == http.StatusForbidden {
		label = "Forbidden" // the message is AllowRequest's
	}
	s.opts.Metrics.Count(metrics.HandshakesRefused, label)
	s.bound(w)
	h := w.Header()
	if isUpgrade(r) {
		status := f.status
		if status == http.StatusForbidden {
			status = http.StatusBadRequest
		}
		h.Set("Connection", "close")
		h.Set("Content-Type", "text/html")
		w.WriteHeader(status)
		_, _ = w.Write([]byte(html.EscapeString(f.message)))
		return
	}
	h.Set("Content-Type", "application/json")
	w.WriteHeader(f.status)
	body := append([]byte(`{"code":`), strconv.Itoa(f.code)...)
	body = append(body, `,"message":`...)
	body = appendJSONString(body, f.message)
	_, _ = w.Write(append(body, '}')) //nolint:gosec // JSON, and says so
}

// bound gives the client WriteTimeout to accept a short reply: one that asks again and again and reads nothing would hold
// its TCP connection for ever. Where no deadline can be set, there is none.
func (s *Server) bound(w http.ResponseWriter) {
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(s.opts.WriteTimeout))
}

// empty answers with a status and no body.
func (s *Server) empty(w http.ResponseWriter, status int) {
	s.bound(w)
	w.Header().Set("Content-Length", "0")
	w.WriteHeader(status)
}

// isUpgrade says whether r asks for a WebSocket. A browser's offer of HTTP/2 in the clear is no such thing.
func isUpgrade(r *http.Request) bool {
	return headerHas(r.Header, "Connection", "upgrade") && headerHas(r.Header, "Upgrade", "websocket")
}

// headerHas says whether a header, which is a comma-separated list, has a token, in whatever case.
func headerHas(h http.Header, key, token string) bool {
	for _, value := range h.Values(key) {
		for t := range strings.SplitSeq(value, ",") {
			if strings.EqualFold(strings.TrimSpace(t), token) {
				return true
			}
		}
	}
	return false
}

// Package handlers holds the two applications that Parley serves: Chat on the namespace "/" and Notify on
// "/socket". Each is a table from event name to function, written against package socketio as any other
// application would be.
package handlers

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"parley/auth"
	"parley/socketio"
	"parley/socketio/packet"
	"parley/store"
)

// Codes of the errors that clients are answered with, beside those of package socketio.
const (
	codeUnknownUser  = "unknown_user"
	codeUnauthorized = "unauthorized"
	codeUnavailable  = "unavailable"
	codeTooLarge     = "too_large"
)

// gate keeps who may come in: it verifies tokens, and closes sockets whose token runs out. With no verifier
// the server is open and the gate lets everybody pass.
type gate struct {
	verifier auth.Verifier

	mu      sync.Mutex
	expires map[*socketio.Socket]*time.Timer
}

func newGate(v auth.Verifier) *gate {
	return &gate{verifier: v, expires: make(map[*socketio.Socket]*time.Timer)}
}

func (g *gate) open() bool { return g.verifier == nil }

// verify returns the identity that the socket's handshake proves, or why there is none.
func (g *gate) verify(ctx context.Context, s *socketio.Socket) (auth.Identity, error) {
	h := s.Handshake()
	token := auth.Token(nil, h.Query(), h.Auth)
	if token == "" {
		header := h.Header() // which are parsed for this
		token = firstText(auth.Bearer(header), header.Get("Token"))
	}
	return g.verifier.Verify(ctx, token)
}

// claim says whose a client is that brings a private id, by its token: who has stolen the one but not the other does
// nothing to the connection of its owner. In open mode the private id is as much of a proof as anything.
func (g *gate) claim() func(context.Context, *socketio.Socket) (string, error) {
	if g.open() {
		return nil
	}
	return func(ctx context.Context, s *socketio.Socket) (string, error) {
		id, err := g.verify(ctx, s)
		return id.User, err
	}
}

// watch closes the socket when its token, good until expires, runs out. The DISCONNECT packet tells the
// client not to come back by itself: it needs a new token first.
func (g *gate) watch(s *socketio.Socket, expires time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if old := g.expires[s]; old != nil {
		old.Stop()
	}
	g.expires[s] = time.AfterFunc(time.Until(expires), func() { s.Disconnect(false) })
}

// forget ends watch.
func (g *gate) forget(s *socketio.Socket) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if timer := g.expires[s]; timer != nil {
		timer.Stop()
		delete(g.expires, s)
	}
}

// refreshRequest is the argument of the refresh event.
type refreshRequest struct {
	Token string `json:"token"`
}

// refreshReply says how long the new token is good, in milliseconds since 1970.
type refreshReply struct {
	Expires int64 `json:"expires"`
}

// refresh lets a client bring a new token before the old one runs out. It must be the same user's.
func (g *gate) refresh(ctx context.Context, s *socketio.Socket, r refreshRequest) (refreshReply, error) {
	id, err := g.verifier.Verify(ctx, r.Token)
	if err != nil {
		return refreshReply{}, unauthorized(err)
	}
	if id.User != s.User() {
		return refreshReply{}, &socketio.Error{Code: codeUnauthorized, Message: "the token is another user's"}
	}
	g.watch(s, id.Expires)
	return refreshReply{id.Expires.UnixMilli()}, nil
}

// tokenData is the part of a socket's data that says how long its token is good.
type tokenData struct {
	Expires int64 `json:"expires,omitempty"` // milliseconds since 1970
}

// guard sets what both applications do with tokens on their namespace. A socket is watched from when it has
// joined: one that is refused after its token was found good never gets there, nor to the end of watch.
func (g *gate) guard(n *socketio.Namespace) {
	if g.open() {
		return
	}
	n.OnConnection(func(_ context.Context, s *socketio.Socket) {
		var token tokenData
		if err := s.Data(&token); err != nil {
			token.Expires = 0 // nothing says that it is good
		}
		g.watch(s, time.UnixMilli(token.Expires))
	})
	n.OnDisconnect(func(_ context.Context, s *socketio.Socket, _ socketio.Reason) { g.forget(s) })
	socketio.OnAck(n, "refresh", g.refresh)
}

// unauthorized is what a client whose token was refused is told.
func unauthorized(err error) error {
	for _, known := range []error{auth.ErrNoToken, auth.ErrExpired, auth.ErrInvalid} {
		if errors.Is(err, known) {
			return &socketio.Error{
				Code: codeUnauthorized, Message: known.Error(), Data: map[string]string{"code": codeUnauthorized},
			}
		}
	}
	return err
}

// storeError is what a client is told of a failure of the store. A message may or may not be stored then: the
// same id makes the retry harmless.
func storeError(err error) error {
	switch {
	case errors.Is(err, store.ErrInvalid):
		return &socketio.Error{Code: socketio.CodeBadArgument, Message: "an id is too long or empty"}
	case errors.Is(err, store.ErrUnavailable), errors.Is(err, store.ErrClosed), errors.Is(err, context.DeadlineExceeded):
		return &socketio.Error{Code: codeUnavailable, Message: "the store does not answer, try again, with the same id if there was one"}
	}
	return err
}

// receipt is the acknowledgement of a stored message.
type receipt struct {
	ID  string `json:"id"`
	Seq uint64 `json:"seq"` // its number in the sender's mailbox
	At  int64  `json:"at"`  // milliseconds since 1970
}

// AppendJSON implements packet.Appender.
func (r *receipt) AppendJSON(dst []byte) ([]byte, error) {
	if r == nil {
		return append(dst, "null"...), nil
	}
	return append(r.appendMembers(append(dst, '{')), '}'), nil
}

func (r *receipt) appendMembers(dst []byte) []byte {
	dst = packet.AppendString(append(dst, `"id":`...), r.ID)
	dst = strconv.AppendUint(append(dst, `,"seq":`...), r.Seq, 10)
	return strconv.AppendInt(append(dst, `,"at":`...), r.At, 10)
}

// wireEntry is an entry as clients get it: the stored JSON object, with its id, number and time as further members.
type wireEntry struct {
	receipt
	data []byte
}

func numberedEntry(e store.Entry) wireEntry {
	return wireEntry{receipt{e.ID, e.Seq, e.At.UnixMilli()}, e.Data}
}

// AppendJSON implements packet.Appender.
func (n wireEntry) AppendJSON(dst []byte) ([]byte, error) {
	if len(n.data) < 2 || n.data[0] != '{' || n.data[len(n.data)-1] != '}' || !packet.Valid(n.data) {
		return nil, fmt.Errorf("entry %d holds no JSON object", n.Seq)
	}
	dst = append(dst, bytes.TrimRight(n.data[:len(n.data)-1], " \t\r\n")...)
	if dst[len(dst)-1] != '{' {
		dst = append(dst, ',')
	}
	return append(n.appendMembers(dst), '}'), nil
}

// withNumber returns an entry as clients get it, or as it is stored if that is no JSON object.
func withNumber(e store.Entry) json.RawMessage {
	text, err := numberedEntry(e).AppendJSON(make([]byte, 0, len(e.Data)+80))
	if err != nil {
		return e.Data
	}
	return text
}

// firstText returns the first of values that is a non-empty text.
func firstText(values ...any) string {
	for _, v := range values {
		if text, ok := v.(string); ok && text != "" {
			return text
		}
	}
	return ""
}

// randomID returns n random bytes in hexadecimal.
func randomID(n int) string {
	b := make([]byte, n)
	rand.Read(b)
	return hex.EncodeToString(b)
}

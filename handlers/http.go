package handlers

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"parley/auth"
	"parley/internal/deadline"
	"parley/socketio"
)

// Bounds of history over HTTP: what one process does at once, where each request may cost a page of the largest messages;
// what one user has under way and gets in a second, with a burst of twice that; how many users' rates are known; and how
// long who asked may take to read the reply.
const (
	historyAtOnce = 16
	historyEach   = 2
	historyRate   = 20
	historyUsers  = 1 << 14
	historyWrite  = 5 * time.Second
)

// History serves the pages that the history event serves to whoever has no socket: GET with the query of that event, and as
// bearer token what a socket of the user says in its CONNECT, a token or, in open mode, the id of a session. allow tells
// whether pages of the origin of a request may read the reply; nil: those of no origin. Requests without an Origin
// header are not asked about.
func (c *Chat) History(allow func(r *http.Request) bool) http.Handler {
	return &historyServer{chat: c, allow: allow, room: make(chan struct{}, historyAtOnce), readers: make(map[string]*reader)}
}

type historyServer struct {
	chat  *Chat
	allow func(r *http.Request) bool
	room  chan struct{} // has room for those who are served

	mu      sync.Mutex
	readers map[string]*reader // by user
}

// reader is a user who asks.
type reader struct {
	limiter *rate.Limiter
	served  int // requests under way
}

// ServeHTTP implements http.Handler.
func (h *historyServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	header := w.Header()
	header.Set("Cache-Control", "no-store")
	header.Add("Vary", "Origin")
	if len(r.Header["Origin"]) > 0 {
		if h.allow == nil || !h.allow(r) {
			h.refuse(w, http.StatusForbidden, &socketio.Error{Code: codeUnauthorized, Message: "pages of this origin may not read this"})
			return
		}
		header.Set("Access-Control-Allow-Origin", r.Header.Get("Origin"))
	}
	switch r.Method {
	case http.MethodGet:
	case http.MethodOptions: // a page asks whether it may send a token
		header.Set("Access-Control-Allow-Methods", "GET")
		header.Set("Access-Control-Allow-Headers", "Authorization")
		w.WriteHeader(http.StatusNoContent)
		return
	default:
		header.Set("Allow", "GET, OPTIONS")
		h.refuse(w, http.StatusMethodNotAllowed, &socketio.Error{Code: socketio.CodeBadArgument, Message: "use GET"})
		return
	}
	ctx, cancel := deadline.Context(r.Context(), storeTimeout)
	defer cancel()
	user, err := h.user(ctx, auth.Bearer(r.Header))
	if err != nil {
		h.fail(w, err)
		return
	}
	if err := h.enter(user); err != nil {
		h.fail(w, err)
		return
	}
	defer h.leave(user)
	reply, err := h.page(ctx, user, r.URL.Query())
	if err != nil {
		h.fail(w, err)
		return
	}
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(historyWrite)) // or else that of all pages holds
	h.write(w, http.StatusOK, reply)
}

func (h *historyServer) page(ctx context.Context, user string, query url.Values) (_ historyReply, err error) {
	request := historyRequest{With: query.Get("with")}
	if text := query.Get("before"); text != "" {
		if request.Before, err = strconv.ParseUint(text, 10, 64); err != nil {
			return historyReply{}, &socketio.Error{Code: socketio.CodeBadArgument, Message: "before is no number of a message"}
		}
	}
	if text := query.Get("limit"); text != "" {
		if request.Limit, err = strconv.Atoi(text); err != nil {
			return historyReply{}, &socketio.Error{Code: socketio.CodeBadArgument, Message: "limit is no number"}
		}
	}
	if err := request.Validate(); err != nil {
		return historyReply{}, &socketio.Error{Code: socketio.CodeBadArgument, Message: err.Error()}
	}
	return h.chat.historyPage(ctx, user, request)
}

// user returns whose token it is.
func (h *historyServer) user(ctx context.Context, token string) (string, error) {
	if !h.chat.gate.open() {
		id, err := h.chat.gate.verifier.Verify(ctx, token)
		if err != nil {
			return "", unauthorized(err)
		}
		return id.User, nil
	}
	kept, err := h.chat.session(ctx, token)
	switch {
	case err != nil:
		return "", storeError(err)
	case kept.UserID == "":
		return "", unauthorized(auth.ErrInvalid)
	}
	return kept.UserID, nil
}

// enter lets a request of the user in, until leave.
func (h *historyServer) enter(user string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	who := h.readers[user]
	if who == nil {
		who = &reader{limiter: rate.NewLimiter(historyRate, 2*historyRate)}
		h.forgetOne()
		h.readers[user] = who
	}
	if who.served >= historyEach || !who.limiter.Allow() {
		return &socketio.Error{Code: socketio.CodeRateLimited, Message: "too many requests, slow down"}
	}
	select {
	case h.room <- struct{}{}:
	default:
		return &socketio.Error{Code: codeUnavailable, Message: "too many requests at once, try again"}
	}
	who.served++
	return nil
}

// forgetOne makes room for another reader. h.mu is held.
func (h *historyServer) forgetOne() {
	if len(h.readers) < historyUsers {
		return
	}
	for user, who := range h.readers { // in no order
		if who.served == 0 {
			delete(h.readers, user)
			return
		}
	}
}

func (h *historyServer) leave(user string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.readers[user].served--
	<-h.room
}

// fail answers a request with why it was refused, or with no more than that it failed.
func (h *historyServer) fail(w http.ResponseWriter, err error) {
	public, ok := errors.AsType[*socketio.Error](err)
	if !ok {
		h.chat.log.Error().Err(err).Msg("history over HTTP failed")
		public = &socketio.Error{Code: socketio.CodeInternal, Message: "internal error"}
	}
	status := http.StatusInternalServerError
	switch public.Code {
	case socketio.CodeBadArgument:
		status = http.StatusBadRequest
	case codeUnauthorized:
		status = http.StatusUnauthorized
		w.Header().Set("WWW-Authenticate", "Bearer")
	case socketio.CodeRateLimited:
		status = http.StatusTooManyRequests
		w.Header().Set("Retry-After", "1")
	case codeUnavailable:
		status = http.StatusServiceUnavailable
		w.Header().Set("Retry-After", "1")
	}
	h.refuse(w, status, public)
}

func (h *historyServer) refuse(w http.ResponseWriter, status int, e *socketio.Error) {
	h.write(w, status, map[string]map[string]string{"error": {"code": e.Code, "message": e.Message}})
}

func (h *historyServer) write(w http.ResponseWriter, status int, reply any) {
	body, err := json.Marshal(reply)
	if err != nil { // a message that is no JSON, which only somebody else can have stored
		h.chat.log.Error().Err(err).Msg("a page of history could not be encoded")
		status, body = http.StatusInternalServerError, []byte(`{"error":{"code":"internal","message":"internal error"}}`)
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	_, _ = w.Write(body) // who asked may be gone
}

// historyPage is a page of a user's conversation. A message that is larger than a page may be goes alone: without it the
// client could not ask for what is older.
func (c *Chat) historyPage(ctx context.Context, user string, r historyRequest) (historyReply, error) {
	limit := pageSize(r.Limit, c.options.HistoryLimit)
	entries, err := c.store.Conversation(ctx, box(user), r.With, r.Before, limit+1)
	if err != nil {
		return historyReply{}, storeError(err)
	}
	newest, _ := numbered(entries[max(0, len(entries)-limit):], pageBytes)
	if last := len(entries) - 1; last >= 0 && len(newest) == 0 {
		newest = append(newest, withNumber(entries[last]))
	}
	return historyReply{newest, len(newest) < len(entries)}, nil
}

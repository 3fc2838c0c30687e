package handlers

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"
	"unicode/utf8"

	"github.com/rs/zerolog"

	"parley/auth"
	"parley/socketio"
	"parley/store"
)

// notifyApp is the store.Box.App of notify's mailboxes.
const notifyApp = "notify"

// notifyEvent is the one event name of the namespace, in both directions (contracts.md B3).
const notifyEvent = "message"

// NotifyOptions configures NewNotify.
type NotifyOptions struct {
	Store    store.Store
	Verifier auth.Verifier // nil: open, any token and id may be used
	Recovery time.Duration // how long a client may be away and recover; default 2 minutes
	Log      zerolog.Logger
}

// Notify dispatches events to all devices of the acting user (contracts.md section B).
type Notify struct {
	namespace *socketio.Namespace
	store     store.Store
	gate      *gate
	log       zerolog.Logger
	publish   func(ctx context.Context, id, event string, args json.RawMessage) error // see PublishTo; nil: to nobody
	handlers  map[string]func(n *Notify, ctx context.Context, r notifyRequest) (receipt, error)
}

// NewNotify serves notify on n.
func NewNotify(n *socketio.Namespace, o NotifyOptions) *Notify {
	app := &Notify{
		namespace: n, store: o.Store, gate: newGate(o.Verifier), log: o.Log,
		handlers: map[string]func(*Notify, context.Context, notifyRequest) (receipt, error){
			"sendMessage": (*Notify).sendMessage,
			"postUpdated": (*Notify).postUpdated,
		},
	}
	app.gate.guard(n)
	n.Use(app.authenticate)
	n.OnConnection(app.connected)
	n.UseMail(socketio.Mail{App: notifyApp, Store: o.Store, Event: func(e store.Entry) (string, []any, error) {
		return notifyEvent, []any{json.RawMessage(e.Data)}, nil
	}})
	if o.Recovery >= 0 {
		// Who returns says who it is once more, and is another client if that has changed.
		n.UseRecovery(socketio.Recovery{Store: o.Store, MaxDisconnection: o.Recovery, Claim: app.gate.claim()})
	}
	socketio.OnAck(n, notifyEvent, app.message)
	return app
}

// authenticate finds the token and the id in the query, the CONNECT payload or headers (contracts.md B2).
// With a verifier the token alone says who it is.
func (n *Notify) authenticate(ctx context.Context, s *socketio.Socket) error {
	h := s.Handshake()
	if !n.gate.open() {
		ctx, cancel := bounded(ctx)
		defer cancel()
		id, err := n.gate.verify(ctx, s)
		switch {
		case errors.Is(err, auth.ErrNoToken):
			return errNoToken
		case err != nil:
			return unauthorized(err)
		}
		s.SetUser(id.User)
		return s.SetData(tokenData{id.Expires.UnixMilli()})
	}
	query := h.Query()
	var claim struct{ Token, ID any }
	if string(h.Auth) != "{}" {
		if err := json.Unmarshal(h.Auth, &claim); err != nil {
			return errNoToken
		}
	}
	token, id := firstText(query.Get("token"), claim.Token), firstText(query.Get("id"), claim.ID)
	if token == "" || id == "" {
		header := h.Header() // which are parsed for this
		token, id = firstText(token, header.Get("Token"), auth.Bearer(header)), firstText(id, header.Get("Id"))
	}
	if token == "" {
		return errNoToken
	}
	if id == "" || len(id) > store.MaxIDBytes || !utf8.ValidString(id) { // other bytes would all look alike in JSON
		return &socketio.Error{Code: codeUnauthorized, Message: "Authorization failed, no id has been provided!"}
	}
	s.SetUser(id)
	return nil
}

var errNoToken = &socketio.Error{Code: codeUnauthorized, Message: "Authorization failed, no token has been provided!"}

func (n *Notify) connected(ctx context.Context, s *socketio.Socket) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	if err := n.follow(ctx, s); err != nil {
		n.log.Error().Err(err).Str("sid", s.ID()).Str("uid", s.User()).Msg("welcoming a socket failed, its client reconnects")
		s.Reconnect()
	}
}

func (n *Notify) follow(ctx context.Context, s *socketio.Socket) error {
	if err := s.Join(s.User()); err != nil {
		return err
	}
	b := store.Box{App: notifyApp, User: s.User()}
	at := s.ResumeAt()
	if !s.Recovered() {
		var err error
		if at, err = n.store.Tail(ctx, b); err != nil {
			return fmt.Errorf("read mailbox: %w", err)
		}
	}
	return s.Follow(ctx, b, at)
}

// notifyRequest is what a client sends. Its args are ignored (contracts.md B3).
type notifyRequest struct {
	Event string `json:"event"`
	ID    string `json:"id"` // chosen by the client, so that sending again is harmless; optional

	socket *socketio.Socket
}

// Validate implements socketio.Validator.
func (r notifyRequest) Validate() error {
	if len(r.ID) > maxID {
		return fmt.Errorf("id is longer than %d bytes", maxID)
	}
	return nil
}

// message looks up the handler of the inner event; one that is unknown is dropped (contracts.md B3).
func (n *Notify) message(ctx context.Context, s *socketio.Socket, r notifyRequest) (*receipt, error) {
	handler := n.handlers[r.Event]
	if handler == nil {
		return nil, nil
	}
	r.socket = s
	done, err := handler(n, ctx, r)
	if err != nil {
		return nil, err
	}
	return &done, nil
}

func (n *Notify) sendMessage(ctx context.Context, r notifyRequest) (receipt, error) {
	user := r.socket.User()
	return n.dispatch(ctx, r, "message_sent", fmt.Sprintf("A message from user with id: %s has been send", user))
}

func (n *Notify) postUpdated(ctx context.Context, r notifyRequest) (receipt, error) {
	return n.dispatch(ctx, r, "post_updated_notification", "A post you have been mentioned in has been updated")
}

// notification is what reaches the user's devices, in the contract's order.
type notification struct {
	Event string          `json:"event"`
	ID    string          `json:"id"`
	Args  json.RawMessage `json:"args"`
}

type notificationArgs struct {
	Message string `json:"message"`
}

// dispatch stores a notification and wakes all devices of the user, the sending one included.
func (n *Notify) dispatch(ctx context.Context, r notifyRequest, event, text string) (receipt, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	user := r.socket.User()
	args, err := encodeJSON(notificationArgs{text})
	if err != nil {
		return receipt{}, err
	}
	data, err := encodeJSON(notification{event, user, args})
	if err != nil {
		return receipt{}, err
	}
	to := store.Delivery{Box: store.Box{App: notifyApp, User: user}}
	post := store.Post{ID: r.ID, Sender: user, At: time.Now(), Data: data, To: []store.Delivery{to}}
	if post.ID == "" {
		post.ID, post.Fresh = randomID(10), true
	}
	stored, err := n.store.Append(ctx, post)
	if err != nil {
		return receipt{}, storeError(err)
	}
	if n.publish != nil && !stored.Duplicate {
		if err := n.publish(ctx, user, event, args); err != nil {
			n.log.Warn().Err(err).Str("uid", user).Msg("a notification did not reach the older processes")
		}
	}
	if err := deliver(ctx, n.namespace, n.store, post, stored, 1); err != nil {
		// It is stored; the next entry, or the client's return, brings it.
		n.log.Warn().Err(err).Str("uid", user).Msg("a stored notification was not delivered at once")
	}
	return receipt{post.ID, stored.Offsets[0].Seq, stored.At.UnixMilli()}, nil
}

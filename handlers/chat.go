package handlers

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/maphash"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/rs/zerolog"

	"parley/auth"
	"parley/internal/deadline"
	"parley/socketio"
	"parley/store"
)

// chatApp is the store.Box.App of chat's mailboxes.
const chatApp = "chat"

// Bounds of what a client may choose.
const (
	maxUsername = 256 // runes
	maxID       = 128 // bytes of a message id
)

// welcomeTimeout bounds a welcome, in which all clients of a process may be at once after a restart. It is less
// than a heartbeat takes to fail, for the client's pong waits behind it.
const welcomeTimeout = 30 * time.Second

// ChatOptions configures NewChat.
type ChatOptions struct {
	Store        store.Store
	Verifier     auth.Verifier // nil: open, any name may be used
	RosterLimit  int           // users that a client is told of when it connects; default 1000
	HistoryLimit int           // newest messages of each conversation in the roster; default 50
	MaxMessage   int           // bytes of one message's content, as JSON; default 65536
	SessionTTL   time.Duration // of the store; sessions of open sockets are kept from expiring; default 24 h
	Shared       bool          // other processes, Node servers among them, serve the same namespace
	Recovery     time.Duration // how long a client may be away and recover; default 2 minutes
	Log          zerolog.Logger
}

// Chat is private messaging: sessions, roster, presence, messages, history (contracts.md section A).
type Chat struct {
	options   ChatOptions
	namespace *socketio.Namespace
	store     store.Store
	gate      *gate
	log       zerolog.Logger
	watchers  watchers
	known     known
	newest    shared[*newest]
	changes   changes
	told      *told           // nil if no other process takes part
	reconcile *reconciler     // likewise
	turns     [256]sync.Mutex // by user: presence changes and their announcements, in one order
	seed      maphash.Seed
	stop      chan struct{}
	stopped   chan struct{}

	mu     sync.Mutex
	online map[string]string // session id by socket id, to keep them from expiring
}

// identity is what a socket carries as its data.
type identity struct {
	SessionID string `json:"sessionID"`
	UserID    string `json:"userID"`
	Username  string `json:"username"`
	Extras    bool   `json:"extras,omitempty"` // see extras.go
	tokenData
}

// NewChat serves chat on n. Close ends it.
func NewChat(n *socketio.Namespace, o ChatOptions) *Chat {
	if o.RosterLimit == 0 {
		o.RosterLimit = 1000
	}
	if o.HistoryLimit == 0 {
		o.HistoryLimit = 50
	}
	if o.MaxMessage == 0 {
		o.MaxMessage = 64 << 10
	}
	if o.SessionTTL == 0 {
		o.SessionTTL = store.DefaultSessionTTL
	}
	c := &Chat{
		options: o, namespace: n, store: o.Store, gate: newGate(o.Verifier), log: o.Log,
		seed: maphash.MakeSeed(), online: make(map[string]string),
		stop: make(chan struct{}), stopped: make(chan struct{}),
	}
	if o.Shared {
		c.told = newTold(2 * o.RosterLimit)
		c.reconcile = newReconciler(c)
	}
	c.gate.guard(n)
	n.Use(c.authenticate)
	n.OnConnection(c.connected)
	n.OnDisconnect(c.disconnected)
	n.UseMail(socketio.Mail{App: chatApp, Store: o.Store, Event: messageEvent, Before: c.introduceAll, Unready: c.strange})
	if o.Recovery >= 0 {
		// authenticate looks at who returns, too: the private id alone must not outlive a token, nor a change of
		// user in the client.
		n.UseRecovery(socketio.Recovery{Store: o.Store, MaxDisconnection: o.Recovery, Claim: c.gate.claim()})
	}
	socketio.OnAck(n, "private message", c.privateMessage)
	socketio.OnAck(n, "history", c.history)
	socketio.OnAck(n, "users:page", c.usersPage)
	socketio.OnAck(n, "users:search", c.usersSearch)
	socketio.On(n, "typing", c.typing)
	socketio.OnAck(n, "mark", c.mark)
	n.OnServerSide(presenceEvent, c.presenceElsewhere)
	go c.keepSessions()
	return c
}

// Close ends the chat's own work. Its namespace must have no sockets any more.
func (c *Chat) Close() {
	if c.reconcile != nil {
		c.reconcile.close()
	}
	close(c.stop)
	<-c.stopped
}

func box(user string) store.Box { return store.Box{App: chatApp, User: user} }

// authenticate decides who a socket is (contracts.md A2). A token decides alone. Without one it is a session
// that the client kept, or else what a client that recovers was, unless it says otherwise, or else the name that
// it gives.
func (c *Chat) authenticate(ctx context.Context, s *socketio.Socket) error {
	ctx, cancel := bounded(ctx)
	defer cancel()
	var claim struct{ SessionID, Username, Extras any }
	if err := json.Unmarshal(s.Handshake().Auth, &claim); err != nil {
		return errInvalidUsername
	}
	sessionID, username := firstText(claim.SessionID), firstText(claim.Username)
	var before identity
	if s.Recovered() {
		if err := s.Data(&before); err != nil {
			return err
		}
	}
	kept, err := c.session(ctx, sessionID)
	if err != nil {
		// A client that is refused does not try again by itself; one whose connection closes does.
		s.Reconnect()
		return storeError(err)
	}
	who := identity{SessionID: randomID(8), UserID: randomID(8), Username: username}
	switch {
	case !c.gate.open():
		id, err := c.gate.verify(ctx, s)
		if err != nil {
			return unauthorized(err)
		}
		who.UserID, who.Username, who.Expires = id.User, id.Name, id.Expires.UnixMilli()
		switch id.User {
		case kept.UserID:
			who.SessionID = kept.ID
		case before.UserID:
			who.SessionID = before.SessionID
		}
	case kept.UserID != "":
		who = identity{SessionID: kept.ID, UserID: kept.UserID, Username: kept.Username}
	case before.UserID != "" && (sessionID == "" || sessionID == before.SessionID) &&
		(username == "" || username == before.Username):
		who = before
	case username == "" || utf8.RuneCountInString(username) > maxUsername:
		return errInvalidUsername
	}
	who.Extras = wantsExtras(claim.Extras, before.Extras)
	s.SetUser(who.UserID)
	return s.SetData(who)
}

var errInvalidUsername = &socketio.Error{Code: codeUnauthorized, Message: "invalid username"}

// session returns the session that a client claims, or none.
func (c *Chat) session(ctx context.Context, id string) (store.Session, error) {
	if id == "" {
		return store.Session{}, nil
	}
	kept, err := c.store.Session(ctx, id)
	switch {
	case err == nil:
		return kept, nil
	case errors.Is(err, store.ErrNotFound), errors.Is(err, store.ErrInvalid):
		return store.Session{}, nil
	}
	return store.Session{}, fmt.Errorf("read session: %w", err)
}

// connected welcomes a socket (contracts.md A3).
func (c *Chat) connected(ctx context.Context, s *socketio.Socket) {
	ctx, cancel := deadline.Context(context.WithoutCancel(ctx), welcomeTimeout)
	defer cancel()
	if err := c.welcome(ctx, s); err != nil && s.Connected() {
		// Half a welcome would leave a client deaf. It comes back by itself.
		c.log.Error().Err(err).Str("sid", s.ID()).Str("uid", s.User()).Msg("welcoming a socket failed, its client reconnects")
		s.Reconnect()
	}
}

func (c *Chat) welcome(ctx context.Context, s *socketio.Socket) error {
	var who identity
	if err := s.Data(&who); err != nil {
		return err
	}
	// The session is durable before the client is told of it.
	err := c.store.SaveSession(ctx, store.Session{ID: who.SessionID, UserID: who.UserID, Username: who.Username})
	if err != nil {
		return fmt.Errorf("save session: %w", err)
	}
	c.mu.Lock()
	c.online[s.ID()] = who.SessionID
	c.mu.Unlock()
	err = s.Emit("session", struct {
		SessionID string `json:"sessionID"`
		UserID    string `json:"userID"`
	}{who.SessionID, who.UserID})
	if err != nil {
		return err
	}
	few, err := c.fewUsers(ctx)
	if err != nil {
		return err
	}
	if err := joinRooms(s, who, few); err != nil {
		return err
	}
	if err := c.arrive(ctx, s, who); err != nil {
		return err
	}
	sent, err := c.sendRoster(ctx, s, who, few)
	if err != nil {
		return err
	}
	if err := s.Follow(ctx, box(who.UserID), sent.at); err != nil {
		return err
	}
	if err := c.settleMarks(ctx, s, sent.marks); err != nil {
		return err
	}
	return c.settle(ctx, s, sent)
}

// arrive counts the socket, and tells the others if the user was offline before.
func (c *Chat) arrive(ctx context.Context, s *socketio.Socket, who identity) error {
	turn := c.turn(who.UserID)
	turn.Lock()
	defer turn.Unlock()
	first, err := c.store.Connect(ctx, who.UserID, s.ID())
	if err != nil {
		return fmt.Errorf("count presence: %w", err)
	}
	if !first {
		return nil
	}
	return c.announce(ctx, s.ID(), who.UserID, "user connected", arrival(who.UserID, who.Username))
}

// disconnected counts the socket out, and keeps its session from now on.
func (c *Chat) disconnected(ctx context.Context, s *socketio.Socket, _ socketio.Reason) {
	c.mu.Lock()
	session := c.online[s.ID()]
	delete(c.online, s.ID())
	c.mu.Unlock()
	c.watchers.close(s.ID())
	if err := c.leave(ctx, s); err != nil {
		// The store settles it when it can, and says so to SettlePresence.
		c.log.Warn().Err(err).Str("uid", s.User()).Msg("a socket left while the store was away: its user's presence is settled later")
	}
	if session == "" {
		return
	}
	ctx, cancel := bounded(ctx)
	defer cancel()
	if err := c.store.TouchSession(ctx, session); err != nil && !errors.Is(err, store.ErrNotFound) {
		c.log.Warn().Err(err).Str("uid", s.User()).Msg("a socket left, but its session may expire early")
	}
}

// leave uncounts the socket, and tells the others if it was the user's last (contracts.md A5).
func (c *Chat) leave(ctx context.Context, s *socketio.Socket) error {
	turn := c.turn(s.User())
	turn.Lock()
	defer turn.Unlock()
	ctx, cancel := bounded(ctx) // not before it is our turn: a socket that is not counted out is a ghost
	defer cancel()
	last, err := c.store.Disconnect(ctx, s.User(), s.ID())
	if err != nil || !last {
		return err
	}
	return c.announce(ctx, s.ID(), s.User(), "user disconnected", s.User())
}

// turn returns the lock under which a user's presence changes and is announced. Holding it over a store call
// keeps announcements in the order of the changes; it makes only that user wait.
func (c *Chat) turn(user string) *sync.Mutex {
	return &c.turns[maphash.String(c.seed, user)%uint64(len(c.turns))]
}

// keepSessions touches the sessions of open sockets, so that a long connection's session does not expire
// under it. It ends with Close.
func (c *Chat) keepSessions() {
	defer close(c.stopped)
	ticker := time.NewTicker(c.options.SessionTTL / 4)
	defer ticker.Stop()
	for {
		select {
		case <-c.stop:
			return
		case <-ticker.C:
		}
		if err := c.touchSessions(); err != nil {
			c.log.Warn().Err(err).Msg("keeping sessions alive failed, trying again later")
		}
	}
}

// touchSessions touches the session of each open socket, until one fails or the chat is closed.
func (c *Chat) touchSessions() error {
	for _, id := range c.onlineSessions() {
		select {
		case <-c.stop:
			return nil
		default:
		}
		ctx, cancel := bounded(context.Background())
		err := c.store.TouchSession(ctx, id)
		cancel()
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return err
		}
	}
	return nil
}

func (c *Chat) onlineSessions() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	ids := make([]string, 0, len(c.online))
	for _, id := range c.online {
		ids = append(ids, id)
	}
	return ids
}

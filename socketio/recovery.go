package socketio

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	"parley/engineio"
	"parley/metrics"
	"parley/registry"
	"parley/shard"
	"parley/socketio/packet"
	"parley/store"
)

// Recovery lets the clients of a namespace come back after a broken connection, with the id, rooms and data
// that they had, and be given what they missed (socketio.md section 8). Without a mailbox (UseMail) events
// are kept in memory, within this process.
type Recovery struct {
	// MaxDisconnection is how long a client may be away. Default 2 minutes.
	MaxDisconnection time.Duration
	// SkipMiddlewares lets a client that recovers pass the connect middleware. Otherwise the middleware runs,
	// and must name the same user.
	SkipMiddlewares bool
	// Claim, if not nil, says whose client s is, before anything is done for the private id that s brings: the connection
	// of another user is left alone, whoever knows its private id. After an error it is for the
	// connect middleware to refuse the client; one that it admits all the same is made to connect again.
	Claim func(ctx context.Context, s *Socket) (user string, err error)
	// Store keeps who may come back, where the namespace has a mailbox.
	Store store.Recoveries
	// KeepLive is how long a live socket's record is kept in Store in case this process dies. Default 24 h.
	KeepLive time.Duration

	live *liveSockets
}

// liveSockets knows the sockets of this process by private id, until their disconnect listeners have returned:
// a client that is back sooner waits for that, so that its old and its new socket never overlap.
type liveSockets struct {
	mu    sync.Mutex
	byPID map[string]*Socket
}

func (l *liveSockets) add(s *Socket) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.byPID[s.pid] = s
}

// claim is add, unless another socket is there that has not ended: then it returns that one.
func (l *liveSockets) claim(s *Socket) *Socket {
	l.mu.Lock()
	defer l.mu.Unlock()
	if old := l.byPID[s.pid]; old != nil && old != s && !old.isOver() {
		return old
	}
	l.byPID[s.pid] = s
	return nil
}

func (l *liveSockets) remove(s *Socket) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.byPID[s.pid] == s {
		delete(l.byPID, s.pid)
	}
}

func (l *liveSockets) get(namespace *Namespace, pid string) *Socket {
	l.mu.Lock()
	defer l.mu.Unlock()
	if s := l.byPID[pid]; s != nil && s.namespace == namespace {
		return s
	}
	return nil
}

// UseRecovery turns recovery on.
func (n *Namespace) UseRecovery(r Recovery) {
	if r.MaxDisconnection == 0 {
		r.MaxDisconnection = 2 * time.Minute
	}
	if r.KeepLive == 0 {
		r.KeepLive = 24 * time.Hour
	}
	r.live = &liveSockets{byPID: make(map[string]*Socket)}
	n.server.mu.Lock() // others speak before clients connect
	n.app.recovery = &r
	n.server.mu.Unlock()
	n.app.check()
}

// check refuses a recovery that has nowhere to keep its records.
func (a *application) check() {
	if a.mail != nil && a.recovery != nil && a.recovery.Store == nil {
		panic("socketio: a namespace with mail needs Recovery.Store")
	}
}

// replayPage is how many entries are read at once for a client that returns.
const replayPage = 512

// evictTimeout bounds the wait for a dropped connection's handlers, when its client is back before the server
// noticed.
const evictTimeout = 5 * time.Second

// recoverableReasons are those of a connection that broke; a socket that was disconnected on purpose does not
// come back.
var recoverableReasons = []Reason{
	engineio.TransportClose, engineio.TransportError, engineio.PingTimeout,
	engineio.ForcedClose, engineio.ForcedServerClose, engineio.ServerShuttingDown,
	engineio.SlowClient,
}

// offsetMode tells what becomes of an event's offset.
func (n *Namespace) offsetMode(text []byte, flags engineio.Flags) shard.OffsetMode {
	switch {
	case n.app.recovery == nil:
		return shard.NoOffset
	case n.app.mail == nil && flags&engineio.Volatile == 0:
		return shard.LogOffset
	case !packet.LastArgIsString(text):
		return shard.NoOffset
	case n.app.mail != nil:
		return shard.MailOffset
	}
	return shard.CurrentOffset
}

// past is what is known of a client that says it was here before.
type past struct {
	pid, sid, user string
	data           json.RawMessage
	token          string // without a mailbox: the offset as the client gave it

	// With a mailbox.

	record   store.Recovery // as it was taken
	start    store.Offset   // where the socket began to follow
	snapshot bool           // that was as of a snapshot
	missed   []*engineio.Message
	offset   store.Offset // of the last of them
}

// admit runs the middleware and registers the socket, as a recovered one if its client was here before. It
// returns an error for a client that is refused.
func (s *Socket) admit() error {
	unclaimed := false
	if s.namespace.app.recovery != nil {
		was, err := s.recollect()
		if unclaimed = errors.Is(err, errUnclaimed); err != nil && !unclaimed {
			// As a new client it would lose what it has to show. It comes back by itself, with that.
			s.log().Debug().Err(err).Msg("recovery is put off, the client tries again")
			s.Reconnect()
			return shard.ErrGone
		}
		if was != nil {
			recovered, err := s.comeBack(was)
			if err != nil {
				s.giveBack(was)
			}
			if recovered || err != nil {
				return err
			}
		}
	}
	s.id = newID()
	if err := s.runMiddleware(); err != nil {
		return err
	}
	if unclaimed {
		s.log().Debug().Msg("the client's token was refused and then taken, the client tries again")
		s.Reconnect() // or it would lose what it has to show
		return shard.ErrGone
	}
	return s.register()
}

// comeBack makes s the socket that was here before, and sends what it missed. If that can't be, s is as it was,
// to be admitted as a new one.
func (s *Socket) comeBack(was *past) (recovered bool, err error) {
	s.id, s.pid, s.recovered, s.resumeAt = was.sid, was.pid, true, was.offset
	s.data, s.box, s.start, s.snapshot = was.data, was.record.Box, was.start, was.snapshot
	s.turn = was.record.Turn + 1
	outcome := "recovered"
	if s.namespace.app.recovery.SkipMiddlewares {
		s.user = was.user
	} else if err := s.runMiddleware(); err != nil {
		return false, err
	}
	if s.user != was.user {
		outcome = string(otherUser)
		s.giveBack(was)
	} else if recovered, err = s.resume(was); err != nil {
		return false, err
	} else if !recovered {
		outcome = "overtaken"
	}
	s.client.server.metrics.Count(metrics.Recoveries, outcome)
	if !recovered {
		s.id, s.pid, s.user, s.recovered, s.resumeAt = "", "", "", false, store.Offset{}
		s.data, s.box, s.start, s.snapshot = nil, store.Box{}, store.Offset{}, false
	}
	return recovered, nil
}

// giveBack keeps a record that was taken for a recovery that did not come about through no fault of the
// record: its client may try again.
func (s *Socket) giveBack(was *past) {
	if s.namespace.app.mail == nil {
		return // it was not taken
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(s.client.context()), recordTimeout)
	defer cancel()
	was.record.Turn++
	if err := s.namespace.app.recovery.save(ctx, was.record); err != nil {
		s.log().Warn().Err(err).Msg("a recovery record could not be kept, its client will connect anew")
	}
}

func (s *Socket) runMiddleware() error {
	for _, f := range s.namespace.app.connect {
		err := error(errPanicked)
		s.contain("connection", "", func() { err = f(s.client.context(), s) })
		if err != nil {
			return err
		}
	}
	return nil
}

// settle finds the socket its shard. Its client's welcome begins.
func (s *Socket) settle() {
	s.client.conn.hold(s.client.server.holdLimit)
	key := cmp.Or(s.user, s.id)
	s.shard = s.client.server.pool.Owner(key)
	s.entry = &registry.Socket{ID: s.id, Namespace: s.namespace.name, Key: key, Out: &s.client.conn, App: s}
}

// register puts a new socket under its shard's care and sends the CONNECT packet.
func (s *Socket) register() error {
	n, ctx := s.namespace, s.client.server.ctx
	s.settle()
	if n.app.recovery != nil {
		s.pid, s.turn = newPID(s.shard.Index()), 1
		n.app.recovery.live.add(s)
	}
	s.state.Store(connected)
	err := s.shard.Register(ctx, s.entry, []string{s.id}, n.connectPacket(s.id, s.pid))
	if err == nil && n.app.recovery != nil && n.app.mail == nil {
		if err = s.shard.Expect(ctx, s.entry, s.pid); err != nil {
			err = errors.Join(err, s.shard.Unregister(ctx, s.entry))
		}
	}
	return s.registered(err)
}

// resume puts a recovered socket under its shard's care and sends what it missed, and then the CONNECT packet.
func (s *Socket) resume(was *past) (ok bool, err error) {
	n, ctx := s.namespace, s.client.server.ctx
	s.settle()
	hello := n.connectPacket(s.id, s.pid)
	if n.app.mail == nil {
		n.app.recovery.live.add(s)
		s.state.Store(connected)
		ok, err = s.shard.Resume(ctx, s.entry, s.pid, was.token, hello)
		if err == nil && !ok { // it expired, or another connection took it, since we looked
			n.app.recovery.live.remove(s)
			s.state.Store(connecting)
			s.entry, s.shard = nil, nil
			return false, nil
		}
		return ok, s.registered(err)
	}
	if err := s.claim(); err != nil {
		return false, s.registered(fmt.Errorf("%w: %w", shard.ErrGone, err)) // the client comes back with what it has
	}
	s.state.Store(connected)
	rooms := was.record.Rooms
	if len(rooms) == 0 {
		rooms = []string{s.id}
	}
	// It may drop again, and come back to another process, before it follows its mailbox.
	if err := s.record(true, time.Time{}, rooms); err != nil {
		s.log().Warn().Err(err).Msg("a recovery record could not be kept")
	}
	err = s.shard.Return(ctx, s.entry, rooms, was.offset, append(was.missed, hello)...)
	return err == nil, s.registered(err)
}

// claim makes s the one socket of this process that is its client, and ends the one that is. Two connections may bring
// the same private id at the same time, if one of them was given up by the client.
func (s *Socket) claim() error {
	ctx, cancel := context.WithTimeout(s.client.context(), evictTimeout)
	defer cancel()
	for {
		old := s.namespace.app.recovery.live.claim(s)
		switch {
		case old == nil:
			return nil
		case old.turn > s.turn:
			return errOvertaken
		}
		if err := old.evict(ctx); err != nil {
			return err
		}
	}
}

var errOvertaken = errors.New("the client came back over another connection meanwhile")

// registered closes the connection of a client whose shard did not take it. The client comes back by itself.
func (s *Socket) registered(err error) error {
	if err == nil {
		return nil
	}
	if r := s.namespace.app.recovery; r != nil {
		r.live.remove(s)
	}
	s.state.Store(connecting)
	s.client.conn.Close(engineio.ForcedClose)
	return fmt.Errorf("register socket: %w", err)
}

// recollect finds out who the client was, if its CONNECT payload says that it was here and it can be taken
// back. The record is taken. errUnclaimed means that the application does not know whose client it is, another error
// that this could not be found out now.
func (s *Socket) recollect() (*past, error) {
	pid, offset, usable := claimed(s.handshake.Auth)
	if pid == "" {
		return nil, nil
	}
	// With a mailbox a client that was given no offset yet has missed everything since it followed the box.
	if !usable || offset == "" && s.namespace.app.mail == nil {
		s.client.server.metrics.Count(metrics.Recoveries, string(noOffset))
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(s.client.context(), evictTimeout)
	defer cancel()
	who, err := s.claimant(ctx)
	if err != nil {
		s.client.server.metrics.Count(metrics.Recoveries, "refused")
		return nil, errUnclaimed
	}
	recall := s.recallParked
	if s.namespace.app.mail != nil {
		recall = s.recallStored
	}
	was, err := (*past)(nil), s.evictOld(ctx, pid, who) // its end keeps what we are about to look for
	if err == nil {
		was, err = recall(ctx, pid, offset, who)
	}
	if err == nil {
		// Another connection may have come back in the meantime, and left what we have just found.
		if err = s.evictOld(ctx, pid, who); err != nil {
			s.giveBack(was)
		}
	}
	if err == nil {
		return was, nil
	}
	if slices.ContainsFunc(passing, func(target error) bool { return errors.Is(err, target) }) {
		s.client.server.metrics.Count(metrics.Recoveries, "put off")
		return nil, err
	}
	why, known := errors.AsType[notRecovered](err)
	if !known {
		s.log().Warn().Err(err).Msg("recovery failed, the client connects anew")
		why = "failed"
	}
	s.client.server.metrics.Count(metrics.Recoveries, string(why))
	return nil, nil
}

var errUnclaimed = errors.New("nobody claims the client")

// passing are the errors that say nothing about the client.
var passing = []error{
	store.ErrUnavailable, store.ErrClosed, context.DeadlineExceeded, context.Canceled,
	shard.ErrStopped, shard.ErrBusy, shard.ErrRestarted,
}

// notRecovered is why a client that was here before is treated as a new one; it is a metric label.
type notRecovered string

func (r notRecovered) Error() string { return string(r) }

const (
	noOffset      notRecovered = "no offset"
	unknownPID    notRecovered = "unknown pid"
	unknownOffset notRecovered = "unknown offset"
	expired       notRecovered = "expired"
	missedTooMuch notRecovered = "missed too much"
	otherUser     notRecovered = "other user"
)

// recallParked is for namespaces without a mailbox.
func (s *Socket) recallParked(ctx context.Context, pid, offset string, _ claimant) (*past, error) {
	n := s.namespace
	owner := n.server.pool.At(pidShard(pid))
	if owner == nil {
		return nil, unknownPID
	}
	found, ok, err := owner.Find(ctx, n.name, pid, offset)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, unknownPID
	}
	if found.Live != nil {
		return nil, unknownPID // another connection was quicker
	}
	if !found.Known {
		return nil, unknownOffset
	}
	var kept keptData
	if err := json.Unmarshal(found.Data, &kept); err != nil {
		return nil, fmt.Errorf("read parked socket: %w", err)
	}
	return &past{pid: pid, sid: found.ID, user: kept.User, data: kept.Data, token: offset}, nil
}

// leave takes the socket out of its shard, and keeps what recovery needs.
func (s *Socket) leave(reason Reason, last []*engineio.Message) error {
	server := s.client.server
	r := s.namespace.app.recovery
	if r == nil {
		return s.shard.Unregister(server.ctx, s.entry, last...)
	}
	comesBack := slices.Contains(recoverableReasons, reason)
	if s.namespace.app.mail != nil {
		err := s.record(comesBack, time.Now(), s.Rooms())
		return errors.Join(err, s.shard.Unregister(server.ctx, s.entry, last...))
	}
	if !comesBack {
		return errors.Join(s.shard.Forget(server.ctx, s.pid), s.shard.Unregister(server.ctx, s.entry, last...))
	}
	s.mu.Lock()
	kept := keptData{User: s.user, Data: s.data}.appendJSON(nil)
	s.mu.Unlock()
	return s.shard.Park(server.ctx, s.entry, s.pid, kept, r.MaxDisconnection)
}

// newID returns 20 URL-safe characters (engineio.md section 2).
func newID() string {
	var b [15]byte
	rand.Read(b[:])
	return base64.RawURLEncoding.EncodeToString(b[:])
}

// pidLength is that of a private id.
const pidLength = 20

// newPID returns a private id of 20 characters whose first two name the shard, so that it is found again.
func newPID(shard int) string {
	const hex = "0123456789abcdef"
	return string([]byte{hex[shard>>4&0xf], hex[shard&0xf]}) + newID()[:18]
}

// pidShard returns the index that newPID was given, or -1.
func pidShard(pid string) int {
	if len(pid) != pidLength {
		return -1
	}
	i, err := strconv.ParseUint(pid[:2], 16, 8)
	if err != nil {
		return -1
	}
	return int(i)
}

package shard

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"time"

	"parley/engineio"
	"parley/registry"
)

// Connection state recovery without a mailbox (socketio.md section 8): a shard keeps the last events of a
// namespace in memory and parks the sockets that dropped, so that a client which returns within the time
// gets what it missed. A parked socket stays in its rooms, so that its shard goes on being visited and
// logging for it.

const (
	// logPackets and logBytes bound one namespace's log on one shard. Clients whose offset has left the log
	// connect anew.
	logPackets = 10_000
	logBytes   = 16 << 20
	// replayPackets and replayBytes bound what is sent to one client that returns: half of what its outbox
	// takes, because one that overflows is closed, and would come back for the same packets again and again.
	replayPackets = 2048
	replayBytes   = 2 << 20
	// expiryStep is the least time between two looks at the clients that are away, however many are.
	expiryStep = time.Second
)

// replayLog keeps a namespace's logged packets, oldest first.
type replayLog struct {
	prefix  string // tells this log's offsets from all others, those of earlier runs included
	next    uint64 // number of the next packet
	entries []logged
	bytes   int
}

type logged struct {
	rooms, except []string
	message       *engineio.Message
}

func (s *Shard) logFor(namespace string) *replayLog {
	log := s.logs[namespace]
	if log == nil {
		log = &replayLog{prefix: strconv.FormatUint(rand.Uint64(), 36) + "." + strconv.Itoa(s.index) + "-"} //nolint:gosec // tells logs apart, and is no secret
		s.logs[namespace] = log
	}
	return log
}

func (l *replayLog) offset(n uint64) string { return l.prefix + strconv.FormatUint(n, 10) }

// current is the offset of the newest packet; a client that is at it has missed nothing so far.
func (l *replayLog) current() string { return l.offset(l.next) }

// append logs e and returns its wire form with its new offset.
func (l *replayLog) append(e *Envelope) *engineio.Message {
	l.next++
	m := e.withOffset(l.offset(l.next))
	l.entries = append(l.entries, logged{e.Rooms, e.Except, m})
	l.bytes += m.Size()
	for len(l.entries) > logPackets || l.bytes > logBytes && len(l.entries) > 1 {
		l.bytes -= l.entries[0].message.Size()
		l.entries[0] = logged{}
		l.entries = l.entries[1:]
	}
	return m
}

// since returns the packets for t after the offset, or false if the offset is not in the log or they are too
// many.
func (l *replayLog) since(offset string, t *registry.Socket) ([]*engineio.Message, bool) {
	number, ours := strings.CutPrefix(offset, l.prefix)
	n, err := strconv.ParseUint(number, 10, 64)
	oldest := l.next - uint64(len(l.entries)) // the number before the first entry
	if !ours || err != nil || n > l.next || n < oldest {
		return nil, false
	}
	var missed []*engineio.Message
	size := 0
	for _, e := range l.entries[n-oldest:] {
		if (len(e.rooms) == 0 || t.In(e.rooms)) && !t.In(e.except) {
			missed = append(missed, e.message)
			size += e.message.Size()
		}
	}
	if len(missed) > replayPackets || size > replayBytes && len(missed) > 1 {
		return nil, false
	}
	return missed, true
}

// recoverable is a socket whose client may come back.
type recoverable struct {
	pid    string
	socket *registry.Socket
	data   []byte
	until  time.Time // zero while the socket is live
}

// Returning is what a shard knows of a client that says it was here before.
type Returning struct {
	ID    string // the socket id that it had
	Live  any    // the App of the live socket, while the server has not noticed the drop
	Data  []byte // what Park was given
	Known bool   // the log still has the offset that it is at, and not too much after it
}

// Expect makes t, which must be registered, recoverable under pid.
func (s *Shard) Expect(ctx context.Context, t *registry.Socket, pid string) error {
	return s.post(ctx, commandFunc(func(s *Shard) {
		if s.registry.Has(t) {
			s.returning[pid] = &recoverable{pid: pid, socket: t}
		}
	}))
}

// Park takes t out of service but keeps its place for d: its rooms, data, and what it is sent. Acknowledgements
// that it owes are lost. Like Unregister it waits for room in a full inbox. A socket that is not recoverable
// under pid is taken out.
func (s *Shard) Park(ctx context.Context, t *registry.Socket, pid string, data []byte, d time.Duration) error {
	c := &park{newOutcome(), t, pid, data, d}
	if err := s.postSurely(ctx, c); err != nil {
		return err
	}
	return c.wait(s)
}

type park struct {
	outcome
	socket *registry.Socket
	pid    string
	data   []byte
	d      time.Duration
}

func (c *park) run(s *Shard) {
	if r := s.returning[c.pid]; r != nil && r.socket == c.socket {
		s.park(r, c.data, time.Now().Add(c.d))
	} else {
		s.remove(c.socket)
	}
	c.reply <- nil
}

func (s *Shard) park(r *recoverable, data []byte, until time.Time) {
	t := r.socket
	s.loseAcks(t)
	s.unfollow(t)
	t.Out, t.App = nil, nil
	r.data, r.until = data, until
	s.expireBy(until)
}

// expireBy looks for clients that did not return at the time given, or soon after.
func (s *Shard) expireBy(until time.Time) {
	if s.expiry.IsZero() || until.Before(s.expiry) {
		s.expiry = until
		s.wake(until)
	}
}

// Forget ends the recoverability of pid: its client left for good.
func (s *Shard) Forget(ctx context.Context, pid string) error {
	return s.postSurely(ctx, commandFunc(func(s *Shard) { s.forget(pid) }))
}

func (s *Shard) forget(pid string) {
	if r := s.returning[pid]; r != nil {
		delete(s.returning, pid)
		if !r.until.IsZero() {
			s.remove(r.socket)
		}
	}
}

// Find tells who pid is, and whether it can be brought up to date from offset.
func (s *Shard) Find(ctx context.Context, namespace, pid, offset string) (found Returning, ok bool, err error) {
	err = s.do(ctx, func(s *Shard) {
		r := s.returning[pid]
		if r == nil || r.socket.Namespace != namespace {
			return
		}
		ok = true
		found = Returning{ID: r.socket.ID, Data: r.data}
		if r.until.IsZero() {
			found.Live = r.socket.App
		}
		_, found.Known = s.logFor(namespace).since(offset, r.socket)
	})
	return found, ok, err
}

// Resume puts t in the place of the parked socket of pid: it takes over its rooms, is sent what it missed
// since offset and then last, and ok is true. Otherwise nothing has changed.
func (s *Shard) Resume(ctx context.Context, t *registry.Socket, pid, offset string, last *engineio.Message) (ok bool, err error) {
	err = s.do(ctx, func(s *Shard) {
		r := s.returning[pid]
		if r == nil || r.until.IsZero() || r.socket.ID != t.ID || r.socket.Namespace != t.Namespace || time.Now().After(r.until) {
			return
		}
		missed, known := s.logFor(t.Namespace).since(offset, r.socket)
		if !known {
			return
		}
		rooms := r.socket.Rooms()
		// The directory keeps its entries: the shard holds the same rooms before and after.
		old := r.socket
		s.registry.Remove(old)
		if err := s.registry.Add(t); err != nil {
			panic(fmt.Sprintf("resume: %v", err))
		}
		for _, room := range rooms {
			s.registry.Join(t, room)
		}
		r.socket, r.until, r.data = t, time.Time{}, nil
		for _, m := range append(missed, last) {
			s.offer(t, m, 0)
		}
		ok = true
	})
	return ok, err
}

// checkReturning gives up on the clients whose time is over.
func (s *Shard) checkReturning(now time.Time) {
	if s.expiry.IsZero() {
		return
	}
	if s.expiry.After(now) {
		s.wake(s.expiry)
		return
	}
	var next time.Time // to return or be given up
	for pid, r := range s.returning {
		switch {
		case r.until.IsZero():
		case !r.until.After(now):
			s.forget(pid)
		case next.IsZero() || r.until.Before(next):
			next = r.until
		}
	}
	s.expiry = time.Time{}
	if !next.IsZero() {
		// Not the moment it is due, so that many who left one after the other don't cost a look each.
		s.expireBy(later(next, now.Add(expiryStep)))
	}
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// commandFunc is a command without an outcome.
type commandFunc func(*Shard)

func (f commandFunc) run(s *Shard) { f(s) }

// do runs f in the shard's goroutine and waits for it.
func (s *Shard) do(ctx context.Context, f func(*Shard)) error {
	return s.Query(ctx, func(v *View) { f(v.shard) })
}

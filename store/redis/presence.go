package redisstore

import (
	"cmp"
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync"

	"parley/store"
)

// presence implements [store.Presence].
//
// A process knows the sockets of its users. Redis knows which nodes have sockets of a user, so that only the first and the
// last socket of a user on a process cost a call. A node counts as long as its lease holds. A user is online as long as a
// node is entered, and goes offline when the last node leaves, or dies and is dropped: each of these is one script on the
// user's key, and exactly one of them tells of it.
//
// A dead node is dropped by one of the others (mend.go), within a lease and a beat. Until then its users are not offline
// for those who count transitions, but they are for Online. A script that comes by a dead node removes it too.
//
// What a failed call left open is decided later, by mend: it makes Redis agree with the sockets that are here.
type presence struct {
	*Store

	rejoin chan struct{} // for keep: the lease is lost; has room for one
	mends  chan struct{} // for mend: there is work; has room for one

	mu       sync.Mutex
	lease    lease // guarded by mu, as all below
	held     bool
	ready    chan struct{} // closed while the lease is held
	users    map[string]*present
	dirty    map[string]struct{} // users of whom Redis may not know what is so here
	suspects map[string]struct{} // users who have dead nodes
	untold   map[string]struct{} // users who are online, of which nobody was told
	marks    map[string]mark     // what is to be told to readers of sessions
	cleaning string              // a dead node that this process has claimed
	tokens   uint64              // given to changes
}

// present is a user who has sockets here, or had until just now.
type present struct {
	refs int           // guarded by presence.mu: who works with it; it is kept as long
	turn chan struct{} // has room for one, who may use what is below; Redis is asked meanwhile

	sockets map[string]struct{}
	// node is the name under which the user may be entered in Redis; empty: the user is not. It is written under
	// presence.mu too.
	node string
	sure bool // the entering was confirmed
	// The tokens of an entering and of a leaving whose reply was lost, or "".
	entering, leaving string
	// The token of an entering by which the user came online, until somebody has been told of it, or is just about to; or "".
	owed string
}

// Answers of the scripts.
const (
	answerLost    = -1
	answerSame    = 0
	answerChanged = 1
	answerUntold  = 2 // online, of which nobody was told
	answerUndone  = 3 // offline, and nobody was told that it was otherwise
)

func (p *presence) init(s *Store) {
	p.Store = s
	p.rejoin, p.mends = make(chan struct{}, 1), make(chan struct{}, 1)
	p.ready = make(chan struct{})
	p.users = map[string]*present{}
	p.dirty, p.suspects, p.untold = map[string]struct{}{}, map[string]struct{}{}, map[string]struct{}{}
	p.marks = map[string]mark{}
}

// take returns the user, who belongs to the caller until give.
func (p *presence) take(ctx context.Context, user string) (*present, error) {
	p.mu.Lock()
	u := p.users[user]
	if u == nil {
		u = &present{turn: make(chan struct{}, 1), sockets: map[string]struct{}{}}
		p.users[user] = u
	}
	u.refs++
	p.mu.Unlock()
	select {
	case u.turn <- struct{}{}:
		return u, nil
	case <-ctx.Done():
		p.release(user, u)
		return nil, ctx.Err()
	}
}

// give is the opposite of take. If Redis may not agree with the sockets, mend will see to it.
func (p *presence) give(user string, u *present) {
	if (len(u.sockets) > 0) != (u.node != "") || u.node != "" && !u.sure {
		p.mu.Lock()
		p.dirty[user] = struct{}{}
		p.mu.Unlock()
	}
	<-u.turn
	p.release(user, u)
}

func (p *presence) release(user string, u *present) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if u.refs--; u.refs == 0 && len(u.sockets) == 0 && u.node == "" {
		delete(p.users, user)
	}
}

func (s *Store) checkPresence(ctx context.Context, user, socket string) error {
	if err := store.CheckID("user id", user); err != nil {
		return err
	}
	if err := store.CheckID("socket id", socket); err != nil {
		return err
	}
	return s.usable(ctx)
}

// Connect implements [store.Presence]. After an error the socket is not counted.
func (s *Store) Connect(ctx context.Context, user, socket string) (first bool, err error) {
	if err := s.checkPresence(ctx, user, socket); err != nil {
		return false, err
	}
	p := &s.presence
	u, err := p.take(ctx, user)
	if err != nil {
		return false, err
	}
	defer p.give(user, u)
	if _, ok := u.sockets[socket]; ok {
		return false, nil
	}
	// A user who is entered under a former lease is entered anew by mend.
	if len(u.sockets) == 0 || !u.sure {
		if first, err = p.enter(ctx, user, u); err != nil {
			return false, err
		}
		u.owed = "" // the caller knows
	}
	u.sockets[socket] = struct{}{}
	return first, nil
}

// Disconnect implements [store.Presence]. After an error the socket is not counted either; that the user went offline is
// then told by Options.Departed.
func (s *Store) Disconnect(ctx context.Context, user, socket string) (last bool, err error) {
	if err := s.checkPresence(ctx, user, socket); err != nil {
		return false, err
	}
	p := &s.presence
	u, err := p.take(ctx, user)
	if err != nil {
		return false, err
	}
	defer p.give(user, u)
	if _, ok := u.sockets[socket]; !ok {
		return false, nil
	}
	if delete(u.sockets, socket); len(u.sockets) > 0 {
		return false, nil
	}
	answer, err := p.leave(ctx, user, u)
	return answer == answerChanged, err
}

var errLease = fmt.Errorf("redis: the lease was lost again: %w", store.ErrUnavailable)

// leaseTries is how often a call is made anew because the lease was lost meanwhile.
const leaseTries = 2

// enter tells Redis that this node has sockets of the user, and reports whether the user came online.
func (p *presence) enter(ctx context.Context, user string, u *present) (first bool, err error) {
	if u.entering == "" {
		u.entering = p.token()
	}
	for range leaseTries {
		l, err := p.current(ctx)
		if err != nil {
			return false, err
		}
		// Whoever cleans up after us must find the user: this comes first.
		if err := p.writes.do(ctx, nodeKey(l.node), plain("SADD", nodeKey(l.node), user)); err != nil {
			return false, fmt.Errorf("count presence: %w", err)
		}
		old := u.node
		if old == "" {
			old = l.node
		}
		p.setNode(u, old) // it may be entered from now on, whatever the reply
		u.sure = false
		answer, err := p.run(ctx, user, scriptEnter, l, l.node, u.entering, old, u.leaving)
		if err != nil {
			return false, err
		}
		if answer == answerLost {
			p.lose(l.node)
			continue
		}
		p.setNode(u, l.node)
		if first = answer == answerChanged; first {
			u.owed = u.entering
		}
		u.sure, u.entering, u.leaving = true, "", ""
		return first, nil
	}
	return false, errLease
}

// leave tells Redis that this node has no sockets of the user any more. That the user came online is taken back if nobody
// was told of it: after a freeze, say, a lease may be had again before the connections are found dead.
func (p *presence) leave(ctx context.Context, user string, u *present) (answer int64, err error) {
	if u.node == "" {
		return answerSame, nil
	}
	if u.leaving == "" {
		u.leaving = p.token()
	}
	for range leaseTries {
		l, err := p.current(ctx)
		if err != nil {
			return answerSame, err
		}
		u.sure = false
		answer, err = p.run(ctx, user, scriptLeave, l, u.node, u.leaving, "", cmp.Or(u.entering, u.owed))
		if err != nil {
			return answerSame, err
		}
		if answer == answerLost {
			p.lose(l.node)
			continue
		}
		node := u.node
		p.setNode(u, "")
		u.entering, u.leaving, u.owed = "", "", ""
		if answer == answerUntold {
			p.mu.Lock()
			p.untold[user] = struct{}{}
			p.mu.Unlock()
		}
		// Only who cleans up after us looks there, and finds nothing if this fails.
		_ = p.writes.later(ctx, nodeKey(node), func(error) {}, plain("SREM", nodeKey(node), user))
		return answer, nil
	}
	return answerSame, errLease
}

func (p *presence) setNode(u *present, node string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	u.node = node
}

func (p *presence) token() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.tokens++
	return strconv.FormatUint(p.tokens, 36)
}

// call returns a call of one of the scripts on a user's key.
func (p *presence) call(user string, script *script, l lease, node, token, old, other string) *command {
	args := []any{node, token, l.ends, old, other, l.horizon}
	for _, living := range l.living {
		args = append(args, living)
	}
	return script.run([]string{prefixPresence + user}, args...)
}

// answer returns what a script says, and notes a transition for those who read sessions.
func (p *presence) answer(user string, c *command) (int64, error) {
	reply := c.list()
	if len(reply) < 2 {
		return answerSame, errReply
	}
	answer, ok := reply[0].(int64)
	stamp, stamped := number(reply, 1)
	if !ok || !stamped {
		return answerSame, errReply
	}
	if answer == answerChanged || answer == answerUndone {
		p.note(user, mark{c.script == scriptEnter, stamp})
	}
	return answer, nil
}

func (p *presence) run(ctx context.Context, user string, script *script, l lease, node, token, old, other string) (int64, error) {
	c := p.call(user, script, l, node, token, old, other)
	if err := p.writes.do(ctx, prefixPresence+user, c); err != nil {
		return answerSame, fmt.Errorf("count presence: %w", err)
	}
	return p.answer(user, c)
}

// onlineWindow is how many users are asked for in one call.
const onlineWindow = 128

// Online implements [store.Presence]. Users who have sockets here cost nothing.
func (s *Store) Online(ctx context.Context, users []string) ([]bool, error) {
	if err := s.usable(ctx); err != nil {
		return nil, err
	}
	p := &s.presence
	online := make([]bool, len(users))
	var asked []int
	p.mu.Lock()
	l := p.lease
	for i, user := range users {
		if u := p.users[user]; u != nil && u.node != "" && u.node == l.node && p.held {
			online[i] = true
		} else if user != "" && len(user) <= store.MaxIDBytes {
			asked = append(asked, i)
		}
	}
	p.mu.Unlock()
	living := make(map[string]bool, len(l.living))
	for _, node := range l.living {
		living[node] = true
	}
	horizon, _ := strconv.ParseUint(l.horizon, 10, 64)
	for len(asked) > 0 {
		some := asked[:min(len(asked), onlineWindow)]
		asked = asked[len(some):]
		commands := make([]*command, len(some))
		for i, at := range some {
			commands[i] = plain("HKEYS", prefixPresence+users[at])
		}
		if err := s.reads.do(ctx, prefixPresence+users[some[0]], commands...); err != nil {
			return nil, fmt.Errorf("read presence: %w", err)
		}
		for i, at := range some {
			var dead bool
			if online[at], dead = alive(commands[i].list(), living, horizon); dead {
				p.suspect(users[at])
			}
		}
	}
	return online, nil
}

// alive reports whether one of a user's nodes is alive, and whether one is dead (presence.lua).
func alive(nodes []any, living map[string]bool, horizon uint64) (online, dead bool) {
	for i := range nodes {
		node, entered := strings.CutPrefix(text(nodes, i), "+")
		if !entered {
			continue
		}
		generation, _, _ := strings.Cut(node, "-")
		if n, err := strconv.ParseUint(generation, 10, 64); living[node] || err == nil && n > horizon {
			online = true
		} else {
			dead = true
		}
	}
	return online, dead
}

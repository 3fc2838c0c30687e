package redisstore

import (
	"context"
	"fmt"
	"strconv"
	"sync"
)

const (
	// mendAtOnce is how many users are mended at the same time.
	mendAtOnce = 64
	// cleanWindow is how many users of a dead node are dropped in one step.
	cleanWindow = 128
	// maxNotes bounds the suspects and the marks that wait. What finds no room is seen or told another time.
	maxNotes = 1 << 16
)

// mark is what those who read sessions are to be told of a user, and when that came to be (µs).
type mark struct {
	connected bool
	stamp     uint64
}

// wake has mend look for work.
func (p *presence) wake() {
	select {
	case p.mends <- struct{}{}:
	default: // it was told already
	}
}

// suspect has the dead nodes of a user dropped.
func (p *presence) suspect(user string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.suspects) < maxNotes {
		p.suspects[user] = struct{}{}
	}
}

// note has those who read sessions told of a user.
func (p *presence) note(user string, m mark) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if old, ok := p.marks[user]; ok && old.stamp < m.stamp || !ok && len(p.marks) < maxNotes {
		p.marks[user] = m
	}
}

// mend does, at each beat, what no caller waits for: it makes Redis agree with the sockets that are here, drops the dead,
// and tells those who read sessions who is connected. It ends when the store is closed.
func (p *presence) mend() {
	for {
		select {
		case <-p.ctx.Done():
			return
		case <-p.mends:
		}
		// It takes as long as it takes, but each call has its bounds.
		p.mendUsers(p.ctx)
		for _, work := range []func(context.Context) error{p.dropSuspects, p.clean, p.tell} {
			if err := work(p.ctx); err != nil && p.ctx.Err() == nil {
				p.log.Warn().Err(err).Msg("presence is put right later")
				break
			}
		}
	}
}

// swap takes what is in a map that is guarded by mu.
func swap[V any](p *presence, m *map[string]V) map[string]V {
	p.mu.Lock()
	defer p.mu.Unlock()
	taken := *m
	*m = map[string]V{}
	return taken
}

// mendUsers makes Redis agree with the sockets that are here. What fails is tried again with the next beat.
func (p *presence) mendUsers(ctx context.Context) {
	room := make(chan struct{}, mendAtOnce)
	var wait sync.WaitGroup
	var mu sync.Mutex
	var returned, departed []string
	for user := range swap(p, &p.dirty) {
		room <- struct{}{}
		wait.Go(func() {
			defer func() { <-room }()
			came, went := p.mendUser(ctx, user)
			mu.Lock()
			defer mu.Unlock()
			if came {
				returned = append(returned, user)
			}
			if went {
				departed = append(departed, user)
			}
		})
	}
	wait.Wait()
	for _, user := range departed {
		p.departed(user)
	}
	for _, user := range returned {
		if p.owes(ctx, user) {
			p.returned(user)
		}
	}
	for user := range swap(p, &p.untold) {
		p.returned(user)
	}
}

// mendTimeout bounds the work on one user.
const mendTimeout = 2 * pipelineTimeout

func (p *presence) mendUser(ctx context.Context, user string) (came, went bool) {
	ctx, cancel := context.WithTimeout(ctx, mendTimeout)
	defer cancel()
	u, err := p.take(ctx, user)
	if err != nil {
		p.mu.Lock()
		p.dirty[user] = struct{}{}
		p.mu.Unlock()
		return false, false
	}
	defer p.give(user, u)
	p.mu.Lock()
	node := p.lease.node
	p.mu.Unlock()
	if len(u.sockets) > 0 {
		if !u.sure || u.node != node {
			if came, err = p.enter(ctx, user, u); err != nil {
				u.sure = false // so that it is tried again
			}
		}
		return came, false
	}
	answer, err := p.leave(ctx, user, u)
	return false, err == nil && answer == answerChanged
}

// owes tells whether a user who came online by mendUser still is, as far as this process knows, and somebody is to be told.
// From now on whoever goes offline is missed.
func (p *presence) owes(ctx context.Context, user string) bool {
	ctx, cancel := context.WithTimeout(ctx, mendTimeout)
	defer cancel()
	u, err := p.take(ctx, user)
	if err != nil {
		return true
	}
	defer p.give(user, u)
	owed := u.owed != ""
	u.owed = ""
	return owed
}

func (p *presence) departed(user string) {
	if p.opts.Departed != nil {
		p.opts.Departed(user)
	}
}

func (p *presence) returned(user string) {
	if p.opts.Returned != nil {
		p.opts.Returned(user)
	}
}

// drop drops a dead node, or if that is "" all dead ones, from users, and tells who went offline by that.
func (p *presence) drop(ctx context.Context, node string, users []string) error {
	l, err := p.current(ctx)
	if err != nil {
		return err
	}
	commands := make([]*command, len(users))
	for i, user := range users {
		commands[i] = p.call(user, scriptDrop, l, node, "", "", "")
	}
	if err := p.writes.do(ctx, prefixPresence+users[0], commands...); err != nil {
		return err
	}
	for i, user := range users {
		answer, err := p.answer(user, commands[i])
		if err != nil {
			return err
		}
		switch answer {
		case answerLost:
			p.lose(l.node)
			return errLease
		case answerChanged:
			p.departed(user)
		}
	}
	return nil
}

func (p *presence) dropSuspects(ctx context.Context) error {
	var users []string
	for user := range swap(p, &p.suspects) {
		users = append(users, user)
	}
	for len(users) > 0 {
		n := min(len(users), cleanWindow)
		if err := p.drop(ctx, "", users[:n]); err != nil {
			return fmt.Errorf("drop dead nodes: %w", err)
		}
		users = users[n:]
	}
	return nil
}

// clean drops the dead node that this process has claimed, if any. When it fails, it goes on with the next beat; when
// this process dies, another one claims the node.
func (p *presence) clean(ctx context.Context) error {
	p.mu.Lock()
	node := p.cleaning
	p.mu.Unlock()
	if node == "" {
		return nil
	}
	key := nodeKey(node)
	for dropped := 0; ; {
		some := plain("SRANDMEMBER", key, cleanWindow)
		if err := p.writes.do(ctx, key, some); err != nil {
			return fmt.Errorf("clean up after a node: %w", err)
		}
		list := some.list()
		if len(list) == 0 {
			if err := p.writes.do(ctx, leaseKeys[0], plain("ZREM", leaseKeys[2], node)); err != nil {
				return fmt.Errorf("clean up after a node: %w", err)
			}
			p.mu.Lock()
			p.cleaning = ""
			p.mu.Unlock()
			p.log.Warn().Str("node", node).Int("users", dropped).Msg("a process died: its users are offline unless they are elsewhere")
			return nil
		}
		users, args := make([]string, len(list)), []any{"SREM", key}
		for i := range list {
			users[i] = text(list, i)
			args = append(args, users[i])
		}
		if err := p.drop(ctx, node, users); err != nil {
			return fmt.Errorf("clean up after a node: %w", err)
		}
		if err := p.writes.do(ctx, key, plain(args...)); err != nil {
			return fmt.Errorf("clean up after a node: %w", err)
		}
		dropped += len(users)
	}
}

// tell writes who is connected into the sessions that users were last seen with. Node servers read that; nobody here
// does, so that what fails is left to the next transition.
func (p *presence) tell(ctx context.Context) error {
	marks := swap(p, &p.marks)
	var users []string
	for user := range marks {
		users = append(users, user)
	}
	for len(users) > 0 {
		some := users[:min(len(users), cleanWindow)]
		users = users[len(some):]
		args := []any{"HMGET", rosterKeys[rosterInfo]}
		for _, user := range some {
			args = append(args, user)
		}
		c := plain(args...)
		if err := p.reads.do(ctx, rosterKeys[0], c); err != nil {
			return fmt.Errorf("mark sessions: %w", err)
		}
		var commands []*command
		for i, user := range some {
			if k, ok := parseKnown(user, text(c.list(), i)); ok {
				m := marks[user]
				commands = append(commands, scriptMarkSession.run([]string{prefixSession + k.session},
					strconv.FormatBool(m.connected), m.stamp))
			}
		}
		if len(commands) == 0 {
			continue
		}
		if err := p.writes.do(ctx, commands[0].keys[0], commands...); err != nil {
			return fmt.Errorf("mark sessions: %w", err)
		}
	}
	return nil
}

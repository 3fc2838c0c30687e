package redisstore

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"parley/store"
)

const (
	// scanWindow is how many keys one step looks at, and scanPause is between two steps: a walk over a million keys
	// takes about half a minute and is hardly noticed by others.
	scanWindow = 512
	scanPause  = 10 * time.Millisecond
	// lag is how much later than the roster a session may have been seen before that is put right.
	lag = time.Minute
)

// reconcile compares the roster with the sessions now and then: it finds the sessions of Node servers, those that were
// written just before a process died, and users whose session somebody removed. One process does it for all. It ends when
// the store is closed.
func (s *Store) reconcile() {
	ticker := time.NewTicker(s.opts.Reconcile)
	defer ticker.Stop()
	for {
		select {
		case <-s.ctx.Done():
			return
		case <-ticker.C:
		}
		if err := s.reconcileOnce(s.ctx); err != nil && s.ctx.Err() == nil {
			s.log.Warn().Err(err).Msg("comparing the roster with the sessions failed, trying again later")
		}
	}
}

func (s *Store) reconcileOnce(ctx context.Context) error {
	ours := plain("SET", keyReconcile, "1", "NX", "PX", s.opts.Reconcile.Milliseconds()*9/10+1)
	if err := s.writes.do(ctx, keyReconcile, ours); err != nil {
		return err
	}
	if ours.Val() == nil {
		return nil // another process does it
	}
	for {
		sweep := scriptSweepUsers.run(rosterKeys, s.since(s.opts.Now()))
		if err := s.writes.do(ctx, rosterKeys[0], sweep); err != nil {
			return fmt.Errorf("sweep users: %w", err)
		}
		if n, _ := sweep.Val().(int64); n == 0 {
			break
		}
	}
	if err := s.checkUsers(ctx); err != nil {
		return err
	}
	if cluster, ok := s.client.(*redis.ClusterClient); ok {
		return cluster.ForEachMaster(ctx, func(ctx context.Context, c *redis.Client) error { return s.scan(ctx, c) })
	}
	return s.scan(ctx, s.client)
}

// scan walks all sessions of one server.
func (s *Store) scan(ctx context.Context, server redis.Cmdable) error {
	for cursor := uint64(0); ; {
		step, cancel := context.WithTimeout(ctx, pipelineTimeout)
		keys, next, err := server.ScanType(step, cursor, prefixSession+"*", scanWindow, "hash").Result()
		cancel()
		if err != nil {
			return fmt.Errorf("walk sessions: %w", err)
		}
		if err := s.adopt(ctx, keys); err != nil {
			return fmt.Errorf("read sessions: %w", err)
		}
		if cursor = next; cursor == 0 {
			return nil
		}
		if err := pause(ctx); err != nil {
			return err
		}
	}
}

func pause(ctx context.Context) error {
	timer := time.NewTimer(scanPause)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

// adopt enters the users of the sessions into the roster where they are missing, or were seen much later.
func (s *Store) adopt(ctx context.Context, keys []string) error {
	if len(keys) == 0 {
		return nil
	}
	var commands []*command
	for _, key := range keys {
		commands = append(commands, plain("HMGET", key, "userID", "username", "seen"), plain("PTTL", key))
	}
	if err := s.reads.do(ctx, keys[0], commands...); err != nil {
		return err
	}
	var sessions []store.Session
	args := []any{"HMGET", rosterKeys[rosterInfo]}
	for i, key := range keys {
		session, ok := s.session(strings.TrimPrefix(key, prefixSession), commands[2*i], commands[2*i+1])
		if ok && store.CheckID("session id", session.ID) == nil {
			sessions = append(sessions, session)
			args = append(args, session.UserID)
		}
	}
	if len(sessions) == 0 {
		return nil
	}
	c := plain(args...)
	if err := s.reads.do(ctx, rosterKeys[0], c); err != nil {
		return err
	}
	var missing []*command
	now := s.opts.Now()
	for i, session := range sessions {
		k, ok := parseKnown(session.UserID, text(c.list(), i))
		if session.LastSeen.UnixMilli() > s.since(now) && (!ok || session.LastSeen.Sub(k.user.LastSeen) > lag) {
			missing = append(missing, s.see(session, session.LastSeen, now, false))
		}
	}
	if len(missing) == 0 {
		return nil
	}
	return s.writes.do(ctx, rosterKeys[0], missing...)
}

// checkUsers walks the roster and removes users whose newest session is gone.
func (s *Store) checkUsers(ctx context.Context) error {
	from := "-"
	for {
		ids, err := s.texts(ctx, "ZRANGEBYLEX", rosterKeys[rosterIDs], from, "+", "LIMIT", 0, scanWindow)
		if err != nil || len(ids) == 0 {
			return err
		}
		if err := s.checkSome(ctx, ids); err != nil {
			return fmt.Errorf("check users: %w", err)
		}
		if len(ids) < scanWindow {
			return nil
		}
		from = "(" + ids[len(ids)-1]
		if err := pause(ctx); err != nil {
			return err
		}
	}
}

func (s *Store) checkSome(ctx context.Context, ids []string) error {
	args := []any{"HMGET", rosterKeys[rosterInfo]}
	for _, id := range ids {
		args = append(args, id)
	}
	infos := plain(args...)
	if err := s.reads.do(ctx, rosterKeys[0], infos); err != nil {
		return err
	}
	exist := make([]*command, len(ids))
	for i, id := range ids {
		k, _ := parseKnown(id, text(infos.list(), i))
		exist[i] = plain("EXISTS", prefixSession+k.session)
	}
	if err := s.reads.do(ctx, prefixSession, exist...); err != nil {
		return err
	}
	var gone []*command
	for i, id := range ids {
		if n, ok := exist[i].Val().(int64); ok && n == 0 {
			gone = append(gone, scriptForgetUser.run(rosterKeys, id, text(infos.list(), i)))
		}
	}
	if len(gone) == 0 {
		return nil
	}
	return s.writes.do(ctx, rosterKeys[0], gone...)
}

package redisstore

import (
	"context"
	"fmt"
	"time"

	"parley/store"
)

func notFound(what string) error { return fmt.Errorf("%s: %w", what, store.ErrNotFound) }

// Session implements [store.Sessions]. One that a Node server wrote was seen when its life began.
func (s *Store) Session(ctx context.Context, id string) (store.Session, error) {
	if err := s.checkSession(ctx, id); err != nil {
		return store.Session{}, err
	}
	key := prefixSession + id
	fields, life := plain("HMGET", key, "userID", "username", "seen"), plain("PTTL", key)
	if err := s.reads.do(ctx, key, fields, life); err != nil {
		return store.Session{}, fmt.Errorf("read session: %w", err)
	}
	session, ok := s.session(id, fields, life)
	if !ok {
		return store.Session{}, notFound("session")
	}
	return session, nil
}

// session reads the replies of HMGET and PTTL; ok is false if there is none that can be used.
func (s *Store) session(id string, fields, life *command) (session store.Session, ok bool) {
	list := fields.list()
	session = store.Session{ID: id, UserID: text(list, 0), Username: text(list, 1)}
	if store.CheckID("user id", session.UserID) != nil || len(session.Username) > store.MaxIDBytes {
		return session, false
	}
	if seen, ok := number(list, 2); ok {
		session.LastSeen = time.UnixMilli(int64(seen)).UTC()
		return session, true
	}
	session.LastSeen = s.opts.Now()
	if left, _ := life.Val().(int64); left > 0 {
		left := time.Duration(left) * time.Millisecond
		session.LastSeen = session.LastSeen.Add(min(left-s.opts.SessionTTL, 0))
	}
	session.LastSeen = session.LastSeen.Truncate(time.Millisecond).UTC()
	return session, true
}

func (s *Store) checkSession(ctx context.Context, id string) error {
	if err := store.CheckID("session id", id); err != nil {
		return err
	}
	return s.usable(ctx)
}

// SaveSession implements [store.Sessions]. The session is written first and the roster after it: what fails in between is
// put right when the call is made again, or by the reconciliation.
func (s *Store) SaveSession(ctx context.Context, session store.Session) error {
	if err := session.Validate(); err != nil {
		return err
	}
	if err := s.usable(ctx); err != nil {
		return err
	}
	now := s.opts.Now()
	key := prefixSession + session.ID
	c := scriptSaveSession.run([]string{key}, session.UserID, session.Username, now.UnixMilli(), s.opts.SessionTTL.Milliseconds())
	if err := s.writes.do(ctx, key, c); err != nil {
		return fmt.Errorf("save session: %w", err)
	}
	if saved, _ := c.Val().(int64); saved != 1 {
		return fmt.Errorf("session belongs to another user: %w", store.ErrInvalid)
	}
	if err := s.writes.do(ctx, rosterKeys[0], s.see(session, now, now, true)); err != nil {
		return fmt.Errorf("save user: %w", err)
	}
	return nil
}

// TouchSession implements [store.Sessions].
func (s *Store) TouchSession(ctx context.Context, id string) error {
	if err := s.checkSession(ctx, id); err != nil {
		return err
	}
	now := s.opts.Now()
	key := prefixSession + id
	c := scriptTouchSession.run([]string{key}, now.UnixMilli(), s.opts.SessionTTL.Milliseconds())
	if err := s.writes.do(ctx, key, c); err != nil {
		return fmt.Errorf("touch session: %w", err)
	}
	found := c.list()
	if len(found) == 0 {
		return notFound("session")
	}
	// Being seen again says nothing about the user's name: another session may have set a newer one.
	session := store.Session{ID: id, UserID: text(found, 0), Username: text(found, 1)}
	if err := s.writes.do(ctx, rosterKeys[0], s.see(session, now, now, false)); err != nil {
		return fmt.Errorf("touch user: %w", err)
	}
	return nil
}

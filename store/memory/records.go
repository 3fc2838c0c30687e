package memory

import (
	"context"

	"parley/store"
	"parley/store/internal/records"
)

// Session implements [store.Sessions].
func (s *Store) Session(ctx context.Context, id string) (session store.Session, err error) {
	if err := store.CheckID("session id", id); err != nil {
		return store.Session{}, err
	}
	err = s.view(ctx, func(r records.Records) error {
		session, err = r.Session(id)
		return err
	})
	return session, err
}

// SaveSession implements [store.Sessions].
func (s *Store) SaveSession(ctx context.Context, session store.Session) error {
	if err := session.Validate(); err != nil {
		return err
	}
	return s.update(ctx, func(r records.Records) error { return r.SaveSession(session) })
}

// TouchSession implements [store.Sessions].
func (s *Store) TouchSession(ctx context.Context, id string) error {
	if err := store.CheckID("session id", id); err != nil {
		return err
	}
	return s.update(ctx, func(r records.Records) error { return r.TouchSession(id) })
}

// Users implements [store.Sessions].
func (s *Store) Users(ctx context.Context, limit int) (users []store.User, err error) {
	err = s.view(ctx, func(r records.Records) error {
		users, err = r.Users(ctx, limit)
		return err
	})
	return users, err
}

// UserPage implements [store.Sessions].
func (s *Store) UserPage(ctx context.Context, cursor string, limit int) (users []store.User, next string, err error) {
	err = s.view(ctx, func(r records.Records) error {
		users, next, err = r.UserPage(ctx, cursor, limit)
		return err
	})
	return users, next, err
}

// UsersByID implements [store.Sessions].
func (s *Store) UsersByID(ctx context.Context, ids []string) (users []store.User, err error) {
	err = s.view(ctx, func(r records.Records) error {
		users, err = r.UsersByID(ctx, ids)
		return err
	})
	return users, err
}

// SearchUsers implements [store.Sessions].
func (s *Store) SearchUsers(ctx context.Context, prefix string, limit int) (users []store.User, err error) {
	err = s.view(ctx, func(r records.Records) error {
		users, err = r.SearchUsers(ctx, prefix, limit)
		return err
	})
	return users, err
}

// CountUsers implements [store.Sessions].
func (s *Store) CountUsers(ctx context.Context) (count int, err error) {
	err = s.view(ctx, func(r records.Records) error {
		count, err = r.CountUsers(ctx)
		return err
	})
	return count, err
}

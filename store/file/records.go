package file

import (
	"bytes"
	"context"
	"iter"
	"slices"
	"time"

	"go.etcd.io/bbolt"

	"parley/store"
	"parley/store/internal/records"
	"parley/store/internal/row"
)

// rows makes a bucket a records.Rows.
type rows struct{ *bbolt.Bucket }

// Ascend implements records.Rows.
func (r rows) Ascend(from, to []byte) iter.Seq2[[]byte, []byte] {
	return func(yield func(key, value []byte) bool) {
		cursor := r.Cursor()
		for key, value := cursor.Seek(from); key != nil && bytes.Compare(key, to) < 0; key, value = cursor.Next() {
			if !yield(key, value) {
				return
			}
		}
	}
}

func (t *txn) records() records.Records {
	return records.Records{Rows: rows{t.tx.Bucket(recordsBucket)}, Now: row.Time(t.now), TTL: t.opts.SessionTTL}
}

// Session implements [store.Sessions].
func (s *Store) Session(ctx context.Context, id string) (session store.Session, err error) {
	if err := store.CheckID("session id", id); err != nil {
		return store.Session{}, err
	}
	err = s.view(ctx, func(t *txn) error {
		session, err = t.records().Session(id)
		return err
	})
	return session, err
}

// SaveSession implements [store.Sessions].
func (s *Store) SaveSession(ctx context.Context, session store.Session) error {
	if err := session.Validate(); err != nil {
		return err
	}
	return s.update(ctx, len(session.Username), func(t *txn) error { return t.records().SaveSession(session) })
}

// TouchSession implements [store.Sessions]. It waits for its group, which costs no sync of its own.
func (s *Store) TouchSession(ctx context.Context, id string) error {
	if err := store.CheckID("session id", id); err != nil {
		return err
	}
	return s.update(ctx, len(id), func(t *txn) error { return t.records().TouchSession(id) })
}

// Users implements [store.Sessions].
func (s *Store) Users(ctx context.Context, limit int) (users []store.User, err error) {
	err = s.view(ctx, func(t *txn) error {
		users, err = t.records().Users(ctx, limit)
		return err
	})
	return users, err
}

// UserPage implements [store.Sessions].
func (s *Store) UserPage(ctx context.Context, cursor string, limit int) (users []store.User, next string, err error) {
	err = s.view(ctx, func(t *txn) error {
		users, next, err = t.records().UserPage(ctx, cursor, limit)
		return err
	})
	return users, next, err
}

// UsersByID implements [store.Sessions].
func (s *Store) UsersByID(ctx context.Context, ids []string) (users []store.User, err error) {
	err = s.view(ctx, func(t *txn) error {
		users, err = t.records().UsersByID(ctx, ids)
		return err
	})
	return users, err
}

// SearchUsers implements [store.Sessions].
func (s *Store) SearchUsers(ctx context.Context, prefix string, limit int) (users []store.User, err error) {
	err = s.view(ctx, func(t *txn) error {
		users, err = t.records().SearchUsers(ctx, prefix, limit)
		return err
	})
	return users, err
}

// CountUsers implements [store.Sessions].
func (s *Store) CountUsers(ctx context.Context) (count int, err error) {
	err = s.view(ctx, func(t *txn) error {
		count, err = t.records().CountUsers(ctx)
		return err
	})
	return count, err
}

// SaveRecovery implements [store.Recoveries].
func (s *Store) SaveRecovery(ctx context.Context, recovery store.Recovery, ttl time.Duration) error {
	if err := recovery.Validate(); err != nil {
		return err
	}
	recovery.Rooms = slices.Clone(recovery.Rooms)
	recovery.Data = bytes.Clone(recovery.Data)
	size := len(recovery.Data)
	for _, room := range recovery.Rooms {
		size += len(room)
	}
	now := s.opts.Now()
	return s.updateLater(ctx, size, func(t *txn) error {
		r := t.records()
		r.Now = now // its life starts with the call, not with the group
		return r.SaveRecovery(recovery, ttl)
	})
}

// TakeRecovery implements [store.Recoveries].
func (s *Store) TakeRecovery(ctx context.Context, pid string) (recovery store.Recovery, err error) {
	if err := store.CheckID("pid", pid); err != nil {
		return store.Recovery{}, err
	}
	var taken store.Recovery
	err = s.update(ctx, len(pid), func(t *txn) (err error) {
		taken, err = t.records().TakeRecovery(pid)
		return err
	})
	if err != nil {
		return store.Recovery{}, err
	}
	return taken, nil
}

// DeleteRecovery implements [store.Recoveries].
func (s *Store) DeleteRecovery(ctx context.Context, pid string) error {
	if err := store.CheckID("pid", pid); err != nil {
		return err
	}
	return s.update(ctx, len(pid), func(t *txn) error { return t.records().DeleteRecovery(pid) })
}

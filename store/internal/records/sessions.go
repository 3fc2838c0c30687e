package records

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"strings"

	"parley/store"
	"parley/store/internal/row"
)

// session returns a session, expired or not; ok is false if there is no row.
func (r Records) session(id string) (s store.Session, ok bool, err error) {
	value := r.Rows.Get(idKey(kindSession, id))
	if value == nil {
		return s, false, nil
	}
	fields := row.Read(value)
	s = store.Session{ID: id, UserID: fields.String(), Username: fields.String(), LastSeen: fields.Time()}
	return s, true, fields.Err()
}

// user returns a user, expired or not; ok is false if there is no row.
func (r Records) user(id string) (u store.User, ok bool, err error) {
	value := r.Rows.Get(idKey(kindUser, id))
	if value == nil {
		return u, false, nil
	}
	fields := row.Read(value)
	u = store.User{ID: id, Username: fields.String(), LastSeen: fields.Time()}
	return u, true, fields.Err()
}

// liveUser is user, but not for one that has expired.
func (r Records) liveUser(id string) (u store.User, ok bool, err error) {
	u, ok, err = r.user(id)
	return u, ok && !r.expired(row.Millis(u.LastSeen)), err
}

// Session returns a session, or [store.ErrNotFound].
func (r Records) Session(id string) (store.Session, error) {
	s, ok, err := r.session(id)
	if err != nil {
		return store.Session{}, err
	}
	if !ok || r.expired(row.Millis(s.LastSeen)) {
		return store.Session{}, notFound("session")
	}
	return s, nil
}

// SaveSession adds or replaces a session, and with it its user.
func (r Records) SaveSession(s store.Session) error {
	old, ok, err := r.session(s.ID)
	if err != nil {
		return err
	}
	if ok && r.expired(row.Millis(old.LastSeen)) {
		if err := r.removeSession(old); err != nil {
			return err
		}
		ok = false
	}
	if ok && old.UserID != s.UserID {
		return fmt.Errorf("session belongs to another user: %w", store.ErrInvalid)
	}
	return r.update(
		func() error { return r.writeSession(s, old, ok) },
		func() error { return r.writeUser(s.UserID, s.Username) },
	)
}

// TouchSession restarts the life of a session, and with it its user's, or returns [store.ErrNotFound].
func (r Records) TouchSession(id string) error {
	s, err := r.Session(id)
	if err != nil {
		return err
	}
	u, ok, err := r.user(s.UserID)
	if err != nil {
		return err
	}
	if !ok {
		u.Username = s.Username
	}
	// Being seen again says nothing about the user's name: another session may have set a newer one.
	return r.update(
		func() error { return r.writeSession(s, s, true) },
		func() error { return r.writeUser(s.UserID, u.Username) },
	)
}

// writeSession makes the session seen now; if replace is set, in place of old.
func (r Records) writeSession(s, old store.Session, replace bool) error {
	if replace {
		if err := r.Rows.Delete(timeKey(kindSessionSeen, uint64(row.Millis(old.LastSeen)), s.ID)); err != nil {
			return err
		}
	}
	value := row.AppendString(row.AppendString(nil, s.UserID), s.Username)
	return r.update(
		r.put(idKey(kindSession, s.ID), row.AppendTime(value, r.Now)),
		r.put(timeKey(kindSessionSeen, uint64(r.now()), s.ID), nil),
	)
}

// writeUser makes the user seen now, under that name.
func (r Records) writeUser(id, username string) error {
	old, ok, err := r.user(id)
	if err != nil {
		return err
	}
	if ok {
		err = r.update(r.drop(userSeenKey(old)), r.drop(nameKey(old)))
	} else {
		err = r.addUsers(1)
	}
	if err != nil {
		return err
	}
	u := store.User{ID: id, Username: username, LastSeen: row.Time(r.now())}
	if ok && old.LastSeen.After(u.LastSeen) {
		u.LastSeen = old.LastSeen // the clock went back: a user still lives as long as their newest session
	}
	return r.update(
		r.put(idKey(kindUser, id), row.AppendTime(row.AppendString(nil, username), u.LastSeen)),
		r.put(userSeenKey(u), nil),
		r.put(nameKey(u), []byte(id)),
	)
}

// removeSession removes a session, and its user if that was the newest session.
func (r Records) removeSession(s store.Session) error {
	err := r.update(
		r.drop(idKey(kindSession, s.ID)),
		r.drop(timeKey(kindSessionSeen, uint64(row.Millis(s.LastSeen)), s.ID)),
	)
	if err != nil {
		return err
	}
	u, ok, err := r.user(s.UserID)
	if err != nil || !ok || !r.expired(row.Millis(u.LastSeen)) {
		return err
	}
	return r.update(
		r.drop(idKey(kindUser, u.ID)), r.drop(userSeenKey(u)), r.drop(nameKey(u)),
		func() error { return r.addUsers(-1) },
	)
}

func (r Records) sweepSessions(limit int) (more bool, err error) {
	ids, more, err := r.due(kindSessionSeen, r.deadline(), limit)
	if err != nil {
		return false, err
	}
	for _, id := range ids {
		s, ok, err := r.session(id)
		if err != nil {
			return false, err
		}
		if !ok {
			return false, row.ErrDamaged
		}
		if err := r.removeSession(s); err != nil {
			return false, err
		}
	}
	return more, nil
}

func userSeenKey(u store.User) []byte {
	return timeKey(kindUserSeen, ^uint64(row.Millis(u.LastSeen)), u.ID)
}

func nameKey(u store.User) []byte {
	return append(append(namePrefix(u.Username), 0, 1), u.ID...)
}

// namePrefix returns what the keys of all names with that prefix start with.
func namePrefix(name string) []byte {
	return append([]byte{kindName}, strings.ReplaceAll(store.Fold(name), "\x00", "\x00\xff")...)
}

func (r Records) users() (int64, error) {
	value := r.Rows.Get([]byte{kindUserCount})
	if value == nil {
		return 0, nil
	}
	fields := row.Read(value)
	return int64(fields.Uint()), fields.Err()
}

func (r Records) addUsers(n int64) error {
	count, err := r.users()
	if err != nil {
		return err
	}
	return r.Rows.Put([]byte{kindUserCount}, row.AppendUint(nil, uint64(count+n)))
}

// Users returns the users seen last, the latest first.
func (r Records) Users(ctx context.Context, limit int) ([]store.User, error) {
	var users []store.User
	if limit <= 0 {
		return nil, nil
	}
	from, to := all(kindUserSeen)
	for key := range r.Rows.Ascend(from, to) {
		if err := check(ctx, len(users)); err != nil {
			return nil, err
		}
		if len(key) < 9 {
			return nil, row.ErrDamaged
		}
		if r.expired(int64(^binary.BigEndian.Uint64(key[1:]))) {
			break
		}
		u, ok, err := r.user(string(key[9:]))
		if err != nil {
			return nil, err
		}
		if !ok {
			return nil, row.ErrDamaged
		}
		if users = append(users, u); len(users) == limit {
			break
		}
	}
	return users, nil
}

// pageRows is how many rows UserPage looks at for each user asked for, so that users who have expired but are not
// swept cannot make it long.
const pageRows = 4

// UserPage returns users in the order of their ids. The cursor is the last id that the former page looked at.
func (r Records) UserPage(ctx context.Context, cursor string, limit int) (users []store.User, next string, err error) {
	if limit <= 0 {
		return nil, cursor, nil
	}
	from, to := all(kindUser)
	if cursor != "" {
		from = append(idKey(kindUser, cursor), 0) // the next key there can be
	}
	seen := 0
	for key, value := range r.Rows.Ascend(from, to) {
		if err := check(ctx, seen); err != nil {
			return nil, "", err
		}
		if len(users) == limit || seen/pageRows >= limit {
			return users, next, nil
		}
		seen++
		fields := row.Read(value)
		u := store.User{ID: string(key[1:]), Username: fields.String(), LastSeen: fields.Time()}
		if err := fields.Err(); err != nil {
			return nil, "", err
		}
		next = u.ID
		if !r.expired(row.Millis(u.LastSeen)) {
			users = append(users, u)
		}
	}
	return users, "", nil
}

// UsersByID returns those of the users that exist, in the order of ids.
func (r Records) UsersByID(ctx context.Context, ids []string) ([]store.User, error) {
	var users []store.User
	for i, id := range ids {
		if err := check(ctx, i); err != nil {
			return nil, err
		}
		u, ok, err := r.liveUser(id)
		if err != nil {
			return nil, err
		}
		if ok {
			users = append(users, u)
		}
	}
	return users, nil
}

// SearchUsers returns users by the start of their folded name, in the order of the folded names.
func (r Records) SearchUsers(ctx context.Context, prefix string, limit int) ([]store.User, error) {
	if limit <= 0 || len(prefix) > store.MaxIDBytes {
		return nil, nil
	}
	var users []store.User
	from := namePrefix(prefix)
	_, to := all(kindName)
	seen := 0
	for key, id := range r.Rows.Ascend(from, to) {
		if !bytes.HasPrefix(key, from) {
			break
		}
		if err := check(ctx, seen); err != nil {
			return nil, err
		}
		seen++
		u, ok, err := r.liveUser(string(id))
		if err != nil {
			return nil, err
		}
		if !ok {
			continue
		}
		if users = append(users, u); len(users) == limit {
			break
		}
	}
	return users, nil
}

// CountUsers returns the number of users: that of all rows, less those that have expired and are not swept.
func (r Records) CountUsers(ctx context.Context) (int, error) {
	count, err := r.users()
	if err != nil {
		return 0, err
	}
	gone := map[string]bool{}
	from, _ := all(kindSessionSeen)
	seen := 0
	for key := range r.Rows.Ascend(from, timeKey(kindSessionSeen, uint64(r.deadline())+1, "")) {
		if err := check(ctx, seen); err != nil {
			return 0, err
		}
		seen++
		s, ok, err := r.session(string(key[min(9, len(key)):]))
		if err != nil {
			return 0, err
		}
		if !ok {
			return 0, row.ErrDamaged
		}
		if u, ok, err := r.user(s.UserID); err != nil {
			return 0, err
		} else if ok && r.expired(row.Millis(u.LastSeen)) {
			gone[u.ID] = true
		}
	}
	return int(count) - len(gone), nil
}

package records

import (
	"bytes"
	"time"

	"parley/store"
	"parley/store/internal/row"
)

// SaveRecovery keeps a recovery for the time given, in place of an earlier one.
func (r Records) SaveRecovery(rec store.Recovery, ttl time.Duration) error {
	if err := r.DeleteRecovery(rec.PID); err != nil {
		return err
	}
	expires := uint64(r.now() + ttl.Milliseconds())
	value := row.AppendUint(nil, expires)
	for _, field := range []string{rec.SID, rec.Namespace, rec.User, rec.Box.App, rec.Box.User} {
		value = row.AppendString(value, field)
	}
	value = row.AppendString(value, rec.Data)
	value = row.AppendTime(value, rec.Disconnected)
	for _, room := range rec.Rooms {
		value = row.AppendString(value, room)
	}
	return r.update(
		r.put(idKey(kindRecovery, rec.PID), value),
		r.put(timeKey(kindExpiry, expires, rec.PID), nil),
	)
}

// TakeRecovery returns and removes a recovery, or returns [store.ErrNotFound].
func (r Records) TakeRecovery(pid string) (store.Recovery, error) {
	value := r.Rows.Get(idKey(kindRecovery, pid))
	if value == nil {
		return store.Recovery{}, notFound("recovery")
	}
	fields := row.Read(value)
	expires := fields.Uint()
	rec := store.Recovery{
		PID: pid, SID: fields.String(), Namespace: fields.String(), User: fields.String(),
		Box:  store.Box{App: fields.String(), User: fields.String()},
		Data: bytes.Clone(fields.Bytes()), Disconnected: fields.Time(),
	}
	for fields.More() {
		rec.Rooms = append(rec.Rooms, fields.String())
	}
	if err := fields.Err(); err != nil {
		return store.Recovery{}, err
	}
	if int64(expires) <= r.now() {
		return store.Recovery{}, notFound("recovery")
	}
	return rec, r.removeRecovery(pid, expires)
}

// DeleteRecovery removes a recovery if it is there.
func (r Records) DeleteRecovery(pid string) error {
	value := r.Rows.Get(idKey(kindRecovery, pid))
	if value == nil {
		return nil
	}
	fields := row.Read(value)
	expires := fields.Uint()
	if err := fields.Err(); err != nil {
		return err
	}
	return r.removeRecovery(pid, expires)
}

func (r Records) removeRecovery(pid string, expires uint64) error {
	return r.update(r.drop(idKey(kindRecovery, pid)), r.drop(timeKey(kindExpiry, expires, pid)))
}

func (r Records) sweepRecoveries(limit int) (more bool, err error) {
	pids, more, err := r.due(kindExpiry, r.now(), limit)
	if err != nil {
		return false, err
	}
	for _, pid := range pids {
		if err := r.DeleteRecovery(pid); err != nil {
			return false, err
		}
	}
	return more, nil
}

package redisstore

import (
	"bytes"
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"parley/store"
	"parley/store/internal/row"
)

// SaveRecovery implements [store.Recoveries].
func (s *Store) SaveRecovery(ctx context.Context, r store.Recovery, ttl time.Duration) error {
	if err := r.Validate(); err != nil {
		return err
	}
	if err := s.usable(ctx); err != nil {
		return err
	}
	var value []byte
	for _, field := range []string{r.SID, r.Namespace, r.User, r.Box.App, r.Box.User} {
		value = row.AppendString(value, field)
	}
	value = row.AppendTime(row.AppendString(value, r.Data), r.Disconnected)
	for _, room := range r.Rooms {
		value = row.AppendString(value, room)
	}
	key := recoveryKey(r.PID)
	failed := func(err error) {
		s.log.Warn().Err(err).Str("sid", r.SID).Msg("a socket cannot be recovered: it was not written")
	}
	save := scriptRecovery.run([]string{key}, max(ttl.Milliseconds(), 1), strconv.FormatUint(r.Turn, 10), value)
	return s.writes.later(ctx, key, failed, save)
}

// turnLife is how long it is known that a recovery was taken or has ended: longer than a process takes to notice that a
// connection was lost. Whoever took it has written it anew by then.
const turnLife = 5 * time.Minute

// TakeRecovery implements [store.Recoveries]. A recovery that has a turn is not used up by that: if the reply is lost, or
// this process dies, the client is recovered the next time.
func (s *Store) TakeRecovery(ctx context.Context, pid string) (store.Recovery, error) {
	if err := s.checkRecovery(ctx, pid); err != nil {
		return store.Recovery{}, err
	}
	key := recoveryKey(pid)
	c := scriptRecovery.run([]string{key}, turnLife.Milliseconds())
	if err := s.writes.do(ctx, key, c); err != nil { // behind the writes, in their order
		return store.Recovery{}, fmt.Errorf("take recovery: %w", err)
	}
	value, ok := c.Val().(string)
	if !ok {
		return store.Recovery{}, notFound("recovery")
	}
	head, value, _ := strings.Cut(value, " ")
	number, back := strings.CutSuffix(head, "+")
	turn, err := strconv.ParseUint(number, 10, 64)
	if err != nil {
		return store.Recovery{}, errReply
	}
	fields := row.Read([]byte(value))
	r := store.Recovery{
		PID: pid, Turn: turn, SID: fields.String(), Namespace: fields.String(), User: fields.String(),
		Box:  store.Box{App: fields.String(), User: fields.String()},
		Data: bytes.Clone(fields.Bytes()), Disconnected: fields.Time(),
	}
	if back {
		r.Disconnected = time.Time{} // that is over
	}
	for fields.More() {
		r.Rooms = append(r.Rooms, fields.String())
	}
	return r, fields.Err()
}

// DeleteRecovery implements [store.Recoveries]. What is still to be written of it, under the turn that it has, is not.
func (s *Store) DeleteRecovery(ctx context.Context, pid string) error {
	if err := s.checkRecovery(ctx, pid); err != nil {
		return err
	}
	key := recoveryKey(pid)
	if err := s.writes.do(ctx, key, scriptRecovery.run([]string{key}, turnLife.Milliseconds(), "end")); err != nil {
		return fmt.Errorf("delete recovery: %w", err)
	}
	return nil
}

func (s *Store) checkRecovery(ctx context.Context, pid string) error {
	if err := store.CheckID("pid", pid); err != nil {
		return err
	}
	return s.usable(ctx)
}

// Package records keeps sessions, users and recoveries as rows of an ordered key space. Both embedded stores use it:
// memory over a skip list, file over a bbolt bucket.
//
// The first byte of a key says what the row is. Times are unix milliseconds, big-endian; ^ is the complement, so that
// the latest comes first; "string" is length and bytes.
//
//	s  session id                    user id string, username string, last seen
//	t  last seen, session id         -            (what expires next)
//	u  user id                       username string, last seen
//	v  ^last seen, user id           -            (the latest first)
//	n  folded username, 0 1, user id user id      (in the order of names; 0 in a name is written 0 255)
//	c                                number of users
//	r  pid                           expires, recovery
//	e  expires, pid                  -            (what expires next)
//
// Every function takes the moment at which it acts; what has expired by then is not there, swept or not. A function
// that returns [store.ErrNotFound] or [store.ErrInvalid] has written nothing.
package records

import (
	"context"
	"fmt"
	"iter"
	"time"

	"parley/store"
	"parley/store/internal/row"
)

// Rows is an ordered key space. Keys and values passed in may be kept until the transaction ends, not changed; those
// returned belong to the rows and are valid until the next change.
type Rows interface {
	Get(key []byte) []byte // nil if missing
	Put(key, value []byte) error
	Delete(key []byte) error
	Ascend(from, to []byte) iter.Seq2[[]byte, []byte] // from <= key < to; no changes meanwhile
}

const (
	kindSession     = 's'
	kindSessionSeen = 't'
	kindUser        = 'u'
	kindUserSeen    = 'v'
	kindName        = 'n'
	kindUserCount   = 'c'
	kindRecovery    = 'r'
	kindExpiry      = 'e'
)

// Records are the rows of one store.
type Records struct {
	Rows Rows
	Now  time.Time     // the moment at which the calls act
	TTL  time.Duration // how long a session lives
}

func idKey(kind byte, id string) []byte { return append([]byte{kind}, id...) }

func timeKey(kind byte, at uint64, id string) []byte {
	return append(row.AppendUint([]byte{kind}, at), id...)
}

// all returns the bounds of all keys of a kind.
func all(kind byte) (from, to []byte) { return []byte{kind}, []byte{kind + 1} }

// now is the moment, in the form that rows have it.
func (r Records) now() int64 { return row.Millis(r.Now) }

// expired reports whether what was last seen then is gone by now.
func (r Records) expired(seen int64) bool { return seen <= r.deadline() }

// deadline is the last seen time up to which sessions have expired.
func (r Records) deadline() int64 { return r.now() - r.TTL.Milliseconds() }

// update applies changes until one fails.
func (r Records) update(changes ...func() error) error {
	for _, change := range changes {
		if err := change(); err != nil {
			return err
		}
	}
	return nil
}

func (r Records) put(key, value []byte) func() error {
	return func() error { return r.Rows.Put(key, value) }
}

func (r Records) drop(key []byte) func() error {
	return func() error { return r.Rows.Delete(key) }
}

// Sweep removes what has expired, at most limit sessions and limit recoveries, and reports whether more is left.
func (r Records) Sweep(limit int) (more bool, err error) {
	moreSessions, err := r.sweepSessions(limit)
	if err != nil {
		return false, err
	}
	moreRecoveries, err := r.sweepRecoveries(limit)
	return moreSessions || moreRecoveries, err
}

// due returns the ids of the keys of kind whose time is not after the deadline, at most limit of them.
func (r Records) due(kind byte, deadline int64, limit int) (ids []string, more bool, err error) {
	from, _ := all(kind)
	for key := range r.Rows.Ascend(from, timeKey(kind, uint64(deadline)+1, "")) {
		if len(ids) == limit {
			return ids, true, nil
		}
		if len(key) < 9 {
			return nil, false, row.ErrDamaged
		}
		ids = append(ids, string(key[9:]))
	}
	return ids, false, nil
}

// Due reports whether Sweep has something to do.
func (r Records) Due() bool {
	sessions, _, _ := r.due(kindSessionSeen, r.deadline(), 1)
	recoveries, _, _ := r.due(kindExpiry, r.now(), 1)
	return len(sessions)+len(recoveries) > 0
}

// stride is how many rows a walk passes between looks at its context.
const stride = 256

// check returns the context's error, every stride-th time.
func check(ctx context.Context, i int) error {
	if i%stride != stride-1 {
		return nil
	}
	return ctx.Err()
}

func notFound(what string) error { return fmt.Errorf("%s: %w", what, store.ErrNotFound) }

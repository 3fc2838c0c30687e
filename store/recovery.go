package store

import (
	"context"
	"time"
)

// Recovery is what a socket needs to be picked up again after its connection was lost: Socket.IO connection state
// recovery.
type Recovery struct {
	PID          string // the private id that the client shows; a secret
	SID          string
	Namespace    string
	User         string
	Box          Box
	Rooms        []string
	Data         []byte // opaque to the store
	Disconnected time.Time
	// Turn counts how often the client has come back. Between processes, what a former one still has to say must not
	// replace what a later one has said.
	Turn uint64
}

// Recoveries hold sockets that may come back. They are changed in the order of the calls.
type Recoveries interface {
	// SaveRecovery keeps r for the time given, in place of an earlier one with the same PID. It does not wait until
	// that is durable, only while too many others are waiting. Where several processes share the store, one whose Turn
	// was taken already, or is lower than that of the one that is kept, is dropped, unless it is zero.
	SaveRecovery(ctx context.Context, r Recovery, ttl time.Duration) error
	// TakeRecovery returns and removes a recovery: of any number of calls with the same pid, one gets it and the
	// others get [ErrNotFound]. Where several processes share the store, one that has a Turn is not removed: each call
	// gets it under a later Turn, and from the second one on it is that of a live socket (no Disconnected), until it is
	// saved under that Turn or has expired. So nothing is lost with a process that took it.
	TakeRecovery(ctx context.Context, pid string) (Recovery, error)
	// DeleteRecovery removes a recovery if it is there.
	DeleteRecovery(ctx context.Context, pid string) error
}

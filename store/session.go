package store

import (
	"context"
	"time"
)

// Session ties a secret id, which a client keeps, to a user.
type Session struct {
	ID       string
	UserID   string
	Username string // any text up to MaxIDBytes; need not be unique
	// LastSeen is when the session was last saved or touched. The store sets it; SaveSession ignores the one given.
	LastSeen time.Time
}

// User is a user as the sessions know them: the name of the session saved last, the time of the one seen last. A user
// lives as long as their newest session.
type User struct {
	ID       string
	Username string
	LastSeen time.Time
}

// Sessions hold who is who. A session lives for the session TTL after it was last saved or touched. The user of a
// session never changes. No cost depends on the number of users, except by the limit asked for.
type Sessions interface {
	// Session returns a session, or [ErrNotFound].
	Session(ctx context.Context, id string) (Session, error)
	// SaveSession adds or replaces a session and returns once that is durable.
	SaveSession(ctx context.Context, session Session) error
	// TouchSession restarts the life of a session, or returns [ErrNotFound]. It may be lost in a crash.
	TouchSession(ctx context.Context, id string) error

	// Users returns the users seen last, the latest first, at most limit.
	Users(ctx context.Context, limit int) ([]User, error)
	// UserPage walks all users in an order of the store's own: each call returns at most limit, and the cursor for the
	// next call, which is empty at the end. The first cursor is empty. A user who is there throughout the walk is
	// returned once. A page may be short, even empty, before the end.
	UserPage(ctx context.Context, cursor string, limit int) (users []User, next string, err error)
	// UsersByID returns those of the users that exist, in the order of ids.
	UsersByID(ctx context.Context, ids []string) ([]User, error)
	// SearchUsers returns users whose name, case-folded, starts with the case-folded prefix, in the order of the
	// folded names, at most limit.
	SearchUsers(ctx context.Context, prefix string, limit int) ([]User, error)
	// CountUsers returns the number of users.
	CountUsers(ctx context.Context) (int, error)
}

package store

import "context"

// Presence knows the open sockets of each user. It does not outlive the processes that own the sockets. For one user,
// the transitions that it reports alternate: first, last, first, last.
type Presence interface {
	// Connect adds a socket of a user, and reports whether the user was offline before. A socket that is known
	// already changes nothing.
	Connect(ctx context.Context, user, socket string) (first bool, err error)
	// Disconnect removes a socket of a user, and reports whether the user is offline now. A socket that is not known
	// changes nothing and is never the last.
	Disconnect(ctx context.Context, user, socket string) (last bool, err error)
	// Online reports which of the users have a socket, parallel to users.
	Online(ctx context.Context, users []string) ([]bool, error)
}

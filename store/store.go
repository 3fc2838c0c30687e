// Package store says what Parley keeps and what it promises about it; the subpackages memory, file and redis keep it, and
// package storetest is the suite that every implementation passes.
//
// There are five parts. [Mailboxes] hold the numbered entries of each user: they are the truth that pub/sub only
// announces. [Marks] hold how far each conversation of a mailbox has come. [Sessions] hold who is who, and are the source of
// the roster. [Presence] counts the sockets of each user. [Recoveries] hold what a socket needs to be picked up again
// after its connection was lost.
//
// No method needs atomicity across two mailboxes or two users, so an implementation may spread them over machines.
//
// Rules for every method:
//   - Methods may be called from any number of goroutines.
//   - A method returns early when its context ends, with the context's error. A write that returned so may still happen.
//   - What is passed in is not kept or changed after the call; what is returned belongs to the caller.
//   - Ids are opaque bytes: case matters, and any byte may occur. An id that is empty or longer than [MaxIDBytes] gives
//     [ErrInvalid].
//   - After Close every method returns [ErrClosed].
//   - Times are kept to the millisecond.
package store

import (
	"errors"
	"time"
)

// Errors that callers branch on. They arrive wrapped: compare with errors.Is.
var (
	// ErrNotFound means that the session or recovery does not exist, or no longer.
	ErrNotFound = errors.New("not found")
	// ErrUnknownOffset means that the mailbox cannot continue from an offset: it belongs to another incarnation of
	// the mailbox, was never given out, or entries after it are gone. The reader must start from a snapshot.
	ErrUnknownOffset = errors.New("unknown offset")
	// ErrInvalid means that an argument can never be stored. Trying again does not help.
	ErrInvalid = errors.New("invalid argument")
	// ErrUnavailable means that the store cannot do its work now: nothing may be acknowledged. Trying again later,
	// with the same message id, is safe.
	ErrUnavailable = errors.New("store unavailable")
	// ErrClosed means that the store was closed.
	ErrClosed = errors.New("store closed")
)

// Store is everything Parley keeps.
type Store interface {
	Mailboxes
	Marks
	Sessions
	Presence
	Recoveries

	// Close finishes the writes that were accepted, makes them durable, and frees what the store holds. It may be
	// called more than once.
	Close() error
	// String names the kind and place of the store in a few words, for the start-up line.
	String() string
}

// Defaults of [Options].
const (
	DefaultSessionTTL   = 24 * time.Hour
	DefaultMessageTTL   = 24 * time.Hour
	DefaultMailboxLimit = 10000
)

// Options are the settings that all stores share. The zero value is ready for use.
type Options struct {
	// SessionTTL is how long a session lives after it was last saved or touched. Default 24 h.
	SessionTTL time.Duration
	// MessageTTL is how long a mailbox lives after its last entry. Default 24 h.
	MessageTTL time.Duration
	// MailboxLimit is how many entries a mailbox keeps; the oldest make room. Default 10,000.
	MailboxLimit int
	// Now tells the time. Default time.Now.
	Now func() time.Time
}

// WithDefaults returns o with every unset or unusable setting replaced by its default.
func (o Options) WithDefaults() Options {
	if o.SessionTTL <= 0 {
		o.SessionTTL = DefaultSessionTTL
	}
	if o.MessageTTL <= 0 {
		o.MessageTTL = DefaultMessageTTL
	}
	if o.MailboxLimit <= 0 {
		o.MailboxLimit = DefaultMailboxLimit
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return o
}

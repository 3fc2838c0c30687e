package store

import (
	"context"
	"time"
)

// Box names a mailbox: the entries of one user in one application.
type Box struct {
	App  string // the application, such as "chat"
	User string
}

// Entry is one message in a mailbox.
type Entry struct {
	Offset           // its place: numbers start at 1 and have no gaps
	ID     string    // the id that the sender chose
	At     time.Time // when it was first posted
	Peer   string    // the conversation it belongs to in this mailbox; may be empty
	Origin string    // the socket it came from; may be empty
	Data   []byte    // opaque to the store
}

// Post is a message on its way into one or more mailboxes.
type Post struct {
	ID     string     // chosen by the sender; a second post with the same Sender and ID is a retry
	Fresh  bool       // ID was made at random for this very call: a store need not look for an earlier copy. No retry is fresh
	Sender string     // the user who sends; makes ID unique
	Origin string     // see Entry
	At     time.Time  // when it was posted; zero means now
	Data   []byte     // opaque to the store
	To     []Delivery // 1 to MaxDeliveries; a mailbox that occurs twice gets one entry
}

// Delivery is one mailbox that a [Post] goes to.
type Delivery struct {
	Box  Box
	Peer string // see Entry
	Sent bool   // the owner of the mailbox is the sender; of a mailbox that occurs twice, the first says so
}

// Receipt is what the sender of a [Post] learns.
type Receipt struct {
	ID      string
	At      time.Time // of the first post with this Sender and ID
	Offsets []Offset  // parallel to Post.To
	// Duplicate is true when all mailboxes had the message already: the post was a retry that changed nothing.
	Duplicate bool
}

// Conversation is the newest part of what a mailbox holds of one peer.
type Conversation struct {
	Peer    string
	Entries []Entry // in ascending order
}

// Overview is a mailbox at one moment.
type Overview struct {
	Tail          Offset         // of the newest entry; zero for an empty mailbox
	Conversations []Conversation // the one with the newest entry first
}

// Mailboxes hold numbered entries per user.
//
// A mailbox comes into being with its first entry, and is gone, with all entries, when none was added for the message
// TTL; the next one starts again at number 1 with a later epoch. It keeps the newest entries, up to its limit.
type Mailboxes interface {
	// Append adds the post to all its mailboxes and returns once that is durable.
	//
	// It is atomic per mailbox, but not across mailboxes: after an error the post may be in none, some or all of
	// them, and the same post again completes it. As long as a mailbox keeps an entry with the same Sender and ID,
	// it is not added again: the receipt then has the first one's time and number, and the new Data is ignored.
	Append(ctx context.Context, post Post) (Receipt, error)

	// After returns the entries that follow the offset, in ascending order, at most limit of them. The zero offset
	// stands before the oldest entry that is kept. It returns [ErrUnknownOffset] when the entries that follow cannot
	// be told for sure.
	After(ctx context.Context, box Box, offset Offset, limit int) ([]Entry, error)

	// Tail returns the offset of the newest entry, or the zero offset if the mailbox does not exist.
	Tail(ctx context.Context, box Box) (Offset, error)

	// Conversation returns one page of what the mailbox holds of a peer: the newest entries whose number is less
	// than before (0: the newest of all), at most limit of them, in ascending order.
	Conversation(ctx context.Context, box Box, peer string, before uint64, limit int) ([]Entry, error)

	// Overview returns the newest perPeer entries of each of the newest conversations, at most peers of them. It is
	// one snapshot: what is added later comes after its Tail. Its cost depends on the size of the answer alone.
	Overview(ctx context.Context, box Box, peers, perPeer int) (Overview, error)
}

package fanout

import (
	"parley/engineio"
	"parley/shard"
	"parley/store"
)

// Host is what a fan-out between processes asks of the layer above it. Its methods are called from the fan-out's
// goroutines, several at a time unless it says otherwise, also for namespaces that the host does not have.
type Host interface {
	// OffsetMode says what becomes of the offset of an event that another process emitted. text is its packet.
	OffsetMode(namespace string, text []byte, flags engineio.Flags) shard.OffsetMode
	// NextAckID returns an acknowledgement id that no other packet of the namespace has.
	NextAckID(namespace string) uint64
	// ServerSide handles an event that another server emitted to the servers: a JSON array of its name and
	// arguments. One is handled at a time, so a handler that takes long goes on in a goroutine of its own. ack
	// is nil if the other wants no answer; otherwise its first call counts, from any goroutine.
	ServerSide(namespace string, data []byte, attachments [][]byte, ack func(Answer))
	// Emitted hands over an event that another server emitted, before sockets of this process get it: deliver gives
	// it to them, and is to be called once, or not at all to keep it from them; its error is to be returned. data is a
	// JSON array of the event's name and arguments. The sender's next event waits until it returns.
	Emitted(sel shard.Selector, data []byte, deliver func() error) error
	// Unready tells whether an entry of a mailbox that another process announces, with data as of Emitted, can't be given to
	// the followers here as it is: it is to be read from the store instead, which may take a while. It is asked of each
	// entry, and returns at once.
	Unready(namespace string, box store.Box, data []byte) bool
	// Resubscribed says that what others published may have been missed: mail is to be read from the store.
	Resubscribed()
	// Unpublished says that others may have missed what this process published.
	Unpublished()
}

// Answer is one value that a server answered with: JSON text, nil for nothing, and the attachments that its
// placeholders stand for.
type Answer struct {
	JSON        []byte
	Attachments [][]byte
}

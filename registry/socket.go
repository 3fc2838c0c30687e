package registry

import (
	"slices"

	"parley/engineio"
)

// Outbound is the sending side of the connection below a socket; *engineio.Conn is one. Its methods never
// block.
type Outbound interface {
	// Enqueue queues m; false means that the connection is closed, or now closing because its client is
	// too slow. A volatile message that is dropped counts as taken.
	Enqueue(m *engineio.Message, flags engineio.Flags) bool
	// Flush writes what is queued.
	Flush()
	// Close ends the connection.
	Close(reason engineio.Reason)
}

// Socket is one client in one namespace, as its shard sees it.
type Socket struct {
	// Fixed after construction.

	ID        string
	Namespace string
	Key       string   // decides the owning shard: the user's id, or the socket's own where there is no user
	Out       Outbound // nil once the socket is parked, waiting for its client to come back
	App       any      // the socket of the layer above, which the registry does not look into

	// Owned by the shard.

	Acks    map[uint64]Ack // the acknowledgements that the client owes, by id; nil until one is
	Touched bool           // has frames that this turn has not flushed yet
	Waiting bool           // has frames that may wait for others
	rooms   []string
	mark    uint64    // the last selection that named this socket
	in      *Registry // which the socket is in, or nil
}

// Ack receives what a client acknowledges. Its methods are called from the shard's goroutine and must not
// block.
type Ack interface {
	// Acknowledge takes the answer: a JSON array and its attachments.
	Acknowledge(data []byte, attachments [][]byte)
	// Lost says that the socket went away without answering.
	Lost()
}

// Rooms returns a copy of the socket's rooms, in the order it joined them.
func (s *Socket) Rooms() []string { return slices.Clone(s.rooms) }

// RoomCount returns how many rooms the socket is in.
func (s *Socket) RoomCount() int { return len(s.rooms) }

// In tells whether the socket is in any of rooms.
func (s *Socket) In(rooms []string) bool {
	for _, room := range s.rooms {
		if slices.Contains(rooms, room) {
			return true
		}
	}
	return false
}

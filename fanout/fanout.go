// Package fanout carries events to all shards of all processes. A Fanout is what the socketio package emits
// through; Local serves one process.
package fanout

import (
	"context"
	"encoding/json"

	"parley/shard"
)

// Fanout delivers to every socket concerned, wherever it is connected. All methods are safe for concurrent
// use. Delivery to the sockets of this process is in the order of one caller's calls; delivery beyond it is
// at most once, which is why what must not be lost goes through Deliver.
type Fanout interface {
	// Emit gives an event to the sockets that its selector names.
	Emit(ctx context.Context, e *shard.Envelope) error
	// Deliver wakes the followers of mailboxes with entries that are in the store already. Those of one message are best
	// handed in together: other processes are told of them at once.
	Deliver(ctx context.Context, mails ...shard.Mail) error
	// Join puts the selected sockets into rooms.
	Join(ctx context.Context, sel shard.Selector, rooms []string) error
	// Leave takes the selected sockets out of rooms.
	Leave(ctx context.Context, sel shard.Selector, rooms []string) error
	// Disconnect ends the selected sockets, and with closing their connections too.
	Disconnect(ctx context.Context, sel shard.Selector, closing bool) error
	// Fetch describes the selected sockets. With an error it returns those that it could reach.
	Fetch(ctx context.Context, sel shard.Selector) ([]Socket, error)
	// ServerSideEmit gives an event, a JSON array of its name and arguments, to the Hosts of the other servers.
	ServerSideEmit(ctx context.Context, namespace string, data []byte, attachments [][]byte) error
	// ServerSideEmitWithAck is ServerSideEmit, and returns what each of the other servers answered. With an error
	// it returns the answers that came.
	ServerSideEmitWithAck(ctx context.Context, namespace string, data []byte, attachments [][]byte) ([]Answer, error)
	// Open says that this process has a namespace now, and Shut that it has it no more. Emitting to one opens it.
	Open(namespace string)
	Shut(namespace string)
	// Wait returns when what other processes emit to the namespace and to those rooms, which must have members
	// here, reaches this one.
	Wait(ctx context.Context, namespace string, rooms ...string) error
	// Close ends the fan-out's own work. The shards are stopped after it.
	Close() error
}

// Socket describes a socket of any process (socketio.md section 10, fetchSockets).
type Socket struct {
	ID        string          `json:"id"`
	Handshake json.RawMessage `json:"handshake"`
	Rooms     []string        `json:"rooms"`
	Data      json.RawMessage `json:"data"`
}

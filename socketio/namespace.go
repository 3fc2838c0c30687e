package socketio

import (
	"context"
	"encoding/json"
	"fmt"
	"sync/atomic"

	"parley/engineio"
	"parley/shard"
	"parley/socketio/packet"
)

// Reason says why a socket was disconnected, in the words of the Node server (socketio.md section 5).
type Reason = engineio.Reason

// Reasons that this layer adds to the engine's.
const (
	ReasonClientDisconnect Reason = "client namespace disconnect"
	ReasonServerDisconnect Reason = "server namespace disconnect"
)

// Namespace is a part of the server with its own handlers, rooms and sockets. The functions that register
// something are for start-up, before clients connect; all others are safe for concurrent use.
type Namespace struct {
	*Operator // emits to all sockets of the namespace

	server *Server
	name   string
	app    *application

	// Dynamic namespaces.

	match  func(name string, auth json.RawMessage) bool // set on a parent
	parent *Namespace                                   // set on a child
	held   atomic.Int64                                 // sockets and connects under way
}

// application is what a developer registers. A dynamic namespace shares its parent's. It does not change
// once clients connect.
type application struct {
	connect       []func(context.Context, *Socket) error
	packets       []func(context.Context, *Event) error
	connection    []func(context.Context, *Socket)
	disconnecting []func(context.Context, *Socket, Reason)
	disconnect    []func(context.Context, *Socket, Reason)
	incoming      []func(context.Context, *Event)
	outgoing      []func(event string, args []any)
	events        map[string]func(context.Context, *Event) error
	serverSide    map[string]serverSideHandler
	elsewhere     []elsewhere
	missed        []func()
	recovery      *Recovery
	mail          *Mail

	ackIDs atomic.Uint64 // the next acknowledgement id, shared by all sockets (socketio.md section 6)
}

func newNamespace(s *Server, name string, app *application) *Namespace {
	n := &Namespace{server: s, name: name, app: app}
	n.Operator = &Operator{namespace: n}
	return n
}

func (n *Namespace) hold() { n.held.Add(1) }

// Name returns the namespace's name, which begins with a slash.
func (n *Namespace) Name() string { return n.name }

// Use adds a connect middleware. They run in order, in the connection's goroutine, before the socket joins;
// the first error refuses it with a CONNECT_ERROR.
func (n *Namespace) Use(f func(context.Context, *Socket) error) {
	n.app.connect = append(n.app.connect, f)
}

// UsePacket adds a middleware for incoming events. The first error drops the event; no acknowledgement is
// sent (socketio.md section 6).
func (n *Namespace) UsePacket(f func(context.Context, *Event) error) {
	n.app.packets = append(n.app.packets, f)
}

// OnConnection adds a listener for sockets that have joined. The socket's events wait until it returns.
func (n *Namespace) OnConnection(f func(context.Context, *Socket)) {
	n.app.connection = append(n.app.connection, f)
}

// OnDisconnecting adds a listener for sockets that are about to leave, with their rooms still there.
func (n *Namespace) OnDisconnecting(f func(context.Context, *Socket, Reason)) {
	n.app.disconnecting = append(n.app.disconnecting, f)
}

// OnDisconnect adds a listener for sockets that have left. It runs once for each socket whose connection
// listeners ran, after them.
func (n *Namespace) OnDisconnect(f func(context.Context, *Socket, Reason)) {
	n.app.disconnect = append(n.app.disconnect, f)
}

// OnAny adds a listener for every incoming event, before its handler.
func (n *Namespace) OnAny(f func(context.Context, *Event)) {
	n.app.incoming = append(n.app.incoming, f)
}

// OnAnyOutgoing adds a listener for every event that is emitted, broadcasts included, once for each emit. It
// runs in the emitting goroutine.
func (n *Namespace) OnAnyOutgoing(f func(event string, args []any)) {
	n.app.outgoing = append(n.app.outgoing, f)
}

// encodeEvent returns the packet of an event.
func (n *Namespace) encodeEvent(event string, args []any) (*engineio.Message, error) {
	return n.encodeEmit(&packet.Packet{Type: packet.Event}, event, args, "")
}

// encodeAt is encodeEvent with an offset as the last argument.
func (n *Namespace) encodeAt(event string, args []any, offset string) (*engineio.Message, error) {
	return n.encodeEmit(&packet.Packet{Type: packet.Event}, event, args, offset)
}

// encodeAsk returns the packet of an event that is to be acknowledged, with an id that no other packet of the
// namespace has.
func (n *Namespace) encodeAsk(event string, args []any) (id uint64, m *engineio.Message, err error) {
	id = n.app.ackIDs.Add(1) - 1
	m, err = n.encodeEmit(&packet.Packet{Type: packet.Event, ID: id, HasID: true}, event, args, "")
	return id, m, err
}

func (n *Namespace) encodeEmit(p *packet.Packet, event string, args []any, offset string) (*engineio.Message, error) {
	if packet.Reserved(event) {
		return nil, fmt.Errorf("emit %q: %w", event, ErrReserved)
	}
	p.Namespace = n.name
	m, err := n.finish(packet.AppendEvent(newBuffer(messageBytes), p, event, args, offset))
	if err != nil {
		return nil, fmt.Errorf("emit %q: %w", event, err)
	}
	return m, nil
}

// What the buffers of messages start with: most fit.
const (
	messageBytes = 256
	ackBytes     = 128
)

// newBuffer returns what a message is encoded into, once, whatever the number of sockets.
func newBuffer(size int) []byte { return make([]byte, engineio.Headroom, size) }

// finish returns a message that was encoded into newBuffer as it goes to the wire.
func (n *Namespace) finish(buf []byte, attachments [][]byte, err error) (*engineio.Message, error) {
	if err != nil {
		return nil, err
	}
	if limit := n.server.options.MaxAttachments; len(attachments) > limit {
		return nil, fmt.Errorf("%d attachments: receivers take %d at most", len(attachments), limit)
	}
	return engineio.NewMessageInPlace(buf, attachments...), nil
}

// envelope returns m on its way to the sockets of sel.
func envelope(m *engineio.Message, sel shard.Selector) *shard.Envelope {
	return &shard.Envelope{Selector: sel, Message: m, Text: m.Text(), Attachments: m.Attachments()}
}

// sent tells the outgoing listeners of an event that is about to be sent.
func (n *Namespace) sent(event string, args []any) {
	for _, f := range n.app.outgoing {
		f(event, args)
	}
}

// connectPacket is the answer to a CONNECT (socketio.md section 4).
func (n *Namespace) connectPacket(sid, pid string) *engineio.Message {
	buf := packet.Append(newBuffer(messageBytes), &packet.Packet{Type: packet.Connect, Namespace: n.name})
	buf = packet.AppendString(append(buf, `{"sid":`...), sid)
	if pid != "" {
		buf = packet.AppendString(append(buf, `,"pid":`...), pid)
	}
	return engineio.NewMessageInPlace(append(buf, '}'))
}

func controlPacket(namespace string, t packet.Type, data []byte) *engineio.Message {
	return engineio.NewMessage(packet.Append(nil, &packet.Packet{Type: t, Namespace: namespace, Data: data}))
}

// Package client is a small Socket.IO 5 client: for tests, the checker and benchmarks, which need to hold many
// connections, to see every packet in order, and to break a connection in ways that a library for
// applications would not offer. It reconnects by no means of its own: a caller carries the State of an ended
// connection into the next one, as the JavaScript client does within itself.
//
//	c, err := client.Connect(ctx, client.Options{
//		URL:     "http://127.0.0.1:3000",
//		Auth:    map[string]string{"username": "alice"},
//		OnEvent: func(c *client.Client, e client.Event) { fmt.Println(e.Name, e.Values) },
//	})
//	answer, err := c.EmitWithAck(ctx, "private message", message)
//	c.Cut()
//	<-c.Done()
//	c, err = client.Connect(ctx, client.Options{URL: url, State: c.State()})
package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"sync"
	"time"

	engine "parley/engineio/packet"
	"parley/socketio/packet"
)

// Transport says how a connection carries its packets.
type Transport string

// The transports of Engine.IO 4 that there is code for.
const (
	WebSocket Transport = "websocket" // the default
	Polling   Transport = "polling"
	Upgrade   Transport = "upgrade" // polling, and WebSocket as soon as that works
)

// Options says where to connect, and as who.
type Options struct {
	// URL of the server. Its path, if it has one, replaces /socket.io/; its query is kept.
	URL string
	// Namespace to join. Default "/".
	Namespace string
	// Auth is a JSON object for the CONNECT packet; nil for none.
	Auth any
	// State of an earlier connection, to recover it. Keys of the same names in Auth win.
	State State
	// Transport to use. Default WebSocket.
	Transport Transport
	// Header is sent with every HTTP request.
	Header http.Header
	// OnEvent gets every event in order, in the connection's reading goroutine: until it returns nothing more
	// is read, not even a heartbeat. It must not wait for an acknowledgement. It may run before Connect has
	// returned; the Client that it is given is connected. Nil drops events.
	OnEvent func(*Client, Event)
	// Dial opens TCP connections. Default: net.Dialer's.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
}

// State is what a client keeps of a connection to recover it (socketio.md section 8). The zero value is that
// of a client which was never connected.
type State struct {
	SID    string // socket id
	PID    string // private id; empty if the server recovers nothing
	Offset string // of the last event that OnEvent has handled
}

// Args are the arguments of an event or an acknowledgement, not decoded yet.
type Args struct {
	Values      []json.RawMessage
	Attachments [][]byte
}

// Decode stores the i-th argument in v as json.Unmarshal does, attachments included. It fails if there is no
// i-th argument.
func (a Args) Decode(i int, v any) error {
	if i < 0 || i >= len(a.Values) {
		return fmt.Errorf("there is no argument %d among %d", i, len(a.Values))
	}
	return packet.DecodeArg(a.Values[i], a.Attachments, v)
}

// Event is an event that the server sent. Its arguments may be kept.
type Event struct {
	Name string
	Args

	id      uint64
	wantAck bool
}

// WantsAck tells whether the server waits for Client.Ack.
func (e Event) WantsAck() bool { return e.wantAck }

// Errors that end a connection or an emit.
var (
	// ErrClosed means that this side ended the connection, by Close or Cut.
	ErrClosed = errors.New("connection was closed by the client")
	// ErrServerDisconnect means that the server sent a DISCONNECT packet: it does not want the client back.
	ErrServerDisconnect = errors.New("server disconnected the socket")
	// ErrDisconnected means that the connection ended before the answer came.
	ErrDisconnected = errors.New("socket has been disconnected")
)

// ConnectError is the server's refusal of a namespace.
type ConnectError struct {
	Message string          `json:"message"`
	Data    json.RawMessage `json:"data"`
}

// Error implements error.
func (e *ConnectError) Error() string { return "connect refused: " + e.Message }

// maxEarly bounds the events that may come before CONNECT: those that a recovered client missed.
const maxEarly = 1 << 17

// Client is one connection. All methods are safe for concurrent use.
type Client struct {
	// Fixed after construction.

	options   Options
	transport transport
	ready     chan struct{} // closed when the server has taken the socket in
	done      chan struct{} // closed when the reading goroutine has ended

	// Owned by the reading goroutine.

	decoder packet.Decoder
	early   []Event // came before CONNECT, as what was missed does

	mu        sync.Mutex
	state     State
	joined    bool
	recovered bool
	leaving   bool // Close or Cut was called
	nextID    uint64
	acks      map[uint64]chan<- Args
	err       error // why the connection ended
}

// Connect opens a connection and joins the namespace. ctx bounds that, not the connection's life. A refusal
// is a *ConnectError. Every Client that Connect returns has to be ended, by either side, to free what it holds;
// it may have ended already.
func Connect(ctx context.Context, o Options) (*Client, error) {
	if o.Namespace == "" {
		o.Namespace = "/"
	}
	if o.OnEvent == nil {
		o.OnEvent = func(*Client, Event) {}
	}
	if o.Dial == nil {
		o.Dial = new(net.Dialer).DialContext
	}
	address, err := url.Parse(o.URL)
	if err != nil {
		return nil, fmt.Errorf("connect: %w", err)
	}
	if address.Path == "" || address.Path == "/" {
		address.Path = "/socket.io/"
	}
	auth, err := connectPayload(o)
	if err != nil {
		return nil, fmt.Errorf("connect: %w", err)
	}
	c := &Client{
		options: o, state: o.State,
		ready: make(chan struct{}), done: make(chan struct{}), acks: make(map[uint64]chan<- Args),
	}
	switch o.Transport {
	case WebSocket, "":
		c.transport, err = dialWebSocket(ctx, address, o)
	case Polling, Upgrade:
		c.transport = newPolling(address, o)
	default:
		err = fmt.Errorf("there is no transport %q", o.Transport)
	}
	if err != nil {
		return nil, fmt.Errorf("connect: %w", err)
	}
	go c.read(&packet.Packet{Type: packet.Connect, Namespace: o.Namespace, Data: auth})
	select {
	case <-c.ready:
		return c, nil
	case <-c.done:
		err = c.Err()
	case <-ctx.Done():
		c.Cut()
		<-c.done
		err = fmt.Errorf("connect: %w", ctx.Err())
	}
	select {
	case <-c.ready:
		return c, nil // it was connected, if only for a moment: OnEvent may have been called
	default:
		return nil, err
	}
}

// connectPayload returns the JSON object of the CONNECT packet.
func connectPayload(o Options) ([]byte, error) {
	payload := make(map[string]json.RawMessage)
	if o.State.PID != "" {
		payload["pid"], _ = json.Marshal(o.State.PID)
		if o.State.Offset != "" {
			payload["offset"], _ = json.Marshal(o.State.Offset)
		}
	}
	if o.Auth != nil {
		auth, err := json.Marshal(o.Auth)
		if err != nil {
			return nil, fmt.Errorf("auth: %w", err)
		}
		if err := json.Unmarshal(auth, &payload); err != nil {
			return nil, fmt.Errorf("auth has to be a JSON object: %w", err)
		}
	}
	if len(payload) == 0 {
		return nil, nil
	}
	return json.Marshal(payload)
}

// SID returns the socket's id.
func (c *Client) SID() string { return c.State().SID }

// Recovered tells whether the server took up the connection that State was of: whatever was missed since has
// been or is being delivered.
func (c *Client) Recovered() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.recovered
}

// State returns what the next connection needs to recover this one. It is final after Done.
func (c *Client) State() State {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.state
}

// Done is closed when the connection has ended and OnEvent will not be called any more.
func (c *Client) Done() <-chan struct{} { return c.done }

// Err returns why the connection ended, or nil while it is open.
func (c *Client) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// Close leaves the namespace and closes the connection in the way of the protocol, which makes it
// unrecoverable, and waits until OnEvent will not be called any more: it must not be called from OnEvent.
func (c *Client) Close() {
	c.leave()
	_ = c.send(&packet.Packet{Type: packet.Disconnect, Namespace: c.options.Namespace}) // fails if it is closed already
	c.transport.close()
	<-c.done
}

// Leave closes the connection as a page that is closed does, without a DISCONNECT packet: it can be recovered.
// It does not wait.
func (c *Client) Leave() {
	c.leave()
	c.transport.close()
}

// Cut drops the TCP connection without a word. It does not wait.
func (c *Client) Cut() {
	c.leave()
	c.transport.cut()
}

func (c *Client) leave() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.leaving = true
}

// Emit sends an event. Arguments are anything encoding/json takes; []byte and packet.Binary travel as
// attachments. It returns when the operating system has taken the event, or an HTTP request has.
func (c *Client) Emit(event string, args ...any) error {
	return c.emit(&packet.Packet{Type: packet.Event}, event, args)
}

// EmitWithAck sends an event and waits for its acknowledgement. If it fails with anything but an error of
// encoding, the server may have handled the event or not.
func (c *Client) EmitWithAck(ctx context.Context, event string, args ...any) (Args, error) {
	answer := make(chan Args, 1)
	c.mu.Lock()
	id := c.nextID
	c.nextID++
	c.acks[id] = answer
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.acks, id)
	}()
	if err := c.emit(&packet.Packet{Type: packet.Event, ID: id, HasID: true}, event, args); err != nil {
		return Args{}, err
	}
	select {
	case args := <-answer:
		return args, nil
	case <-ctx.Done():
		return Args{}, fmt.Errorf("waiting for the answer to %q: %w", event, ctx.Err())
	case <-c.done:
	}
	select {
	case args := <-answer: // it came last of all
		return args, nil
	default:
		return Args{}, ErrDisconnected
	}
}

// Ack answers an event that WantsAck.
func (c *Client) Ack(e Event, args ...any) error {
	data, attachments, err := packet.EncodeArgs(args...)
	if err != nil {
		return fmt.Errorf("acknowledge %q: %w", e.Name, err)
	}
	p := &packet.Packet{Type: packet.Ack, ID: e.id, HasID: true, Data: data, Attachments: attachments}
	p.Namespace = c.options.Namespace
	return c.send(p)
}

func (c *Client) emit(p *packet.Packet, event string, args []any) (err error) {
	p.Namespace = c.options.Namespace
	p.Data, p.Attachments, err = packet.EncodeArgs(append([]any{event}, args...)...)
	if err != nil {
		return fmt.Errorf("emit %q: %w", event, err)
	}
	return c.send(p)
}

// send writes a packet and its attachments, back to back.
func (c *Client) send(p *packet.Packet) error {
	packets := make([]engine.Packet, 1, 1+len(p.Attachments))
	packets[0] = engine.Packet{Type: engine.Message, Data: packet.Append(nil, p)}
	for _, a := range p.Attachments {
		packets = append(packets, engine.Packet{Type: engine.Message, Data: a, Binary: true})
	}
	return c.transport.write(packets...)
}

// read runs the connection until it ends.
func (c *Client) read(hello *packet.Packet) {
	err := c.transport.run(func(p engine.Packet) error {
		switch p.Type {
		case engine.Open:
			return c.send(hello)
		case engine.Message:
			return c.receive(p)
		}
		return nil
	})
	c.transport.cut() // whatever is left of it
	c.mu.Lock()
	if c.leaving {
		err = ErrClosed
	}
	c.err = err
	c.mu.Unlock()
	close(c.done)
}

// receive takes one Engine.IO message.
func (c *Client) receive(m engine.Packet) error {
	decode := c.decoder.Text
	if m.Binary {
		decode = c.decoder.Binary
	}
	p, complete, err := decode(m.Data)
	if err != nil {
		return fmt.Errorf("server sent a bad packet: %w", err)
	}
	if !complete || p.Namespace != c.options.Namespace {
		return nil
	}
	switch p.Type {
	case packet.Connect:
		return c.connected(p)
	case packet.ConnectError:
		refusal := new(ConnectError)
		if err := json.Unmarshal(p.Data, refusal); err != nil {
			refusal.Message = string(bytes.Trim(p.Data, `"`))
		}
		return refusal
	case packet.Disconnect:
		return ErrServerDisconnect
	case packet.Event, packet.BinaryEvent:
		return c.event(p)
	case packet.Ack, packet.BinaryAck:
		return c.acknowledged(p)
	}
	return nil
}

func (c *Client) connected(p *packet.Packet) error {
	var hello struct{ SID, PID string }
	if err := json.Unmarshal(p.Data, &hello); err != nil || hello.SID == "" {
		return fmt.Errorf("server sent a CONNECT without sid: %.100s", p.Data)
	}
	c.mu.Lock()
	again := c.joined
	c.joined = true
	c.recovered = hello.PID != "" && hello.PID == c.state.PID
	c.state.SID, c.state.PID = hello.SID, hello.PID
	c.mu.Unlock()
	if again {
		return errors.New("server sent CONNECT twice")
	}
	close(c.ready)
	early := c.early
	c.early = nil
	for _, e := range early {
		c.handle(e)
	}
	return nil
}

func (c *Client) event(p *packet.Packet) error {
	name, args, err := p.Event()
	if err != nil {
		return nil // legal, and asks for nothing
	}
	e := Event{Name: name, Args: Args{args, p.Attachments}, id: p.ID, wantAck: p.HasID}
	select {
	case <-c.ready:
		c.handle(e)
		return nil
	default:
	}
	if len(c.early) >= maxEarly {
		return errors.New("server sent too many events before CONNECT")
	}
	c.early = append(c.early, e)
	return nil
}

// handle calls the application, and then takes the last argument for the offset if it is a string.
func (c *Client) handle(e Event) {
	c.options.OnEvent(c, e)
	if e.wantAck || len(e.Values) == 0 {
		return
	}
	var offset string
	if json.Unmarshal(e.Values[len(e.Values)-1], &offset) != nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state.PID != "" {
		c.state.Offset = offset
	}
}

func (c *Client) acknowledged(p *packet.Packet) error {
	args, err := p.Args()
	if err != nil {
		return nil // an ACK without a payload has no effect
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if answer, ok := c.acks[p.ID]; ok {
		delete(c.acks, p.ID)
		answer <- Args{args, p.Attachments}
	}
	return nil
}

// handshake is what the server's open packet says.
type handshake struct {
	SID          string
	Upgrades     []string
	PingInterval int // milliseconds
	PingTimeout  int // milliseconds
	MaxPayload   int // bytes
}

// silence is how long the server may say nothing before it counts as gone.
func (h handshake) silence() time.Duration {
	return time.Duration(h.PingInterval+h.PingTimeout) * time.Millisecond
}

func parseHandshake(data []byte) (h handshake, err error) {
	if err := json.Unmarshal(data, &h); err != nil || h.SID == "" || h.PingInterval <= 0 || h.PingTimeout <= 0 {
		return h, fmt.Errorf("server sent a bad open packet: %.100s", data)
	}
	return h, nil
}

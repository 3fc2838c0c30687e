package engineio

import (
	"fmt"
	"net/http"
	"net/url"
	"runtime/debug"
	"strconv"
	"sync"
	"time"

	"parley/engineio/packet"
	"parley/metrics"
)

// Receiver takes what a client sends. Its methods are called one at a time for each connection.
type Receiver interface {
	// Receive takes one message. Text is UTF-8. The data is valid until Receive returns; copy what you keep.
	// Receive may call all methods of the Conn. It isn't called any more once the connection is closed.
	Receive(data []byte, binary bool)

	// Closed tells that the connection is over, and why. It is called once and last, on a goroutine of its
	// own. If the connection was ended by Close, what was enqueued and not yet written may still reach the
	// client; if by anything else, that is lost.
	Closed(reason Reason)
}

// The states of a Conn. They only grow.
const (
	open    = iota
	closing // Closed is due or was called; a polling client may still fetch what waits for it
	closed  // not in the server's table any more
)

// Conn is the connection of one client. It starts on polling or WebSocket and may change from the first to
// the second; its users needn't care. All methods are safe for concurrent use, from within Receive and Closed
// too, and none of them blocks.
type Conn struct {
	// Fixed after construction.
	server    *Server
	id        string
	address   string // addressKey of the client, "" if its connections are not counted
	handshake *Handshake
	base64    bool // the client can't take binary
	timer     *time.Timer

	recv     sync.Mutex // held while accept, Receive or Closed runs
	receiver Receiver   // guarded by recv; nil until accept has returned

	mu       sync.Mutex
	state    uint8
	awaiting bool          // a ping is out, and the timer runs for its pong
	extended bool          // that time was extended once
	due      time.Duration // when the timer was meant to fire, by Server.now
	out      *outbox       // of polling or ws
	polling  *polling      // nil once on WebSocket
	ws       *socket       // nil while on polling
}

// newConn returns a connection that has a place on the server but no transport yet, or why there is no place.
func (s *Server) newConn(r *http.Request, query url.Values) (*Conn, *refusal) {
	c := &Conn{
		server:    s,
		id:        newID(s.opts.Node),
		base64:    query.Get("b64") != "",
		handshake: newHandshake(r, s.opts.Address(r)),
	}
	if s.opts.ConnsPerAddress > 0 {
		c.address = addressKey(c.handshake.Address)
	}
	return c, s.reserve(c.address)
}

// start makes the connection known to the server and to the layer above. It has a transport.
func (c *Conn) start() {
	c.recv.Lock() // Shutdown may close it as soon as it is known, and Closed comes after accept
	defer c.recv.Unlock()
	c.mu.Lock() // the timer may fire before it is assigned
	c.due = c.server.now() + c.server.opts.PingInterval
	c.timer = time.AfterFunc(c.server.opts.PingInterval, c.tick)
	c.mu.Unlock()
	if stopping := c.server.add(c); stopping {
		c.Close(ServerShuttingDown)
		c.forget()
	}
	c.accept()
}

// abandon gives back the place of a connection that got no transport.
func (c *Conn) abandon() {
	c.server.mu.Lock()
	c.server.releaseLocked(c.address)
	c.server.mu.Unlock()
	c.server.work.Done()
}

// openPacket is the first packet of the connection, section 4 of the Engine.IO contract.
func (c *Conn) openPacket(upgrade bool) *Message {
	o := &c.server.opts
	upgrades := "[]"
	if upgrade {
		upgrades = `["websocket"]`
	}
	text := make([]byte, Headroom, 160)
	text = append(append(append(text, `{"sid":"`...), c.id...), `","upgrades":`...)
	text = append(append(text, upgrades...), `,"pingInterval":`...)
	text = strconv.AppendInt(text, o.PingInterval.Milliseconds(), 10)
	text = strconv.AppendInt(append(text, `,"pingTimeout":`...), o.PingTimeout.Milliseconds(), 10)
	text = strconv.AppendInt(append(text, `,"maxPayload":`...), int64(o.MaxPayload), 10)
	return inPlace(packet.Open, append(text, '}'))
}

// accept asks the layer above for the connection's receiver. The caller holds recv.
func (c *Conn) accept() {
	defer c.contain("accept")
	if c.receiver = c.server.accept(c); c.receiver == nil {
		c.Close(ForcedClose)
	}
}

// ID is the connection's id: 20 characters of [A-Za-z0-9_-], a secret shared with the client. Don't log it,
// and don't show it to other clients.
func (c *Conn) ID() string {
	return c.id
}

// Handshake is the request that opened the connection.
func (c *Conn) Handshake() *Handshake {
	return c.handshake
}

// Transport is what carries the connection now: Polling or WebSocket.
func (c *Conn) Transport() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.polling != nil {
		return Polling
	}
	return WebSocket
}

// Enqueue puts m into the outbox, to be sent by the next Flush. It takes no copy: m is shared. It returns false
// if the connection is closed. If the outbox is at one of its bounds, Enqueue flushes it, and if that does not
// help closes the connection with the reason SlowClient and returns false, except that a Volatile message is
// dropped instead. A dropped message is counted, and is no reason to return false.
func (c *Conn) Enqueue(m *Message, f Flags) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.state != open:
		return false
	case f&Volatile != 0 && !c.readyLocked():
		c.server.opts.Metrics.Count(metrics.VolatileDropped, "slow")
		return true
	}
	if c.out.full(&c.server.opts) {
		// More than the bound may come before a Flush, for a client that reads.
		if c.flushLocked(); c.state != open {
			return false
		}
		if c.out.full(&c.server.opts) {
			c.slowLocked()
			return false
		}
	}
	c.out.add(m, f)
	return true
}

// readyLocked says whether a message that is enqueued now would be written by the next Flush, as the first.
func (c *Conn) readyLocked() bool {
	return c.out.empty() && (c.ws != nil || c.polling.get != nil)
}

// Flush writes what waits in the outbox: with one system call on WebSocket, unless it is more than 64 KiB;
// on polling by answering the GET that the client holds, or else its next. It doesn't wait: what the client
// isn't ready for stays in the outbox and is written when it is.
func (c *Conn) Flush() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state == open {
		c.flushLocked()
	}
}

func (c *Conn) flushLocked() {
	if c.ws != nil {
		c.ws.flushLocked()
	} else {
		c.polling.flushLocked()
	}
}

// Close ends the connection with a reason for Closed, which it doesn't wait for. What is in the outbox is
// still sent, and then that the connection is closed. Close does nothing if the connection is closed already.
func (c *Conn) Close(reason Reason) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.endLocked(reason) {
		return
	}
	if c.ws != nil {
		c.removeLocked()
		c.ws.closeLocked(closeFrame(0))
		return
	}
	if c.polling.get != nil && c.out.empty() {
		c.removeLocked()
		c.polling.answerLocked("1")
		return
	}
	c.flushLocked()
	c.timer.Reset(c.server.opts.CloseGrace)
}

// fail ends the connection for something that went wrong: at once, without the grace of Close.
func (c *Conn) fail(reason Reason) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.failLocked(reason, "1")
}

// failLocked is fail; a held GET is answered with last.
func (c *Conn) failLocked(reason Reason, last string) {
	c.endLocked(reason)
	if c.state == closed {
		return
	}
	c.removeLocked()
	if c.ws != nil {
		c.ws.closeLocked(closeFrame(0))
		return
	}
	c.polling.answerLocked(last)
}

// slowLocked ends the connection of a client that doesn't read. It isn't told: it wouldn't read that either.
func (c *Conn) slowLocked() {
	if c.ws == nil {
		c.failLocked(SlowClient, "1")
		return
	}
	c.endLocked(SlowClient)
	c.removeLocked()
	c.ws.abortLocked()
}

// endLocked takes the connection from open to closing: the heartbeat stops, a WebSocket that wants to take over
// is refused, and Closed is due. It reports whether the connection was open.
func (c *Conn) endLocked(reason Reason) bool {
	if c.state != open {
		return false
	}
	c.state = closing
	c.timer.Stop()
	if c.polling != nil {
		c.polling.refuseLocked()
	}
	c.server.opts.Metrics.Count(metrics.ConnectionsClosed, string(reason))
	go c.finish(reason) // ends when Closed has returned; Shutdown waits for it
	return true
}

// removeLocked takes the connection from closing to closed.
func (c *Conn) removeLocked() {
	c.state = closed
	c.timer.Stop()
	c.server.remove(c)
}

// forget ends the close grace of a polling connection.
func (c *Conn) forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state == closing {
		c.removeLocked()
		c.polling.answerLocked("1")
	}
}

// finish tells the receiver, when it has returned from what it is doing, that the connection is over.
func (c *Conn) finish(reason Reason) {
	defer c.server.work.Done()
	c.recv.Lock()
	defer c.recv.Unlock()
	defer c.contain("closed")
	if e := c.server.opts.Logger.Debug(); e.Enabled() {
		e.Str("address", c.handshake.Address).Str("reason", string(reason)).
			Dur("after", time.Since(c.handshake.Issued)).Msg("connection closed")
	}
	if c.receiver != nil {
		c.receiver.Closed(reason)
	}
}

// receive hands one message to the receiver. The caller holds recv.
func (c *Conn) receive(data []byte, binary bool) {
	defer c.contain("receive")
	c.receiver.Receive(data, binary)
}

// contain recovers a panic of the layer above, which costs its connection and nothing else.
func (c *Conn) contain(where string) {
	p := recover()
	if p == nil {
		return
	}
	c.server.reject("panic in " + where)
	c.server.opts.Logger.Error().Str("in", where).Str("panic", fmt.Sprint(p)).Bytes("stack", debug.Stack()).
		Msg("contained a panic of the receiver; its connection is closed")
	c.Close(ForcedClose)
}

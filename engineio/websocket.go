package engineio

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"runtime"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"github.com/lxzan/gws"

	"parley/engineio/packet"
)

// gwsBufferBytes is what gws reads headers into, for as long as the WebSocket lives. What is read ahead is in the
// reader, which an idle WebSocket does without.
const gwsBufferBytes = 16

// linger is how long a WebSocket that the server closes waits for the client to close it too. Closing TCP
// while input is unread would make the kernel discard what the client has not read yet, the close frame
// included.
const linger = time.Second

// socket is a WebSocket, and the net.Conn on which gws believes to write and close. What gws writes, which is
// the reply to the handshake, pongs and close frames, goes into the outbox like everything else, so that frames
// keep their order and nobody waits for the kernel.
type socket struct {
	net.Conn // the hijacked connection; also writes, in flushLocked and drain

	// Fixed after construction.
	conn    *Conn           // whose it is, or would become
	ws      *gws.Conn       // reads what plain does not
	raw     syscall.RawConn // for reads and writes that don't block; nil if there are none, as in TLS
	fd      int             // of raw; only releaseLocked closes it
	deflate bool            // messages may be compressed

	// Owned by the goroutine that reads, or before that by the one that makes the handshake.
	rest    bool                  // the client pauses: let the stack be as small as it can
	greeted bool                  // a message has come
	input   *input                // what was read and not yet used; nil if nothing waits
	attempt func(fd uintptr) bool // reads into input
	reply   []byte                // the close frame that gws would have written
	failure error                 // of the last read

	// Guarded by conn.mu.
	out      outbox
	header   []byte // lines to insert into the reply to the handshake; nil once that is done
	probed   bool   // a probe was answered
	draining bool   // a goroutine is writing out
	closing  bool   // nothing more is added to out; when that is empty the connection ends
	finished bool   // nobody reads any more
	released bool   // TCP is closed
}

// newUpgrader returns what all WebSocket handshakes share. Each connection finds its socket through the
// net.Conn that gws was given for it.
func newUpgrader(o *Options) *gws.Upgrader {
	return gws.NewUpgrader(events{}, &gws.ServerOption{
		ReadMaxPayloadSize: o.MaxPayload,
		ReadBufferSize:     gwsBufferBytes,
		CheckUtf8Enabled:   true,
		ParallelGolimit:    1,
		NewSession:         func() gws.SessionStorage { return nil },
		PermessageDeflate: gws.PermessageDeflate{
			Enabled:   o.PerMessageDeflate,
			Threshold: max(o.CompressionThreshold, 1),
			PoolSize:  runtime.GOMAXPROCS(0),
		},
	})
}

// hijack takes the TCP connection of a request, and queues the reply that makes it a WebSocket of c.
func (s *Server) hijack(w http.ResponseWriter, r *http.Request, c *Conn) (*socket, error) {
	header := w.Header()
	if offered := r.Header.Get("Sec-WebSocket-Protocol"); offered != "" {
		first, _, _ := strings.Cut(offered, ",")
		header.Set("Sec-WebSocket-Protocol", strings.TrimSpace(first))
	}
	var lines bytes.Buffer
	_ = header.Write(&lines)
	if strings.Contains(r.Header.Get("Sec-WebSocket-Extensions"), "server_max_window_bits") {
		r.Header.Del("Sec-WebSocket-Extensions") // asks for a smaller window than we compress with
	}
	netConn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return nil, fmt.Errorf("take over the connection of a request: %w", err)
	}
	raw := rawConn(netConn)
	k := &socket{
		Conn:    netConn,
		conn:    c,
		raw:     raw,
		fd:      descriptor(raw),
		deflate: s.opts.PerMessageDeflate && strings.Contains(r.Header.Get("Sec-WebSocket-Extensions"), "permessage-deflate"),
		header:  append(lines.Bytes(), "\r\n"...),
	}
	k.attempt = k.tryRead
	early, _ := buffered.Reader.Peek(buffered.Reader.Buffered())
	if len(early) > inputBytes {
		_ = netConn.Close()
		return nil, fmt.Errorf("take over the connection of a request: %d bytes were read ahead", len(early))
	}
	if len(early) > 0 {
		k.filled(early)
	}
	size := gwsBufferBytes
	if k.raw == nil {
		size = 512 // nobody reads ahead for it
	}
	k.ws, err = s.upgrader.UpgradeFromConn(k, bufio.NewReaderSize(k, size), r)
	if err != nil {
		_ = netConn.Close()
		return nil, fmt.Errorf("upgrade to WebSocket: %w", err)
	}
	return k, nil
}

// openWebSocket is a handshake by WebSocket.
func (s *Server) openWebSocket(w http.ResponseWriter, r *http.Request, query url.Values) {
	c, f := s.newConn(r, query)
	if f != nil {
		s.refuse(w, r, f)
		return
	}
	k, err := s.hijack(w, r, c)
	if err != nil {
		c.abandon()
		s.refuse(w, r, badRequestShape())
		return
	}
	s.work.Add(1)
	c.ws, c.out = k, &k.out
	c.out.add(c.openPacket(false), 0)
	c.start()
	c.Flush()
	if a, ok := w.(*arrival); ok {
		a.socket = k // is read on this goroutine, which has nothing else to do
		return
	}
	go k.begin() // ends when the client or closeLocked ends the connection
}

// begin reads the WebSocket from its beginning.
func (k *socket) begin() {
	growStack()
	k.run()
}

// run reads the WebSocket until its end. While a client rests, it is a goroutine that has just begun, and its stack the
// smallest there is: what handling a message needs is several times what waiting needs, and the garbage collector
// takes back no part of a stack of which a quarter is in use.
func (k *socket) run() {
	if k.read() {
		go k.run() // ends when the client or closeLocked ends the connection
		return
	}
	k.conn.server.work.Done()
}

// read handles what the client sends. It returns true when that is all for now, and false at the end.
func (k *socket) read() (resting bool) {
	defer k.contain()
	for k.raw != nil {
		ok, err := k.plain()
		if err != nil {
			k.ended(err)
			return false
		}
		if !ok {
			break
		}
		if k.rest && k.input == nil {
			k.rest = false
			return true
		}
	}
	k.ws.ReadLoop()
	return false
}

// contain recovers a panic of reading, which costs its connection and nothing else.
func (k *socket) contain() {
	p := recover()
	if p == nil {
		return
	}
	s := k.conn.server
	s.panicked.Do(func() {
		s.opts.Logger.Error().Str("panic", fmt.Sprint(p)).Bytes("stack", debug.Stack()).
			Msg("contained a panic while reading a WebSocket; its connection is closed")
	})
	k.reply = closeFrame(1002) // a length of 2^63 or more is what gws doesn't survive
	k.ended(errors.New("reading panicked"))
}

// growStack makes the goroutine's stack as large as nearly every handshake needs it, at once: growing it step by step
// would copy it at each, with more on it.
//
//go:noinline
func growStack() {
	var large [5 << 10]byte
	runtime.KeepAlive(&large)
}

// Read implements net.Conn.
func (k *socket) Read(p []byte) (n int, err error) {
	switch {
	case k.input != nil:
	case k.raw == nil || len(p) >= inputBytes:
		if n, err = k.Conn.Read(p); err != nil {
			k.failure = err
		}
		return n, err
	default:
		if err := k.more(); err != nil {
			return 0, err
		}
	}
	n = copy(p, k.input.bytes[k.input.from:k.input.to])
	k.used(n)
	return n, nil
}

// Write implements net.Conn. gws calls it with one whole frame, or the whole reply to the handshake.
func (k *socket) Write(p []byte) (int, error) {
	if p[0] == frameClose {
		k.reply = bytes.Clone(p) // ended sends it
		return len(p), nil
	}
	c := k.conn
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case k.header != nil:
		reply := append(bytes.Clone(bytes.TrimSuffix(p, []byte("\r\n"))), k.header...)
		k.header = nil
		k.out.add(newRaw(reply), NoCompress) // goes out with the first frame
	case k.closing:
	case !k.out.full(&c.server.opts):
		k.out.add(newRaw(bytes.Clone(p)), NoCompress)
		k.flushLocked()
	case c.ws == k:
		c.slowLocked()
	default:
		k.abortLocked()
	}
	return len(p), nil
}

// Close implements net.Conn. gws calls it where it believes the connection to end; that is decided in ended.
func (k *socket) Close() error { return nil }

// SetDeadline implements net.Conn. gws sets one for a reply that is only queued.
func (k *socket) SetDeadline(time.Time) error { return nil }

// drainedLocked ends a closing WebSocket, of which all is written: at once if the client has ended it too, or
// else when it does, or after linger.
func (k *socket) drainedLocked() {
	switch {
	case !k.closing:
	case k.finished:
		k.releaseLocked()
	default:
		_ = k.Conn.SetReadDeadline(time.Now().Add(linger))
	}
}

// closeLocked makes frame the last that is written, and then ends the WebSocket.
func (k *socket) closeLocked(frame []byte) {
	if k.closing {
		return
	}
	k.leaveLocked()
	if frame != nil {
		k.out.add(newRaw(frame), NoCompress)
	}
	k.flushLocked()
}

// abortLocked ends the WebSocket at once; what waits is lost.
func (k *socket) abortLocked() {
	k.leaveLocked()
	k.out.clear()
	if tcp, ok := k.Conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0) // the kernel need not keep what it has
	}
	k.releaseLocked()
}

// brokenLocked ends the WebSocket after a failed write, and with it the connection.
func (k *socket) brokenLocked() {
	if c := k.conn; c.ws == k && c.endLocked(TransportClose) {
		c.removeLocked()
	}
	k.abortLocked()
}

// leaveLocked marks the WebSocket as closing and lets Shutdown know of it.
func (k *socket) leaveLocked() {
	if k.closing {
		return
	}
	k.closing = true
	s := k.conn.server
	s.mu.Lock()
	defer s.mu.Unlock()
	s.leaving[k] = struct{}{}
}

// releaseLocked closes TCP.
func (k *socket) releaseLocked() {
	if k.released {
		return
	}
	k.released = true
	s := k.conn.server
	s.mu.Lock()
	delete(s.leaving, k)
	s.mu.Unlock()
	if k.raw != nil {
		_ = k.Conn.Close()
		return
	}
	s.work.Add(1) // whoever reads or drains is still counted
	go func() {   // TLS says goodbye first, for up to 5 s
		defer s.work.Done()
		_ = k.Conn.Close()
	}()
}

// ended is called once, by the goroutine that reads, when it has stopped. It decides why, and what the client
// is told.
func (k *socket) ended(err error) {
	c := k.conn
	c.mu.Lock()
	defer c.mu.Unlock()
	k.finished = true
	if k.closing {
		if !k.draining {
			k.releaseLocked()
		}
		return
	}
	reason, reply := TransportClose, k.reply
	if closed, ok := errors.AsType[*gws.CloseError](err); ok {
		if bytes.Equal(reply, closeFrame(1000)) { // gws found the code valid
			reply = closeFrame(closed.Code)
		}
	} else if k.failure != nil {
		reply = nil // nobody is there to read it
		k.out.clear()
	} else {
		reason = TransportError
		c.server.reject("broken WebSocket frame")
	}
	if c.ws == k {
		if c.endLocked(reason) {
			c.removeLocked()
		}
	} else if p := c.polling; p != nil && p.probe == k {
		p.detachLocked()
	}
	k.closeLocked(reply)
}

// message handles one message of the client.
func (k *socket) message(data []byte, binary bool) {
	p, err := packet.Packet{Type: packet.Message, Data: data, Binary: true}, error(nil)
	if !binary {
		p, err = packet.Decode(data)
	}
	c := k.conn
	c.mu.Lock()
	if c.ws != k {
		if !k.closing {
			k.probedLocked(p, err)
		}
		c.mu.Unlock()
		return
	}
	if c.state != open {
		c.mu.Unlock()
		return
	}
	if err == nil {
		c.aliveLocked(p.Type == packet.Pong)
		k.rest = p.Type == packet.Pong || !k.greeted
		k.greeted = true
	}
	switch {
	case err != nil:
		c.server.reject("no packet")
		c.failLocked(ParseError, "")
	case p.Type == packet.Close:
		c.failLocked(TransportClose, "")
	case p.Type == packet.Ping:
		c.server.reject("ping from the client")
		c.failLocked(TransportError, "")
	}
	c.mu.Unlock()
	if err != nil || p.Type != packet.Message {
		return
	}
	c.recv.Lock()
	defer c.recv.Unlock()
	if c.isOpen() { // a POST of the time before the upgrade may have closed it while we waited
		c.receive(p.Data, p.Binary)
	}
}

// events is what gws calls, always on the goroutine that reads.
type events struct{}

func (events) OnOpen(*gws.Conn)         {}
func (events) OnPong(*gws.Conn, []byte) {}

func (events) OnPing(ws *gws.Conn, payload []byte) {
	_ = ws.WritePong(payload)
}

func (events) OnMessage(ws *gws.Conn, m *gws.Message) {
	defer func() { _ = m.Close() }() // gives the bytes back to gws
	ws.NetConn().(*socket).message(m.Bytes(), m.Opcode == gws.OpcodeBinary)
}

func (events) OnClose(ws *gws.Conn, err error) {
	ws.NetConn().(*socket).ended(err)
}

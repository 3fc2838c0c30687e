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
	raw     syscall.RawConn // for reads and writes that don't block; nil if there are none, as in TLS
	fd      int             // of raw; only releaseLocked closes it
	deflate bool            // messages may be compressed

	// Owned by the goroutine that reads, or before that by the one that makes the handshake.
	early   []byte                // what net/http had read already
	input   *reader               // what was read and not yet asked for; nil if nothing waits
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
func (s *Server) hijack(w http.ResponseWriter, r *http.Request, c *Conn) (*socket, *gws.Conn, error) {
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
		return nil, nil, fmt.Errorf("take over the connection of a request: %w", err)
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
	if n := buffered.Reader.Buffered(); n > 0 {
		early, _ := buffered.Reader.Peek(n)
		k.early = bytes.Clone(early)
	}
	size := gwsBufferBytes
	if k.raw == nil {
		size = 512 // nobody reads ahead for it
	}
	ws, err := s.upgrader.UpgradeFromConn(k, bufio.NewReaderSize(k, size), r)
	if err != nil {
		_ = netConn.Close()
		return nil, nil, fmt.Errorf("upgrade to WebSocket: %w", err)
	}
	return k, ws, nil
}

// openWebSocket is a handshake by WebSocket.
func (s *Server) openWebSocket(w http.ResponseWriter, r *http.Request, query url.Values) {
	c, f := s.newConn(r, query)
	if f != nil {
		s.refuse(w, r, f)
		return
	}
	k, ws, err := s.hijack(w, r, c)
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
		a.read = func() { k.run(ws) } // on this goroutine, which has nothing else to do
		return
	}
	go k.run(ws) // ends when the client or closeLocked ends the connection
}

// run reads the WebSocket until its end.
func (k *socket) run(ws *gws.Conn) {
	defer k.conn.server.work.Done()
	defer func() {
		if p := recover(); p != nil {
			s := k.conn.server
			s.panicked.Do(func() {
				s.opts.Logger.Error().Str("panic", fmt.Sprint(p)).Bytes("stack", debug.Stack()).
					Msg("contained a panic while reading a WebSocket; its connection is closed")
			})
			k.reply = closeFrame(1002) // a length of 2^63 or more is what gws doesn't survive
			k.ended(errors.New("reading panicked"))
		}
	}()
	growStack()
	ws.ReadLoop()
}

// growStack makes the goroutine's stack as large as nearly every handshake needs it, at once: growing it step by step
// would copy it at each, with more on it. The garbage collector takes back what an idle connection does not need.
//
//go:noinline
func growStack() {
	var large [5 << 10]byte
	runtime.KeepAlive(&large)
}

// Read implements net.Conn.
func (k *socket) Read(p []byte) (int, error) {
	if len(k.early) > 0 {
		n := copy(p, k.early)
		if k.early = k.early[n:]; len(k.early) == 0 {
			k.early = nil
		}
		return n, nil
	}
	if k.input == nil {
		if len(p) >= readerBytes || k.raw == nil {
			n, err := k.Conn.Read(p)
			if err != nil {
				k.failure = err
			}
			return n, err
		}
		if err := k.raw.Read(k.attempt); err != nil {
			k.failure = err
		}
		if k.input == nil {
			return 0, k.failure
		}
	}
	r := k.input
	n := copy(p, r.bytes[r.from:r.to])
	if r.from += n; r.from == r.to {
		k.input = nil
		k.conn.server.readers.Put(r)
	}
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

// flushLocked writes what waits, without blocking. What the kernel doesn't take is left to drain.
func (k *socket) flushLocked() {
	if k.draining || k.released {
		return
	}
	if !k.out.empty() {
		if k.raw == nil || !k.writeLocked() {
			k.draining = true
			k.conn.server.work.Add(1) // the goroutine that reads is still counted, or the caller is
			go k.drain()              // ends when the outbox is empty, or WriteTimeout has passed
			return
		}
	}
	k.drainedLocked()
}

// writeLocked writes until the outbox is empty and returns true, or until the kernel takes no more.
func (k *socket) writeLocked() bool {
	scratch := k.conn.server.scratches.Get().(*scratch)
	defer k.conn.server.scratches.Put(scratch)
	for !k.out.empty() {
		p := k.gatherLocked(scratch[:0])
		n, err := write(k.fd, p)
		if err != nil {
			k.brokenLocked()
			return true
		}
		k.sentLocked(n)
		if n < len(p) {
			return false
		}
	}
	return true
}

// drain writes what waits, and waits for the kernel to take it.
func (k *socket) drain() {
	c := k.conn
	defer c.server.work.Done()
	scratch := c.server.scratches.Get().(*scratch)
	defer c.server.scratches.Put(scratch)
	c.mu.Lock()
	defer c.mu.Unlock()
	for !k.out.empty() && !k.released {
		p := k.gatherLocked(scratch[:0])
		p = p[:min(len(p), scratchBytes)]
		c.mu.Unlock()
		_ = k.Conn.SetWriteDeadline(time.Now().Add(c.server.opts.WriteTimeout))
		n, err := k.Conn.Write(p)
		c.mu.Lock()
		if k.released {
			break
		}
		k.sentLocked(n)
		if err != nil {
			var timeout net.Error
			if errors.As(err, &timeout) && timeout.Timeout() && c.ws == k && c.state == open {
				c.slowLocked()
			} else {
				k.brokenLocked()
			}
		}
	}
	k.draining = false
	if !k.released {
		_ = k.Conn.SetWriteDeadline(time.Time{})
		k.drainedLocked()
	}
}

// frames are the bytes of a message that this client can read. They stay the same while the message waits.
func (k *socket) frames(e entry) []byte {
	switch {
	case k.deflate && !k.conn.base64 && e.flags&NoCompress == 0 && e.message.Size() >= k.conn.server.opts.CompressionThreshold:
		return e.message.deflatedFrames(&k.conn.server.deflaters)
	case k.conn.base64:
		return e.message.textFrames()
	default:
		return e.message.frames
	}
}

// gatherLocked returns the next bytes to write: those of the oldest message as they are, if it is large or
// nothing else waits, or else of as many messages as fit into scratch, joined there.
func (k *socket) gatherLocked(scratch []byte) []byte {
	first := k.frames(k.out.queue[0])[k.out.sent:]
	if len(k.out.queue) == 1 || len(first) >= cap(scratch)/2 {
		return first
	}
	scratch = append(scratch[:0], first...)
	for _, e := range k.out.queue[1:] {
		f := k.frames(e)
		if len(scratch)+len(f) > cap(scratch) {
			break
		}
		scratch = append(scratch, f...)
	}
	return scratch
}

// sentLocked notes that the next n bytes were written.
func (k *socket) sentLocked(n int) {
	done := 0
	for _, e := range k.out.queue {
		rest := len(k.frames(e)) - k.out.sent
		if n < rest {
			break
		}
		n -= rest
		k.out.sent = 0
		done++
	}
	if done > 0 {
		k.out.drop(done)
	}
	k.out.sent += n
}

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

// reader is a pooled buffer of input. The memory of a WebSocket that waits for its client is that of its
// goroutine and little else.
type reader struct {
	from, to int
	bytes    [readerBytes]byte
}

// readerBytes is how much is read ahead: many messages as chats have them.
const readerBytes = 8 << 10

// scratch is a pooled buffer in which what is written at once is joined.
type scratch [scratchBytes]byte

const scratchBytes = 64 << 10

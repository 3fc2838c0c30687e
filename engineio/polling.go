package engineio

import (
	"bytes"
	"context"
	"errors"
	"io"
	"mime"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"parley/engineio/packet"
)

// polling is the transport of a connection that is on HTTP long-polling. Conn.mu guards it.
type polling struct {
	out   outbox
	get   *get          // the GET that is held, until it is decided what it is answered with
	post  *post         // the POST that is being read or processed
	held  chan struct{} // closed when the next GET is held; nil if nobody waits for one
	probe *socket       // the WebSocket that wants to take over
	timer *time.Timer   // of the probe
}

// get is a held GET. Its handler waits for ready.
type get struct {
	ready  chan struct{} // has room for one
	since  time.Duration // by Server.now
	woken  bool
	answer string   // the payload, if it isn't what is in the outbox
	late   *refusal // if it came after what ended polling, and overtook it
}

// post is a POST whose handler has not returned.
type post struct {
	control    *http.ResponseController
	overlapped bool // another POST came: cut the TCP connection instead of answering
}

// maxPooledBody is how large a buffer may be that goes back to the pool.
const maxPooledBody = 64 << 10

// body returns a pooled buffer for the body of a request or reply.
func (s *Server) body() *bytes.Buffer {
	return s.bodies.Get().(*bytes.Buffer)
}

func (s *Server) recycle(b *bytes.Buffer) {
	if b.Cap() <= maxPooledBody {
		b.Reset()
		s.bodies.Put(b)
	}
}

// openPolling is a handshake by polling.
func (s *Server) openPolling(w http.ResponseWriter, r *http.Request, query url.Values) {
	c, f := s.newConn(r, query)
	if f != nil {
		s.refuse(w, r, f)
		return
	}
	c.polling = &polling{}
	c.out = &c.polling.out
	c.start()
	if s.opts.Cookie != nil {
		cookie := *s.opts.Cookie //nolint:gosec // as withDefaults made it
		cookie.Value = c.id
		http.SetCookie(w, &cookie)
	}
	c.reply(w, r, c.openPacket(s.opts.upgrades()).packets(), false)
}

// flushLocked answers the held GET with what waits, if there is both.
func (p *polling) flushLocked() {
	if p.get != nil && !p.out.empty() {
		p.get.wakeLocked()
	}
}

// answerLocked answers the held GET, if there is one, with payload.
func (p *polling) answerLocked(payload string) {
	if g := p.get; g != nil {
		p.get = nil
		g.answer = payload
		g.wakeLocked()
	}
}

func (g *get) wakeLocked() {
	if !g.woken {
		g.woken = true
		g.ready <- struct{}{}
	}
}

// releaseKey is the context key of a request that ReleaseGet has made.
type releaseKey struct{}

// ReleaseGet turns a request of a connection into one that has the GET answered which the connection holds, if any, with a
// noop, so that its client polls again; what waits for the client stays for then. It is for a proxy of the program that has
// to let go of the GETs that it forwards: none is lost, as this server alone decides what each of them gets.
func ReleaseGet(r *http.Request) *http.Request {
	r = r.WithContext(context.WithValue(r.Context(), releaseKey{}, true))
	r.Method = http.MethodGet
	return r
}

// release answers the held GET with a noop.
func (c *Conn) release(w http.ResponseWriter) {
	c.mu.Lock()
	if p := c.polling; p != nil && p.get != nil && !p.get.woken {
		p.answerLocked("6")
	}
	c.mu.Unlock()
	c.server.empty(w, http.StatusOK)
}

// overtaking is by how much a request on one TCP connection may overtake what was sent before it on another.
const overtaking = 50 * time.Millisecond

// serveGet answers with what waits for the client, and holds the request until there is something.
func (c *Conn) serveGet(w http.ResponseWriter, r *http.Request) {
	if r.Context().Value(releaseKey{}) != nil {
		c.release(w)
		return
	}
	c.mu.Lock()
	c.expireLocked()
	p := c.polling
	switch {
	case p == nil: // it was upgraded just now
		c.mu.Unlock()
		c.server.refuse(w, r, badRequestShape())
		return
	case c.state == closed:
		c.mu.Unlock()
		c.server.refuse(w, r, unknownSession())
		return
	case p.get != nil:
		c.overlapLocked(p, r)
		c.mu.Unlock()
		c.server.empty(w, http.StatusBadRequest)
		return
	case c.state == closing && p.out.empty():
		c.removeLocked()
		c.mu.Unlock()
		c.reply(w, r, []byte("6\x1e1"), false)
		return
	}
	g := &get{ready: make(chan struct{}, 1), since: c.server.now()}
	p.get = g
	if p.held != nil {
		close(p.held)
		p.held = nil
	}
	p.flushLocked()
	c.mu.Unlock()

	if r.Body == http.NoBody {
		// A deadline that the http.Server set for reading the request would look like the client's going away.
		_ = http.NewResponseController(w).SetReadDeadline(time.Time{})
	}
	gone := false
	select {
	case <-g.ready:
	case <-r.Context().Done():
		gone = true
	}

	body := c.server.body()
	defer c.server.recycle(body)
	compress := false
	c.mu.Lock()
	switch {
	case g.late != nil:
		c.mu.Unlock()
		c.server.refuse(w, r, g.late)
		return
	case p.get != g:
		body.WriteString(g.answer)
	case gone:
		p.get = nil
		c.failLocked(TransportError, "")
		c.mu.Unlock()
		c.server.reject("aborted GET")
		return
	default:
		p.get = nil
		compress = p.out.takePayload(body, c.server.opts.MaxPayload)
	}
	c.mu.Unlock()
	c.reply(w, r, body.Bytes(), compress)
}

// overlapLocked ends the connection because r came while a GET is held. If the client of r goes away, then r is
// an aborted GET that the other one overtook, and that one is told what it would have been told after it.
func (c *Conn) overlapLocked(p *polling, r *http.Request) {
	g := p.get
	c.mu.Unlock()
	aborted := false
	select {
	case <-r.Context().Done():
		aborted = true
	case <-time.After(overtaking):
	}
	c.mu.Lock()
	if c.polling != p {
		return // upgraded meanwhile
	}
	c.server.reject("overlapping GET")
	if aborted && p.get == g {
		g.late = unknownSession()
	}
	c.failLocked(TransportError, "1")
}

// reply answers a GET with a payload. If it can't be written the connection is over: its packets are lost.
func (c *Conn) reply(w http.ResponseWriter, r *http.Request, payload []byte, compress bool) {
	h := w.Header()
	c.server.pollingHeaders(r, h)
	h.Set("Content-Type", "text/plain; charset=UTF-8")
	if compress && c.server.opts.CompressionThreshold > 0 && len(payload) >= c.server.opts.CompressionThreshold {
		if encoding := acceptedEncoding(r.Header); encoding != "" {
			b := c.server.body()
			defer c.server.recycle(b)
			c.server.compress(b, encoding, payload)
			payload = b.Bytes()
			h.Set("Content-Encoding", encoding)
		}
	}
	h.Set("Content-Length", strconv.Itoa(len(payload)))
	if err := writeSlowly(w, payload, c.server.opts.WriteTimeout); err != nil {
		c.server.reject("unread reply")
		c.fail(TransportError)
	}
}

// pollingHeaders adds what all replies of an open connection have.
func (s *Server) pollingHeaders(r *http.Request, h http.Header) {
	h.Set("Cache-Control", "no-store")
	if ua := r.UserAgent(); strings.Contains(ua, ";MSIE") || strings.Contains(ua, "Trident/") {
		h.Set("X-XSS-Protection", "0") // these report an attack where there is none
	}
}

// writeSlowly writes a reply, and gives the client timeout for each 64 KiB of it.
func writeSlowly(w http.ResponseWriter, body []byte, timeout time.Duration) error {
	control := http.NewResponseController(w)
	// The deadline replaces that of the http.Server, which a held GET would have passed. Where none can be
	// set, as in HTTP/3 or a test, there is none.
	defer func() { _ = control.SetWriteDeadline(time.Time{}) }()
	for len(body) > 0 {
		_ = control.SetWriteDeadline(time.Now().Add(timeout))
		n, err := w.Write(body[:min(len(body), scratchBytes)]) //nolint:gosec // plain text, and says so
		if err != nil {
			return err
		}
		body = body[n:]
	}
	if err := control.Flush(); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return err
	}
	return nil
}

// servePost reads a payload and hands its packets on.
func (c *Conn) servePost(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	p := c.polling
	switch {
	case p == nil:
		c.mu.Unlock()
		c.server.refuse(w, r, badRequestShape())
		return
	case c.state == closed:
		c.mu.Unlock()
		c.server.refuse(w, r, unknownSession())
		return
	case p.post != nil:
		p.post.overlapped = true
		_ = p.post.control.SetReadDeadline(time.Now())
		c.failLocked(TransportError, "1")
		c.mu.Unlock()
		c.server.reject("overlapping POST")
		c.server.empty(w, http.StatusBadRequest)
		return
	}
	if media, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type")); media == "application/octet-stream" {
		c.failLocked(TransportError, "1")
		c.mu.Unlock()
		c.server.reject("binary POST")
		c.server.empty(w, http.StatusBadRequest)
		return
	}
	this := &post{control: http.NewResponseController(w)}
	p.post = this
	c.mu.Unlock()

	status := c.take(this, r)

	c.mu.Lock()
	p.post = nil
	c.mu.Unlock()
	switch {
	case this.overlapped:
		panic(http.ErrAbortHandler) // net/http's way to cut the connection
	case status != http.StatusOK:
		c.server.empty(w, status)
	default:
		c.server.bound(w)
		h := w.Header()
		c.server.pollingHeaders(r, h)
		h.Set("Content-Type", "text/html") // anything else is a download to some old browsers
		h.Set("Content-Length", "2")
		_, _ = io.WriteString(w, "ok")
	}
}

// take reads and processes the body of a POST and returns the status to answer it with.
func (c *Conn) take(this *post, r *http.Request) (status int) {
	body := c.server.body()
	defer c.server.recycle(body)
	limit := c.server.opts.MaxPayload
	if r.ContentLength > int64(limit) {
		c.server.reject("payload too large")
		return http.StatusRequestEntityTooLarge
	}
	_, err := body.ReadFrom(io.LimitReader(r.Body, int64(limit)+1))
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		c.server.reject("slow POST")
		c.fail(TransportError)
		return http.StatusRequestTimeout
	case err != nil:
		c.server.reject("aborted POST")
		c.fail(TransportError)
		return http.StatusBadRequest
	case body.Len() > limit:
		c.server.reject("payload too large")
		return http.StatusRequestEntityTooLarge
	}
	// A handler may take longer than a body, and net/http watches for the end of the connection meanwhile.
	_ = this.control.SetReadDeadline(time.Time{})
	if !c.handlePayload(body.Bytes()) {
		return http.StatusBadRequest
	}
	return http.StatusOK
}

// handlePayload processes the packets of a POST. It reports whether all of them are packets.
func (c *Conn) handlePayload(body []byte) bool {
	c.recv.Lock()
	defer c.recv.Unlock()
	if !utf8.Valid(body) { // would break the WebSocket of everyone it is passed on to
		c.server.reject("invalid UTF-8")
		c.fail(ParseError)
		return false
	}
	pong, other := false, false
	defer func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if other {
			c.aliveLocked(false)
		}
		if pong {
			c.aliveLocked(true)
		}
	}()
	for p, err := range packet.Payload(body) {
		switch {
		case err != nil:
			c.server.reject("no packet")
			c.fail(ParseError)
			return false
		case p.Type == packet.Pong:
			pong = true
		case p.Type == packet.Message:
			other = true
			if !c.isOpen() {
				return true
			}
			c.receive(p.Data, p.Binary)
		case p.Type == packet.Close:
			c.awaitGet()
			c.mu.Lock()
			c.failLocked(TransportClose, "6")
			c.mu.Unlock()
			return true
		case p.Type == packet.Ping:
			c.server.reject("ping from the client")
			c.fail(TransportError)
			return true
		default: // open, upgrade and noop mean nothing here
			other = true
		}
	}
	return true
}

// awaitGet waits for a GET to be held, but not long. A client that closes has sent one before, and expects it
// to be answered with a noop; but it came on another TCP connection, and the POST may have overtaken it.
func (c *Conn) awaitGet() {
	c.mu.Lock()
	p := c.polling
	if p == nil || p.get != nil || c.state != open {
		c.mu.Unlock()
		return
	}
	held := make(chan struct{})
	p.held = held
	c.mu.Unlock()
	select {
	case <-held:
	case <-time.After(overtaking):
	}
}

func (c *Conn) isOpen() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.state == open
}

package engineio

import (
	"bytes"
	"compress/flate"
	"compress/gzip"
	"compress/zlib"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/lxzan/gws"
	"golang.org/x/time/rate"

	"parley/engineio/packet"
	"parley/metrics"
)

// Server is an http.Handler that serves Engine.IO connections. All methods are safe for concurrent use. End
// it with Shutdown, before or while the http.Server is shut down.
type Server struct {
	// Fixed after construction.
	opts      Options
	born      time.Time
	accept    func(*Conn) Receiver
	upgrader  *gws.Upgrader
	ping      *Message
	noop      *Message
	scratches sync.Pool // *scratch
	inputs    sync.Pool // *input
	bodies    sync.Pool // *bytes.Buffer
	gzips     sync.Pool // *gzip.Writer
	zlibs     sync.Pool // *zlib.Writer
	deflaters sync.Pool // *flate.Writer

	panicked rate.Sometimes // how often panics that clients can bring about are logged

	// work counts what Shutdown waits for: connections until Closed has returned, and goroutines. It is only
	// added to by begin, or by who is counted already.
	work sync.WaitGroup

	mu        sync.Mutex
	stopping  bool
	conns     map[string]*Conn     // by id: open ones, and those in their close grace
	addresses map[string]int       // connections in conns by addressKey, if they are bounded
	leaving   map[*socket]struct{} // WebSockets that are closing, until their TCP connection is closed
}

// NewServer returns a Server with the given options, or an error that says which of them can't be used.
//
// The accept function is called for each new connection, on the goroutine of the request. It may use the Conn
// at once: what it sends follows the open packet. It returns the connection's Receiver, whose methods aren't
// called before accept has returned; nil closes the connection at once.
func NewServer(opts Options, accept func(*Conn) Receiver) (*Server, error) {
	opts, err := opts.withDefaults()
	if err != nil {
		return nil, err
	}
	s := &Server{
		opts:      opts,
		born:      time.Now(),
		accept:    accept,
		conns:     make(map[string]*Conn),
		addresses: make(map[string]int),
		leaving:   make(map[*socket]struct{}),
		ping:      newPacket(packet.Ping, ""),
		noop:      newPacket(packet.Noop, ""),
		panicked:  rate.Sometimes{Interval: panickedEvery},
	}
	s.upgrader = newUpgrader(&s.opts)
	s.scratches.New = func() any { return new(scratch) }
	s.inputs.New = func() any { return new(input) }
	s.bodies.New = func() any { return new(bytes.Buffer) }
	s.gzips.New = func() any { return must(gzip.NewWriterLevel(nil, gzip.BestSpeed)) }
	s.zlibs.New = func() any { return must(zlib.NewWriterLevel(nil, zlib.BestSpeed)) }
	s.deflaters.New = func() any { return must(flate.NewWriter(nil, flate.BestSpeed)) }
	return s, nil
}

// panickedEvery is how often a panic of reading a WebSocket is logged: a client can bring it about as often as it
// likes, and the counter has them all.
const panickedEvery = 10 * time.Second

// must returns v; err tells of an invalid compression level, and ours is a constant.
func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// Len is the number of connections, with those that wait to tell a polling client that they were closed.
func (s *Server) Len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.conns)
}

// ServeHTTP serves the requests of both transports, in all of Options.Path; others get 404. The reply to a GET
// may be held for as long as PingInterval.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Body != http.NoBody {
		// What nobody reads of a body, net/http does before it answers, so the time for it runs from here on.
		_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(s.opts.BodyTimeout))
	}
	if !strings.HasPrefix(r.URL.Path, s.opts.Path) {
		http.NotFound(w, r)
		return
	}
	query := r.URL.Query()
	c, f := s.verify(r, query)
	if s.opts.Headers != nil {
		s.opts.Headers(r, w.Header())
	}
	if s.opts.CORS != nil && s.opts.CORS.headers(r, w.Header()) {
		w.WriteHeader(http.StatusNoContent)
		return
	}
	switch {
	case f != nil && f.code == codeUnknownSession && s.forward(w, r, query.Get("sid")):
	case f != nil:
		s.refuse(w, r, f)
	case c == nil && isUpgrade(r):
		s.openWebSocket(w, r, query)
	case c == nil:
		s.openPolling(w, r, query)
	case isUpgrade(r):
		s.probe(w, r, c)
	case r.Method == http.MethodGet:
		c.serveGet(w, r)
	case r.Method == http.MethodPost:
		c.servePost(w, r)
	default:
		s.empty(w, http.StatusInternalServerError)
	}
}

// verify checks r in the order of section 5 of the Engine.IO contract. It returns the connection that r
// belongs to, or nil for a handshake, or why r is refused.
func (s *Server) verify(r *http.Request, query url.Values) (*Conn, *refusal) {
	transport, upgrade := query.Get("transport"), isUpgrade(r)
	if !slices.Contains(s.opts.Transports, transport) {
		return nil, unknownTransport()
	}
	if strings.ContainsFunc(r.Header.Get("Origin"), isControl) {
		return nil, badRequestShape()
	}
	if upgrade && (transport != WebSocket || r.Method != http.MethodGet ||
		r.Header.Get("Sec-WebSocket-Version") != "13" || r.Header.Get("Sec-WebSocket-Key") == "") {
		return nil, badRequestShape()
	}
	if id := query.Get("sid"); id != "" {
		c := s.lookup(id)
		switch {
		case c == nil:
			return nil, unknownSession()
		case !upgrade && (transport != Polling || c.Transport() != Polling):
			return nil, badRequestShape()
		case query.Get("EIO") != "4":
			return nil, badRequestShape()
		}
		return c, nil
	}
	switch {
	case r.Method != http.MethodGet:
		return nil, badMethod()
	case transport == WebSocket && !upgrade:
		return nil, badRequestShape()
	}
	if s.opts.AllowRequest != nil {
		if err := s.opts.AllowRequest(r); err != nil {
			return nil, forbidden(err)
		}
	}
	if query.Get("EIO") != "4" {
		return nil, unsupportedVersion()
	}
	return nil, nil
}

func (s *Server) lookup(id string) *Conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.conns[id]
}

// reserve counts a connection that is about to open, or says why there is no place for it. It is given back by
// release.
func (s *Server) reserve(address string) *refusal {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopping {
		return shuttingDown()
	}
	if address != "" {
		if s.addresses[address] >= s.opts.ConnsPerAddress {
			return tooManyConns()
		}
		s.addresses[address]++
	}
	s.work.Add(1)
	return nil
}

func (s *Server) releaseLocked(address string) {
	if address != "" {
		if s.addresses[address]--; s.addresses[address] == 0 {
			delete(s.addresses, address)
		}
	}
}

// add puts c into the table, and reports whether the server is stopping and doesn't know of c.
func (s *Server) add(c *Conn) (stopping bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conns[c.id] = c
	return s.stopping
}

// remove takes c out of the table.
func (s *Server) remove(c *Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conns[c.id] == c {
		delete(s.conns, c.id)
		s.releaseLocked(c.address)
	}
}

// begin counts a goroutine that the caller is about to start, unless the server is stopping.
func (s *Server) begin() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopping {
		return false
	}
	s.work.Add(1)
	return true
}

// addressKey is what ConnsPerAddress counts by: an IPv4 address, an IPv6 network, or whatever else the
// address is; "" for an address of this machine, which is not counted.
func addressKey(address string) string {
	ip, err := netip.ParseAddr(address)
	if err != nil {
		return address
	}
	if ip = ip.Unmap(); ip.IsLoopback() {
		return ""
	}
	if ip.Is6() {
		if network, err := ip.WithZone("").Prefix(64); err == nil {
			return network.String()
		}
	}
	return ip.String()
}

// maxPace is the longest that Shutdown lets pass between two connections. It is there to spread the return
// of the clients, and so few of them need no spreading.
const maxPace = 50 * time.Millisecond

// Shutdown ends the server. New handshakes are refused with status 503 from now on, and the connections are
// closed with the reason ServerShuttingDown, spread evenly over the first three quarters of the time that ctx
// leaves, at 20 a second or more; all at once if ctx has no deadline. It returns nil when all calls of Closed
// have returned and no goroutine of the server is left. If ctx ends before, it cuts what is left and returns
// ErrStillClosing; what still runs then is receivers that don't return.
func (s *Server) Shutdown(ctx context.Context) error {
	s.mu.Lock()
	s.stopping = true
	conns := make([]*Conn, 0, len(s.conns))
	for _, c := range s.conns {
		conns = append(conns, c)
	}
	s.mu.Unlock()

	var pace time.Duration
	if deadline, ok := ctx.Deadline(); ok {
		pace = min(time.Until(deadline)*3/4/time.Duration(max(1, len(conns))), maxPace)
	}
	start := time.Now()
	for i, c := range conns {
		if ahead := time.Until(start.Add(time.Duration(i) * pace)); ahead > time.Millisecond {
			select {
			case <-ctx.Done():
			case <-time.After(ahead):
			}
		}
		c.Close(ServerShuttingDown)
	}
	ended := make(chan struct{})
	go func() { // ends with the last receiver
		s.work.Wait()
		close(ended)
	}()
	var err error
	select {
	case <-ended:
	case <-ctx.Done():
		s.cut()
		select {
		case <-ended:
		case <-time.After(cutGrace):
			err = fmt.Errorf("engineio: shut down: %w: %w", ErrStillClosing, context.Cause(ctx))
		}
	}
	for _, c := range conns {
		c.forget()
	}
	return err
}

// ErrStillClosing means that receivers had not returned when Shutdown could wait no longer.
var ErrStillClosing = errors.New("connections are still closing")

// cutGrace is what Shutdown gives goroutines to notice that their TCP connection was cut, and receivers to finish what
// they are waiting for.
const cutGrace = 3 * time.Second

// cut closes the TCP connection of all WebSockets that are closing.
func (s *Server) cut() {
	s.mu.Lock()
	leaving := make([]*socket, 0, len(s.leaving))
	for k := range s.leaving {
		leaving = append(leaving, k)
	}
	s.mu.Unlock()
	for _, k := range leaving {
		k.conn.mu.Lock()
		k.abortLocked()
		k.conn.mu.Unlock()
	}
}

// reject counts input that broke the protocol; rule comes from a fixed set.
func (s *Server) reject(rule string) {
	s.opts.Metrics.Count(metrics.InputRejected, rule)
}

// appendJSONString appends text as a JSON string.
func appendJSONString(dst []byte, text string) []byte {
	b, err := json.Marshal(text)
	if err != nil { // can't be: every string can be encoded
		return append(dst, `""`...)
	}
	return append(dst, b...)
}

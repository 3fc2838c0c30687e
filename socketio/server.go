// Package socketio is a Socket.IO 5 server: namespaces, sockets, rooms, acknowledgements, middleware,
// broadcast operators and connection state recovery, over engineio and the shards. It is what applications
// are written against, and what a user of the Node server will find their way in:
//
//	server, err := socketio.NewServer(socketio.Options{})
//	chat := server.Of("/chat")
//	chat.OnConnection(func(ctx context.Context, s *socketio.Socket) { s.Join("lobby") })
//	socketio.OnAck(chat, "say", func(ctx context.Context, s *socketio.Socket, m Message) (Receipt, error) {
//		s.To("lobby").Emit("said", m)
//		return Receipt{ID: m.ID}, nil
//	})
//	http.ListenAndServe("localhost:3000", server)
//
// Handlers are registered on a namespace, once, and serve all its sockets. The events of one connection are
// handled one at a time, in order, in that connection's own goroutine: a handler may block without stopping
// anyone but its own client. A handler's panic costs its event and nothing else.
package socketio

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/time/rate"

	"parley/engineio"
	"parley/fanout"
	"parley/metrics"
	"parley/shard"
	"parley/socketio/packet"
)

// Options configures a Server. The zero value is ready for use.
type Options struct {
	Engine engineio.Options // transports, heartbeat, sizes; Path defaults to /socket.io/
	Shards int              // see shard.Options

	// ConnectTimeout is how long a connection may go without joining a namespace. Default 45 s.
	ConnectTimeout time.Duration
	// MaxAttachments bounds the binary attachments of one packet. Default 10.
	MaxAttachments int
	// AttachmentTimeout bounds the wait for each attachment of a packet. Default 60 s.
	AttachmentTimeout time.Duration
	// MaxNamespaces bounds the namespaces of one connection. Default 16.
	MaxNamespaces int
	// MaxRooms bounds the rooms of one socket, its own included. Default 256.
	MaxRooms int
	// MaxPendingAcks bounds the acknowledgements that one socket may owe. Default 1000.
	MaxPendingAcks int
	// EventRate bounds the events and CONNECTs that one connection may send in a second; a burst may be twice
	// that. 0 means no bound.
	EventRate float64

	// Fanout, if not nil, makes what connects this process with others: it gets the shards, the fan-out over them,
	// and what it may ask of the server. Shutdown closes it.
	Fanout func(*shard.Pool, *fanout.Local, fanout.Host) (fanout.Fanout, error)

	Log     zerolog.Logger
	Metrics *metrics.Metrics
}

func (o Options) withDefaults() Options {
	if o.Engine.Path == "" {
		o.Engine.Path = "/socket.io/"
	}
	if o.ConnectTimeout == 0 {
		o.ConnectTimeout = 45 * time.Second
	}
	if o.MaxAttachments == 0 {
		o.MaxAttachments = 10
	}
	if o.AttachmentTimeout == 0 {
		o.AttachmentTimeout = time.Minute
	}
	if o.MaxNamespaces == 0 {
		o.MaxNamespaces = 16
	}
	if o.MaxRooms == 0 {
		o.MaxRooms = 256
	}
	if o.MaxPendingAcks == 0 {
		o.MaxPendingAcks = 1000
	}
	if o.Engine.OutboundBytes == 0 {
		o.Engine.OutboundBytes = 4 << 20
	}
	if o.Engine.OutboundMessages == 0 {
		o.Engine.OutboundMessages = 16384
	}
	o.Engine.Logger, o.Engine.Metrics = o.Log, o.Metrics
	return o
}

// Server is a Socket.IO server. It is an http.Handler for the paths below Engine.Path. All methods are safe
// for concurrent use.
type Server struct {
	options Options
	engine  *engineio.Server
	pool    *shard.Pool
	fanout  fanout.Fanout
	local   *fanout.Local // the part of fanout that is this process
	log     zerolog.Logger
	metrics *metrics.Metrics
	ctx     context.Context // the server's lifetime, handed to handlers
	cancel  context.CancelFunc
	// holdLimit is the constant of that name, unless a test changes it.
	holdLimit time.Duration
	running   sync.WaitGroup // disconnects under way; added to by spawn alone

	mu         sync.RWMutex
	stopped    bool // nothing more is spawned
	namespaces map[string]*Namespace
	dynamic    []*Namespace // parents, in the order they were made
}

// NewServer returns a running server. Shutdown ends it.
func NewServer(o Options) (*Server, error) {
	o = o.withDefaults()
	pool, err := shard.New(shard.Options{Shards: o.Shards, MaxPendingAcks: o.MaxPendingAcks, Log: o.Log, Metrics: o.Metrics})
	if err != nil {
		return nil, err
	}
	s := &Server{
		options:    o,
		pool:       pool,
		log:        o.Log,
		metrics:    o.Metrics,
		namespaces: make(map[string]*Namespace),
		holdLimit:  holdLimit,
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	if err := s.connectFanout(); err != nil {
		s.cancel()
		pool.Stop()
		return nil, err
	}
	s.engine, err = engineio.NewServer(o.Engine, s.accept)
	if err != nil {
		s.cancel()
		pool.Stop()
		return nil, errors.Join(err, s.fanout.Close())
	}
	s.Of("/")
	return s, nil
}

// connectFanout sets the fan-out: the local one, or what connects this process with others, whose mail is then
// looked after.
func (s *Server) connectFanout() error {
	s.local = fanout.NewLocal(s.pool, s.options.MaxRooms)
	if s.options.Fanout == nil {
		s.fanout = s.local
		return nil
	}
	h := &host{server: s, missed: make(chan struct{}, 1)}
	f, err := s.options.Fanout(s.pool, s.local, h)
	if err != nil {
		return err
	}
	s.fanout = f
	warn := rate.Sometimes{Interval: time.Minute}
	s.pool.Watch(checkEvery, h.missed, func(err error) {
		warn.Do(func() {
			s.log.Warn().Err(err).Msg("mailboxes could not be compared with the store, trying again")
		})
	})
	return nil
}

// shared tells whether other processes are to be told of what happens here.
func (s *Server) shared() bool { return s.fanout != fanout.Fanout(s.local) }

// ServeHTTP serves Engine.IO requests.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.engine.ServeHTTP(w, r) }

// Len returns the number of connections.
func (s *Server) Len() int { return s.engine.Len() }

// Shards returns the number of shards.
func (s *Server) Shards() int { return s.pool.Len() }

// Of returns the namespace of that name, which it makes if there is none. A leading slash is added if
// missing. Register handlers before clients connect.
func (s *Server) Of(name string) *Namespace {
	if !strings.HasPrefix(name, "/") {
		name = "/" + name
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := s.namespaces[name]; n != nil {
		return n
	}
	n := newNamespace(s, name, new(application))
	s.namespaces[name] = n
	s.fanout.Open(name)
	return n
}

// OfFunc returns a parent for the namespaces that do not exist and that match accepts: a client that connects
// to one makes it, with the parent's middleware and handlers, and it is gone when its last socket leaves. What
// is emitted to a parent goes to all its children. They have no mail. match may be called from many goroutines; auth is
// the client's CONNECT payload, {} if there is none.
func (s *Server) OfFunc(match func(name string, auth json.RawMessage) bool) *Namespace {
	n := newNamespace(s, "", new(application))
	n.match = match
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dynamic = append(s.dynamic, n)
	return n
}

// lookup returns the namespace that a client asks for, or nil. A dynamic one is made; it is held until the
// caller releases it.
func (s *Server) lookup(name string, auth json.RawMessage) *Namespace {
	s.mu.RLock()
	n := s.namespaces[name]
	if n != nil {
		n.hold()
		s.mu.RUnlock()
		return n
	}
	parents := s.dynamic
	s.mu.RUnlock()
	for _, parent := range parents {
		if !parent.match(name, auth) {
			continue
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		if n = s.namespaces[name]; n == nil {
			n = newNamespace(s, name, parent.app)
			n.parent = parent
			s.namespaces[name] = n
			s.fanout.Open(name)
		}
		n.hold()
		return n
	}
	return nil
}

// release undoes a hold of n, and drops a child namespace that nobody holds.
func (s *Server) release(n *Namespace) {
	if n.held.Add(-1) > 0 || n.parent == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if n.held.Load() == 0 && s.namespaces[n.name] == n {
		delete(s.namespaces, n.name)
		s.fanout.Shut(n.name)
	}
}

// children returns the namespaces that parent has made.
func (s *Server) children(parent *Namespace) []*Namespace {
	s.mu.RLock()
	defer s.mu.RUnlock()
	var found []*Namespace
	for _, n := range s.namespaces {
		if n.parent == parent {
			found = append(found, n)
		}
	}
	return found
}

// Shutdown closes all connections without a DISCONNECT packet, so that the clients come back by themselves
// (socketio.md section 5), spread over the time that ctx leaves, waits for their handlers, and stops the
// shards. Handlers that run longer than ctx are left behind with their context canceled, and an error says so.
func (s *Server) Shutdown(ctx context.Context) error {
	err := s.engine.Shutdown(ctx)
	s.mu.Lock()
	s.stopped = true
	s.mu.Unlock()
	if err == nil { // otherwise they wait for handlers that don't return
		s.running.Wait()
	}
	s.cancel()
	err = errors.Join(err, s.fanout.Close())
	s.pool.Stop()
	if err != nil {
		return fmt.Errorf("shut down: %w", err)
	}
	return nil
}

// spawn runs f in a goroutine that Shutdown waits for. Once all connections are closed it does nothing: there
// is nothing left to do.
func (s *Server) spawn(f func()) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if !s.stopped {
		s.running.Go(f)
	}
}

// accept is called by the engine for each new connection.
func (s *Server) accept(conn *engineio.Conn) engineio.Receiver {
	c := &client{server: s, conn: outbound{Conn: conn}, decoder: packet.Decoder{MaxAttachments: s.options.MaxAttachments}}
	c.joining = time.AfterFunc(s.options.ConnectTimeout, c.connectTimedOut)
	return c
}

// Package relay lets a client's requests arrive at any process. The id of a connection begins with the name of the
// process that has it, its node. Every process registers its node and its address in Redis under a lease, and
// forwards a request that names another node to there; the reply goes back the same way. A WebSocket, whose
// handshake is its only request, is forwarded only when it takes over from polling elsewhere.
//
// What is kept in Redis, each key by itself so that a Cluster may have them anywhere:
//
//	parley:relay:<node>    string   "<incarnation> <URL>" of a process, until its lease ends
//	parley:relay-secret    string   the key with which processes sign what they forward
//
// A forwarded request carries the header Parley-Relay with the time, the address of the client and an HMAC over
// those, the method, and the path with the query. Whoever has the key is believed: Redis, which gives it to all
// processes, is what they trust. A signed request is never forwarded again. A process that stops asks, in the same way, for
// the polls to be let go of that it forwards (release.go).
package relay

import (
	"context"
	"errors"
	"net/http"
	"net/http/httputil"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/rs/zerolog"
	"golang.org/x/time/rate"

	"parley/metrics"
)

// Options configure a Relay. Client is required; the zero value of each other field stands for its default.
type Options struct {
	// Client is the Redis that all processes share. The Relay does not close it.
	Client redis.UniversalClient

	// Wait is for how long Join tries while Redis fails. Zero or less: once.
	Wait time.Duration

	// Lease is how long the others know of a process that died; default 10s. It is renewed three times in its
	// length.
	Lease time.Duration

	// ResponseTimeout is how long another process may take to begin its reply; default 60s. A poll is held for
	// the ping interval, so it has to be longer.
	ResponseTimeout time.Duration

	// WriteTimeout is how long either side may take to accept what waits for it, which is 32 KiB at most;
	// default 10s.
	WriteTimeout time.Duration

	// MaxPayload bounds the body of a request, in bytes; default 1,000,000. It should be that of engineio.
	MaxPayload int

	// MaxBodies bounds the bodies of all requests that are being read or passed on, in bytes; default 64 MiB, and no
	// less than one body. When it is reached, the request whose body has been on its way for longest gets status 503.
	MaxBodies int

	// MaxForwards bounds the requests and WebSockets that are forwarded at one time, each of which takes two
	// TCP connections; default 16384. Further ones get status 503.
	MaxForwards int

	Log     zerolog.Logger
	Metrics *metrics.Metrics
}

func (o Options) withDefaults() Options {
	for _, d := range []struct {
		value    *time.Duration
		fallback time.Duration
	}{{&o.Lease, 10 * time.Second}, {&o.ResponseTimeout, time.Minute}, {&o.WriteTimeout, 10 * time.Second}} {
		if *d.value == 0 {
			*d.value = d.fallback
		}
	}
	for _, n := range []struct {
		value    *int
		fallback int
	}{{&o.MaxForwards, 16384}, {&o.MaxPayload, 1_000_000}, {&o.MaxBodies, 64 << 20}} {
		if *n.value == 0 {
			*n.value = n.fallback
		}
	}
	o.MaxBodies = max(o.MaxBodies, o.MaxPayload+1)
	return o
}

// Relay is this process' part in forwarding. All methods are safe for concurrent use. End it with Drain and Close.
type Relay struct {
	opts      Options
	seat      seat
	keys      keys
	directory *directory
	transport *http.Transport
	proxy     *httputil.ReverseProxy
	bodies    bodies
	buffers   sync.Pool      // *[]byte, for copying replies
	warned    rate.Sometimes // how often what other processes or clients bring about is logged

	stop    context.CancelFunc // ends what runs
	running sync.WaitGroup     // the goroutine that renews the lease

	mu       sync.Mutex
	forwards map[*forward]struct{} // under way
	stopping bool                  // what may take long is not begun any more
	stopped  bool                  // nothing is
	idle     sync.Cond             // of mu: forwards is empty, or there is no more time
}

// errStopping is the cause of a forward's end when this process stops.
var errStopping = errors.New("this process is stopping")

// Join takes a name for this process that no other one has, and keeps it until Close. ctx bounds the joining.
func Join(ctx context.Context, opts Options) (*Relay, error) {
	r := &Relay{
		opts:     opts.withDefaults(),
		forwards: make(map[*forward]struct{}),
		warned:   rate.Sometimes{First: 1, Interval: 10 * time.Second},
	}
	r.idle.L = &r.mu
	r.buffers.New = func() any { return new(make([]byte, copyBytes)) }
	r.bodies.max = r.opts.MaxBodies
	r.directory = newDirectory(r.opts.Client, r.opts.Lease, r.keys.set)
	r.transport = newTransport(r.opts)
	r.proxy = r.newProxy()
	for start := time.Now(); ; {
		err := r.enter(ctx)
		if err == nil {
			break
		}
		if time.Since(start) >= r.opts.Wait {
			return nil, err
		}
		r.warned.Do(func() { r.opts.Log.Warn().Err(err).Msg("Redis does not answer, waiting for it") })
		if err := pause(ctx, joinPause); err != nil {
			return nil, err
		}
	}
	r.opts.Metrics.Gauge("relay_forwards", "Requests of other processes' connections that are being forwarded.", func() float64 {
		r.mu.Lock()
		defer r.mu.Unlock()
		return float64(len(r.forwards))
	})
	keep, stop := context.WithCancel(context.WithoutCancel(ctx))
	r.stop = stop
	r.running.Go(func() { r.keep(keep) }) // ends with Close
	return r, nil
}

// joinPause is between two attempts to enter the register.
const joinPause = 250 * time.Millisecond

func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

// enter takes a name and agrees on a key with the others.
func (r *Relay) enter(ctx context.Context) error {
	if err := r.takeSeat(ctx); err != nil {
		return err
	}
	if err := r.agree(ctx); err != nil {
		r.leaveSeat(ctx)
		return err
	}
	return nil
}

// Node is this process' name: engineio.NodeLength characters of [A-Za-z0-9_-].
func (r *Relay) Node() string { return r.seat.node }

// maxPace is the longest that Drain lets pass between two WebSockets.
const maxPace = 50 * time.Millisecond

// Drain ends the WebSockets that are forwarded, spread evenly over the first three quarters of the time that ctx
// leaves, so that their clients do not all come back at once: a WebSocket ends with one of the processes between the
// client and its connection. Other requests are forwarded on.
func (r *Relay) Drain(ctx context.Context) {
	var sockets []*forward
	r.mu.Lock()
	for f := range r.forwards {
		if f.upgrade {
			sockets = append(sockets, f)
		}
	}
	r.mu.Unlock()
	var pace time.Duration
	if deadline, ok := ctx.Deadline(); ok {
		pace = min(time.Until(deadline)*3/4/time.Duration(max(1, len(sockets))), maxPace)
	}
	for _, f := range sockets {
		f.cancel(errStopping)
		if pace <= 0 {
			continue
		}
		select {
		case <-time.After(pace):
		case <-ctx.Done():
			pace = 0
		}
	}
}

// Close ends all forwards, and tells the others that this process leaves. Clients that poll through it are made to poll
// again, which loses nothing (release.go): the listener should be closed already, so that they do so through another
// process. What else is under way has half of the time that ctx leaves, and closeTime at most; what is left then
// is answered like a request of an unknown connection, so that its client comes back at once. When ctx ends, so does
// whatever clients are still written, and Close waits no longer. Close may be called again, and does nothing then.
func (r *Relay) Close(ctx context.Context) {
	r.mu.Lock()
	again := r.stopping
	r.stopping = true
	for f := range r.forwards {
		if f.upgrade { // which may last for ever
			f.cancel(errStopping)
		}
	}
	r.mu.Unlock()
	if again {
		return
	}
	r.stop()
	r.running.Wait()
	r.leaveSeat(ctx)
	patience := closeTime
	if deadline, ok := ctx.Deadline(); ok {
		patience = min(patience, time.Until(deadline)/2)
	}
	some, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	r.releasePolls(some)
	r.wait(some)
	r.mu.Lock()
	r.stopped = true
	for f := range r.forwards {
		f.cancel(errStopping)
	}
	r.mu.Unlock()
	r.wait(ctx) // each ends with its context, or when a timeout has passed
	r.mu.Lock()
	for f := range r.forwards {
		f.cut()
	}
	r.mu.Unlock()
	r.transport.CloseIdleConnections()
}

// closeTime is what Close gives forwards to end by themselves.
const closeTime = 2 * time.Second

// wait returns when nothing is forwarded, or with ctx.
func (r *Relay) wait(ctx context.Context) {
	defer context.AfterFunc(ctx, func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.idle.Broadcast()
	})()
	r.mu.Lock()
	defer r.mu.Unlock()
	for len(r.forwards) > 0 && ctx.Err() == nil {
		r.idle.Wait()
	}
}

// warn logs what clients or other processes can bring about as often as they like, now and then.
func (r *Relay) warn(err error, node, message string) {
	r.warned.Do(func() { r.opts.Log.Warn().Err(err).Str("node", node).Msg(message) })
}

package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	stdlog "log"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"parley/auth"
	"parley/config"
	"parley/engineio"
	"parley/fanout"
	"parley/handlers"
	"parley/metrics"
	"parley/shard"
	"parley/socketio"
	"parley/store"
	"parley/store/file"
	"parley/store/memory"
	"parley/web"
)

// program is a running Parley.
type program struct {
	cfg      *config.Config
	addr     net.Addr // where it listens
	store    store.Store
	cluster  *cluster // nil for a single process
	sockets  *socketio.Server
	chat     *handlers.Chat
	http     *http.Server
	draining atomic.Bool
	failed   chan error         // gets why serving ended, unless stop ended it
	stopKeys context.CancelFunc // ends the refreshing of JWT keys
	stopped  chan struct{}      // closed when connections are, for what runs beside them
	running  sync.WaitGroup     // ends with stopped
	ballast  []byte             // see ballastBytes
}

// start wires the rooms together and serves. ctx bounds the start, not the running.
func start(ctx context.Context, cfg *config.Config, log zerolog.Logger) (_ *program, err error) {
	p := &program{cfg: cfg, failed: make(chan error, 1), stopped: make(chan struct{}), ballast: newBallast()}
	counters := metrics.New()

	keys, stopKeys := context.WithCancel(context.WithoutCancel(ctx))
	started := context.AfterFunc(ctx, stopKeys)
	defer started()
	p.stopKeys = stopKeys
	defer func() {
		if err != nil {
			stopKeys()
		}
	}()
	verifier, err := newVerifier(keys, cfg, log)
	if err != nil {
		return nil, err
	}
	origins, err := auth.NewOrigins(cfg.CORSOrigins, cfg.Open())
	if err != nil {
		return nil, fmt.Errorf("CORS_ORIGINS: %w", err)
	}
	if err := p.openStore(ctx, log, counters); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.closeStore())
		}
	}()
	if err := p.openSockets(origins, log, counters); err != nil {
		return nil, err
	}
	p.openApplications(verifier, log)

	listener, err := p.listen(ctx)
	if err != nil {
		p.chat.Close()
		return nil, errors.Join(err, p.sockets.Shutdown(ctx))
	}
	p.addr = listener.Addr()
	p.serve(listener, p.routes(counters, origins), log)
	p.running.Go(func() { returnMemory(p.sockets.Len, uint64(len(p.ballast)), p.stopped) })
	mode := "authenticated: a token says who a client is"
	if cfg.Open() {
		mode = "open: anybody who can connect may use any name; set JWT_SECRET or JWT_JWKS_URL to change that"
	}
	log.Info().Str("address", p.addr.String()).Int("shards", p.sockets.Shards()).Stringer("store", p.store).
		Str("mode", mode).Msgf("Parley serves http://%s/", browsable(p.addr))
	return p, nil
}

// openSockets makes the Socket.IO server.
func (p *program) openSockets(origins *auth.Origins, log zerolog.Logger, counters *metrics.Metrics) (err error) {
	cfg := p.cfg
	p.sockets, err = socketio.NewServer(socketio.Options{
		Engine:         p.engineOptions(origins),
		Shards:         cfg.Shards,
		ConnectTimeout: cfg.ConnectTimeout,
		MaxAttachments: cfg.MaxAttachments,
		MaxNamespaces:  cfg.MaxNamespaces,
		MaxRooms:       cfg.MaxRooms,
		MaxPendingAcks: cfg.MaxPendingAcks,
		EventRate:      float64(cfg.RateLimit),
		Fanout:         p.newFanout(),
		Log:            log,
		Metrics:        counters,
	})
	if err != nil {
		return err
	}
	counters.Gauge("connections", "Open Engine.IO connections.", func() float64 { return float64(p.sockets.Len()) })
	return nil
}

// openApplications puts chat and notify on their namespaces.
func (p *program) openApplications(verifier auth.Verifier, log zerolog.Logger) {
	cfg := p.cfg
	p.chat = handlers.NewChat(p.sockets.Of("/"), handlers.ChatOptions{
		Store: p.store, Verifier: verifier, RosterLimit: cfg.RosterLimit, HistoryLimit: cfg.HistoryLimit,
		MaxMessage: cfg.MaxMessage, SessionTTL: cfg.SessionTTL, Recovery: cfg.RecoveryTTL, Shared: p.cluster != nil, Log: log,
	})
	notify := handlers.NewNotify(p.sockets.Of("/socket"), handlers.NotifyOptions{
		Store: p.store, Verifier: verifier, Recovery: cfg.RecoveryTTL, Log: log,
	})
	if p.cluster != nil {
		p.cluster.serve(p.chat, notify)
	}
}

// serve serves what comes to listener, until stopServing.
func (p *program) serve(listener net.Listener, handler http.Handler, log zerolog.Logger) {
	p.http = &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          stdlog.New(log, "", 0),
	}
	go func() {
		if err := p.http.Serve(engineio.Front(listener, "/socket.io/", p.http)); !errors.Is(err, http.ErrServerClosed) {
			p.failed <- err
		}
	}()
}

// listen takes the configured address, and tells the other processes.
func (p *program) listen(ctx context.Context) (net.Listener, error) {
	// The heartbeat finds peers that are gone, and idle HTTP connections have their timeout: four system calls less for each.
	without := net.ListenConfig{KeepAlive: -1}
	listener, err := without.Listen(ctx, "tcp", p.cfg.Addr())
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w: set PORT or HOST to an address that is free and that this user may take", p.cfg.Addr(), err)
	}
	if p.cluster != nil {
		if err := p.cluster.advertise(ctx, listener.Addr()); err != nil {
			return nil, errors.Join(err, listener.Close())
		}
	}
	return listener, nil
}

// stopTimeout bounds what stop does beside DRAIN_TIMEOUT.
const stopTimeout = 5 * time.Second

// stop closes connections over DRAIN_TIMEOUT, so that their clients do not all come back at once, and then
// what is below them.
func (p *program) stop() error {
	p.draining.Store(true)
	drain, cancel := context.WithCancel(context.Background())
	defer cancel()
	if p.cluster != nil {
		// What connections do last must not wait for a Redis that is away.
		defer time.AfterFunc(cmp.Or(p.cfg.DrainTimeout, stopTimeout), p.cluster.store.Hurry).Stop()
	}
	if d := p.cfg.DrainTimeout; d > 0 {
		drain, cancel = context.WithTimeout(drain, d)
		defer cancel()
	} else {
		// Without a deadline all are closed at once, but what they do last still needs its time.
		defer time.AfterFunc(stopTimeout, cancel).Stop()
	}
	var relayed sync.WaitGroup
	if p.cluster != nil {
		relayed.Go(func() { p.cluster.relay.Drain(drain) })
	}
	err := p.sockets.Shutdown(drain)
	if p.cluster != nil && errors.Is(err, engineio.ErrStillClosing) {
		p.cluster.log.Warn().Err(err).Msg("the last work of some connections is not done: other processes settle who is gone when the lease ends")
		err = nil
	}
	p.chat.Close()
	relayed.Wait()
	if p.cluster != nil {
		// The others are told that the users here have gone, and clients everywhere ask again at once. What a proxy sends
		// over a connection that it keeps must not meet the end of that: in this time they are used up (see parting).
		select {
		case <-time.After(partingTime):
		case <-drain.Done():
		}
	}
	err = errors.Join(err, p.stopServing())
	close(p.stopped)
	p.running.Wait()
	if closeErr := p.closeStore(); closeErr != nil {
		err = errors.Join(err, fmt.Errorf("close the store: %w", closeErr))
	}
	p.stopKeys()
	return err
}

// partingTime is how long a process that stops goes on to forward when its own connections are closed.
const partingTime = 300 * time.Millisecond

// parting has each reply of a process that stops be the last on its TCP connection, so that nobody keeps that for later.
func (p *program) parting(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if p.draining.Load() && r.Header.Get("Upgrade") == "" {
			w.Header().Set("Connection", "close")
		}
		h.ServeHTTP(w, r)
	})
}

// stopServing ends the HTTP server, and with it what is forwarded.
func (p *program) stopServing() error {
	rest, cancel := context.WithCancel(context.Background())
	defer cancel()
	stopped := make(chan error, 1)
	deaf := make(chan struct{})
	p.http.RegisterOnShutdown(func() { close(deaf) })
	go func() { stopped <- p.http.Shutdown(rest) }() // ends with rest
	if p.cluster != nil {
		// A client whose poll is given back must not be able to come here again with the next.
		<-deaf
		p.cluster.stopRelay()
	}
	// Whoever still holds a TCP connection now has no request under way that is worth waiting for.
	defer time.AfterFunc(time.Second, cancel).Stop()
	if err := <-stopped; err != nil {
		return p.http.Close()
	}
	return nil
}

// routes says what is served where.
func (p *program) routes(counters *metrics.Metrics, origins *auth.Origins) http.Handler {
	pages := http.NewServeMux()
	pages.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		if p.draining.Load() {
			http.Error(w, "draining", http.StatusServiceUnavailable)
			return
		}
		health := "ok"
		if p.cluster != nil {
			// Still 200: what is wrong with Redis is wrong for all processes, and connections are served.
			health = cmp.Or(p.cluster.degraded(), health)
		} else if s, ok := p.store.(interface{ Health() error }); ok && s.Health() != nil {
			http.Error(w, "failed: the store can't be written: check the disk, then start this process again", http.StatusServiceUnavailable)
			return
		}
		_, _ = fmt.Fprintln(w, health) // who asked may be gone
	})
	pages.Handle("GET /metrics", p.operatorOnly(counters.Handler()))
	pages.Handle("/chat/history", p.chat.History(origins.Allow))
	pages.Handle("/socket.io", http.NotFoundHandler()) // and not a redirect (engineio.md section 1)
	pages.Handle("/", web.Handler())

	sockets := http.Handler(p.sockets)
	if p.cluster != nil {
		sockets = p.cluster.relay.Receive(sockets)
	}
	sockets = web.ClientHandler(p.cfg.ClientDist, sockets)
	rest := timed(pages)
	return p.parting(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/socket.io/") {
			sockets.ServeHTTP(w, r) // which has deadlines of its own
			return
		}
		rest.ServeHTTP(w, r)
	}))
}

// timed bounds the time that a request for a page may take, and that what a client sends with it may.
func timed(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		until := time.Now().Add(30 * time.Second)
		c := http.NewResponseController(w)
		if err := errors.Join(c.SetReadDeadline(until), c.SetWriteDeadline(until)); err != nil {
			http.Error(w, "this connection can't be timed", http.StatusInternalServerError)
			return
		}
		h.ServeHTTP(w, r)
	})
}

// operatorOnly lets requests with the API key pass, or where none is set, those of this machine that no proxy
// passed on.
func (p *program) operatorOnly(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case p.cfg.APIKey == "" && !local(r):
			http.Error(w, "this is for the server's own machine only, unless its API_KEY is set", http.StatusForbidden)
		case p.cfg.APIKey != "" && !auth.SameKey(auth.Bearer(r.Header), p.cfg.APIKey):
			w.Header().Set("WWW-Authenticate", "Bearer")
			http.Error(w, "send the API_KEY as a bearer token", http.StatusUnauthorized)
		default:
			h.ServeHTTP(w, r)
		}
	})
}

// local tells whether a request comes from this machine itself.
func local(r *http.Request) bool {
	from, err := netip.ParseAddrPort(r.RemoteAddr)
	return err == nil && from.Addr().Unmap().IsLoopback() &&
		r.Header.Get("Forwarded") == "" && r.Header.Get("X-Forwarded-For") == ""
}

// browsable is an address that a browser on this machine can open.
func browsable(a net.Addr) string {
	tcp, ok := a.(*net.TCPAddr)
	if !ok {
		return a.String()
	}
	if tcp.IP.IsUnspecified() || tcp.IP.IsLoopback() {
		return fmt.Sprintf("localhost:%d", tcp.Port)
	}
	return a.String()
}

// newVerifier returns what checks tokens, or nil in open mode.
func newVerifier(ctx context.Context, cfg *config.Config, log zerolog.Logger) (auth.Verifier, error) {
	if cfg.Open() {
		return nil, nil
	}
	return auth.NewJWT(ctx, auth.JWTOptions{
		Secret: cfg.JWTSecret, JWKSURL: cfg.JWTJWKSURL, Issuer: cfg.JWTIssuer, Audience: cfg.JWTAudience, Logger: log,
	})
}

// openStore opens the store that the configuration names.
func (p *program) openStore(ctx context.Context, log zerolog.Logger, counters *metrics.Metrics) (err error) {
	switch p.cfg.Store {
	case config.StoreMemory:
		p.store = memory.New(storeOptions(p.cfg))
	case config.StoreRedis:
		if p.cluster, err = joinCluster(ctx, p.cfg, log, counters); err == nil {
			p.store = p.cluster.store
		}
	default:
		p.store, err = file.Open(p.cfg.DataDir, file.Options{Options: storeOptions(p.cfg), Logger: log})
	}
	return err
}

func (p *program) closeStore() error {
	if p.cluster != nil {
		return p.cluster.Close()
	}
	return p.store.Close()
}

// newFanout returns what makes the fan-out between processes, or nil for a single one.
func (p *program) newFanout() func(*shard.Pool, *fanout.Local, fanout.Host) (fanout.Fanout, error) {
	if p.cluster == nil {
		return nil
	}
	return p.cluster.newFanout
}

func storeOptions(cfg *config.Config) store.Options {
	return store.Options{SessionTTL: cfg.SessionTTL, MessageTTL: cfg.MessageTTL, MailboxLimit: cfg.MailboxLimit}
}

// engineOptions configures the transports. Pages of foreign origins are refused on both.
func (p *program) engineOptions(origins *auth.Origins) engineio.Options {
	cfg := p.cfg
	o := engineio.Options{
		PingInterval: cfg.PingInterval, PingTimeout: cfg.PingTimeout, MaxPayload: cfg.MaxPayload,
		NoUpgrades: !cfg.AllowUpgrades, PerMessageDeflate: cfg.PerMessageDeflate,
		OutboundBytes: cfg.OutboundBytes, OutboundMessages: cfg.OutboundMessages,
		ConnsPerAddress: cfg.ConnectionsPerAddress,
		CORS:            &engineio.CORS{Allow: origins.Allow, Credentials: true},
		AllowRequest: func(r *http.Request) error {
			if !origins.Allow(r) {
				return errors.New("this origin may not connect: the server's CORS_ORIGINS names those that may")
			}
			return nil
		},
	}
	if origins.Any() {
		o.CORS = &engineio.CORS{}
	}
	if p.cluster != nil {
		o.Node, o.Forward = p.cluster.relay.Node(), p.cluster.relay.Forward
	}
	return o
}

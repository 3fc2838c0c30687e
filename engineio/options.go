package engineio

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/rs/zerolog"

	"parley/metrics"
)

// The names of the transports, as in Options.Transports, Conn.Transport and the query of a request.
const (
	Polling   = "polling"
	WebSocket = "websocket"
)

// Options configure a Server. The zero value of each field stands for its default, which is the reference
// server's where that has one (section 4 of the Engine.IO contract).
type Options struct {
	// Path is the prefix of the requests that are served, with or without the slash at its end, which
	// requests must have. Default "/engine.io/".
	Path string

	// PingInterval is the time from the opening, and then from each pong, to the next ping; default 25s.
	// PingTimeout is how long a pong may take before the connection is closed; default 20s. Both are told to
	// the client in whole milliseconds.
	PingInterval, PingTimeout time.Duration

	// UpgradeTimeout is how long a WebSocket may take to take over from polling; default 10s.
	UpgradeTimeout time.Duration

	// WriteTimeout is how long a client may take to accept 64 KiB that wait for it; default 10s.
	WriteTimeout time.Duration

	// BodyTimeout is how long the body of a request may take to arrive; default 20s.
	BodyTimeout time.Duration

	// CloseGrace is how long a polling connection that was closed by Conn.Close waits for the client's next
	// GET, to tell it; default 30s.
	CloseGrace time.Duration

	// MaxPayload is the largest body of a POST, and the largest WebSocket message, in bytes; default 1000000.
	// It also bounds the replies to GETs, except that one message which is larger goes alone.
	MaxPayload int

	// NoUpgrades keeps connections that start on polling there.
	NoUpgrades bool

	// Transports are the transports that clients may use; default Polling and WebSocket.
	Transports []string

	// CORS lets pages of other origins use polling. Nil sends no CORS headers and refuses preflights.
	CORS *CORS

	// Cookie, if not nil, is sent with the reply to a handshake by polling, with the connection's id as
	// value. Name defaults to "io", Path to "/", SameSite to Lax; HttpOnly is always set.
	Cookie *http.Cookie

	// PerMessageDeflate compresses WebSocket messages for clients that can do so. It costs much memory and
	// time for little, and is best left off.
	PerMessageDeflate bool

	// CompressionThreshold is the size in bytes from which on the replies to GETs, and with PerMessageDeflate
	// WebSocket messages, are compressed; default 1024. A negative value turns off both.
	CompressionThreshold int

	// AllowRequest, if not nil, decides whether a client may connect. An error refuses the handshake with
	// status 403 and the error's text, which the client sees; on WebSocket with status 400. It is not asked
	// about requests that belong to an open connection.
	AllowRequest func(*http.Request) error

	// Headers, if not nil, may add headers to the reply to any request, 101 included. It must not keep either.
	Headers func(*http.Request, http.Header)

	// Address, if not nil, returns the address of the client of a request, for Handshake.Address and
	// ConnsPerAddress. It is needed behind a proxy. Default: the host of RemoteAddr.
	Address func(*http.Request) string

	// Node, if not empty, names this server among those that clients may reach in its place: NodeLength
	// characters of [A-Za-z0-9_-], with which the ids of its connections begin.
	Node string

	// Forward, if not nil, is given the GETs and POSTs, upgrades included, of connections whose id begins with
	// another Node. It returns true once it has answered one, or false with the ResponseWriter as it was: the
	// request is then refused like that of any unknown connection. The headers for CORS, and those of Headers, are
	// set already: they are for what Forward itself answers, and it removes them where another server does. It
	// needs Node.
	Forward func(w http.ResponseWriter, r *http.Request, node string) bool

	// OutboundBytes and OutboundMessages bound what may wait for a client; default 4 MiB and 4096. The bounds
	// are checked before a message is added, so that an empty outbox takes one message of any size.
	OutboundBytes, OutboundMessages int

	// ConnsPerAddress bounds the connections of one address, or of one /64 network of IPv6; further
	// handshakes get status 429. Addresses of this machine are not counted, where a proxy's connections come
	// from. Default 0: no bound.
	ConnsPerAddress int

	// Logger gets closed connections at level debug and contained panics at level error. It never gets
	// messages or connection ids, which are secret. The zero Logger logs nothing.
	Logger zerolog.Logger

	// Metrics counts refused handshakes, closed connections, dropped volatile messages and rejected input.
	// Nil counts nothing.
	Metrics *metrics.Metrics
}

// withDefaults returns o with its zero fields replaced, or an error that names the first field that can't be
// used.
func (o Options) withDefaults() (Options, error) {
	if err := o.completeBounds(); err != nil {
		return o, err
	}
	if o.Node != "" && (len(o.Node) != NodeLength || !urlSafe(o.Node)) {
		return o, fmt.Errorf("engineio: option Node is %q: it must have %d characters of [A-Za-z0-9_-]", o.Node, NodeLength)
	}
	if o.Forward != nil && o.Node == "" {
		return o, errors.New("engineio: option Forward is set, but ids don't tell whose they are: set Node")
	}
	if o.Path == "" {
		o.Path = "/engine.io/"
	}
	if !strings.HasPrefix(o.Path, "/") {
		return o, fmt.Errorf("engineio: option Path is %q: it must start with a slash", o.Path)
	}
	o.Path = strings.TrimSuffix(o.Path, "/") + "/"
	if len(o.Transports) == 0 {
		o.Transports = []string{Polling, WebSocket}
	}
	for _, t := range o.Transports {
		if t != Polling && t != WebSocket {
			return o, fmt.Errorf("engineio: option Transports has %q: use %q and %q", t, Polling, WebSocket)
		}
	}
	if o.CORS != nil && o.CORS.Credentials && o.CORS.any() {
		return o, errors.New("engineio: option CORS allows credentials from any origin, which browsers refuse: name the origins")
	}
	if err := o.completeCookie(); err != nil {
		return o, err
	}
	if o.Address == nil {
		o.Address = func(r *http.Request) string {
			host, _, err := net.SplitHostPort(r.RemoteAddr)
			if err != nil {
				return r.RemoteAddr
			}
			return host
		}
	}
	return o, nil
}

// completeBounds sets the times and sizes that are zero.
func (o *Options) completeBounds() error {
	for _, d := range []struct {
		name     string
		value    *time.Duration
		fallback time.Duration
	}{
		{"PingInterval", &o.PingInterval, 25 * time.Second},
		{"PingTimeout", &o.PingTimeout, 20 * time.Second},
		{"UpgradeTimeout", &o.UpgradeTimeout, 10 * time.Second},
		{"WriteTimeout", &o.WriteTimeout, 10 * time.Second},
		{"BodyTimeout", &o.BodyTimeout, 20 * time.Second},
		{"CloseGrace", &o.CloseGrace, 30 * time.Second},
	} {
		if *d.value == 0 {
			*d.value = d.fallback
		}
		if *d.value < time.Millisecond {
			return fmt.Errorf("engineio: option %s is %v: it must be at least 1ms, or 0 for %v", d.name, *d.value, d.fallback)
		}
	}
	for _, n := range []struct {
		name     string
		value    *int
		fallback int
	}{
		{"MaxPayload", &o.MaxPayload, 1_000_000},
		{"OutboundBytes", &o.OutboundBytes, 4 << 20},
		{"OutboundMessages", &o.OutboundMessages, 4096},
	} {
		if *n.value == 0 {
			*n.value = n.fallback
		}
		if *n.value < 0 {
			return fmt.Errorf("engineio: option %s is %d: it must be positive, or 0 for %d", n.name, *n.value, n.fallback)
		}
	}
	if o.ConnsPerAddress < 0 {
		return fmt.Errorf("engineio: option ConnsPerAddress is %d: it must be positive, or 0 for no bound", o.ConnsPerAddress)
	}
	if o.CompressionThreshold == 0 {
		o.CompressionThreshold = 1024
	}
	if o.CompressionThreshold < 0 {
		o.PerMessageDeflate = false
	}
	return nil
}

// completeCookie replaces the cookie by one that can be sent, but for its value.
func (o *Options) completeCookie() error {
	if o.Cookie == nil {
		return nil
	}
	cookie := *o.Cookie //nolint:gosec // Secure is for the operator to say; the others are set below
	if cookie.Name == "" {
		cookie.Name = "io"
	}
	if cookie.Path == "" {
		cookie.Path = "/"
	}
	if cookie.SameSite == 0 {
		cookie.SameSite = http.SameSiteLaxMode
	}
	cookie.HttpOnly = true
	cookie.Value = ""
	if err := cookie.Valid(); err != nil {
		return fmt.Errorf("engineio: option Cookie can't be sent: %w", err)
	}
	o.Cookie = &cookie
	return nil
}

// upgrades says whether a connection that starts on polling may take a WebSocket.
func (o *Options) upgrades() bool {
	return !o.NoUpgrades && slices.Contains(o.Transports, WebSocket)
}

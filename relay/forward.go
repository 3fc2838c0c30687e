package relay

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	stdlog "log"

	"parley/metrics"
)

// dialTimeout is how long another process may take to accept a TCP connection.
const dialTimeout = 3 * time.Second

// copyBytes is how much of a reply is copied at a time.
const copyBytes = 32 << 10

// forward is a request that is passed on. It travels in the request's context.
type forward struct {
	// Fixed after construction.
	node    string
	to      *url.URL
	upgrade bool
	cancel  context.CancelCauseFunc

	body   atomic.Pointer[error] // how reading the client's request failed
	absent bool                  // there is no such process: the caller answers
}

// forwardKey is the context key of a *forward.
type forwardKey struct{}

// Forward passes a request on to the process with the given name, and its reply back. It has the signature of
// engineio.Options.Forward: it returns false, and has written nothing, if there is no such process, if the request
// was forwarded already, or if this process stops. A process that is there but does not answer is status 503 or
// 504.
func (r *Relay) Forward(w http.ResponseWriter, req *http.Request, node string) bool {
	if req.Context().Value(forwardedKey{}) != nil {
		// The other process has just gone and this one has its address, or they were told a wrong one.
		r.opts.Metrics.Count(metrics.RelayFailed, "misdirected")
		return false
	}
	ctx, cancel := context.WithCancelCause(req.Context())
	defer cancel(nil)
	f := &forward{node: node, upgrade: strings.EqualFold(req.Header.Get("Upgrade"), "websocket"), cancel: cancel}
	switch full, stopping := r.begin(f); {
	case stopping:
		r.opts.Metrics.Count(metrics.RelayFailed, "stopping")
		return false
	case full:
		r.fail(w, f, http.StatusServiceUnavailable, "busy", "This process forwards as many requests as it may. Try again.", nil)
		return true
	}
	defer r.end(f)
	var err error
	f.to, err = r.directory.find(node)
	switch {
	case err != nil:
		r.fail(w, f, http.StatusServiceUnavailable, "directory", "The process of this connection can't be looked up now. Try again.", err)
		return true
	case f.to == nil:
		r.opts.Metrics.Count(metrics.RelayFailed, "absent")
		return false
	}
	control := http.NewResponseController(w)
	out := req.WithContext(context.WithValue(ctx, forwardKey{}, f))
	if req.Body == nil || req.Body == http.NoBody {
		// A deadline that was set for reading the request would look like the client's going away.
		_ = control.SetReadDeadline(time.Time{})
	} else {
		out.Body = &body{ReadCloser: req.Body, control: control, failure: &f.body}
	}
	r.proxy.ServeHTTP(&writer{ResponseWriter: w, control: control, timeout: r.opts.WriteTimeout, cancel: cancel}, out)
	if f.absent {
		return false
	}
	_ = control.SetWriteDeadline(time.Time{}) // not on a WebSocket, which is closed by now
	return true
}

// begin counts f, or says why it may not begin.
func (r *Relay) begin(f *forward) (full, stopping bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.stopping || len(r.forwards) >= r.opts.MaxForwards {
		return !r.stopping, r.stopping
	}
	r.forwards[f] = struct{}{}
	return false, false
}

func (r *Relay) end(f *forward) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if delete(r.forwards, f); len(r.forwards) == 0 {
		r.idle.Broadcast()
	}
}

// fail answers a request that does not reach its process.
func (r *Relay) fail(w http.ResponseWriter, f *forward, status int, reason, text string, err error) {
	r.opts.Metrics.Count(metrics.RelayFailed, reason)
	r.warn(err, f.node, "a request for another process was not answered: "+reason)
	http.Error(w, text, status)
}

// newTransport returns what connects with other processes: directly, and with bounds.
func newTransport(o Options) *http.Transport {
	dialer := &net.Dialer{Timeout: dialTimeout, KeepAlive: 15 * time.Second}
	return &http.Transport{
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			c, err := dialer.DialContext(ctx, network, address)
			if err != nil {
				return nil, err
			}
			return &patient{Conn: c, timeout: o.WriteTimeout}, nil
		},
		TLSHandshakeTimeout:   dialTimeout,
		ResponseHeaderTimeout: o.ResponseTimeout,
		MaxConnsPerHost:       o.MaxForwards, // so that nobody waits for another's to be free
		MaxIdleConns:          1024,
		MaxIdleConnsPerHost:   256,
		IdleConnTimeout:       30 * time.Second, // well before the other side would close one that is being used
		DisableCompression:    true,             // what the client asked for passes through
		ForceAttemptHTTP2:     false,
	}
}

// newProxy returns the proxy for all forwards.
func (r *Relay) newProxy() *httputil.ReverseProxy {
	return &httputil.ReverseProxy{
		Transport:     r.transport,
		Rewrite:       r.rewrite,
		ErrorHandler:  r.failed,
		FlushInterval: -1, // at once
		BufferPool:    r,
		ModifyResponse: func(res *http.Response) error {
			if res.StatusCode != http.StatusSwitchingProtocols {
				f := res.Request.Context().Value(forwardKey{}).(*forward)
				res.Body = &reply{ReadCloser: res.Body, timeout: r.opts.WriteTimeout, cancel: f.cancel}
			}
			return nil
		},
		ErrorLog: stdlog.New(io.Discard, "", 0), // who goes away while it is answered is no news
	}
}

// Get implements httputil.BufferPool.
func (r *Relay) Get() []byte { return *r.buffers.Get().(*[]byte) }

// Put implements httputil.BufferPool.
func (r *Relay) Put(b []byte) { r.buffers.Put(&b) }

// rewrite addresses a request to its process. All else is as the client sent it.
func (r *Relay) rewrite(p *httputil.ProxyRequest) {
	f := p.In.Context().Value(forwardKey{}).(*forward)
	p.Out.URL.Scheme, p.Out.URL.Host = f.to.Scheme, f.to.Host
	for _, name := range []string{"Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto"} {
		if values, ok := p.In.Header[name]; ok {
			p.Out.Header[name] = values
		}
	}
	if p.Out.Method == http.MethodGet {
		// A body that can't be had again keeps the transport from repeating a poll whose reply was lost: what was
		// in that would be missing, and nobody would know.
		p.Out.Body, p.Out.ContentLength = io.NopCloser(strings.NewReader("")), 0
	}
	label := p.Out.Method
	if f.upgrade {
		label = "upgrade"
	}
	r.opts.Metrics.Count(metrics.RelayForwarded, label)
	p.Out.Header.Set(header, r.sign(p.Out.Method, p.Out.URL.RequestURI(), p.In.RemoteAddr))
}

// failed answers a request that got no reply.
func (r *Relay) failed(w http.ResponseWriter, out *http.Request, err error) {
	f := out.Context().Value(forwardKey{}).(*forward)
	var failure net.Error
	switch cause := context.Cause(out.Context()); {
	case errors.Is(cause, errStopping):
		r.opts.Metrics.Count(metrics.RelayFailed, "stopping")
		f.absent = true
	case f.body.Load() != nil:
		r.opts.Metrics.Count(metrics.RelayFailed, "body")
		status := http.StatusBadRequest
		if errors.Is(*f.body.Load(), os.ErrDeadlineExceeded) {
			status = http.StatusRequestTimeout
		}
		w.WriteHeader(status)
	case cause != nil: // the client has gone
		w.WriteHeader(http.StatusBadGateway)
	case errors.Is(err, syscall.ECONNREFUSED):
		r.opts.Metrics.Count(metrics.RelayFailed, "absent")
		r.directory.gone(f.node)
		f.absent = true
	case errors.As(err, &failure) && failure.Timeout():
		r.fail(w, f, http.StatusGatewayTimeout, "slow", "The process of this connection does not answer.", err)
	default:
		r.directory.gone(f.node)
		r.fail(w, f, http.StatusServiceUnavailable, "broken", "The process of this connection can't be reached.", err)
	}
}

package relay

import (
	"bytes"
	"context"
	"errors"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"strings"
	"sync"
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
	poll    bool
	cancel  context.CancelCauseFunc
	control *http.ResponseController
	header  http.Header // of the replies of this process
	body    []byte      // of the request

	release *http.Request // has a poll let go of; set once it is known where to; guarded by Relay.mu

	absent bool // there is no such process: the caller answers

	mu   sync.Mutex
	dead bool     // cut: no deadline is moved any more
	conn net.Conn // the client's, once it is a WebSocket
}

// cut ends what the client is written or read, at once.
func (f *forward) cut() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.dead = true
	if f.conn != nil {
		_ = f.conn.Close()
		return
	}
	_ = f.control.SetReadDeadline(time.Unix(1, 0))
	_ = f.control.SetWriteDeadline(time.Unix(1, 0))
}

// setWriteDeadline bounds writing. Where no deadline can be set, as in a test, there is none.
func (f *forward) setWriteDeadline(t time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.dead && f.conn == nil {
		_ = f.control.SetWriteDeadline(t)
	}
}

// hijacked notes that the client's connection is a WebSocket from now on.
func (f *forward) hijacked(c net.Conn) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.conn = c; f.dead {
		_ = c.Close()
	}
}

// forwardKey is the context key of a *forward.
type forwardKey struct{}

// Forward passes a request on to the process with the given name, and its reply back. It has the signature of
// engineio.Options.Forward: it returns false, and has written nothing, if there is no such process, if the request
// was forwarded already, or if this process stops and the request is no poll (release.go). If the process is there but does
// not answer, the client gets status 503 or 504. Headers that are set already belong to the answers of this process, and
// not to those of the other.
//
// The read deadline that is set bounds the client's body, which is read before anything else is done for it.
func (r *Relay) Forward(w http.ResponseWriter, req *http.Request, node string) bool {
	if req.Context().Value(forwardedKey{}) != nil {
		// The other process has just gone and this one has its address, or they were told a wrong one.
		r.opts.Metrics.Count(metrics.RelayFailed, "misdirected")
		return false
	}
	ctx, cancel := context.WithCancelCause(req.Context())
	defer cancel(nil)
	f := &forward{
		node: node, upgrade: strings.EqualFold(req.Header.Get("Upgrade"), "websocket"), cancel: cancel,
		control: http.NewResponseController(w),
	}
	body, err := r.bodies.read(f.control, req, r.opts.MaxPayload)
	defer body.release()
	if err != nil {
		r.unread(w, f, err)
		return true
	}
	f.body = body.data
	f.poll = isPoll(req, f.upgrade)
	switch full, stopping := r.begin(f); {
	case stopping && f.poll:
		r.again(w)
		return true
	case stopping:
		r.opts.Metrics.Count(metrics.RelayFailed, "stopping")
		return false
	case full:
		r.fail(w, f, http.StatusServiceUnavailable, "busy", "This process forwards as many requests as it may. Try again.", nil)
		return true
	}
	defer r.end(f)
	f.to, err = r.directory.find(node)
	switch {
	case err != nil:
		r.fail(w, f, http.StatusServiceUnavailable, "directory", "The process of this connection can't be looked up now. Try again.", err)
		return true
	case f.to == nil:
		r.opts.Metrics.Count(metrics.RelayFailed, "absent")
		return false
	}
	if f.poll {
		r.mayRelease(f, req)
	}
	f.header = w.Header().Clone()
	clear(w.Header())
	if last := f.header["Connection"]; last != nil && !f.upgrade {
		w.Header()["Connection"] = last // whether the client's connection goes on is for this process to say
	}
	out := req.WithContext(context.WithValue(ctx, forwardKey{}, f))
	r.proxy.ServeHTTP(&writer{ResponseWriter: w, timeout: r.opts.WriteTimeout, forward: f}, out)
	if f.absent {
		return false
	}
	f.setWriteDeadline(time.Time{})
	return true
}

// unread answers a request whose body did not come.
func (r *Relay) unread(w http.ResponseWriter, f *forward, err error) {
	f.setWriteDeadline(time.Now().Add(r.opts.WriteTimeout))
	switch {
	case errors.Is(err, errNoRoom):
		r.fail(w, f, http.StatusServiceUnavailable, "busy", "This process has no room for a request of this size. Try again.", err)
		return
	case errors.Is(err, errTooLarge):
		w.WriteHeader(http.StatusRequestEntityTooLarge)
	case errors.Is(err, os.ErrDeadlineExceeded):
		w.WriteHeader(http.StatusRequestTimeout)
	default:
		w.WriteHeader(http.StatusBadRequest)
	}
	r.opts.Metrics.Count(metrics.RelayFailed, "body")
}

// begin counts f, or says why it may not begin. While this process stops, no poll begins, and nothing does in the end.
func (r *Relay) begin(f *forward) (full, stopping bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if stopping = r.stopped || r.stopping && (f.poll || f.upgrade); stopping || len(r.forwards) >= r.opts.MaxForwards {
		return !stopping, stopping
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
	f.setWriteDeadline(time.Now().Add(r.opts.WriteTimeout))
	r.opts.Metrics.Count(metrics.RelayFailed, reason)
	r.warn(err, f.node, "a request for another process was not answered: "+reason)
	http.Error(w, text, status)
}

// errRefused is how a forward ends whose signature the other process does not take for one.
var errRefused = errors.New("the other process refused the signature; do both use the same Redis?")

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
			if res.StatusCode == http.StatusForbidden && res.Header.Get(header) != "" {
				return errRefused
			}
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
	// A body that can't be had again keeps the transport from repeating a request whose reply was lost: of a poll, what
	// was in that would be missing, and nobody would know.
	p.Out.Body, p.Out.GetBody = io.NopCloser(bytes.NewReader(f.body)), nil
	p.Out.ContentLength, p.Out.TransferEncoding = int64(len(f.body)), nil
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
	maps.Copy(w.Header(), f.header)
	var failure net.Error
	switch cause := context.Cause(out.Context()); {
	case errors.Is(cause, errStopping):
		r.opts.Metrics.Count(metrics.RelayFailed, "stopping")
		f.absent = true
	case errors.Is(err, errRefused):
		r.reread(out.Context())
		r.fail(w, f, http.StatusServiceUnavailable, "refused", "The process of this connection does not trust this one. Try again.", err)
	case cause != nil: // the client has gone
		w.WriteHeader(http.StatusBadGateway)
	case errors.Is(err, syscall.ECONNREFUSED):
		r.opts.Metrics.Count(metrics.RelayFailed, "absent")
		r.directory.gone(f.node)
		f.absent = true
	case errors.As(err, &failure) && failure.Timeout():
		r.fail(w, f, http.StatusGatewayTimeout, "slow", "The process of this connection does not answer.", err)
	default:
		r.directory.doubt(f.node)
		r.fail(w, f, http.StatusServiceUnavailable, "broken", "The process of this connection can't be reached.", err)
	}
}

package auth

import (
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// Origins decides which web pages may connect, by the Origin header that browsers send (RFC 6454). The same
// answer holds for every transport: browsers apply CORS to polling but not to WebSocket. It is immutable
// and safe for concurrent use.
type Origins struct {
	any      bool
	loopback bool
	listed   []string // normalized
}

// NewOrigins returns the Origins that allow the server's own pages, those in list ("https://example.com",
// "http://localhost:8080", or "*" for all), and, with loopback, pages from any port of this machine.
func NewOrigins(list []string, loopback bool) (*Origins, error) {
	o := &Origins{loopback: loopback}
	for _, entry := range list {
		if entry == "*" {
			o.any = true
			continue
		}
		origin, ok := parseOrigin(entry)
		if !ok {
			return nil, fmt.Errorf("%q is not an origin: write scheme, host and port only, like https://example.com or http://localhost:8080, or * for all", entry)
		}
		o.listed = append(o.listed, origin.String())
	}
	return o, nil
}

// Allow tells whether the page that r comes from may connect. A request without an Origin header does not
// come from another site's page, so it may.
func (o *Origins) Allow(r *http.Request) bool {
	header := r.Header["Origin"]
	switch {
	case len(header) == 0:
		return true
	case len(header) > 1 || !legal(header[0]):
		return false
	case o.any:
		return true
	}
	origin, ok := parseOrigin(header[0])
	if !ok { // "null" from a sandboxed page or a file, among others
		return false
	}
	return slices.Contains(o.listed, origin.String()) ||
		o.loopback && origin.loopback() ||
		origin.hostport() == withPort(strings.ToLower(r.Host), origin.scheme)
}

// Any tells whether every page is allowed ("*").
func (o *Origins) Any() bool { return o.any }

// legal tells whether a header value has only characters that an origin can have: printable ASCII.
func legal(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] > '~' {
			return false
		}
	}
	return s != ""
}

// origin is scheme, host and port, in lower case.
type origin struct{ scheme, host, port string }

// parseOrigin reads "scheme://host[:port]" and nothing more.
func parseOrigin(s string) (origin, bool) {
	if !legal(s) {
		return origin{}, false
	}
	u, err := url.Parse(strings.ToLower(s))
	if err != nil || u.Scheme == "" || u.Hostname() == "" || strings.Contains(u.Host, "*") || strings.HasSuffix(u.Host, ":") {
		return origin{}, false
	}
	// What a URL may hold beyond an origin shows in the comparison: path, query, fragment, user.
	if u.Scheme+"://"+u.Host != strings.ToLower(s) {
		return origin{}, false
	}
	o := origin{scheme: u.Scheme, host: u.Hostname(), port: u.Port()}
	if o.port == "" {
		o.port = defaultPort(u.Scheme)
	}
	return o, true
}

func (o origin) hostport() string { return net.JoinHostPort(o.host, o.port) }

func (o origin) String() string { return o.scheme + "://" + o.hostport() }

func (o origin) loopback() bool {
	if o.scheme != "http" && o.scheme != "https" {
		return false
	}
	if ip := net.ParseIP(o.host); ip != nil {
		return ip.IsLoopback()
	}
	return o.host == "localhost"
}

// withPort completes a Host header with the port that scheme implies. The scheme is the origin's, since a
// proxy in front may have ended TLS.
func withPort(host, scheme string) string {
	if u, err := url.Parse("//" + host); err == nil && u.Hostname() != "" {
		port := u.Port()
		if port == "" {
			port = defaultPort(scheme)
		}
		return net.JoinHostPort(u.Hostname(), port)
	}
	return ""
}

func defaultPort(scheme string) string {
	switch scheme {
	case "http":
		return "80"
	case "https":
		return "443"
	}
	return ""
}

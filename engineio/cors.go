package engineio

import (
	"net/http"
	"strconv"
	"strings"
	"time"
)

// CORS says which pages of other origins may read replies, as in section 12 of the Engine.IO contract. It
// restricts browsers on polling only: a WebSocket is open to every page, and to every other client, unless
// Options.AllowRequest refuses it. An origin that is not allowed is not refused; its replies lack the header.
type CORS struct {
	// Origin is sent as Access-Control-Allow-Origin whatever the origin of a request is; default "*".
	Origin string

	// Allow, if not nil, is used instead of Origin: the origin of a request is echoed where Allow says true.
	// It is not asked about requests without an Origin header.
	Allow func(*http.Request) bool

	// Credentials lets pages send cookies. It needs Allow, or an Origin other than "*".
	Credentials bool

	// Methods are what a preflight allows; default GET, HEAD, PUT, PATCH, POST and DELETE.
	Methods []string

	// AllowedHeaders are the request headers that a preflight allows; default those it asks for.
	AllowedHeaders []string

	// ExposedHeaders are the reply headers that a page may read besides the usual ones.
	ExposedHeaders []string

	// MaxAge is how long a browser may remember a preflight, in whole seconds; 0 leaves it to the browser.
	MaxAge time.Duration
}

func (c *CORS) any() bool {
	return c.Allow == nil && (c.Origin == "" || c.Origin == "*")
}

// headers adds to h what the reply to r needs, and reports whether r is a preflight, whose reply is thereby
// complete.
func (c *CORS) headers(r *http.Request, h http.Header) (preflight bool) {
	var vary []string
	origin := r.Header.Get("Origin")
	switch {
	case c.any():
		h.Set("Access-Control-Allow-Origin", "*")
	case c.Allow == nil:
		h.Set("Access-Control-Allow-Origin", c.Origin)
		vary = append(vary, "Origin")
	default:
		if origin != "" && c.Allow(r) {
			h.Set("Access-Control-Allow-Origin", origin)
		}
		vary = append(vary, "Origin")
	}
	if c.Credentials {
		h.Set("Access-Control-Allow-Credentials", "true")
	}
	if len(c.ExposedHeaders) > 0 {
		h.Set("Access-Control-Expose-Headers", strings.Join(c.ExposedHeaders, ","))
	}
	if r.Method == http.MethodOptions {
		preflight = true
		methods := c.Methods
		if len(methods) == 0 {
			methods = []string{"GET", "HEAD", "PUT", "PATCH", "POST", "DELETE"}
		}
		h.Set("Access-Control-Allow-Methods", strings.Join(methods, ","))
		if len(c.AllowedHeaders) > 0 {
			h.Set("Access-Control-Allow-Headers", strings.Join(c.AllowedHeaders, ","))
		} else {
			vary = append(vary, "Access-Control-Request-Headers")
			if asked := r.Header.Get("Access-Control-Request-Headers"); asked != "" {
				h.Set("Access-Control-Allow-Headers", asked)
			}
		}
		if c.MaxAge > 0 {
			h.Set("Access-Control-Max-Age", strconv.Itoa(int(c.MaxAge.Seconds())))
		}
	}
	if len(vary) > 0 {
		h.Add("Vary", strings.Join(vary, ", "))
	}
	return preflight
}

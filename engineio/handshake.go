package engineio

import (
	"net/http"
	"net/url"
	"strings"
	"time"
)

// Handshake is the request that opened a connection. It lives as long as the connection, so it keeps texts and no maps:
// Header and Query make theirs for each call. It does not change.
type Handshake struct {
	URL     string    // as the client sent it
	Address string    // of the client, as Options.Address gave it
	Issued  time.Time // when the request came
	Secure  bool      // the request came over TLS
	XDomain bool      // the request has an Origin

	header string // as on the wire
}

func newHandshake(r *http.Request, address string) *Handshake {
	return &Handshake{
		URL: strings.Clone(r.RequestURI), Address: strings.Clone(address), Issued: time.Now(),
		Secure: r.TLS != nil, XDomain: r.Header.Get("Origin") != "",
		header: headerText(r.Header),
	}
}

// headerText writes a header of a request as lines that end in "\n", each with a key, a colon and a value. net/http lets no
// value pass that has a line's end in it.
func headerText(h http.Header) string {
	size := 0
	for key, values := range h {
		for _, v := range values {
			size += len(key) + len(v) + 2
		}
	}
	var text strings.Builder
	text.Grow(size)
	for key, values := range h {
		for _, v := range values {
			text.WriteString(key)
			text.WriteByte(':')
			text.WriteString(v)
			text.WriteByte('\n')
		}
	}
	return text.String()
}

// Header returns the header of the request.
func (h *Handshake) Header() http.Header {
	n := strings.Count(h.header, "\n")
	header, first := make(http.Header, n), make([]string, n) // one array for all first values
	for line := range strings.Lines(h.header) {
		key, value, _ := strings.Cut(line[:len(line)-1], ":")
		if values, again := header[key]; again {
			header[key] = append(values, value)
			continue
		}
		first[0] = value
		header[key], first = first[:1:1], first[1:]
	}
	return header
}

// Query returns the parameters of the URL, with those of the protocol.
func (h *Handshake) Query() url.Values {
	_, query, _ := strings.Cut(h.URL, "?")
	values, _ := url.ParseQuery(query) // what can't be read is left out, as in a Request
	return values
}

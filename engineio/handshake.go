package engineio

import (
	"bufio"
	"net/http"
	"net/textproto"
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
	var header strings.Builder
	_ = r.Header.Write(&header) // a Builder takes everything
	return &Handshake{
		URL: strings.Clone(r.RequestURI), Address: strings.Clone(address), Issued: time.Now(),
		Secure: r.TLS != nil, XDomain: r.Header.Get("Origin") != "",
		header: header.String(),
	}
}

// Header returns the header of the request.
func (h *Handshake) Header() http.Header {
	lines := textproto.NewReader(bufio.NewReader(strings.NewReader(h.header + "\r\n")))
	header, err := lines.ReadMIMEHeader()
	if err != nil || header == nil {
		return http.Header{} // not of a header that was written as newHandshake does
	}
	return http.Header(header)
}

// Query returns the parameters of the URL, with those of the protocol.
func (h *Handshake) Query() url.Values {
	u, err := url.ParseRequestURI(h.URL)
	if err != nil {
		return url.Values{} // net/http lets no such request pass
	}
	return u.Query()
}

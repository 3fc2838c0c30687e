package socketio

import (
	"encoding/json"
	"strings"

	"parley/engineio"
)

// Handshake is what a client said when it connected (socketio.md section 10): the first request of its connection,
// and the payload of its CONNECT.
type Handshake struct {
	*engineio.Handshake
	Auth json.RawMessage // an object, {} if there was none
}

// json returns the handshake in the form of the Node server.
func (h *Handshake) json() json.RawMessage {
	first := func(values map[string][]string, key func(string) string) map[string]string {
		m := make(map[string]string, len(values))
		for k, v := range values {
			m[key(k)] = strings.Join(v, ", ")
		}
		return m
	}
	text, err := json.Marshal(struct {
		Headers map[string]string `json:"headers"`
		Time    string            `json:"time"`
		Address string            `json:"address"`
		XDomain bool              `json:"xdomain"`
		Secure  bool              `json:"secure"`
		Issued  int64             `json:"issued"`
		URL     string            `json:"url"`
		Query   map[string]string `json:"query"`
		Auth    json.RawMessage   `json:"auth"`
	}{
		Headers: first(h.Header(), strings.ToLower),
		Time:    h.Issued.UTC().Format("Mon Jan 02 2006 15:04:05 GMT+0000 (Coordinated Universal Time)"),
		Address: h.Address, XDomain: h.XDomain, Secure: h.Secure, Issued: h.Issued.UnixMilli(), URL: h.URL,
		Query: first(h.Query(), func(k string) string { return k }),
		Auth:  h.Auth,
	})
	if err != nil {
		return json.RawMessage("{}") // only for an Auth that is no JSON, which the decoder does not let in
	}
	return text
}

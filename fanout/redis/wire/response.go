package wire

import (
	"encoding/json"
)

// Response answers a request (redis-adapter.md section 5). Which of its fields are set depends on the request;
// absent means nil.
type Response struct {
	ID   string      // RequestID
	Type RequestType // ServerSideEmit, ClientCount, Ack; of others Sockets, which they do not say

	SocketIDs []string // of Sockets
	Rooms     []string // of AllRooms
	Sockets   []Socket // of RemoteFetch

	ClientCount int

	// Value is the JSON of what a server or a client acknowledged with, nil for nothing.
	Value       []byte
	Attachments [][]byte
}

// Socket is a socket of another server. Handshake and Data are JSON objects; Handshake has an object as headers.
type Socket struct {
	ID        string          `json:"id"`
	Handshake json.RawMessage `json:"handshake"`
	Rooms     []string        `json:"rooms"`
	Data      json.RawMessage `json:"data"`
}

type responseJSON struct {
	Type        *RequestType       `json:"type,omitempty"`
	RequestID   string             `json:"requestId"`
	Sockets     *[]json.RawMessage `json:"sockets,omitempty"`
	Rooms       *names             `json:"rooms,omitempty"`
	ClientCount *int               `json:"clientCount,omitempty"`
	Data        json.RawMessage    `json:"data,omitempty"`
	Packet      json.RawMessage    `json:"packet,omitempty"`
}

// Encode returns the response: JSON, or MessagePack where it may carry byte arrays.
func (r *Response) Encode() ([]byte, error) {
	j := responseJSON{RequestID: r.ID}
	switch {
	case r.Type == Ack:
		return r.encodeValue("packet")
	case r.Type == ServerSideEmit && len(r.Attachments) > 0:
		return r.encodeValue("data")
	case r.Type == ServerSideEmit:
		j.Type, j.Data = &r.Type, r.Value
	case r.Type == ClientCount:
		j.Type, j.ClientCount = &r.Type, &r.ClientCount
	case r.SocketIDs != nil:
		list := make([]json.RawMessage, len(r.SocketIDs))
		for i, id := range r.SocketIDs {
			list[i], _ = marshal(id) // a string can always be encoded
		}
		j.Sockets = &list
	case r.Sockets != nil:
		list := make([]json.RawMessage, len(r.Sockets))
		for i, s := range r.Sockets {
			var err error
			if list[i], err = marshal(s.repaired()); err != nil {
				return nil, err
			}
		}
		j.Sockets = &list
	case r.Rooms != nil:
		j.Rooms = &names{list: r.Rooms}
	}
	return marshal(j)
}

func (r *Response) encodeValue(key string) ([]byte, error) {
	keys := 2
	if r.Value != nil {
		keys++
	}
	w := newWriter(overhead + len(r.Value))
	w.object(keys)
	w.string("type")
	w.uint(uint64(r.Type))
	w.pair("requestId", r.ID)
	if r.Value != nil {
		w.string(key)
		w.json(r.Value, r.Attachments)
	}
	return w.bytes()
}

// repaired makes objects of what a Node peer takes for objects.
func (s Socket) repaired() Socket {
	if !isObject(s.Data) {
		s.Data = json.RawMessage("{}")
	}
	if s.Rooms == nil {
		s.Rooms = []string{}
	}
	var handshake map[string]json.RawMessage
	if json.Unmarshal(s.Handshake, &handshake) != nil || !isObject(handshake["headers"]) {
		if handshake == nil {
			handshake = make(map[string]json.RawMessage, 1)
		}
		handshake["headers"] = json.RawMessage("{}")
		s.Handshake, _ = marshal(handshake) // its values were decoded from JSON
	}
	return s
}

func isObject(text json.RawMessage) bool {
	for _, c := range text {
		if !isSpace(c) {
			return c == '{'
		}
	}
	return false
}

// Response reads a response, in JSON or MessagePack.
func (d Decoder) Response(body string) (*Response, error) {
	text, attachments, err := d.document(body)
	if err != nil {
		return nil, err
	}
	var j responseJSON
	if json.Unmarshal(text, &j) != nil || j.RequestID == "" {
		return nil, ErrShape
	}
	r := &Response{ID: j.RequestID, Attachments: attachments}
	if j.Type != nil {
		r.Type = *j.Type
	}
	switch r.Type {
	case ServerSideEmit:
		r.Value = j.Data
	case Ack:
		r.Value = j.Packet
	case ClientCount:
		if j.ClientCount == nil || *j.ClientCount < 0 {
			return nil, ErrShape
		}
		r.ClientCount = *j.ClientCount
	default:
		if j.Rooms != nil {
			r.Rooms = append([]string{}, j.Rooms.list...)
		}
		if j.Sockets != nil {
			return r, r.sockets(*j.Sockets)
		}
	}
	return r, nil
}

// sockets takes over a list of ids or of descriptions.
func (r *Response) sockets(list []json.RawMessage) error {
	r.SocketIDs, r.Sockets = []string{}, []Socket{}
	for _, raw := range list {
		if raw[0] == '"' {
			var id string
			if json.Unmarshal(raw, &id) != nil {
				return ErrShape
			}
			r.SocketIDs = append(r.SocketIDs, id)
			continue
		}
		var s struct {
			ID        string          `json:"id"`
			Handshake json.RawMessage `json:"handshake"`
			Rooms     *names          `json:"rooms"`
			Data      json.RawMessage `json:"data"`
		}
		if json.Unmarshal(raw, &s) != nil || s.ID == "" {
			return ErrShape
		}
		found := Socket{ID: s.ID, Handshake: s.Handshake, Data: s.Data}
		if s.Rooms != nil {
			found.Rooms = s.Rooms.list
		}
		r.Sockets = append(r.Sockets, found.repaired())
	}
	return nil
}

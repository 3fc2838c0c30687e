package wire

import (
	"bytes"
	"encoding/json"
	"strings"
)

// RequestType says what a request asks for (redis-adapter.md section 5).
type RequestType int

// The request types. ClientCount and Ack are responses to BroadcastAck.
const (
	Sockets RequestType = iota
	AllRooms
	RemoteJoin
	RemoteLeave
	RemoteDisconnect
	RemoteFetch
	ServerSideEmit
	BroadcastAck
	ClientCount
	Ack
)

// Request is what one server asks of all.
type Request struct {
	UID  string // the sender; empty from emitters and old peers
	ID   string // RequestID; empty if no response is wanted
	Type RequestType

	Opts    *Opts // whom it is for; nil if absent, which legacy forms of the remote types are
	Rooms   []string
	Nobody  bool // Rooms named some, but none that we can have
	Closing bool // of RemoteDisconnect

	SID, Room string // legacy forms: one socket

	// Event is what a ServerSideEmit (without namespace) or BroadcastAck carries.
	Event

	// Direct says that the sender hears responses on a channel of its own. It is set by Parley only.
	Direct bool
}

// requestJSON has the keys in the order in which Node writes them.
type requestJSON struct {
	UID       string          `json:"uid,omitempty"`
	RequestID string          `json:"requestId,omitempty"`
	Type      *RequestType    `json:"type"`
	Opts      *optsJSON       `json:"opts,omitempty"`
	Close     *bool           `json:"close,omitempty"`
	Rooms     *names          `json:"rooms,omitempty"`
	SID       string          `json:"sid,omitempty"`
	Room      string          `json:"room,omitempty"`
	Data      json.RawMessage `json:"data,omitempty"`
	Packet    *packetJSON     `json:"packet,omitempty"`
	Parley    json.RawMessage `json:"parley,omitempty"`
}

type optsJSON struct {
	Rooms  *names                     `json:"rooms"`
	Except *names                     `json:"except"`
	Flags  map[string]json.RawMessage `json:"flags,omitempty"`
	Parley *mailJSON                  `json:"parley,omitempty"`
}

type mailJSON struct {
	App    string `json:"app"`
	User   string `json:"user"`
	Epoch  uint64 `json:"epoch"`
	Seq    uint64 `json:"seq"`
	Origin string `json:"origin"`
}

type packetJSON struct {
	Type *int            `json:"type"`
	Data json.RawMessage `json:"data"`
	NSP  *string         `json:"nsp,omitempty"`
}

// MarshalJSON writes a list; none is an empty one.
func (n *names) MarshalJSON() ([]byte, error) {
	if len(n.list) == 0 {
		return []byte("[]"), nil
	}
	return marshal(n.list)
}

// marshal is json.Marshal without HTML escapes.
func marshal(v any) ([]byte, error) {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(buf.Bytes(), []byte("\n")), nil
}

func toOptsJSON(o *Opts) *optsJSON {
	if o == nil {
		return nil
	}
	j := &optsJSON{Rooms: &names{list: o.Rooms}, Except: &names{list: o.Except}}
	if m := o.Mail; m != nil {
		j.Parley = &mailJSON{m.App, m.User, m.Epoch, m.Seq, m.Origin}
	}
	return j
}

func (j *optsJSON) opts() *Opts {
	if j == nil {
		return nil
	}
	o := new(Opts)
	if j.Rooms != nil {
		o.Rooms, o.Nobody = j.Rooms.list, j.Rooms.nobody
	}
	if j.Except != nil {
		o.Except = j.Except.list
	}
	for key, value := range j.Flags {
		o.flag(key, string(value))
	}
	if m := j.Parley; m != nil && m.App != "" && m.Epoch > 0 && m.Seq > 0 {
		o.Mail = &Mail{m.App, m.User, m.Epoch, m.Seq, m.Origin}
	}
	return o
}

// ReservedServerSide tells whether a server must not be sent an event of that name: Node servers keep these
// names for themselves and would crash on some of them.
func ReservedServerSide(event string) bool {
	switch event {
	case "connect", "connection", "new_namespace", "error":
		return true
	}
	return false
}

// Encode returns the request: JSON, or MessagePack where it may carry byte arrays. It fails if r is not complete,
// which a Node peer may not survive.
func (r *Request) Encode() ([]byte, error) {
	switch r.Type {
	case RemoteJoin, RemoteLeave, RemoteDisconnect, RemoteFetch:
		if r.Opts == nil {
			return nil, ErrShape
		}
	case BroadcastAck:
		if r.Opts == nil {
			return nil, ErrShape
		}
		return r.encodeBroadcastAck()
	case ServerSideEmit:
		if err := r.Event.checkServerSide(); err != nil {
			return nil, err
		}
		if len(r.Attachments) > 0 {
			return r.encodeServerSideEmit()
		}
	case Sockets, AllRooms:
	default:
		return nil, ErrRequestType
	}
	j := requestJSON{UID: r.UID, RequestID: r.ID, Type: &r.Type, Opts: toOptsJSON(r.Opts)}
	switch r.Type {
	case Sockets, RemoteJoin, RemoteLeave:
		j.Rooms = &names{list: r.Rooms}
	case RemoteDisconnect:
		j.Close = &r.Closing
	case ServerSideEmit:
		j.Data = r.Data
	}
	if r.Direct {
		j.Parley = json.RawMessage("1")
	}
	return marshal(j)
}

// checkServerSide makes sure that the event is one that servers may be sent.
func (e *Event) checkServerSide() error {
	name, ok := serverSideName(e.Data)
	if !ok || ReservedServerSide(name) {
		return ErrEvent
	}
	return nil
}

// serverSideName returns the name of a server-side event.
func serverSideName(data []byte) (string, bool) {
	var all []json.RawMessage
	var name string
	ok := json.Unmarshal(data, &all) == nil && len(all) > 0 && json.Unmarshal(all[0], &name) == nil && all[0][0] == '"'
	return name, ok
}

func (r *Request) encodeBroadcastAck() ([]byte, error) {
	if err := r.check(); err != nil {
		return nil, err
	}
	w := newWriter(overhead + r.Event.size() + r.Opts.size())
	w.object(5 + r.marked())
	w.pair("uid", r.UID)
	w.pair("requestId", r.ID)
	w.string("type")
	w.uint(uint64(r.Type))
	w.string("packet")
	w.event(&r.Event)
	w.string("opts")
	w.opts(r.Opts)
	r.mark(w)
	return w.bytes()
}

func (r *Request) encodeServerSideEmit() ([]byte, error) {
	keys := 3
	if r.ID != "" {
		keys++
	}
	w := newWriter(overhead + r.Event.size())
	w.object(keys + r.marked())
	w.pair("uid", r.UID)
	if r.ID != "" {
		w.pair("requestId", r.ID)
	}
	w.string("type")
	w.uint(uint64(r.Type))
	w.string("data")
	w.json(r.Data, r.Attachments)
	r.mark(w)
	return w.bytes()
}

func (r *Request) marked() int {
	if r.Direct {
		return 1
	}
	return 0
}

func (r *Request) mark(w *writer) {
	if r.Direct {
		w.string("parley")
		w.uint(1)
	}
}

// RequestSender returns the uid of a request where servers write it, at the front. It is a hint: empty if it isn't
// there.
func RequestSender(body string) string {
	if rest, ok := strings.CutPrefix(body, `{"uid":"`); ok {
		uid, _, _ := strings.Cut(rest[:min(len(rest), 32)], `"`)
		return uid
	}
	const mapHead, uidKey, fixstr = 1, "\xa3uid", 0xa0
	if len(body) > mapHead && strings.HasPrefix(body[mapHead:], uidKey) {
		if rest := body[mapHead+len(uidKey):]; len(rest) > 0 && rest[0]&0xe0 == fixstr {
			n := int(rest[0] & 0x1f)
			return rest[1:min(1+n, len(rest))]
		}
	}
	return ""
}

// Request reads a request of any version, in JSON or MessagePack.
func (d Decoder) Request(body string) (*Request, error) {
	text, attachments, err := d.document(body)
	if err != nil {
		return nil, err
	}
	var j requestJSON
	if json.Unmarshal(text, &j) != nil || j.Type == nil {
		return nil, ErrShape
	}
	r := &Request{
		UID: j.UID, ID: j.RequestID, Type: *j.Type, Opts: j.Opts.opts(), SID: j.SID, Room: j.Room,
		Closing: j.Close != nil && *j.Close, Direct: j.Parley != nil,
	}
	if j.Rooms != nil {
		r.Rooms, r.Nobody = j.Rooms.list, j.Rooms.nobody
	}
	r.Attachments = attachments
	return r, r.complete(&j)
}

// complete checks that r has what its type needs.
func (r *Request) complete(j *requestJSON) error {
	legacy := r.Opts == nil && r.SID != ""
	switch r.Type {
	case Sockets, AllRooms:
		return r.need(r.ID != "")
	case RemoteJoin, RemoteLeave:
		return r.need(r.Opts != nil && j.Rooms != nil || legacy && r.Room != "")
	case RemoteDisconnect:
		return r.need(r.Opts != nil || legacy)
	case RemoteFetch:
		return r.need(r.ID != "" && r.Opts != nil)
	case ServerSideEmit:
		r.Data = j.Data
		_, ok := serverSideName(r.Data)
		return r.need(ok)
	case BroadcastAck:
		if r.ID == "" || r.Opts == nil || j.Packet == nil {
			return ErrShape
		}
		return r.Event.set(j.Packet)
	}
	return ErrRequestType
}

func (r *Request) need(ok bool) error {
	if !ok {
		return ErrShape
	}
	return nil
}

// set takes over a packet, which must be an event.
func (e *Event) set(p *packetJSON) error {
	if p.Type == nil || *p.Type != typeEvent {
		return ErrPacketType
	}
	e.Namespace, e.Data = "/", p.Data
	if p.NSP != nil {
		e.Namespace = *p.NSP
	}
	return e.check()
}

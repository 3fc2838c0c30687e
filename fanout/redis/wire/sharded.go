package wire

import (
	"encoding/json"
	"strconv"
	"strings"
)

// Message types of the sharded adapter (redis-adapter.md section 6).
const (
	shardedBroadcast     = 3
	shardedJoin          = 4
	shardedLeave         = 5
	shardedDisconnect    = 6
	shardedFetch         = 7
	shardedFetchResponse = 8
	shardedServerSide    = 9
	shardedServerSideAck = 10
	shardedClientCount   = 11
	shardedAck           = 12
)

// Sharded is a message of the sharded adapter. One of Broadcast, Request and Response is set.
type Sharded struct {
	UID       string
	Namespace string
	Broadcast *Broadcast
	Request   *Request // with the namespace as the event's
	Response  *Response
}

type shardedJSON struct {
	Type int         `json:"type"`
	Data shardedData `json:"data"`
	UID  string      `json:"uid"`
	NSP  string      `json:"nsp"`
}

// shardedData holds the keys of all types. Packet is a packet, the array of a server-side event, or an answer.
type shardedData struct {
	RequestID   string             `json:"requestId,omitempty"`
	Packet      json.RawMessage    `json:"packet,omitempty"`
	Opts        *shardedOpts       `json:"opts,omitempty"`
	Rooms       *names             `json:"rooms,omitempty"`
	Close       *bool              `json:"close,omitempty"`
	ClientCount *int               `json:"clientCount,omitempty"`
	Sockets     *[]json.RawMessage `json:"sockets,omitempty"`
}

// shardedOpts are options that always have flags, which a Node peer looks at.
type shardedOpts struct {
	Rooms  *names                     `json:"rooms"`
	Except *names                     `json:"except"`
	Flags  map[string]json.RawMessage `json:"flags"`
	Parley *mailJSON                  `json:"parley,omitempty"`
}

func toShardedOpts(o *Opts) *shardedOpts {
	j := toOptsJSON(o)
	flags := make(map[string]json.RawMessage)
	if o.Volatile {
		flags["volatile"] = json.RawMessage("true")
	}
	if o.NoCompress {
		flags["compress"] = json.RawMessage("false")
	}
	if o.Timeout > 0 {
		flags["timeout"] = json.RawMessage(strconv.FormatInt(o.Timeout, 10))
	}
	return &shardedOpts{j.Rooms, j.Except, flags, j.Parley}
}

func (j *shardedOpts) opts() *Opts {
	if j == nil {
		return nil
	}
	return (*optsJSON)(j).opts()
}

// Encode returns the message: JSON, or MessagePack if it has attachments. It fails if a Node peer might not survive
// it.
func (s *Sharded) Encode() ([]byte, error) {
	j := shardedJSON{UID: s.UID, NSP: s.Namespace}
	var attachments [][]byte
	var err error
	switch {
	case s.Broadcast != nil:
		attachments = s.Broadcast.Attachments
		err = j.broadcast(&s.Broadcast.Event, &s.Broadcast.Opts, "")
	case s.Request != nil:
		attachments = s.Request.Attachments
		err = j.request(s.Request)
	case s.Response != nil:
		attachments = s.Response.Attachments
		err = j.response(s.Response)
	default:
		err = ErrShape
	}
	if err != nil {
		return nil, err
	}
	text, err := marshal(j)
	if err != nil || len(attachments) == 0 {
		return text, err
	}
	w := newWriter(len(text))
	w.json(text, attachments)
	return w.bytes()
}

func (j *shardedJSON) broadcast(e *Event, o *Opts, requestID string) error {
	if err := e.check(); err != nil {
		return err
	}
	if _, err := sizes(nil, e.Data); err != nil {
		return err
	}
	typ := typeEvent
	packet, err := marshal(packetJSON{Type: &typ, Data: e.Data})
	j.Type = shardedBroadcast
	j.Data = shardedData{Packet: packet, Opts: toShardedOpts(o), RequestID: requestID}
	return err
}

func (j *shardedJSON) request(r *Request) error {
	switch r.Type {
	case RemoteJoin, RemoteLeave:
		j.Type = shardedJoin
		if r.Type == RemoteLeave {
			j.Type = shardedLeave
		}
		j.Data.Rooms = &names{list: r.Rooms}
	case RemoteDisconnect:
		j.Type, j.Data.Close = shardedDisconnect, &r.Closing
	case RemoteFetch:
		j.Type, j.Data.RequestID = shardedFetch, r.ID
	case ServerSideEmit:
		j.Type, j.Data.RequestID, j.Data.Packet = shardedServerSide, r.ID, r.Data
		return r.checkServerSide()
	case BroadcastAck:
		if r.Opts == nil {
			return ErrShape
		}
		return j.broadcast(&r.Event, r.Opts, r.ID)
	default:
		return ErrRequestType
	}
	if r.Opts == nil {
		return ErrShape
	}
	j.Data.Opts = toShardedOpts(r.Opts)
	return nil
}

func (j *shardedJSON) response(r *Response) error {
	j.Data.RequestID = r.ID
	switch {
	case r.Type == ServerSideEmit:
		j.Type, j.Data.Packet = shardedServerSideAck, r.Value
	case r.Type == Ack:
		j.Type, j.Data.Packet = shardedAck, r.Value
	case r.Type == ClientCount:
		j.Type, j.Data.ClientCount = shardedClientCount, &r.ClientCount
	case r.Sockets != nil:
		j.Type = shardedFetchResponse
		list := make([]json.RawMessage, len(r.Sockets))
		for i, s := range r.Sockets {
			var err error
			if list[i], err = marshal(s.repaired()); err != nil {
				return err
			}
		}
		j.Data.Sockets = &list
	default:
		return ErrRequestType
	}
	return nil
}

// ShardedSender returns the uid of a message where servers write it, near the end. It is a hint: empty if it isn't
// there.
func ShardedSender(body string) string {
	tail := body[max(len(body)-512, 0):]
	if strings.HasSuffix(tail, "}") {
		if i := strings.LastIndex(tail, `"uid":"`); i >= 0 {
			uid, _, _ := strings.Cut(tail[i+len(`"uid":"`):], `"`)
			return uid
		}
	}
	const key = "\xa3uid\xb0" // and a text of 16 bytes
	if i := strings.LastIndex(tail, key); i >= 0 && len(tail) >= i+len(key)+16 {
		return tail[i+len(key):][:16]
	}
	return ""
}

// Sharded reads a message of the sharded adapter.
func (d Decoder) Sharded(body string) (*Sharded, error) {
	text, attachments, err := d.document(body)
	if err != nil {
		return nil, err
	}
	var j shardedJSON
	if json.Unmarshal(text, &j) != nil || j.UID == "" || j.NSP == "" {
		return nil, ErrShape
	}
	s := &Sharded{UID: j.UID, Namespace: j.NSP}
	if j.Type >= shardedJoin && j.Type <= shardedFetch && j.Data.Opts == nil {
		return nil, ErrShape
	}
	r := &Request{UID: j.UID, ID: j.Data.RequestID, Opts: j.Data.Opts.opts()}
	switch j.Type {
	case shardedBroadcast:
		return s, s.readBroadcast(&j, attachments)
	case shardedJoin, shardedLeave:
		r.Type = RemoteJoin
		if j.Type == shardedLeave {
			r.Type = RemoteLeave
		}
		if j.Data.Rooms == nil {
			return nil, ErrShape
		}
		r.Rooms, r.Nobody = j.Data.Rooms.list, j.Data.Rooms.nobody
	case shardedDisconnect:
		r.Type, r.Closing = RemoteDisconnect, j.Data.Close != nil && *j.Data.Close
	case shardedFetch:
		r.Type = RemoteFetch
		if r.ID == "" {
			return nil, ErrShape
		}
	case shardedServerSide:
		r.Type, r.Event = ServerSideEmit, Event{Data: j.Data.Packet, Attachments: attachments}
		if _, ok := serverSideName(r.Data); !ok {
			return nil, ErrShape
		}
	default:
		return s, s.readResponse(&j, attachments)
	}
	s.Request = r
	return s, nil
}

func (s *Sharded) readBroadcast(j *shardedJSON, attachments [][]byte) error {
	var p packetJSON
	opts := j.Data.Opts.opts()
	if opts == nil || json.Unmarshal(j.Data.Packet, &p) != nil {
		return ErrShape
	}
	p.NSP = &j.NSP
	var e Event
	if err := e.set(&p); err != nil {
		return err
	}
	e.Attachments = attachments
	if j.Data.RequestID == "" {
		s.Broadcast = &Broadcast{UID: j.UID, Event: e, Opts: *opts}
	} else {
		s.Request = &Request{UID: j.UID, ID: j.Data.RequestID, Type: BroadcastAck, Opts: opts, Event: e}
	}
	return nil
}

func (s *Sharded) readResponse(j *shardedJSON, attachments [][]byte) error {
	r := &Response{ID: j.Data.RequestID, Attachments: attachments}
	s.Response = r
	if r.ID == "" {
		return ErrShape
	}
	switch j.Type {
	case shardedFetchResponse:
		if j.Data.Sockets == nil {
			return ErrShape
		}
		return r.sockets(*j.Data.Sockets)
	case shardedServerSideAck:
		r.Type, r.Value = ServerSideEmit, j.Data.Packet
	case shardedAck:
		r.Type, r.Value = Ack, j.Data.Packet
	case shardedClientCount:
		if j.Data.ClientCount == nil || *j.Data.ClientCount < 0 {
			return ErrShape
		}
		r.Type, r.ClientCount = ClientCount, *j.Data.ClientCount
	default:
		return ErrRequestType
	}
	return nil
}

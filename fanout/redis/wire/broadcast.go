package wire

import (
	"bytes"
	"encoding/json"
	"strconv"
	"strings"

	"parley/socketio/packet"
)

// Broadcast is an event on its way to the sockets of all servers (redis-adapter.md section 2).
type Broadcast struct {
	UID string // the sender, one namespace of one server
	Event
	Opts
}

// Encode returns the message in MessagePack. It fails if the event is none that a client may be sent.
func (b *Broadcast) Encode() ([]byte, error) {
	if err := b.check(); err != nil {
		return nil, err
	}
	w := newWriter(len(b.UID) + b.Event.size() + b.Opts.size())
	w.array(3)
	w.string(b.UID)
	w.event(&b.Event)
	w.opts(&b.Opts)
	return w.bytes()
}

// overhead is what an event or options need beside what is different in each, about.
const overhead = 48

// size is how much room an event needs, about: most values take less than in JSON.
func (e *Event) size() int {
	n := overhead + len(e.Namespace) + len(e.Data)
	for _, a := range e.Attachments {
		n += len(a)
	}
	return n
}

// size is how much room options need, about.
func (o *Opts) size() int {
	n := overhead
	for _, list := range [][]string{o.Rooms, o.Except} {
		for _, s := range list {
			n += len(s) + 2
		}
	}
	if m := o.Mail; m != nil {
		n += 2*overhead + len(m.App) + len(m.User) + len(m.Origin)
	}
	return n
}

// check makes sure that data begins as an array with a name that clients accept. Whether the rest is JSON shows when it is
// written.
func (e *Event) check() error {
	rest, ok := bytes.CutPrefix(e.Data, []byte{'['})
	for ok && len(rest) > 0 && isSpace(rest[0]) {
		rest = rest[1:]
	}
	if !ok || len(rest) == 0 {
		return ErrEvent
	}
	switch c := rest[0]; {
	case c == '-' || '0' <= c && c <= '9':
		return nil
	case c != '"':
		return ErrEvent
	}
	raw := rest[:skipString(rest, 0)]
	if bytes.IndexByte(raw, '\\') < 0 {
		if len(raw) < 2 || packet.Reserved(string(raw[1:len(raw)-1])) {
			return ErrEvent
		}
		return nil
	}
	if name, ok := unquote(raw); !ok || packet.Reserved(name) {
		return ErrEvent
	}
	return nil
}

func (w *writer) event(e *Event) {
	w.object(3)
	w.string("type")
	w.uint(typeEvent)
	w.string("data")
	w.json(e.Data, e.Attachments)
	w.pair("nsp", e.Namespace)
}

// opts appends options in the order of the Node adapter, and always all three that a Node peer looks at.
func (w *writer) opts(o *Opts) {
	keys := 3
	if o.Mail != nil {
		keys++
	}
	w.object(keys)
	w.string("rooms")
	w.strings(o.Rooms)
	w.string("except")
	w.strings(o.Except)
	w.string("flags")
	flags := 0
	for _, set := range [...]bool{o.Volatile, o.NoCompress, o.Timeout > 0} {
		if set {
			flags++
		}
	}
	w.object(flags)
	if o.Volatile {
		w.string("volatile")
		w.bool(true)
	}
	if o.NoCompress {
		w.string("compress")
		w.bool(false)
	}
	if o.Timeout > 0 {
		w.string("timeout")
		w.uint(uint64(o.Timeout))
	}
	if m := o.Mail; m != nil {
		w.string("parley")
		w.object(5)
		w.pair("app", m.App)
		w.pair("user", m.User)
		w.string("epoch")
		w.uint(m.Epoch)
		w.string("seq")
		w.uint(m.Seq)
		w.pair("origin", m.Origin)
	}
}

// Sender returns the uid of a broadcast without decoding the rest of it.
func Sender(body string) (uid string, ok bool) {
	const array3, fixstr = 0x93, 0xa0
	if len(body) < 2 || body[0] != array3 || body[1]&0xe0 != fixstr {
		return "", false
	}
	n := int(body[1] & 0x1f)
	if len(body) < 2+n {
		return "", false
	}
	return body[2 : 2+n], true
}

// IsMail tells whether a broadcast is the entry of a mailbox, without decoding it. It is a hint: there may be something in it
// that looks so.
func IsMail(body string) bool {
	const longest, key = 512, "parley" // the last of the options; ids and names are shorter
	return strings.Contains(body[max(len(body)-longest, 0):], key)
}

// Broadcast reads a message. The result's strings are parts of body.
func (d Decoder) Broadcast(body string) (*Broadcast, error) {
	r := newReader(body, d.maxAttachments())
	n, err := r.arrayLen()
	if err != nil {
		return nil, err
	}
	if n != 3 {
		return nil, ErrShape
	}
	b := new(Broadcast)
	if b.UID, err = r.text(); err != nil {
		return nil, err
	}
	if err := r.event(&b.Event); err != nil {
		return nil, err
	}
	if err := r.opts(&b.Opts); err != nil {
		return nil, err
	}
	return b, r.end()
}

// event takes a packet, which must be an event. An id is ignored: nobody would hear the acknowledgement.
func (r *reader) event(e *Event) error {
	e.Namespace = "/"
	typ := int64(-1)
	err := r.each(func(key string) (err error) {
		switch key {
		case "type":
			typ, err = r.integer()
		case "nsp":
			e.Namespace, err = r.text()
		case "data":
			e.Data, err = r.eventData()
		default:
			err = r.skip(2)
		}
		return err
	})
	switch {
	case err != nil:
		return err
	case typ != typeEvent:
		return ErrPacketType
	case e.Data == nil:
		return ErrShape
	}
	e.Attachments = r.attachments
	return nil
}

// eventData takes an event's name and arguments. Of several, the last counts, as in JavaScript.
func (r *reader) eventData() ([]byte, error) {
	n, err := r.arrayLen()
	if err != nil {
		return nil, err
	}
	if n == 0 {
		return nil, ErrEvent
	}
	r.attachments, r.placeholder = nil, false
	start := len(r.out)
	r.out = append(r.out, '[')
	for i := range n {
		if i > 0 {
			r.out = append(r.out, ',')
		} else if err := r.eventName(); err != nil {
			return nil, err
		} else {
			continue
		}
		if err := r.value(1); err != nil {
			return nil, err
		}
	}
	r.out = append(r.out, ']')
	return r.out[start:len(r.out):len(r.out)], nil // what is appended from now on is behind it
}

func (r *reader) eventName() error {
	k, err := r.kind()
	switch {
	case err != nil:
		return err
	case k == kindNumber:
		return r.number()
	case k != kindString:
		return ErrEvent
	}
	name, err := r.content()
	if err != nil {
		return err
	}
	if packet.Reserved(name) {
		return ErrEvent
	}
	r.out = appendString(r.out, name)
	return nil
}

// opts takes options; the Node emitter and older adapters leave some out.
func (r *reader) opts(o *Opts) error {
	return r.each(func(key string) (err error) {
		switch key {
		case "rooms":
			o.Rooms, err = r.names()
			o.Nobody = len(o.Rooms) == 0 && o.Rooms != nil
		case "except":
			o.Except, err = r.names()
		case "flags":
			err = r.flags(o)
		case "parley":
			o.Mail, err = r.mail()
		default:
			err = r.skip(2)
		}
		return err
	})
}

// names takes a list of rooms: nil for none, not nil if there are only some that can't be ours.
func (r *reader) names() ([]string, error) {
	if k, err := r.kind(); err != nil {
		return nil, err
	} else if k == kindNil {
		return nil, r.null()
	}
	n, err := r.arrayLen()
	if err != nil || n == 0 {
		return nil, err
	}
	list := []string{} // not of size n, which nobody has checked
	for range n {
		k, err := r.kind()
		if err != nil {
			return nil, err
		}
		if k != kindString {
			if err := r.skip(3); err != nil {
				return nil, err
			}
			continue
		}
		name, err := r.text()
		if err != nil {
			return nil, err
		}
		list = append(list, name)
	}
	return list, nil
}

func (r *reader) flags(o *Opts) error {
	if k, err := r.kind(); err != nil || k != kindMap {
		if err != nil {
			return err
		}
		return r.skip(2)
	}
	return r.each(func(key string) error {
		start, attachments := len(r.out), len(r.attachments)
		err := r.value(3)
		value := string(r.out[start:])
		r.out, r.attachments = r.out[:start], r.attachments[:attachments]
		o.flag(key, value)
		return err
	})
}

// flag sets a flag from its JSON value; those that only the sender cares for are ignored.
func (o *Opts) flag(key, value string) {
	switch key {
	case "volatile":
		o.Volatile = value == "true"
	case "compress":
		o.NoCompress = value == "false"
	case "timeout":
		if n, err := strconv.ParseInt(value, 10, 64); err == nil && n > 0 {
			o.Timeout = n
		}
	}
}

func (r *reader) mail() (*Mail, error) {
	m := new(Mail)
	err := r.each(func(key string) (err error) {
		switch key {
		case "app":
			m.App, err = r.text()
		case "user":
			m.User, err = r.text()
		case "origin":
			m.Origin, err = r.text()
		case "epoch":
			m.Epoch, err = r.natural()
		case "seq":
			m.Seq, err = r.natural()
		default:
			err = r.skip(3)
		}
		return err
	})
	if err == nil && (m.App == "" || m.Epoch == 0 || m.Seq == 0) {
		err = ErrShape
	}
	return m, err
}

// names reads a JSON list of rooms as reader.names does.
type names struct {
	list   []string
	nobody bool
}

func (n *names) UnmarshalJSON(text []byte) error {
	var all []json.RawMessage
	if err := json.Unmarshal(text, &all); err != nil {
		return err
	}
	for _, raw := range all {
		var s string
		if len(raw) > 0 && raw[0] == '"' && json.Unmarshal(raw, &s) == nil {
			n.list = append(n.list, s)
		}
	}
	n.nobody = len(all) > 0 && len(n.list) == 0
	return nil
}

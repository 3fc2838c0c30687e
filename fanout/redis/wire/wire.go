// Package wire is the codec of what Socket.IO servers tell each other over Redis: the classic adapter's
// messages and requests (redis-adapter.md sections 2 to 5) and the sharded adapter's (section 6). It does no
// I/O and starts no goroutine.
//
// Arguments are JSON text with attachments on one side, as socketio/packet writes and reads them, and
// MessagePack or JSON on the other. The decoder takes whatever the Node adapters and emitters of all versions
// send and treats it as hostile: it is bounded in depth, never allocates more than a small multiple of its
// input, and never panics. The encoder writes nothing that a Node peer would crash on (section 8).
package wire

import "encoding/json"

// Type of the only packet that servers broadcast: an event, with attachments or without.
const typeEvent = 2

// maxDepth bounds how deep arrays and objects nest, as in socketio/packet. A Node peer decodes by recursion.
const maxDepth = 512

// DefaultMaxAttachments is how many attachments an event may have unless Decoder.MaxAttachments says otherwise;
// clients refuse more.
const DefaultMaxAttachments = 10

// Error says which rule a message broke. The package's errors about input wrap values of this type.
type Error struct {
	// Reason is short, stable and free of input, so it can be the label of a metric.
	Reason string
}

func (e *Error) Error() string { return "redis adapter message: " + e.Reason }

// What can be wrong with a message.
var (
	ErrMalformed   = &Error{"malformed"} // neither MessagePack nor JSON, or cut off
	ErrTrailing    = &Error{"trailing bytes"}
	ErrDepth       = &Error{"nested too deep"}
	ErrAttachments = &Error{"too many attachments"}
	ErrPlaceholder = &Error{"plain data looks like an attachment"}
	ErrShape       = &Error{"unexpected shape"} // a part is missing or of another type than it must be
	ErrPacketType  = &Error{"packet is no event"}
	ErrEvent       = &Error{"bad event name"} // reserved, or neither text nor number
	ErrRequestType = &Error{"unknown request type"}
)

// Event is what sockets are sent: a JSON array of the event's name and arguments, and the attachments that its
// placeholders stand for. For the encoder, placeholders are written as packet.EncodeArgs does.
type Event struct {
	Namespace   string
	Data        []byte
	Attachments [][]byte
}

// Opts says whom an event or request is for, and how to send it. Rooms are strings; an entry of another type
// names no room that a socket of ours can be in.
type Opts struct {
	Rooms, Except []string
	// Nobody is set on decoded options that named rooms, but none that we can have: they are not for everybody.
	Nobody bool

	Volatile   bool
	NoCompress bool
	Timeout    int64 // of a broadcast with acknowledgements, in milliseconds; 0 if not given

	Mail *Mail // set on the entry of a mailbox
}

// Mail says which mailbox entry an event is. It travels in a key of the options that Node peers ignore.
type Mail struct {
	App, User  string
	Epoch, Seq uint64
	Origin     string // the socket it came from
}

// Decoder reads messages. Its zero value is ready to use and safe for concurrent use.
type Decoder struct {
	MaxAttachments int // 0 means DefaultMaxAttachments
}

func (d Decoder) maxAttachments() int {
	if d.MaxAttachments > 0 {
		return d.MaxAttachments
	}
	return DefaultMaxAttachments
}

// isJSON tells whether a body that may be JSON or MessagePack is JSON.
func isJSON(body string) bool { return len(body) > 0 && body[0] == '{' }

// document returns a body as JSON text, with attachments if it was MessagePack.
func (d Decoder) document(body string) (text []byte, attachments [][]byte, err error) {
	if isJSON(body) {
		text = []byte(body)
		if !json.Valid(text) {
			return nil, nil, ErrMalformed
		}
		if _, err := sizes(nil, text); err != nil {
			return nil, nil, err
		}
		return text, nil, nil
	}
	r := newReader(body, d.maxAttachments())
	if err := r.value(0); err != nil {
		return nil, nil, err
	}
	if err := r.end(); err != nil {
		return nil, nil, err
	}
	return r.out, r.attachments, nil
}

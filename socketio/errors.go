package socketio

import (
	"errors"
	"fmt"
)

// Error is a failure that a client may see. A connect middleware that returns one refuses with its Message
// and Data (socketio.md section 4); a handler that returns one answers {"error":{"code","message"}}. Any
// other error a client is shown as "internal error", and the log has its text.
type Error struct {
	Code    string // for programs, from a small fixed set: it becomes a metric label
	Message string // for people
	Data    any    // sent with a CONNECT_ERROR, if not nil
}

func (e *Error) Error() string { return e.Code + ": " + e.Message }

// Errors that callers branch on.
var (
	// ErrDisconnected means that the socket went away before it answered.
	ErrDisconnected = errors.New("socket has been disconnected")
	// ErrTimeout means that an answer did not come in time.
	ErrTimeout = errors.New("operation has timed out")
	// ErrDeadlock means that a handler waits for an answer from the client whose event it is handling: the
	// answer can't be read before the handler returns. Wait in a goroutine of your own.
	ErrDeadlock = errors.New("waiting in a handler for an acknowledgement of the same client: wait in a goroutine instead")
	// ErrReserved means that an event's name is one that the protocol keeps for itself.
	ErrReserved = errors.New("reserved event name")
	// ErrClosed means that the server is shut down.
	ErrClosed = errors.New("server is shut down")
)

// Codes of the errors that this package itself answers with.
const (
	CodeBadArgument = "bad_argument"
	CodeInternal    = "internal"
	CodeRateLimited = "rate_limited"
)

// errorReply is the shape of an error acknowledgement.
type errorReply struct {
	Error errorBody `json:"error"`
}

type errorBody struct {
	Code    string `json:"code"`
	Message string `json:"message"`
}

// publicError returns what a client may see of err, and whether err was meant for it.
func publicError(err error) (*Error, bool) {
	if e, ok := errors.AsType[*Error](err); ok {
		return e, true
	}
	return &Error{Code: CodeInternal, Message: "internal error"}, false
}

func badArgument(format string, args ...any) *Error {
	return &Error{Code: CodeBadArgument, Message: fmt.Sprintf(format, args...)}
}

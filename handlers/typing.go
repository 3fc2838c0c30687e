package handlers

import (
	"context"
	"errors"

	"parley/socketio"
	"parley/store"
)

// typingRequest says whether the sender is writing to a user.
type typingRequest struct {
	To     string `json:"to"`
	Typing bool   `json:"typing"`
}

// Validate implements socketio.Validator.
func (r typingRequest) Validate() error {
	switch {
	case r.To == "":
		return errors.New("to is missing: it names the user who is written to")
	case len(r.To) > store.MaxIDBytes:
		return errors.New("to is too long")
	}
	return nil
}

// typingEvent tells who is writing.
type typingEvent struct {
	From   string `json:"from"`
	Typing bool   `json:"typing"`
}

// typing passes on that somebody is writing. It is not kept, and may be lost on the way: a client sends it again and
// again, and forgets what it was told after some seconds. A user who does not exist has no devices to be told.
func (c *Chat) typing(_ context.Context, s *socketio.Socket, r typingRequest) error {
	return s.To(extrasRoom(r.To)).Volatile().Emit("typing", typingEvent{s.User(), r.Typing})
}

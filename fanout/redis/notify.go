package redisfan

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
)

// notifyChannel is the bus of the notify application's older processes (contracts.md section B4).
const notifyChannel = "message:outgoing_socket_message"

// Notification is an event for all sockets of one user, as the notify application's processes publish it.
type Notification struct {
	Event string          `json:"event"`
	ID    string          `json:"id"` // the user's
	Args  json.RawMessage `json:"args"`
	// Parley marks what a process of Parley published: the others like it have it from the user's mailbox. Older
	// processes do not look at it.
	Parley bool `json:"parley,omitempty"`
}

// OnNotification has handle called with what any process publishes on the notify bus, this one included: one
// at a time, in order. It is called once.
func (f *Fanout) OnNotification(handle func(context.Context, Notification)) {
	if f.bus.Swap(&handle) == nil {
		f.links.add(notifyChannel, true)
	}
}

// Notify publishes on the notify bus. It returns when Redis has taken the message, or with ErrUnavailable.
func (f *Fanout) Notify(ctx context.Context, n Notification) error {
	if n.Event == "" || n.ID == "" {
		return errors.New("notification needs an event and the id of a user")
	}
	if n.Args == nil {
		n.Args = json.RawMessage("{}")
	}
	body, err := json.Marshal(n)
	if err != nil {
		return fmt.Errorf("notification: %w", err)
	}
	done := make(chan error, 1)
	if err := f.publisher.publish(ctx, publication{channel: notifyChannel, body: body, done: done}); err != nil {
		return err
	}
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", ErrUnavailable, ctx.Err())
	case <-f.ctx.Done():
		return ErrUnavailable
	}
}

// handleNotification reads a message of the bus. Older processes crash on what they can't read; here it is counted.
func (f *Fanout) handleNotification(body []byte) {
	var n Notification
	if json.Unmarshal(body, &n) != nil || n.Event == "" || n.ID == "" {
		f.reject("notification")
		return
	}
	if n.Args == nil {
		n.Args = json.RawMessage("null")
	}
	if handle := f.bus.Load(); handle != nil {
		(*handle)(f.ctx, n)
	}
}

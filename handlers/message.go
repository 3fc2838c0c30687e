package handlers

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"parley/socketio"
	"parley/socketio/packet"
	"parley/store"
)

// messageRequest is the argument of a private message.
type messageRequest struct {
	Content packet.Raw `json:"content"`
	To      string     `json:"to"`
	ID      string     `json:"id"` // chosen by the client, so that sending again to the same user is harmless; optional
}

// Validate implements socketio.Validator.
func (r messageRequest) Validate() error {
	switch {
	case r.Content.JSON == nil:
		return errors.New("content is missing")
	case len(r.Content.Attachments) > 0:
		return errors.New("content can't be binary")
	case r.To == "":
		return errors.New("to is missing: it names the user that the message is for")
	case len(r.To) > store.MaxIDBytes:
		return errors.New("to is too long")
	case len(r.ID) > maxID:
		return fmt.Errorf("id is longer than %d bytes", maxID)
	}
	return nil
}

// DecodeArg implements socketio.ArgDecoder.
func (r *messageRequest) DecodeArg(raw json.RawMessage) bool {
	var d messageRequest
	for key, value := range packet.Members(raw) {
		plain := true
		switch string(key) {
		case `"content"`:
			d.Content.JSON = value
		case `"to"`:
			d.To, plain = packet.PlainString(value)
		case `"id"`:
			d.ID, plain = packet.PlainString(value)
		default:
			plain = false
		}
		if !plain {
			return false
		}
	}
	*r = d
	return d.Content.JSON != nil
}

// encodeMessage returns what is stored and delivered, in the contract's order (contracts.md A4).
func encodeMessage(content json.RawMessage, from, to string) []byte {
	dst := make([]byte, 0, len(content)+len(from)+len(to)+40)
	dst = append(append(dst, `{"content":`...), content...)
	return appendEnding(dst, from, to)
}

// appendEnding appends what follows the content of a message.
func appendEnding(dst []byte, from, to string) []byte {
	dst = packet.AppendString(append(dst, `,"from":`...), from)
	dst = packet.AppendString(append(dst, `,"to":`...), to)
	return append(dst, '}')
}

// privateMessage stores a message in both users' mailboxes, and once it is durable wakes their devices and
// acknowledges it.
func (c *Chat) privateMessage(ctx context.Context, s *socketio.Socket, r messageRequest) (*receipt, error) {
	if len(r.Content.JSON) > c.options.MaxMessage {
		return nil, &socketio.Error{
			Code: codeTooLarge, Message: fmt.Sprintf("content is larger than %d bytes", c.options.MaxMessage),
		}
	}
	ctx, cancel := bounded(ctx)
	defer cancel()
	if err := c.findUser(ctx, r.To); err != nil {
		return nil, err
	}
	post := store.Post{
		ID: r.ID, Origin: s.ID(), At: time.Now(), Data: encodeMessage(r.Content.JSON, s.User(), r.To),
		Sender: s.User() + "\x00" + r.To, // an id counts within one conversation
		To: []store.Delivery{
			{Box: box(r.To), Peer: s.User(), Sent: r.To == s.User()},
			{Box: box(s.User()), Peer: r.To, Sent: true},
		},
	}
	if post.ID == "" {
		post.ID, post.Fresh = randomID(10), true
	}
	stored, err := c.store.Append(ctx, post)
	if err != nil {
		return nil, storeError(err)
	}
	many := len(post.To)
	if r.To == s.User() {
		many = 1 // a note to oneself is stored once
	}
	for _, to := range post.To[:many] {
		if e := c.introduce(ctx, to.Box.User, to.Peer); e != nil {
			err = errors.Join(err, e)
		}
	}
	if e := deliver(ctx, c.namespace, c.store, post, stored, many); e != nil {
		err = errors.Join(err, e)
	}
	if err != nil {
		// It is stored; the next entry, or the client's return, brings it.
		c.log.Warn().Err(err).Str("uid", s.User()).Str("to", r.To).Msg("a stored message was not delivered at once")
	}
	return &receipt{post.ID, stored.Offsets[1].Seq, stored.At.UnixMilli()}, nil
}

// findUser returns an error for the client if there is no such user.
func (c *Chat) findUser(ctx context.Context, id string) error {
	if c.known.has(id) {
		return nil
	}
	found, err := c.store.UsersByID(ctx, []string{id})
	if err != nil {
		return storeError(err)
	}
	if len(found) == 0 {
		return &socketio.Error{Code: codeUnknownUser, Message: "there is no such user"}
	}
	c.known.add(id)
	return nil
}

// messageEvent turns a mailbox entry into what a client gets.
func messageEvent(e store.Entry) (string, []any, error) {
	return "private message", []any{numberedEntry(e)}, nil
}

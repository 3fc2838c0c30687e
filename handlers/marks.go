package handlers

import (
	"context"
	"errors"

	"parley/socketio"
	"parley/store"
)

// markRequest says that everything from a user up to a message has been received by a device, or read.
type markRequest struct {
	With string `json:"with"`
	Seq  uint64 `json:"seq"`
	Read bool   `json:"read"`
}

// Validate implements socketio.Validator.
func (r markRequest) Validate() error {
	switch {
	case r.With == "":
		return errors.New("with is missing: it names the other user")
	case len(r.With) > store.MaxIDBytes:
		return errors.New("with is too long")
	case r.Seq == 0:
		return errors.New("seq is missing: it is the number of a message")
	}
	return nil
}

// markReply is where a conversation stands for its reader.
type markReply struct {
	Read   uint64 `json:"read"`   // number of the newest message that was read; 0 for none
	Unread int    `json:"unread"` // see extrasEntry
}

// markedEvent is a markReply for the user's other devices.
type markedEvent struct {
	With   string `json:"with"`
	Read   uint64 `json:"read"`
	Unread int    `json:"unread"`
}

// receiptEvent tells a sender how far a user has got their messages.
type receiptEvent struct {
	From string `json:"from"`
	receiptTimes
}

// mark moves how far the user has got a conversation, in their own mailbox, and in the peer's how far the peer's
// messages have come. Each side's devices are told what moved. Nothing moves back: to mark again is harmless, and
// gives the sender the receipt if that failed before.
func (c *Chat) mark(ctx context.Context, s *socketio.Socket, r markRequest) (markReply, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	user := s.User()
	at, until, err := c.store.Reach(ctx, box(user), r.With, r.Seq)
	if errors.Is(err, store.ErrNotFound) {
		return markReply{}, errNoMessage
	}
	if err != nil {
		return markReply{}, storeError(err)
	}
	now, moved, err := c.moveRead(ctx, user, r, at)
	if err != nil {
		return markReply{}, err
	}
	reply := markReply{now.Read.Seq, now.Unread}
	if moved {
		c.tellExtras(s.To(extrasRoom(user)), user, "marked", markedEvent{r.With, reply.Read, reply.Unread})
	}
	if until.IsZero() {
		return reply, nil // nobody else has sent anything
	}
	theirs := store.Mark{Received: until}
	if r.Read {
		theirs.Seen = until
	}
	theirs, moved, err = c.store.Advance(ctx, box(r.With), user, theirs)
	if errors.Is(err, store.ErrNotFound) {
		return reply, nil // the sender's copies are gone
	}
	if err != nil {
		return markReply{}, storeError(err)
	}
	if moved {
		c.tellExtras(c.namespace.To(extrasRoom(r.With)), r.With, "receipt", receiptEvent{user, timesOf(theirs)})
	}
	return reply, nil
}

// moveRead returns the user's mark of a conversation, after moving it if the request says that it was read.
func (c *Chat) moveRead(ctx context.Context, user string, r markRequest, at store.Offset) (mark store.Mark, moved bool, err error) {
	if r.Read {
		mark, moved, err = c.store.Advance(ctx, box(user), r.With, store.Mark{Read: at})
		if errors.Is(err, store.ErrNotFound) {
			return store.Mark{}, false, errNoMessage // it went this moment
		}
	} else {
		var marks []store.Mark
		if marks, err = c.store.Marks(ctx, box(user), []string{r.With}, 0); err == nil {
			mark = marks[0]
		}
	}
	if err != nil {
		return store.Mark{}, false, storeError(err)
	}
	return mark, moved, nil
}

var errNoMessage = &socketio.Error{Code: socketio.CodeBadArgument, Message: "seq is not the number of a message of this conversation"}

// tellExtras emits what is stored already. Who misses it finds it in the next roster.
func (c *Chat) tellExtras(to *socketio.Operator, user, event string, arg any) {
	if err := to.Emit(event, arg); err != nil {
		c.log.Warn().Err(err).Str("uid", user).Str("event", event).Msg("a moved mark was not announced")
	}
}

package socketio

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"parley/engineio"
	"parley/metrics"
	"parley/shard"
	"parley/socketio/packet"
	"parley/store"
)

// Mail makes the entries of mailboxes events of a namespace. They reach each socket that follows a box in the
// order of their numbers, each once, with their offset as the event's last argument, from which a client
// recovers even if this process dies.
type Mail struct {
	// App is the store.Box.App whose boxes the namespace's sockets follow. One namespace follows an App.
	App string
	// Store holds the mailboxes.
	Store store.Mailboxes
	// Event says what event an entry is to a client.
	Event func(store.Entry) (event string, args []any, err error)
	// Before, if there is one, is called with what was read from the store, before the followers of a user's box on this
	// process are given it. It may ask the store, and keeps them waiting meanwhile.
	Before func(ctx context.Context, user string, entries []store.Entry)
	// Unready, if there is one, tells whether Before has something to do for an event that another process announces: then it is
	// read from the store instead of being given to the followers at once. data is the JSON array of the event's name and
	// arguments, without the offset. It is called for each, and must return at once.
	Unready func(user string, data []byte) bool
}

// UseMail sets the namespace's mail. A dynamic namespace can have none: an App belongs to one namespace.
func (n *Namespace) UseMail(m Mail) {
	if n.match != nil {
		panic("socketio: a dynamic namespace can't have mail")
	}
	n.server.mu.Lock() // others speak before clients connect
	n.app.mail = &m
	n.server.mu.Unlock()
	n.app.check()
	n.server.pool.HandleMail(m.App, mailSource{n})
}

// mailSource lets shards read mail that they missed.
type mailSource struct{ n *Namespace }

func (src mailSource) Mail(ctx context.Context, box store.Box, after store.Offset, limit int) ([]shard.Mail, error) {
	return src.n.mails(ctx, box, after, limit, src.n.app.mail.Before)
}

// tailsAtOnce is how many mailboxes are asked about at a time. A store on another machine answers them together.
const tailsAtOnce = 64

// Tails implements shard.Tailer.
func (src mailSource) Tails(ctx context.Context, boxes []store.Box) ([]store.Offset, error) {
	tails := make([]store.Offset, len(boxes))
	if len(boxes) == 1 {
		tail, err := src.n.app.mail.Store.Tail(ctx, boxes[0])
		tails[0] = tail
		return tails, err
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(tailsAtOnce)
	for i, box := range boxes {
		group.Go(func() (err error) {
			tails[i], err = src.n.app.mail.Store.Tail(ctx, box)
			return err
		})
	}
	return tails, group.Wait()
}

// mails reads and encodes the entries after an offset. They are shown to before first, if that is not nil.
func (n *Namespace) mails(
	ctx context.Context, box store.Box, after store.Offset, limit int, before func(context.Context, string, []store.Entry),
) ([]shard.Mail, error) {
	entries, err := n.app.mail.Store.After(ctx, box, after, limit)
	if err != nil {
		return nil, err
	}
	if before != nil && len(entries) > 0 {
		before(ctx, box.User, entries)
	}
	mails := make([]shard.Mail, len(entries))
	for i := range entries {
		mails[i] = n.encodeMail(box, &entries[i], false)
	}
	return mails, nil
}

// encodeMail encodes an entry with its offset as the last argument. One that can't be an event must not keep
// back those behind it: clients get an event without a name instead, which brings them its offset alone.
func (n *Namespace) encodeMail(box store.Box, e *store.Entry, fresh bool) shard.Mail {
	m := shard.Mail{Box: box, Offset: e.Offset, Origin: e.Origin}
	offset := e.Offset.String()
	event, args, err := n.mailEvent(e)
	if err == nil {
		m.Message, err = n.encodeAt(event, args, offset)
	}
	if err != nil {
		n.server.log.Error().Err(err).Str("ns", n.name).Str("app", box.App).Stringer("offset", e.Offset).
			Msg("a mailbox entry can't be an event, its readers skip it")
		nameless := packet.Append(nil, &packet.Packet{Type: packet.Event, Namespace: n.name})
		m.Message = engineio.NewMessage(packet.AppendArg(nil, nameless, offset))
		return m
	}
	if fresh {
		n.sent(event, args)
		if n.server.shared() {
			m.Namespace, m.Text, m.Attachments = n.name, withoutLast(m.Message.Text(), offset), m.Message.Attachments()
		}
	}
	return m
}

// withoutLast returns the text of an event without its last argument.
func withoutLast(text []byte, arg string) []byte {
	end := len(text) - len(`,""]`) - len(arg)
	return append(text[:end:end], ']')
}

// mailEvent calls Mail.Event and contains its panic: it may run in a goroutine that serves all of a shard.
func (n *Namespace) mailEvent(e *store.Entry) (event string, args []any, err error) {
	defer func() {
		if v := recover(); v != nil {
			n.server.metrics.Count(metrics.HandlerPanics, "mail")
			err = fmt.Errorf("panic in Mail.Event: %v", v)
		}
	}()
	return n.app.mail.Event(*e)
}

// Deliver wakes the followers of box with an entry that was appended to it. Entries may be handed in in any
// order and more than once.
func (n *Namespace) Deliver(ctx context.Context, box store.Box, e store.Entry) error {
	return n.DeliverAll(ctx, Delivery{box, e})
}

// Delivery is an entry that was appended to a mailbox.
type Delivery struct {
	Box   store.Box
	Entry store.Entry
}

// DeliverAll is Deliver for the entries of one message. Other processes are told of all of them at once, which costs little
// more than one.
func (n *Namespace) DeliverAll(ctx context.Context, all ...Delivery) (err error) {
	if !n.server.shared() {
		for i := range all {
			if e := n.server.pool.Deliver(ctx, n.encodeMail(all[i].Box, &all[i].Entry, true)); e != nil {
				err = errors.Join(err, e)
			}
		}
		return err
	}
	mails := make([]shard.Mail, len(all))
	for i := range all {
		mails[i] = n.encodeMail(all[i].Box, &all[i].Entry, true)
	}
	return n.server.fanout.Deliver(ctx, mails...)
}

// EmitAt emits an event that brings the client up to an offset: a snapshot, say, that contains all mail up to
// there. Follow goes on from it. It is for after the connect middleware. A client that drops before it has the event
// can't be recovered: it does not have what it would have to begin with.
func (s *Socket) EmitAt(at store.Offset, event string, args ...any) error {
	m, err := s.namespace.encodeAt(event, args, at.String())
	if err != nil {
		return err
	}
	if !s.Connected() {
		return ErrDisconnected
	}
	s.mu.Lock()
	s.snapshot = true
	s.mu.Unlock()
	s.namespace.sent(event, args)
	return s.shard.SendAt(s.client.server.ctx, s.entry, m, at)
}

// ResumeAt returns the offset that a recovered socket has been brought up to: the place to Follow from.
func (s *Socket) ResumeAt() store.Offset { return s.resumeAt }

// Follow gives the socket every entry of box after the offset, those that exist and then those that come, but
// not its own (those whose Origin is the socket's id). The box must be that of the socket's user. A socket
// follows one box, once.
func (s *Socket) Follow(ctx context.Context, box store.Box, after store.Offset) error {
	if err := s.mayFollow(box, after); err != nil {
		return fmt.Errorf("follow mailbox: %w", err)
	}
	if err := s.attach(ctx, box, after); err != nil {
		s.mu.Lock()
		s.following = false
		s.mu.Unlock()
		return fmt.Errorf("follow mailbox: %w", err)
	}
	if s.namespace.app.recovery == nil {
		return nil
	}
	return s.record(true, time.Time{}, s.Rooms())
}

func (s *Socket) mayFollow(box store.Box, after store.Offset) error {
	switch m := s.namespace.app.mail; {
	case m == nil || m.App != box.App:
		return fmt.Errorf("the namespace has no mail of %q", box.App)
	case s.entry == nil:
		return errors.New("the socket has not joined yet")
	case s.entry.Key != box.User:
		return errors.New("the box is not of the socket's user")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.following {
		return errors.New("the socket follows one already")
	}
	s.following, s.box = true, box
	if !s.recovered { // or else it is where the client began: it may have got nothing of what it missed
		s.start = after
	}
	return nil
}

// subscribeTimeout bounds the wait for what other processes send to the socket's user. Without it mail still
// comes, with the next check of the mailbox.
const subscribeTimeout = 2 * time.Second

// attach sends the socket what it is behind until its shard can take over.
func (s *Socket) attach(ctx context.Context, box store.Box, after store.Offset) error {
	// From here on no entry is announced unheard; what was before is read from the store.
	if s.client.server.shared() {
		wait, cancel := context.WithTimeout(ctx, subscribeTimeout)
		err := s.client.server.fanout.Wait(wait, s.namespace.name, box.User)
		cancel()
		if err != nil {
			s.log().Debug().Err(err).Msg("following a mailbox without hearing other processes yet")
		}
	}
	for {
		behind, err := s.shard.Follow(ctx, s.entry, box, after)
		if err != nil || !behind {
			return err
		}
		if after, err = s.catchUp(ctx, box, after); err != nil {
			return err
		}
	}
}

// catchUp sends the socket a page of what it is behind.
func (s *Socket) catchUp(ctx context.Context, box store.Box, after store.Offset) (store.Offset, error) {
	mails, err := s.namespace.mails(ctx, box, after, replayPage, s.namespace.app.mail.Before)
	if err != nil {
		return after, err
	}
	if len(mails) == 0 {
		return after, errors.New("its newest entries are not readable")
	}
	for _, m := range mails {
		if m.Origin != s.id {
			if err := s.shard.SendAt(ctx, s.entry, m.Message, m.Offset); err != nil {
				return after, err
			}
		}
		after = m.Offset
	}
	return after, nil
}

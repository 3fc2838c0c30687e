package socketio

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"parley/engineio"
	"parley/internal/deadline"
	"parley/registry"
	"parley/shard"
	"parley/socketio/packet"
	"parley/store"
)

// takeWaits are the pauses after which a record is looked for again that is not there.
var takeWaits = []time.Duration{20 * time.Millisecond, 60 * time.Millisecond, 120 * time.Millisecond}

// recordTimeout bounds the write of a recovery record.
const recordTimeout = 5 * time.Second

// keptData is what is kept of a socket that may come back.
type keptData struct {
	User  string
	Data  json.RawMessage
	Start store.Offset // with a mailbox: where the socket began to follow it
	// Snapshot says that the socket was brought there by EmitAt, so that a client which has no offset lacks that.
	Snapshot bool `json:",omitempty"`
}

// appendJSON appends what json.Marshal makes of it, in a fraction of the time: each client that connects has a record.
func (k keptData) appendJSON(dst []byte) []byte {
	dst = packet.AppendString(append(dst, `{"User":`...), k.User)
	dst = append(dst, `,"Data":`...)
	if k.Data == nil {
		dst = append(dst, "null"...)
	}
	dst = append(dst, k.Data...)
	dst = strconv.AppendUint(append(dst, `,"Start":{"Epoch":`...), k.Start.Epoch, 10)
	dst = strconv.AppendUint(append(dst, `,"Seq":`...), k.Start.Seq, 10)
	dst = append(dst, '}')
	if k.Snapshot {
		dst = append(dst, `,"Snapshot":true`...)
	}
	return append(dst, '}')
}

// recallStored is for namespaces with a mailbox.
func (s *Socket) recallStored(ctx context.Context, pid, offset string, who claimant) (*past, error) {
	n := s.namespace
	r, err := s.take(ctx, pid)
	if errors.Is(err, store.ErrNotFound) || errors.Is(err, store.ErrInvalid) || err == nil && r.Namespace != n.name {
		return nil, unknownPID
	}
	if err != nil {
		return nil, fmt.Errorf("read recovery record: %w", err)
	}
	if !who.mayBe(r.User) {
		s.giveBack(&past{record: r})
		return nil, otherUser
	}
	if r.Disconnected.IsZero() {
		n.cameBack(r)
	}
	if !r.Disconnected.IsZero() && time.Since(r.Disconnected) > n.app.recovery.MaxDisconnection {
		return nil, expired
	}
	var kept keptData
	if err := json.Unmarshal(r.Data, &kept); err != nil {
		return nil, fmt.Errorf("read recovery record: %w", err)
	}
	was := &past{
		pid: pid, sid: r.SID, user: r.User, data: kept.Data,
		record: r, start: kept.Start, snapshot: kept.Snapshot, offset: kept.Start,
	}
	switch {
	case offset != "":
		if was.offset, err = store.ParseOffset(offset); err != nil {
			return nil, unknownOffset
		}
	case kept.Snapshot:
		return nil, noOffset
	}
	size := 0
	for {
		mails, err := n.mails(ctx, r.Box, was.offset, replayPage, nil)
		if errors.Is(err, store.ErrUnknownOffset) {
			return nil, unknownOffset
		}
		if err != nil {
			s.giveBack(was)
			return nil, fmt.Errorf("read missed mail: %w", err)
		}
		for _, m := range mails {
			was.offset = m.Offset
			if m.Origin != was.sid {
				was.missed = append(was.missed, m.Message)
				size += m.Message.Size()
			}
		}
		// What it missed is sent at once, so it has to fit the outbound queue with room to spare. With more to
		// catch up on the client connects anew, and the application shows it its history.
		if o := n.server.options.Engine; len(was.missed) > o.OutboundMessages/2 || size > o.OutboundBytes/2 {
			return nil, missedTooMuch
		}
		if len(mails) < replayPage {
			return was, nil
		}
	}
}

// take takes a record out of the store. A client that dropped within moments of its welcome on another process may be
// faster than that process' write: it gets a little time. In one process the store keeps the order.
func (s *Socket) take(ctx context.Context, pid string) (store.Recovery, error) {
	r := s.namespace.app.recovery
	record, err := r.Store.TakeRecovery(ctx, pid)
	if s.client.server.options.Fanout == nil || len(pid) != pidLength {
		return record, err
	}
	for _, wait := range takeWaits {
		if !errors.Is(err, store.ErrNotFound) {
			break
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return record, ctx.Err()
		}
		record, err = r.Store.TakeRecovery(ctx, pid)
	}
	return record, err
}

// cameBack tells the other processes that a client is here whose connection one of them takes for open, unless it died.
// Nobody waits for its end: what it still says of the client comes under a turn that is over, and each process counts
// presence and rooms for itself.
func (n *Namespace) cameBack(r store.Recovery) {
	if err := n.ServerSideEmit(returnedEvent, r.SID, r.Turn); err != nil {
		n.server.log.Debug().Err(err).Str("ns", n.name).Str("sid", r.SID).
			Msg("the client's old connection is left to its heartbeat")
	}
}

// returned closes the connection of a socket whose client is on another process now.
func (n *Namespace) returned(args Args) {
	var sid string
	var turn uint64
	if errors.Join(args.Decode(0, &sid), args.Decode(1, &turn)) != nil {
		return
	}
	sel := shard.Selector{Namespace: n.name, Rooms: []string{sid}}
	var left []*Socket
	err := n.server.pool.Query(n.server.ctx, sel, func(v *shard.View) {
		v.Select(sel, func(t *registry.Socket) {
			if s, ok := t.App.(*Socket); ok && s.id == sid && s.turn <= turn {
				left = append(left, s)
			}
		})
	})
	if err != nil && !errors.Is(err, shard.ErrStopped) {
		n.server.log.Debug().Err(err).Str("ns", n.name).Msg("an old connection is left to its heartbeat")
	}
	for _, s := range left {
		s.client.conn.Close(engineio.TransportClose)
	}
}

// evictOld ends the connection of the socket that this process has for the client, if any.
func (s *Socket) evictOld(ctx context.Context, pid string, who claimant) error {
	if old := s.namespace.app.recovery.live.get(s.namespace, pid); old != nil && who.mayBe(old.user) {
		return old.evict(ctx)
	}
	return nil
}

// evict ends the connection of a socket whose client has another one, and waits until its listeners are done.
func (s *Socket) evict(ctx context.Context) error {
	s.client.conn.Close(engineio.TransportClose)
	if err := s.waitOver(ctx); err != nil {
		return fmt.Errorf("waiting for the old connection to end: %w", err)
	}
	return nil
}

// record writes or deletes the socket's recovery record. disconnected is zero for a live socket.
func (s *Socket) record(comesBack bool, disconnected time.Time, rooms []string) error {
	s.mu.Lock()
	box := s.box
	data := keptData{User: s.user, Data: s.data, Start: s.start, Snapshot: s.snapshot}.appendJSON(nil)
	s.mu.Unlock()
	if box == (store.Box{}) {
		return nil // nothing was followed yet, so there is nothing to recover
	}
	ctx, cancel := deadline.Context(context.WithoutCancel(s.client.context()), recordTimeout)
	defer cancel()
	r := s.namespace.app.recovery
	if !comesBack {
		return r.Store.DeleteRecovery(ctx, s.pid)
	}
	return r.save(ctx, store.Recovery{
		PID: s.pid, SID: s.id, Namespace: s.namespace.name, User: s.user, Box: box,
		Rooms: rooms, Data: data, Disconnected: disconnected, Turn: s.turn,
	})
}

// save writes a record for as long as its client may come back.
func (r *Recovery) save(ctx context.Context, record store.Recovery) error {
	ttl := r.KeepLive
	if !record.Disconnected.IsZero() {
		ttl = r.MaxDisconnection
	}
	return r.Store.SaveRecovery(ctx, record, ttl)
}

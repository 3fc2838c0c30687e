package handlers

import (
	"context"
	"fmt"
	"time"

	"parley/socketio"
	"parley/store"
)

// A client that says "extras": true in its auth gets chat's extra events, which clients of the plain contract never
// notice: typing, marked and receipt, and further members of the roster (docs/chat-events.md).

// extrasRoom is the room of a user's sockets that get the extra events. The space keeps it apart from the users' own
// rooms, whose names have none.
func extrasRoom(user string) string { return user + " extras" }

// wantsExtras reads what a client says about it. One that recovers and says nothing gets what it had.
func wantsExtras(claim any, before bool) bool {
	if says, ok := claim.(bool); ok {
		return says
	}
	return before
}

// hasExtras tells whether a socket gets the extra events.
func hasExtras(s *socketio.Socket) bool {
	var who identity
	return s.Data(&who) == nil && who.Extras
}

// joinRooms puts a socket into the rooms of its user, and if there are few users into that of those who are told of all.
func joinRooms(s *socketio.Socket, who identity, few bool) error {
	var rooms []string
	if few {
		rooms = append(rooms, everybody)
	}
	if who.Extras {
		// In this order: when other processes are heard in the user's room, which Follow waits for, they are in this one.
		rooms = append(rooms, extrasRoom(who.UserID))
	} else if s.Recovered() {
		if err := s.Leave(extrasRoom(who.UserID)); err != nil {
			return err
		}
	}
	return s.Join(append(rooms, who.UserID)...)
}

// extrasEntry is a user in the roster of a socket with extras.
type extrasEntry struct {
	rosterEntry
	Unread   int          `json:"unread"`   // messages from the user that were not read, up to store.MaxUnread
	Read     uint64       `json:"read"`     // number of the newest message of the conversation that was read; 0 for none
	Receipt  receiptTimes `json:"receipt"`  // what the user has received and read
	LastSeen int64        `json:"lastSeen"` // milliseconds since 1970
}

// receiptTimes tell up to when a user has got the messages of another: milliseconds since 1970, 0 for never.
type receiptTimes struct {
	Received int64 `json:"received"`
	Read     int64 `json:"read"`
}

func timesOf(m store.Mark) receiptTimes { return receiptTimes{millis(m.Received), millis(m.Seen)} }

// millis is t in milliseconds since 1970, and 0 for the zero time.
func millis(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

// extend adds the members for extras to a roster, users being parallel to it. Messages are counted below the number
// before (0: all). It returns the marks of the conversations, by peer, as well.
func (c *Chat) extend(ctx context.Context, s *socketio.Socket, roster []rosterEntry, users []store.User, before uint64) ([]extrasEntry, map[string]store.Mark, error) {
	peers := make([]string, len(roster))
	for i, entry := range roster {
		peers[i] = entry.UserID
	}
	read, err := c.store.Marks(ctx, box(s.User()), peers, before)
	if err != nil {
		return nil, nil, fmt.Errorf("read marks: %w", err)
	}
	entries, marks := make([]extrasEntry, len(roster)), make(map[string]store.Mark)
	for i, entry := range roster {
		mark := read[i]
		entries[i] = extrasEntry{entry, mark.Unread, mark.Read.Seq, timesOf(mark), millis(users[i].LastSeen)}
		if !mark.Newest.IsZero() { // they have talked
			marks[peers[i]] = mark
		}
	}
	return entries, marks, nil
}

// settleMarks tells a socket which marks have moved since its roster was read: it may have been told that before
// the older roster that was on its way, or have been in the room too late on this process to be told by another.
func (c *Chat) settleMarks(ctx context.Context, s *socketio.Socket, sent map[string]store.Mark) error {
	peers := make([]string, 0, len(sent))
	for peer := range sent {
		peers = append(peers, peer)
	}
	if len(peers) == 0 {
		return nil
	}
	now, err := c.store.Marks(ctx, box(s.User()), peers, 0)
	if err != nil {
		return fmt.Errorf("read marks: %w", err)
	}
	for i, peer := range peers {
		mark, before := now[i], sent[peer]
		if mark.Read != before.Read && !mark.Read.IsZero() {
			if err := s.Emit("marked", markedEvent{peer, mark.Read.Seq, mark.Unread}); err != nil {
				return err
			}
		}
		if times := timesOf(mark); times != timesOf(before) {
			if err := s.Emit("receipt", receiptEvent{peer, times}); err != nil {
				return err
			}
		}
	}
	return nil
}

package handlers

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"parley/socketio"
	"parley/socketio/packet"
	"parley/store"
)

// maxPage bounds what a client may ask for at once.
const maxPage = 200

// everybody is the room of the sockets whose roster has all users: they are told of all presence changes. The
// space keeps it apart from the users' own rooms, whose names have none.
const everybody = "all users"

// pageBytes bounds the messages of one roster, and of one page of history: what is older is left to further
// pages.
const pageBytes = 1 << 20

// rosterEntry is a user in the roster, in the contract's order (contracts.md A3).
type rosterEntry struct {
	UserID    string            `json:"userID"`
	Username  string            `json:"username"`
	Connected bool              `json:"connected"`
	Messages  []json.RawMessage `json:"messages"`
}

// entryBytes is what an entry takes as JSON without what it holds.
const entryBytes = len(`{"userID":"","username":"","connected":false,"messages":[]},`)

// rosterList is a roster as clients get it.
type rosterList []rosterEntry

// AppendJSON implements packet.Appender. A message that is no JSON, which only somebody else can have stored, is left out.
func (l rosterList) AppendJSON(dst []byte) ([]byte, error) {
	size := 2
	for _, e := range l {
		size += entryBytes + len(e.UserID) + len(e.Username) + messagesBytes(e.Messages)
	}
	dst = append(slices.Grow(dst, size), '[')
	for i, e := range l {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = e.appendJSON(dst)
	}
	return append(dst, ']'), nil
}

func (e rosterEntry) appendJSON(dst []byte) []byte {
	dst = packet.AppendString(append(dst, `{"userID":`...), e.UserID)
	dst = packet.AppendString(append(dst, `,"username":`...), e.Username)
	dst = strconv.AppendBool(append(dst, `,"connected":`...), e.Connected)
	dst = appendMessages(append(dst, `,"messages":[`...), e.Messages)
	return append(dst, "]}"...)
}

// appendMessages appends messages with commas between, without those that are no JSON.
func appendMessages(dst []byte, messages []json.RawMessage) []byte {
	first := len(dst)
	for _, m := range messages {
		if !packet.Valid(m) {
			continue
		}
		if len(dst) > first {
			dst = append(dst, ',')
		}
		dst = append(dst, m...)
	}
	return dst
}

// messagesBytes is what messages take at most.
func messagesBytes(messages []json.RawMessage) (size int) {
	for _, m := range messages {
		size += len(m) + 1
	}
	return size
}

// rosterLine is a rosterEntry by itself.
type rosterLine rosterEntry

// AppendJSON implements packet.Appender.
func (l rosterLine) AppendJSON(dst []byte) ([]byte, error) {
	return rosterEntry(l).appendJSON(dst), nil
}

// sentRoster is what a socket was told with its roster, as of one moment.
type sentRoster struct {
	at     store.Offset          // the moment's place in the mailbox
	roster []rosterEntry         // nil if latest says it all
	latest *newest               // if they are its users
	marks  map[string]store.Mark // by user, for a socket with extras
}

// sendRoster sends the users and the newest messages of each conversation, as of one moment. A recovered client is
// sent what it still misses first, so that it has everything up to there.
//
// few says that there are few users, and the socket in the room of those who are told of all.
func (c *Chat) sendRoster(ctx context.Context, s *socketio.Socket, who identity, few bool) (sent sentRoster, err error) {
	seen, err := c.store.Overview(ctx, box(s.User()), c.options.RosterLimit, c.options.HistoryLimit)
	if err != nil {
		return sent, fmt.Errorf("read history: %w", err)
	}
	if s.Recovered() {
		if err := c.sendMissed(ctx, s, seen.Tail); err != nil {
			return sent, err
		}
	}
	users, online, latest, err := c.watch(ctx, s, seen.Conversations, few)
	if err != nil {
		return sent, err
	}
	messages := make(map[string][]json.RawMessage, len(seen.Conversations))
	room := pageBytes
	for i, conv := range seen.Conversations {
		// What one conversation leaves of its share is the others'.
		newest, size := numbered(conv.Entries, room/(len(seen.Conversations)-i))
		messages[conv.Peer] = newest
		room -= size
	}
	sent.at, sent.latest = seen.Tail, latest
	if latest != nil && !who.Extras && c.told == nil {
		return sent, s.EmitAt(sent.at, "users", latest.roster(messages))
	}
	sent.roster = describe(users, online, messages)
	if !who.Extras {
		return sent, s.EmitAt(sent.at, "users", rosterList(sent.roster))
	}
	extended, marks, err := c.extend(ctx, s, sent.roster, users, seen.Tail.Seq+1)
	if err != nil {
		return sent, err
	}
	sent.marks = marks
	return sent, s.EmitAt(sent.at, "users", extended)
}

// settle tells a socket which of the users that it was just told of have come or gone meanwhile: it may have
// been told that before the older state that was on its way. It ends when nothing has changed, or with ctx.
// It changes the roster.
//
// A process that is alone has announced all changes itself, so it looks into those. What the socket heard before its roster
// was noted before.
func (c *Chat) settle(ctx context.Context, s *socketio.Socket, sent sentRoster) error {
	roster, latest := sent.roster, sent.latest
	if latest != nil && c.told == nil {
		said, ok, err := c.settleChanges(ctx, s, latest)
		if ok || err != nil {
			return err
		}
		if roster == nil {
			roster = describe(latest.users, latest.online, nil)
		}
		for i, e := range roster {
			if online, ok := said[e.UserID]; ok {
				roster[i].Connected = online
			}
		}
	}
	for len(roster) > 0 {
		now := c.told.now()
		online, err := c.presenceNow(ctx, latest, roster)
		if err != nil {
			return err
		}
		var changed []rosterEntry
		for i, entry := range roster {
			if online[i] == entry.Connected {
				continue
			}
			roster[i].Connected = online[i]
			changed = append(changed, roster[i])
			if err := tell(s.Emit, roster[i]); err != nil {
				return err
			}
		}
		c.told.gave(roster, now, true, c.watchers.watches(s.ID()))
		roster, latest = changed, nil
	}
	return nil
}

// presenceNow tells which users of the roster are connected. They are those of latest, if that is not nil.
func (c *Chat) presenceNow(ctx context.Context, latest *newest, roster []rosterEntry) ([]bool, error) {
	if latest != nil {
		return c.presenceLater(ctx, latest)
	}
	ids := make([]string, len(roster))
	for i, entry := range roster {
		ids[i] = entry.UserID
	}
	return c.presence(ctx, ids)
}

// tell emits the state of a user to clients that may not know them.
func tell(emit func(event string, args ...any) error, entry rosterEntry) error {
	if !entry.Connected {
		return emit("user disconnected", entry.UserID)
	}
	entry.Messages = nil
	return emit("user connected", rosterLine(entry))
}

// sendMissed sends a recovered client the messages between where its recovery ended and tail.
func (c *Chat) sendMissed(ctx context.Context, s *socketio.Socket, tail store.Offset) error {
	for at := s.ResumeAt(); at.Seq < tail.Seq || at.Epoch != tail.Epoch; {
		entries, err := c.store.After(ctx, box(s.User()), at, maxPage)
		if errors.Is(err, store.ErrUnknownOffset) || err == nil && len(entries) == 0 {
			return nil // expired in this moment: the roster has what is left
		}
		if err != nil {
			return fmt.Errorf("read missed messages: %w", err)
		}
		for _, e := range entries {
			if at = e.Offset; at.Epoch == tail.Epoch && at.Seq > tail.Seq {
				return nil
			}
			if e.Origin == s.ID() {
				continue
			}
			event, args, err := messageEvent(e)
			if err != nil {
				return err
			}
			if err := s.EmitAt(at, event, args...); err != nil {
				return err
			}
		}
	}
	return nil
}

// fewUsers tells whether all users are within the roster limit.
func (c *Chat) fewUsers(ctx context.Context) (bool, error) {
	count, err := c.store.CountUsers(ctx)
	if err != nil {
		return false, fmt.Errorf("count users: %w", err)
	}
	return count <= c.options.RosterLimit, nil
}

// watch chooses whom a socket is told of, and lets it hear of their presence from now on: everybody up to the
// limit; past it the user, those they have talked with, and those seen last. Whoever comes after watch is
// announced to it, so that between this and the roster nobody is lost. It returns who of them is connected, as of a moment
// that may be before: settle makes up for that. If these are the newest users, it returns what was read of them.
func (c *Chat) watch(
	ctx context.Context, s *socketio.Socket, convs []store.Conversation, few bool,
) (users []store.User, online []bool, latest *newest, err error) {
	limit := c.options.RosterLimit
	if latest, err = c.readNewest(ctx); err != nil {
		return nil, nil, nil, err
	}
	if few && len(latest.users) <= limit {
		if c.told != nil {
			c.watchers.openAll(s.ID())
		}
		return latest.users, latest.online, latest, nil
	}
	if err := s.Leave(everybody); err != nil { // which a recovered socket may be in, too
		return nil, nil, nil, err
	}
	ids := make([]string, 0, len(convs)+1)
	ids = append(ids, s.User())
	for _, conv := range convs {
		ids = append(ids, conv.Peer)
	}
	known, err := c.store.UsersByID(ctx, ids)
	if err != nil {
		return nil, nil, nil, fmt.Errorf("read users: %w", err)
	}
	users = make([]store.User, 0, limit)
	chosen := make(map[string]bool, len(known))
	for _, u := range known {
		if len(users) < limit && !chosen[u.ID] {
			chosen[u.ID] = true
			users = append(users, u)
		}
	}
	if online, err = c.presence(ctx, idsOf(users)); err != nil {
		return nil, nil, nil, err
	}
	for i, u := range latest.users {
		if len(users) < limit && !chosen[u.ID] {
			users, online = append(users, u), append(online, latest.online[i])
		}
	}
	c.watchers.open(s.ID(), s.User())
	c.watchers.add(s.ID(), c.watchLimit(), users...)
	return users, online, nil, nil
}

func idsOf(users []store.User) []string {
	ids := make([]string, len(users))
	for i, u := range users {
		ids[i] = u.ID
	}
	return ids
}

// watchLimit bounds the users that one socket watches, those of further pages and searches included.
func (c *Chat) watchLimit() int { return 2 * c.options.RosterLimit }

// describe adds presence and messages to users. What tells who is connected is parallel to them.
func describe(users []store.User, online []bool, messages map[string][]json.RawMessage) []rosterEntry {
	roster := make([]rosterEntry, len(users))
	for i, u := range users {
		roster[i] = rosterEntry{u.ID, u.Username, online[i], messages[u.ID]}
		if roster[i].Messages == nil {
			roster[i].Messages = []json.RawMessage{}
		}
	}
	return roster
}

// presence tells which users are connected.
func (c *Chat) presence(ctx context.Context, ids []string) ([]bool, error) {
	online, err := c.store.Online(ctx, ids)
	if err != nil {
		return nil, fmt.Errorf("read presence: %w", err)
	}
	return online, nil
}

// introduce tells those sockets of user that do not have other in their list who other is: a client of the contract
// drops the messages of users that it does not know. It has something to do past the roster limit only, where not
// everybody is in the list.
func (c *Chat) introduce(ctx context.Context, user, other string) error {
	if len(c.watchers.missing(user, other)) == 0 {
		return nil
	}
	turn := c.turn(other)
	turn.Lock()
	defer turn.Unlock()
	sockets := c.watchers.missing(user, other) // who was missing may have been told while we waited
	if len(sockets) == 0 {
		return nil
	}
	found, err := c.store.UsersByID(ctx, []string{other})
	if err != nil {
		return err
	}
	if len(found) == 0 { // who is announced when they come
		c.watchers.include(sockets, 2*c.watchLimit(), other)
		return nil
	}
	now := c.told.now()
	online, err := c.store.Online(ctx, []string{other})
	if err != nil {
		return fmt.Errorf("read presence: %w", err)
	}
	emit := c.namespace.To(sockets...).Local().Later().Emit // to leave with the message, which follows
	// A client learns of a user only by their coming, even of one who is not there.
	err = tell(emit, rosterEntry{UserID: other, Username: found[0].Username, Connected: true})
	if err == nil && !online[0] {
		err = tell(emit, rosterEntry{UserID: other})
	}
	if err == nil { // also where pages and searches have filled the list: it would be done with each message
		c.watchers.include(sockets, 2*c.watchLimit(), other)
	}
	// These sockets have not heard what another process said meanwhile.
	c.told.gave([]rosterEntry{{UserID: other, Connected: online[0]}}, now, false, true)
	return err
}

// historyRequest asks for a page of a conversation: the limit newest messages with a number below before (0:
// the newest of all).
type historyRequest struct {
	With   string `json:"with"`
	Before uint64 `json:"before"`
	Limit  int    `json:"limit"`
}

// Validate implements socketio.Validator.
func (r historyRequest) Validate() error {
	switch {
	case r.With == "":
		return errors.New("with is missing: it names the other user")
	case len(r.With) > store.MaxIDBytes:
		return errors.New("with is too long")
	case r.Limit < 0 || r.Limit > maxPage:
		return fmt.Errorf("limit is not between 1 and %d", maxPage)
	}
	return nil
}

// historyReply is a page, oldest message first. More tells that there are older ones.
type historyReply struct {
	Messages []json.RawMessage `json:"messages"`
	More     bool              `json:"more"`
}

func (c *Chat) history(ctx context.Context, s *socketio.Socket, r historyRequest) (historyReply, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	return c.historyPage(ctx, s.User(), r)
}

// pageSize is the number of things to return for a limit that a client asked for, or did not.
func pageSize(asked, otherwise int) int {
	if asked == 0 {
		asked = otherwise
	}
	return min(asked, maxPage)
}

// numbered returns entries as clients get them, ascending: the newest of them, as many as fit into room bytes,
// and how many bytes they take.
func numbered(entries []store.Entry, room int) (messages []json.RawMessage, size int) {
	messages = make([]json.RawMessage, len(entries))
	for i, e := range slices.Backward(entries) {
		messages[i] = withNumber(e)
		if size+len(messages[i]) > room {
			return messages[i+1:], size
		}
		size += len(messages[i])
	}
	return messages, size
}

// pageRequest asks for users beyond the roster: the first page has no cursor.
type pageRequest struct {
	Cursor string `json:"cursor"`
	Limit  int    `json:"limit"`
}

// searchRequest asks for users by the beginning of their name.
type searchRequest struct {
	Prefix string `json:"prefix"`
	Limit  int    `json:"limit"`
}

// usersReply is a page of users, with presence and without messages. Next is empty on the last one.
type usersReply struct {
	Users any    `json:"users"` // []rosterEntry, or []extrasEntry for a socket with extras
	Next  string `json:"next,omitempty"`
}

func (c *Chat) usersPage(ctx context.Context, s *socketio.Socket, r pageRequest) (usersReply, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	users, next, err := c.store.UserPage(ctx, r.Cursor, pageSize(max(r.Limit, 0), maxPage))
	if err != nil {
		return usersReply{}, storeError(err)
	}
	return c.reply(ctx, s, users, next)
}

func (c *Chat) usersSearch(ctx context.Context, s *socketio.Socket, r searchRequest) (usersReply, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	if len(r.Prefix) > 4*maxUsername {
		return usersReply{}, &socketio.Error{Code: socketio.CodeBadArgument, Message: "prefix is too long"}
	}
	users, err := c.store.SearchUsers(ctx, r.Prefix, pageSize(max(r.Limit, 0), maxPage))
	if err != nil {
		return usersReply{}, storeError(err)
	}
	return c.reply(ctx, s, users, "")
}

// reply describes users to a socket, which from now on hears of their presence.
func (c *Chat) reply(ctx context.Context, s *socketio.Socket, users []store.User, next string) (usersReply, error) {
	c.watchers.add(s.ID(), c.watchLimit(), users...)
	now := c.told.now()
	online, err := c.presence(ctx, idsOf(users))
	if err != nil {
		return usersReply{}, storeError(err)
	}
	described := describe(users, online, nil)
	c.told.gave(described, now, false, c.watchers.watches(s.ID()))
	if !hasExtras(s) {
		return usersReply{described, next}, nil
	}
	extended, _, err := c.extend(ctx, s, described, users, 0)
	if err != nil {
		return usersReply{}, storeError(err)
	}
	return usersReply{extended, next}, nil
}

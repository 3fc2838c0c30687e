package redisstore

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"parley/store"
)

// rosterWindow is how many users are asked for at once.
const rosterWindow = 1024

// see notes that the session's user was seen; named means that it gives the user's name, and does not only know one. The
// call removes some users who have expired.
func (s *Store) see(session store.Session, seen, now time.Time, named bool) *command {
	name := "0"
	if named {
		name = "1"
	}
	return scriptSeeUser.run(rosterKeys, session.UserID, session.Username, namePrefix(session.Username)+"\x00\x01"+session.UserID,
		session.ID, seen.UnixMilli(), s.since(now), name)
}

// since is the time at which the users who have expired by now were seen last, in milliseconds.
func (s *Store) since(now time.Time) int64 { return now.UnixMilli() - s.opts.SessionTTL.Milliseconds() }

// namePrefix returns what the places of all names with that prefix start with. No place goes on with a byte 255.
func namePrefix(name string) string { return strings.ReplaceAll(store.Fold(name), "\x00", "\x00\xff") }

// known is what the roster knows of a user: "seen nameLength sessionLength " name session place (user.lua).
type known struct {
	user    store.User
	session string
}

func parseKnown(id, s string) (k known, ok bool) {
	var n [3]uint64
	for i := range n {
		field, rest, found := strings.Cut(s, " ")
		v, err := strconv.ParseUint(field, 10, 63)
		if !found || err != nil {
			return k, false
		}
		n[i], s = v, rest
	}
	if n[1] > uint64(len(s)) || n[2] > uint64(len(s))-n[1] {
		return k, false
	}
	k.user = store.User{ID: id, Username: s[:n[1]], LastSeen: time.UnixMilli(int64(n[0])).UTC()}
	k.session = s[n[1] : n[1]+n[2]]
	return k, true
}

// lookUp returns those of the users who exist, in the order of ids.
func (s *Store) lookUp(ctx context.Context, ids []string) ([]store.User, error) {
	var users []store.User
	since := s.since(s.opts.Now())
	for len(ids) > 0 {
		n := min(len(ids), rosterWindow)
		args := append(make([]any, 0, n+2), "HMGET", rosterKeys[rosterInfo])
		for _, id := range ids[:n] {
			args = append(args, id)
		}
		c := plain(args...)
		if err := s.reads.do(ctx, rosterKeys[0], c); err != nil {
			return nil, fmt.Errorf("read users: %w", err)
		}
		found := c.list()
		for i, id := range ids[:n] {
			if k, ok := parseKnown(id, text(found, i)); ok && k.user.LastSeen.UnixMilli() > since {
				users = append(users, k.user)
			}
		}
		ids = ids[n:]
	}
	return users, nil
}

// texts runs a command that gives a list of strings.
func (s *Store) texts(ctx context.Context, args ...any) ([]string, error) {
	c := plain(args...)
	if err := s.reads.do(ctx, rosterKeys[0], c); err != nil {
		return nil, fmt.Errorf("read users: %w", err)
	}
	list := c.list()
	texts := make([]string, len(list))
	for i := range list {
		texts[i] = text(list, i)
	}
	return texts, nil
}

// Users implements [store.Sessions]. Beyond some thousand users it is read in steps.
func (s *Store) Users(ctx context.Context, limit int) ([]store.User, error) {
	if err := s.usable(ctx); err != nil {
		return nil, err
	}
	var users []store.User
	var seen map[string]bool // needed when there is more than one step
	since := "(" + strconv.FormatInt(s.since(s.opts.Now()), 10)
	for offset := 0; len(users) < limit; {
		n := min(limit-len(users), rosterWindow)
		ids, err := s.texts(ctx, "ZREVRANGEBYSCORE", rosterKeys[rosterSeen], "+inf", since, "LIMIT", offset, n)
		if err != nil {
			return nil, err
		}
		found, err := s.lookUp(ctx, ids)
		if err != nil {
			return nil, err
		}
		if len(ids) < n && offset == 0 {
			return found, nil
		}
		if seen == nil {
			seen = make(map[string]bool, len(found))
		}
		for _, u := range found {
			if !seen[u.ID] { // seen anew while we read, others come again
				seen[u.ID] = true
				users = append(users, u)
			}
		}
		if len(ids) < n {
			break
		}
		offset += n
	}
	return users, nil
}

// UserPage implements [store.Sessions], in the order of the ids. The cursor is the last id of the former page.
func (s *Store) UserPage(ctx context.Context, cursor string, limit int) (users []store.User, next string, err error) {
	if err := s.usable(ctx); err != nil {
		return nil, "", err
	}
	if limit <= 0 || len(cursor) > store.MaxIDBytes {
		return nil, "", nil
	}
	from, n := "-", min(limit, rosterWindow)
	if cursor != "" {
		from = "(" + cursor
	}
	ids, err := s.texts(ctx, "ZRANGEBYLEX", rosterKeys[rosterIDs], from, "+", "LIMIT", 0, n)
	if err != nil {
		return nil, "", err
	}
	if users, err = s.lookUp(ctx, ids); err != nil {
		return nil, "", err
	}
	if len(ids) == n {
		next = ids[n-1]
	}
	return users, next, nil
}

// UsersByID implements [store.Sessions].
func (s *Store) UsersByID(ctx context.Context, ids []string) ([]store.User, error) {
	if err := s.usable(ctx); err != nil {
		return nil, err
	}
	return s.lookUp(ctx, ids)
}

// searchSteps bounds the steps of a search in which it finds only users who have expired.
const searchSteps = 8

// SearchUsers implements [store.Sessions].
func (s *Store) SearchUsers(ctx context.Context, prefix string, limit int) ([]store.User, error) {
	if err := s.usable(ctx); err != nil {
		return nil, err
	}
	if limit <= 0 || len(prefix) > store.MaxIDBytes {
		return nil, nil
	}
	var users []store.User
	start := namePrefix(prefix)
	from, end := "["+start, "("+start+"\xff"
	for range searchSteps {
		n := min(limit-len(users), rosterWindow)
		places, err := s.texts(ctx, "ZRANGEBYLEX", rosterKeys[rosterNames], from, end, "LIMIT", 0, n)
		if err != nil {
			return nil, err
		}
		ids := make([]string, len(places))
		for i, place := range places {
			_, ids[i], _ = strings.Cut(place, "\x00\x01")
		}
		found, err := s.lookUp(ctx, ids)
		if err != nil {
			return nil, err
		}
		if users = append(users, found...); len(users) == limit || len(places) < n {
			break
		}
		from = "(" + places[n-1]
	}
	return users, nil
}

// CountUsers implements [store.Sessions].
func (s *Store) CountUsers(ctx context.Context) (int, error) {
	if err := s.usable(ctx); err != nil {
		return 0, err
	}
	c := plain("ZCOUNT", rosterKeys[rosterSeen], "("+strconv.FormatInt(s.since(s.opts.Now()), 10), "+inf")
	if err := s.reads.do(ctx, rosterKeys[0], c); err != nil {
		return 0, fmt.Errorf("count users: %w", err)
	}
	n, _ := c.Val().(int64)
	return int(n), nil
}

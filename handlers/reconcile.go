package handlers

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"parley/socketio"
	"parley/store"
)

const (
	// reconcileEvery is how often some users are compared with the store, and reconcileUsers how many those are.
	reconcileEvery = 4 * time.Second
	reconcileUsers = 1024
	// reconcileGrace is what an announcement gets to arrive before its place is taken.
	reconcileGrace = 2 * time.Second
	// reconcilePause is between the steps of a comparison of all users.
	reconcilePause = 50 * time.Millisecond
	// wordsPerUser bounds, in roster limits, the users who are compared for sockets that were given everybody once.
	wordsPerUser = 16
	// newestUsers is how many users are looked at first, to find those of whom nothing was heard.
	newestUsers = 64
	// justSeen is how recently a user must have been seen who came and left unheard, for sockets to be told of them.
	justSeen = time.Minute
)

// byParley is a room that no socket is in. Announcements except it, by which the processes know each other's: of the
// users of Node servers the store does not tell who is connected, so that what those say is left alone.
const byParley = "announced by parley"

// reconciler puts right what the sockets of this process were told of presence: what processes announce to each other
// may be lost. It compares what was told with the store: some users every now and then, in turns, and all when it is
// known that something was missed. Two reads that agree, with time for an announcement to arrive in between, make a
// difference count.
type reconciler struct {
	chat   *Chat
	missed chan struct{} // has room for one
	cancel context.CancelFunc
	ctx    context.Context // ends with close
	done   sync.WaitGroup

	// Owned by run.

	queue  []string  // users who were not compared yet in this turn
	newest time.Time // users who were last seen before were looked at
	warn   rate.Sometimes
}

// newReconciler starts it; close ends it.
func newReconciler(c *Chat) *reconciler {
	r := &reconciler{chat: c, missed: make(chan struct{}, 1), warn: rate.Sometimes{Interval: time.Minute}}
	r.ctx, r.cancel = context.WithCancel(context.Background())
	c.namespace.OnMissed(func() {
		select {
		case r.missed <- struct{}{}:
		default:
		}
	})
	for event, online := range map[string]bool{"user connected": true, "user disconnected": false} {
		c.namespace.OnElsewhere(event, func(args socketio.Args, except []string, deliver func() error) error {
			return c.hear(args, except, online, deliver)
		})
	}
	r.done.Go(r.run)
	return r
}

func (r *reconciler) close() {
	r.cancel()
	r.done.Wait()
}

// hear takes note of what other servers tell the sockets here.
func (c *Chat) hear(args socketio.Args, except []string, online bool, deliver func() error) error {
	user, err := announced(args)
	switch {
	case err != nil:
		return deliver()
	case !slices.Contains(except, byParley):
		return c.told.disclaim(user, deliver)
	}
	return c.told.relay(user, online, deliver)
}

// announced returns the user of whom "user connected" or "user disconnected" tells.
func announced(args socketio.Args) (user string, err error) {
	if err = args.Decode(0, &user); err == nil {
		return user, nil
	}
	var entry struct{ UserID string }
	if err = args.Decode(0, &entry); err == nil && entry.UserID == "" {
		err = errors.New("it names no user")
	}
	return entry.UserID, err
}

func (r *reconciler) run() {
	r.begin()
	ticker := time.NewTicker(reconcileEvery)
	defer ticker.Stop()
	for {
		all := false
		select {
		case <-r.ctx.Done():
			return
		case <-ticker.C:
		case <-r.missed:
			all = true
		}
		if err := r.compare(all); err != nil && r.ctx.Err() == nil {
			r.warn.Do(func() {
				r.chat.log.Warn().Err(err).Msg("presence could not be compared with the store, trying again")
			})
		}
	}
}

// begin takes note of the users who are there before there are sockets here: rosters have them. What it can't read is
// found later.
func (r *reconciler) begin() {
	ctx, cancel := context.WithTimeout(r.ctx, storeTimeout)
	defer cancel()
	c := r.chat
	users, err := c.store.Users(ctx, c.options.RosterLimit)
	if err != nil || len(users) == 0 {
		return
	}
	now := c.told.now()
	if online, err := c.presence(ctx, idsOf(users)); err == nil {
		c.told.gave(describe(users, online, nil), now, true, true)
		r.newest = users[0].LastSeen.Add(-reconcileEvery) // clocks differ
	}
}

// compare looks at some users, or all, and at those of whom nothing was heard.
func (r *reconciler) compare(all bool) error {
	c := r.chat
	ctx, cancel := context.WithTimeout(r.ctx, storeTimeout)
	count, err := c.store.CountUsers(ctx)
	cancel()
	if err != nil {
		return err
	}
	// Up to the limit everybody is in everybody's list, so that those who are gone need not be kept. Past it only those
	// are of interest who are in a list here: all again, as long as there are sockets that were given everybody, and as
	// it is not too many.
	many := count > c.options.RosterLimit && (!c.watchers.anyAll() || c.told.len() > wordsPerUser*c.options.RosterLimit)
	users := c.told.list(func(user string, online bool) bool { return (many || !online) && !c.watchers.watched(user) })
	if all || len(r.queue) == 0 {
		r.queue = users
	}
	var doubts []doubt
	if !many {
		if doubts, err = r.unheard(all); err != nil {
			return err
		}
	}
	for len(r.queue) > 0 {
		some := r.queue[:min(len(r.queue), reconcileUsers)]
		r.queue = r.queue[len(some):]
		found, err := r.doubts(some)
		if err != nil {
			return err
		}
		doubts = append(doubts, found...)
		if !all {
			break
		}
		if len(r.queue) > 0 && !r.wait(reconcilePause) {
			return r.ctx.Err()
		}
	}
	if len(doubts) == 0 || !r.wait(reconcileGrace) {
		return nil
	}
	for some := range slices.Chunk(doubts, reconcileUsers) {
		if err := r.resolve(some); err != nil {
			return err
		}
	}
	return nil
}

// wait returns false if the end comes first.
func (r *reconciler) wait(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-r.ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

func (r *reconciler) doubts(users []string) ([]doubt, error) {
	ctx, cancel := context.WithTimeout(r.ctx, storeTimeout)
	defer cancel()
	online, err := r.chat.store.Online(ctx, users)
	if err != nil {
		return nil, err
	}
	return r.chat.told.doubts(users, online), nil
}

// unheard returns the users of whom nothing was ever said here, as long as everybody is in everybody's list: those who
// came while their announcement was lost. They are among the users seen last; the others were looked at before.
func (r *reconciler) unheard(all bool) ([]doubt, error) {
	ctx, cancel := context.WithTimeout(r.ctx, storeTimeout)
	defer cancel()
	c := r.chat
	limit := c.options.RosterLimit
	n := min(newestUsers, limit)
	if all {
		n = limit
	}
	for {
		latest, err := c.store.Users(ctx, n)
		if err != nil {
			return nil, err
		}
		if len(latest) == 0 {
			return nil, nil
		}
		if n < limit && len(latest) == n && latest[n-1].LastSeen.After(r.newest) {
			n = min(4*n, limit)
			continue
		}
		doubts, err := r.doubts(c.told.unheard(idsOf(latest)))
		if err == nil {
			r.newest = latest[0].LastSeen.Add(-reconcileEvery) // clocks differ
		}
		return doubts, err
	}
}

// resolve tells the sockets of this process what is so of users who are still in doubt.
func (r *reconciler) resolve(doubts []doubt) error {
	c := r.chat
	before := make(map[string]uint64, len(doubts))
	users := make([]string, len(doubts))
	for i, d := range doubts {
		users[i], before[d.user] = d.user, d.at
	}
	left, err := r.doubts(users)
	if err != nil || len(left) == 0 {
		return err
	}
	ctx, cancel := context.WithTimeout(r.ctx, storeTimeout)
	defer cancel()
	ids := make([]string, len(left))
	for i, d := range left {
		ids[i] = d.user
	}
	known, err := c.store.UsersByID(ctx, ids)
	if err != nil {
		return err
	}
	names := make(map[string]store.User, len(known))
	for _, u := range known {
		names[u.ID] = u
	}
	var errs error
	corrected := 0
	defer func() {
		if corrected > 0 {
			c.log.Info().Int("users", corrected).Msg("announcements of presence were lost: sockets were told what is so")
		}
	}()
	for _, d := range left {
		if before[d.user] != d.at {
			continue // something was said meanwhile; if it is wrong, the next comparison finds it
		}
		u, exists := names[d.user]
		if d.online && !exists {
			continue
		}
		told, err := c.correct(u, d)
		if errs = errors.Join(errs, err); told {
			corrected++
		}
	}
	return errs
}

// correct tells the sockets of this process what the store says of a user.
func (c *Chat) correct(u store.User, d doubt) (told bool, err error) {
	turn := c.turn(d.user)
	turn.Lock()
	defer turn.Unlock()
	err = c.told.correct(d.user, d.online, d.at, func() error {
		if d.at == 0 && !d.online && time.Since(u.LastSeen) > justSeen {
			return nil // rosters had the user already
		}
		told = true
		var errs error
		if d.online || d.at == 0 { // a client learns of a user only by their coming, even of one who is not there
			errs = c.tellHere("", d.user, "user connected", arrival(d.user, u.Username))
		}
		if !d.online {
			errs = errors.Join(errs, c.tellHere("", d.user, "user disconnected", d.user))
		}
		return errs
	})
	return told, err
}

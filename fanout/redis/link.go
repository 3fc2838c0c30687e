package redisfan

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"parley/metrics"
)

// errNotMember means that nobody here is in the room.
var errNotMember = errors.New("room has no members here")

// links are the subscriber connections: one, or several with a Cluster.
type links interface {
	start()
	close()
	// add, drop and wait are those of a link.
	add(channel string, first bool)
	drop(channel string)
	wait(ctx context.Context, channel string) error
	connected() bool
	len() int
	// trouble says that a server did not do what it should: another may have to do it now.
	trouble()
}

func newLinks(f *Fanout) links {
	if cluster, ok := f.options.Client.(*redis.ClusterClient); ok {
		return newClusterLinks(f, cluster)
	}
	return newLink(f, f.options.Client)
}

// link is one subscriber connection and the channels that are to be heard on it. A goroutine reads, another writes;
// whoever wants a channel only changes the table.
type link struct {
	fanout *Fanout
	client subscriber
	heard  atomic.Int64 // when something last arrived, in unix nanoseconds
	wake   chan struct{}
	stop   context.CancelFunc
	ctx    context.Context
	ended  chan struct{} // closed when run has returned

	mu          sync.Mutex
	subs        map[string]*subscription
	waiting     []*subscription // to be subscribed to, oldest first; those that are not in subs any more are passed over
	idle        []*subscription // that lost their last user, in the order they may be unsubscribed; likewise
	unconfirmed int             // sent, not confirmed
	missing     int             // that were wanted before and are not confirmed yet; -1 while there is no connection
	gap         bool            // some of those were not heard for a while
	failed      bool            // the last connection ended, or could not be made
	hold        time.Time       // nothing is subscribed to before, because Redis refused something
	holdPause   time.Duration   // how long that was
}

// subscriber is what a link needs of a Redis client.
type subscriber interface {
	Subscribe(ctx context.Context, channels ...string) *redis.PubSub
}

// subscription is a channel of a link.
type subscription struct {
	channel string
	users   int
	slot    uint16 // of a Cluster
	state   subscriptionState
	first   bool          // before others
	initial bool          // counts as missing
	unsure  bool          // Redis was asked for it, refused something, and may have it
	ready   chan struct{} // closed when Redis has confirmed it; nil until somebody waits
	until   time.Time     // with users 0: when to unsubscribe
	isIdle  bool          // in idle
}

type subscriptionState uint8

const (
	waiting subscriptionState = iota
	sent
	confirmed
)

func newLink(f *Fanout, client subscriber) *link {
	l := &link{
		fanout: f, client: client, wake: make(chan struct{}, 1), ended: make(chan struct{}),
		subs: make(map[string]*subscription), missing: -1,
	}
	l.ctx, l.stop = context.WithCancel(f.ctx)
	return l
}

// signal wakes the writer.
func (l *link) signal() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// add takes a channel into use once more. One that is first is subscribed to before the others when a
// connection was lost.
func (l *link) add(channel string, first bool) { l.addSlot(channel, 0, first) }

// addSlot is add for a channel whose slot is known.
func (l *link) addSlot(channel string, slot uint16, first bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.subs[channel]
	if s == nil {
		s = &subscription{channel: channel, slot: slot, first: first}
		l.subs[channel] = s
		l.enqueue(s)
	}
	s.users++
}

// enqueue has s subscribed to. l.mu is held.
func (l *link) enqueue(s *subscription) {
	s.state = waiting
	l.waiting = append(l.waiting, s)
	if len(l.waiting) == 1 {
		l.signal()
	}
}

// miss notes that s is not heard, though it should be. l.mu is held.
func (l *link) miss(s *subscription) {
	l.gap = true
	if l.missing >= 0 && !s.initial {
		s.initial = true
		l.missing++
	}
}

// drop ends one use of a channel. After the last, it is unsubscribed from when the grace period has passed.
func (l *link) drop(channel string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.subs[channel]
	if s == nil || s.users == 0 {
		return
	}
	s.users--
	if s.users > 0 {
		return
	}
	l.retire(s, time.Now().Add(l.fanout.options.Grace))
}

// retire has s, which has no users, unsubscribed from at some time. l.mu is held.
func (l *link) retire(s *subscription, at time.Time) {
	s.until = at
	if !s.isIdle {
		s.isIdle = true
		l.idle = append(l.idle, s)
		if len(l.idle) == 1 {
			l.signal()
		}
	}
}

// forget takes s out of the table. l.mu is held.
func (l *link) forget(s *subscription) {
	delete(l.subs, s.channel)
	s.settle()
	l.found(s)
}

// found notes that s is missing no more. l.mu is held.
func (l *link) found(s *subscription) {
	if !s.initial {
		return
	}
	s.initial = false
	if l.missing <= 0 {
		return
	}
	if l.missing--; l.missing > 0 {
		return
	}
	l.failed = false
	if !l.gap {
		return
	}
	l.gap = false
	l.fanout.metrics.Count(metrics.BusReconnects, "restored")
	l.fanout.log.Info().Int("channels", len(l.subs)).Msg("subscribed to redis again")
	l.fanout.missed()
}

// settle wakes those who wait for a change. The link's mu is held.
func (s *subscription) settle() {
	if s.ready != nil {
		close(s.ready)
		s.ready = nil
	}
}

// wait returns when Redis has confirmed the subscription to channel.
func (l *link) wait(ctx context.Context, channel string) error {
	for {
		ready, err := l.settled(channel)
		if ready == nil {
			return err
		}
		select {
		case <-ready:
		case <-ctx.Done():
			return ctx.Err()
		case <-l.ctx.Done():
			return ErrUnavailable
		}
	}
}

// settled returns what to wait for until the subscription is confirmed or gone, nil if it is.
func (l *link) settled(channel string) (<-chan struct{}, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.subs[channel]
	switch {
	case s == nil:
		return nil, errNotMember
	case s.state == confirmed:
		return nil, nil
	case s.ready == nil:
		s.ready = make(chan struct{})
	}
	return s.ready, nil
}

// connected tells whether all channels that were wanted when the connection was made are confirmed.
func (l *link) connected() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.missing == 0
}

// whole tells whether nothing is missing that this link has to hear. One that is made just now misses nothing yet.
func (l *link) whole() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.missing == 0 || len(l.subs) == 0 || !l.failed && !l.gap
}

// len returns the number of channels in the table.
func (l *link) len() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.subs)
}

// take adds a channel with all its users at another link. One that has lapsed was to be heard all the time.
func (l *link) take(s *subscription, lapsed bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	own := l.subs[s.channel]
	fresh := own == nil
	if fresh {
		own = &subscription{channel: s.channel, slot: s.slot, first: s.first}
		l.subs[s.channel] = own
	}
	own.users += s.users
	if lapsed {
		l.miss(own)
	}
	if fresh || lapsed && own.state == confirmed {
		l.enqueue(own)
	}
}

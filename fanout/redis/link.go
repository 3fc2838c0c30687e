package redisfan

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"parley/metrics"
)

const (
	// subscribeBatch bounds the channels of one SUBSCRIBE, and subscribeWindow those that Redis has not confirmed
	// yet, so that its answers always fit into what it buffers for a subscriber.
	subscribeBatch  = 1000
	subscribeWindow = 20_000
	// dialTimeout bounds connecting and the first subscription.
	dialTimeout = 5 * time.Second
	// pingEvery is how often a silent connection is tried, and silence how long it may be silent.
	pingEvery = 3 * time.Second
	silence   = 10 * time.Second
	// redialPause is the wait before a lost connection is made again, doubled up to redialPauseMax.
	redialPause    = 20 * time.Millisecond
	redialPauseMax = 3 * time.Second
)

// errNotMember means that nobody here is in the room.
var errNotMember = errors.New("room has no members here")

// link is one subscriber connection and the channels that are to be heard on it. A goroutine reads, another writes;
// whoever wants a channel only changes the table.
type link struct {
	fanout *Fanout
	client subscriber
	heard  atomic.Int64 // when something last arrived, in unix nanoseconds
	wake   chan struct{}
	stop   context.CancelFunc
	ctx    context.Context

	mu          sync.Mutex
	subs        map[string]*subscription
	waiting     []*subscription // to be subscribed to, oldest first
	idle        []*subscription // that lost their last user, in the order they may be unsubscribed
	unconfirmed int             // sent, not confirmed
	missing     int             // wanted when the connection was made and not confirmed yet; -1 while there is none
	sessions    int             // connections so far
}

// subscriber is what a link needs of a Redis client.
type subscriber interface {
	Subscribe(ctx context.Context, channels ...string) *redis.PubSub
}

// subscription is a channel of a link.
type subscription struct {
	channel string
	users   int
	state   subscriptionState
	first   bool          // before others
	initial bool          // counts as missing
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
	l := &link{fanout: f, client: client, wake: make(chan struct{}, 1), subs: make(map[string]*subscription), missing: -1}
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
func (l *link) add(channel string, first bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.subs[channel]
	if s == nil {
		s = &subscription{channel: channel, first: first}
		l.subs[channel] = s
		l.waiting = append(l.waiting, s)
		if len(l.waiting) == 1 {
			l.signal()
		}
	}
	s.users++
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
	s.until = time.Now().Add(l.fanout.options.Grace)
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

// len returns the number of channels in the table.
func (l *link) len() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.subs)
}

// run keeps a connection up until the link is closed.
func (l *link) run() {
	pause := redialPause
	for l.ctx.Err() == nil {
		began := time.Now()
		err := l.session()
		if l.ctx.Err() != nil {
			return
		}
		l.fanout.warning.Do(func() { l.fanout.log.Warn().Err(err).Msg("subscriber connection to redis lost, connecting again") })
		l.fanout.metrics.Count(metrics.BusReconnects, "lost")
		if time.Since(began) > silence {
			pause = redialPause
		}
		select {
		case <-time.After(pause/2 + rand.N(pause/2)): //nolint:gosec // jitter is no secret
		case <-l.ctx.Done():
		}
		pause = min(2*pause, redialPauseMax)
	}
}

// session is the life of one connection; the error says why it ended.
func (l *link) session() error {
	if err := l.begin(); err != nil {
		return err
	}
	defer l.end()
	conn := l.client.Subscribe(l.ctx) // does not connect before there is a channel
	dial, cancel := context.WithTimeout(l.ctx, dialTimeout)
	err := l.fanout.protocol.subscribe(dial, conn, l.batch())
	cancel()
	if err != nil {
		return errors.Join(fmt.Errorf("connect to redis: %w", err), conn.Close())
	}
	l.heard.Store(time.Now().UnixNano())
	l.mu.Lock()
	l.sessions++
	l.mu.Unlock()

	ended := make(chan error, 1)
	var reading sync.WaitGroup
	reading.Go(func() { ended <- l.read(conn) })
	err = l.write(conn, ended)
	closeErr := conn.Close()
	reading.Wait()
	return errors.Join(err, closeErr)
}

// begin waits until there is a channel to subscribe to, and queues all that are in use.
func (l *link) begin() error {
	for {
		l.mu.Lock()
		l.waiting, l.idle, l.unconfirmed = nil, nil, 0
		for _, s := range l.subs {
			s.isIdle = false
			if s.users == 0 {
				l.forget(s)
				continue
			}
			s.state, s.initial = waiting, true
			l.waiting = append(l.waiting, s)
		}
		slices.SortFunc(l.waiting, func(a, b *subscription) int { return order(a) - order(b) })
		n := len(l.waiting)
		l.missing = n
		if n == 0 {
			l.missing = -1
		}
		l.mu.Unlock()
		if n > 0 {
			return nil
		}
		select {
		case <-l.wake:
		case <-l.ctx.Done():
			return l.ctx.Err()
		}
	}
}

// order is in which part of the queue a subscription belongs.
func order(s *subscription) int {
	if s.first {
		return 0
	}
	return 1
}

// end forgets what the connection was subscribed to.
func (l *link) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.missing = -1
	for _, s := range l.subs {
		s.state = waiting
	}
}

// endedContext has ended. go-redis reads and writes on an open connection with it, but can't make another: by
// itself it would, and would subscribe to everything in a single command, whose answers can be more than
// Redis buffers. We make connections, and subscribe in batches.
func endedContext() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}

// batch takes the next channels to subscribe to.
func (l *link) batch() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var names []string
	for len(l.waiting) > 0 && len(names) < subscribeBatch && l.unconfirmed < subscribeWindow {
		s := l.waiting[0]
		l.waiting[0] = nil
		l.waiting = l.waiting[1:]
		if s.users == 0 && !s.initial { // its first user has gone already
			l.forget(s)
			continue
		}
		s.state = sent
		l.unconfirmed++
		names = append(names, s.channel)
	}
	if len(l.waiting) == 0 {
		l.waiting = nil
	}
	return names
}

// expired takes the next channels to unsubscribe from, and says when there will be more.
func (l *link) expired(now time.Time) (names []string, next time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(l.idle) > 0 && len(names) < subscribeBatch {
		s := l.idle[0]
		if s.users == 0 && s.until.After(now) {
			return names, s.until
		}
		l.idle[0] = nil
		l.idle = l.idle[1:]
		switch {
		case s.users > 0, l.subs[s.channel] != s:
			s.isIdle = false
		case s.state == sent:
			// Its confirmation is on its way, and must not be taken for that of a later subscription.
			s.until = now.Add(l.fanout.options.Grace)
			l.idle = append(l.idle, s)
		case s.state == confirmed:
			l.forget(s)
			names = append(names, s.channel)
		default:
			s.isIdle = false // batch leaves it out
		}
	}
	if len(l.idle) == 0 {
		l.idle = nil
		return names, time.Time{}
	}
	return names, now
}

// write subscribes, unsubscribes and pings until the connection ends.
func (l *link) write(conn *redis.PubSub, ended <-chan error) error {
	ctx := endedContext()
	ping := time.NewTicker(pingEvery)
	defer ping.Stop()
	grace := time.NewTimer(time.Hour)
	defer grace.Stop()
	for {
		if names := l.batch(); len(names) > 0 {
			if err := l.fanout.protocol.subscribe(ctx, conn, names); err != nil {
				return fmt.Errorf("subscribe: %w", err)
			}
			continue
		}
		names, next := l.expired(time.Now())
		if len(names) > 0 {
			if err := l.fanout.protocol.unsubscribe(ctx, conn, names); err != nil {
				return fmt.Errorf("unsubscribe: %w", err)
			}
			continue
		}
		if next.IsZero() {
			grace.Stop()
		} else {
			grace.Reset(time.Until(next))
		}
		select {
		case <-l.wake:
		case <-grace.C:
		case <-ping.C:
			if time.Since(time.Unix(0, l.heard.Load())) > silence {
				return errors.New("redis is silent")
			}
			if err := conn.Ping(ctx); err != nil {
				return fmt.Errorf("ping: %w", err)
			}
		case err := <-ended:
			return err
		case <-l.ctx.Done():
			return l.ctx.Err()
		}
	}
}

// read takes what arrives, and hands it on without waiting for anybody, until the connection ends.
func (l *link) read(conn *redis.PubSub) error {
	ctx := endedContext()
	for {
		msg, err := conn.Receive(ctx)
		if err != nil {
			return err
		}
		l.heard.Store(time.Now().UnixNano())
		switch msg := msg.(type) {
		case *redis.Message:
			l.fanout.inbox.sort(msg.Channel, msg.Payload)
		case *redis.Subscription:
			switch msg.Kind {
			case "subscribe", "ssubscribe":
				l.confirm(msg.Channel)
			case "sunsubscribe":
				if l.lost(msg.Channel) {
					return fmt.Errorf("channel %s has moved to another node", msg.Channel)
				}
			}
		}
	}
}

// lost tells whether Redis has taken a channel away that is in use: its slot moved.
func (l *link) lost(channel string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.subs[channel]
	return s != nil && s.state == confirmed
}

// confirm marks a channel as subscribed.
func (l *link) confirm(channel string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.subs[channel]
	if s == nil || s.state != sent {
		return
	}
	s.state = confirmed
	s.settle()
	if l.unconfirmed--; l.unconfirmed == subscribeWindow/2 {
		l.signal()
	}
	if s.users == 0 && !s.isIdle {
		s.isIdle, s.until = true, time.Now().Add(l.fanout.options.Grace)
		l.idle = append(l.idle, s)
		l.signal()
	}
	if !s.initial {
		return
	}
	s.initial = false
	if l.missing--; l.missing == 0 {
		if l.sessions > 1 {
			l.fanout.metrics.Count(metrics.BusReconnects, "restored")
			l.fanout.log.Info().Int("channels", len(l.subs)).Msg("subscribed to redis again")
			l.fanout.missed()
		}
	}
}

// links are the subscriber connections: one, or with sharded channels of a cluster one for each node.
type links struct {
	fanout *Fanout
	only   *link
}

func newLinks(f *Fanout) *links { return &links{fanout: f, only: newLink(f, f.options.Client)} }

func (l *links) start()                         { l.fanout.running.Go(l.only.run) }
func (l *links) close()                         { l.only.stop() }
func (l *links) add(channel string, first bool) { l.only.add(channel, first) }
func (l *links) drop(channel string)            { l.only.drop(channel) }
func (l *links) connected() bool                { return l.only.connected() }
func (l *links) len() int                       { return l.only.len() }
func (l *links) wait(ctx context.Context, channel string) error {
	return l.only.wait(ctx, channel)
}

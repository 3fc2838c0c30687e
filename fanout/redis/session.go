package redisfan

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
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
	// pingEvery is how often a connection is tried, and silence how long it may be silent.
	pingEvery = 3 * time.Second
	silence   = 10 * time.Second
	// redialPause is the wait before a lost connection is made again, or before Redis is asked again for what it refused,
	// doubled up to redialPauseMax.
	redialPause    = 20 * time.Millisecond
	redialPauseMax = 3 * time.Second
	// waited is how long it takes at least to receive a message that was not there yet. One that was takes less.
	waited = 20 * time.Microsecond
)

// start has the link run until it or the fan-out is closed.
func (l *link) start() { l.fanout.running.Go(l.run) }

// close ends the link.
func (l *link) close() { l.stop() }

// trouble does nothing: the one server that there is stays where it is.
func (l *link) trouble() {}

// run keeps a connection up until the link is closed.
func (l *link) run() {
	defer close(l.ended)
	pause := redialPause
	for l.ctx.Err() == nil {
		began := time.Now()
		err := l.session()
		if l.ctx.Err() != nil {
			return
		}
		if err == nil {
			continue
		}
		l.fanout.links.trouble()
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

// session is the life of one connection; the error says why it ended. There is none if there was nothing to
// connect for.
func (l *link) session() error {
	if err := l.begin(); err != nil {
		return err
	}
	names, _ := l.batch() // a new connection has nothing that is not wanted
	if len(names) == 0 {
		return nil
	}
	connected := false
	defer func() { l.end(connected) }()
	conn := l.client.Subscribe(l.ctx) // does not connect before there is a channel
	dial, cancel := context.WithTimeout(l.ctx, dialTimeout)
	err := l.fanout.protocol.subscribe(dial, conn, names)
	cancel()
	if err != nil {
		return errors.Join(fmt.Errorf("connect to redis: %w", err), conn.Close())
	}
	l.heard.Store(time.Now().UnixNano())
	connected = true
	ended := make(chan error, 1)
	var reading sync.WaitGroup
	own := &echo{link: l}
	reading.Go(func() { ended <- l.read(conn, own) })
	err = l.write(conn, own, ended)
	closeErr := conn.Close()
	reading.Wait()
	return errors.Join(err, closeErr)
}

// begin waits until there is a channel to subscribe to, and queues all that are in use.
func (l *link) begin() error {
	for {
		l.mu.Lock()
		l.waiting, l.idle, l.unconfirmed, l.missing = nil, nil, 0, -1
		l.hold, l.holdPause = time.Time{}, 0
		for _, s := range l.subs {
			s.isIdle = false
			if s.users == 0 {
				l.forget(s)
				continue
			}
			s.state, s.initial, s.unsure = waiting, true, false
			l.waiting = append(l.waiting, s)
		}
		slices.SortFunc(l.waiting, inOrder)
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

// inOrder sorts subscriptions: those that are first come first, and those of a slot together.
func inOrder(a, b *subscription) int {
	if a.first != b.first {
		if a.first {
			return -1
		}
		return 1
	}
	return int(a.slot) - int(b.slot)
}

// end forgets what the connection was subscribed to, if there was one.
func (l *link) end(connected bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.missing, l.failed = -1, true
	l.gap = l.gap || connected
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

// batch takes the next channels to subscribe to, and before that to unsubscribe from: those that nobody wants any more, but
// that Redis may have.
func (l *link) batch() (names, unwanted []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if time.Until(l.hold) > 0 {
		return nil, nil
	}
	for len(l.waiting) > 0 && len(names)+len(unwanted) < subscribeBatch && l.unconfirmed < subscribeWindow {
		s := l.waiting[0]
		l.waiting[0] = nil
		l.waiting = l.waiting[1:]
		if l.subs[s.channel] != s {
			continue
		}
		if s.users == 0 { // they have gone already, or went to another link
			l.forget(s)
			if s.unsure {
				unwanted = append(unwanted, s.channel)
			}
			continue
		}
		s.state = sent
		l.unconfirmed++
		names = append(names, s.channel)
	}
	if len(l.waiting) == 0 {
		l.waiting = nil
	}
	return names, unwanted
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
func (l *link) write(conn *redis.PubSub, own *echo, ended <-chan error) error {
	ctx := endedContext()
	ping := time.NewTicker(l.fanout.options.ping)
	defer ping.Stop()
	grace := time.NewTimer(time.Hour)
	defer grace.Stop()
	for {
		names, unwanted := l.batch()
		var next time.Time
		if len(names)+len(unwanted) == 0 {
			unwanted, next = l.expired(time.Now())
		}
		if len(unwanted) > 0 {
			if err := l.fanout.protocol.unsubscribe(ctx, conn, unwanted); err != nil {
				return fmt.Errorf("unsubscribe: %w", err)
			}
		}
		if len(names) > 0 {
			if err := l.fanout.protocol.subscribe(ctx, conn, names); err != nil {
				return fmt.Errorf("subscribe: %w", err)
			}
		}
		if len(names)+len(unwanted) > 0 {
			continue
		}
		if hold := l.held(); !hold.IsZero() && (next.IsZero() || hold.Before(next)) {
			next = hold
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
			if err := conn.Ping(ctx, own.next()...); err != nil {
				return fmt.Errorf("ping: %w", err)
			}
		case err := <-ended:
			return err
		case <-l.ctx.Done():
			return l.ctx.Err()
		}
	}
}

// held returns when there will be something to subscribe to that has to wait till then.
func (l *link) held() time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.waiting) == 0 || l.unconfirmed >= subscribeWindow {
		return time.Time{}
	}
	return l.hold
}

// read takes what arrives, and hands it on or handles it without waiting for anybody, until the connection ends.
func (l *link) read(conn *redis.PubSub, own *echo) error {
	ctx := endedContext()
	const none, asItIs = time.Duration(0), time.Duration(-1)
	timeout := none // set once, since that costs a little each time
	row := 0        // messages handled here since the last that was waited for
	done := time.Now()
	for {
		msg, err := conn.ReceiveTimeout(ctx, timeout)
		timeout = asItIs
		now := time.Now()
		if now.Sub(done) > waited {
			row = 0
		}
		done = now
		if err != nil {
			if !passing(err) {
				return err
			}
			l.refused()
		}
		l.heard.Store(now.UnixNano())
		switch msg := msg.(type) {
		case *redis.Message:
			if !own.take(msg.Payload) && l.fanout.inbox.sort(msg.Channel, msg.Payload, row < atOnceRow) {
				row++
				done = time.Now()
			}
		case *redis.Pong:
			if own.missing(msg.Payload) {
				return errElsewhere
			}
		case *redis.Subscription:
			switch msg.Kind {
			case "subscribe", "ssubscribe":
				l.confirm(msg.Channel)
			case "sunsubscribe":
				l.lost(msg.Channel)
			}
		}
	}
}

// passing tells whether a node of a Cluster says that it does not serve a channel now: its slot has moved, or is served
// by nobody.
func passing(err error) bool {
	return slices.ContainsFunc([]string{"MOVED ", "CLUSTERDOWN ", "TRYAGAIN "}, func(prefix string) bool {
		return redis.HasErrorPrefix(err, prefix)
	})
}

// refused has all asked for again, after a pause, that is not confirmed: Redis does not say what it refused. To ask twice
// does no harm. What has moved is taken to another link meanwhile, and what nobody wants here any more is unsubscribed from,
// not asked for again: it would be refused for ever.
func (l *link) refused() {
	l.mu.Lock()
	if now := time.Now(); now.After(l.hold) { // else it comes of the same attempt
		l.holdPause = min(max(2*l.holdPause, redialPause), redialPauseMax)
		l.hold = now.Add(l.holdPause)
	}
	l.unconfirmed = 0
	for _, s := range l.subs {
		if s.state != sent {
			continue
		}
		if s.users > 0 {
			l.miss(s)
		}
		s.unsure = true
		l.enqueue(s)
	}
	l.mu.Unlock()
	l.signal()
	l.fanout.links.trouble()
}

// lost has a channel subscribed to again that Redis has taken away: its slot has moved. Of the answer to our own unsubscribing
// nothing is in the table any more.
func (l *link) lost(channel string) {
	l.mu.Lock()
	s := l.subs[channel]
	taken := s != nil && s.state == confirmed
	switch {
	case !taken:
	case s.users == 0:
		l.forget(s)
	default:
		l.miss(s)
		l.enqueue(s)
	}
	l.mu.Unlock()
	if taken {
		l.signal()
		l.fanout.links.trouble()
	}
}

// confirm marks a channel as subscribed.
func (l *link) confirm(channel string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.subs[channel]
	if s == nil || s.state != sent {
		return
	}
	s.state, s.unsure = confirmed, false
	s.settle()
	l.holdPause = 0
	if l.unconfirmed--; l.unconfirmed == subscribeWindow/2 {
		l.signal()
	}
	if s.users == 0 && !s.isIdle {
		l.retire(s, time.Now().Add(l.fanout.options.Grace))
	}
	l.found(s)
}

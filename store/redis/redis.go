// Package redisstore keeps everything in Redis 6.2 or later: a single server, one behind Sentinel, or a Cluster. Any
// number of processes share it, and existing Node servers of the chat's contract (contracts.md A6).
//
// keys.go tells what is kept where. A change is one script on keys of one slot, so that it is atomic and no operation
// spans slots. Scripts are in the folder lua. Where all keys are on one server, what is appended to many mailboxes at the
// same time is one call of a script, and each mailbox is a change of its own in it (joint.go).
//
// Calls go out in pipelines: lanes (lane.go) take all calls that are waiting at the moment and send them together, so
// that any number of senders cost few round trips. A call whose reply was lost may have happened; all calls can be made
// again without harm, and those that tell of a transition give the same answer again.
//
// Presence is kept per node under the node's lease (presence.go, lease.go).
//
// Durable means written to the primary, and to a replica where it has one (replicas.go): what survives the crash of a server by
// itself is up to its "appendonly". All but messages gets to replicas in the background. The server should not evict keys
// ("maxmemory-policy noeviction"): an evicted mailbox starts anew.
//
// With Node servers beside: what they push to a mailbox is numbered by its place in the list and becomes part of the
// conversations when the mailbox is next used. Their sessions can be used at once, and enter the roster when they are
// used here or within [Options.Reconcile]. A user who is connected to Node servers alone is offline for
// [Store.Online]. Their expiry is 24 hours: a longer [store.Options] MessageTTL cannot hold for mailboxes that they push to.
// A user id with braces in it cannot be shared with them (see keys.go).
package redisstore

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/rs/zerolog"

	"parley/store"
)

// Options are the settings of a [Store]. The zero value is ready for use.
type Options struct {
	store.Options

	// Wait is how long Open waits for Redis (REDIS_WAIT). Zero or less: it tries once.
	Wait time.Duration
	// Lease is how long a process that is silent counts as alive. It is renewed twenty times as often. Default 10 s, at
	// least 1 s.
	Lease time.Duration
	// Reconcile is how often one of the processes compares the roster with the sessions, in the background. Default one
	// minute; negative: never.
	Reconcile time.Duration

	// Departed is called when a user went offline without a [Store.Disconnect] that said so: the process that had the
	// last socket died, or a Disconnect had failed. Of all processes, one is called. Returned is called likewise when a
	// user came online without a Connect that said so: this process had lost its lease and has a new one.
	//
	// Calls are made one at a time and should return soon. By then the user may have come or gone again, of which
	// another call tells: ask [Store.Online] before telling anybody. Either may be nil.
	Departed func(user string)
	Returned func(user string)

	// Logger gets trouble that no caller is told of. It gets no secrets and no messages.
	Logger zerolog.Logger
}

const (
	defaultLease     = 10 * time.Second
	minLease         = time.Second
	defaultReconcile = time.Minute
)

// Store is a [store.Store] in Redis. Make one with [Open].
type Store struct {
	client redis.UniversalClient
	opts   Options
	log    zerolog.Logger

	life, limit string // of mailboxes, as the scripts are given them

	writes *lanes
	reads  *lanes
	hurry  *hurry

	presence presence
	health   atomic.Pointer[error] // of the last beat

	// ctx ends, with cancel, when the store is closed, and with it what the store does by itself.
	ctx        context.Context
	cancel     context.CancelFunc
	background sync.WaitGroup
	close      func() error
}

var _ store.Store = (*Store)(nil)

// Open returns a store in the Redis that client is connected to; [Parse] makes its options. It waits up to
// Options.Wait for Redis to answer. The client is new, and stays the caller's, to be closed after the store.
func Open(ctx context.Context, client redis.UniversalClient, opts Options) (*Store, error) {
	opts.Options = opts.Options.WithDefaults()
	if opts.Lease <= 0 {
		opts.Lease = defaultLease
	}
	opts.Lease = max(opts.Lease, minLease)
	if opts.Reconcile == 0 {
		opts.Reconcile = defaultReconcile
	}
	s := &Store{client: client, opts: opts, log: opts.Logger, hurry: newHurry()}
	s.life, s.limit = strconv.FormatInt(opts.MessageTTL.Milliseconds(), 10), strconv.Itoa(opts.MailboxLimit)
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.close = sync.OnceValue(s.shut)
	s.presence.init(s)
	s.confirmAppends()
	if err := s.await(ctx); err != nil {
		s.cancel()
		return nil, err
	}
	writers := 1
	if _, cluster := client.(*redis.ClusterClient); cluster {
		writers = manyLanes
	}
	s.writes, s.reads = newLanes(client, s.hurry, writers, writePatience), newLanes(client, s.hurry, manyLanes, 0)
	s.writes.joins.Store(s.joins(ctx))
	s.background.Go(s.presence.keep)
	s.background.Go(s.presence.mend)
	if opts.Reconcile > 0 {
		s.background.Go(s.reconcile)
	}
	return s, nil
}

const (
	// probeTimeout bounds one try to reach Redis at the start, and probePause is between two.
	probeTimeout = 3 * time.Second
	probePause   = 250 * time.Millisecond
	// waitNotice is how often the wait for Redis is logged.
	waitNotice = 3 * time.Second
)

// await waits until Redis answers and has given the process its lease.
func (s *Store) await(ctx context.Context) error {
	start := time.Now()
	noticed := start
	for {
		err := s.probe(ctx)
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case hopeless(err):
			return fmt.Errorf("%s refuses this program: %w: correct the user, password or server in REDIS_URL", s, err)
		}
		waited := time.Since(start)
		if waited >= s.opts.Wait {
			return fmt.Errorf("%s did not answer within %v: start it, or correct REDIS_URL: %w: %w",
				s, s.opts.Wait, err, store.ErrUnavailable)
		}
		if now := time.Now(); noticed.Equal(start) || now.Sub(noticed) >= waitNotice {
			noticed = now
			s.log.Warn().Err(err).Stringer("store", s).Stringer("waited", waited.Round(time.Second)).
				Stringer("limit", s.opts.Wait).Msg("Redis does not answer, waiting for it")
		}
		timer := time.NewTimer(probePause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		}
	}
}

// probe asks for what the store needs, the newest command first.
func (s *Store) probe(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	if err := s.client.GetDel(ctx, keyProbe).Err(); err != nil && !errors.Is(err, redis.Nil) {
		if strings.Contains(err.Error(), "unknown command") {
			return errOld
		}
		return err
	}
	return s.presence.join(ctx)
}

var errOld = errors.New("it is older than Redis 6.2")

// hopeless reports whether waiting cannot help.
func hopeless(err error) bool {
	if errors.Is(err, errOld) {
		return true
	}
	var reply redis.Error
	if !errors.As(err, &reply) {
		return false
	}
	for _, prefix := range []string{"NOAUTH", "WRONGPASS", "NOPERM", "ERR AUTH", "ERR invalid DB", "ERR DB index", "ERR invalid password"} {
		if strings.HasPrefix(reply.Error(), prefix) {
			return true
		}
	}
	return false
}

// String implements [store.Store].
func (s *Store) String() string {
	switch c := s.client.(type) {
	case *redis.ClusterClient:
		return "Redis Cluster at " + strings.Join(c.Options().Addrs, ", ")
	case *redis.Client:
		if o := c.Options(); o.Addr != failoverAddr {
			return fmt.Sprintf("Redis at %s, database %d", o.Addr, o.DB)
		}
		return fmt.Sprintf("Redis behind Sentinel, database %d", c.Options().DB)
	}
	return "Redis"
}

// failoverAddr is the address that go-redis gives to a client of Sentinel.
const failoverAddr = "FailoverClient"

// Close implements [store.Store]. Users who still have sockets here are left to the other processes to announce.
func (s *Store) Close() error { return s.close() }

func (s *Store) shut() error {
	if err := s.Health(); err != nil {
		s.log.Warn().Err(err).Msg("stopping while Redis is away: others see the users of this process go offline when its lease ends, " +
			"and clients that left it just now may have to connect anew")
		s.Hurry()
	}
	s.cancel()
	s.background.Wait()
	s.writes.close()
	s.reads.close()
	return s.presence.end()
}

// Health returns nil as long as Redis answers, or why it does not. It costs nothing; it is at most some seconds old.
func (s *Store) Health() error {
	if err := s.health.Load(); err != nil && *err != nil {
		return unavailable(*err)
	}
	return nil
}

// usable returns an error if the store is closed or the context over.
func (s *Store) usable(ctx context.Context) error {
	if s.ctx.Err() != nil {
		return store.ErrClosed
	}
	return ctx.Err()
}

// unavailable is the error for a call that Redis did not do, or whose reply was lost.
func unavailable(err error) error {
	return fmt.Errorf("redis: %v: %w", err, store.ErrUnavailable)
}

var errReply = fmt.Errorf("redis: a reply is not what the script gives: %w", store.ErrUnavailable)

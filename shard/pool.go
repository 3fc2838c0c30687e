// Package shard runs the worker goroutines that own the sockets. A Pool has a fixed number of shards; each
// has one goroutine, one inbox and one registry, and nobody else touches the sockets in it. The owner of a
// socket is chosen by the hash of its key, so all devices of a user are on one shard.
//
// A shard works in turns: it takes the commands that wait in its inbox, does their map work, offers encoded
// frames to the outbound queues of the sockets concerned, and then flushes each touched connection once. It
// never waits: not for a client, a store or another shard. A panic in a turn closes the transports of all
// its sockets, whose clients then recover, and the shard starts again empty.
package shard

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"runtime"
	"sync"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/time/rate"

	"parley/metrics"
)

// Errors of a pool. After ErrRestarted the socket concerned is gone.
var (
	ErrBusy      = errors.New("shard is busy: its inbox stayed full, try again later")
	ErrStopped   = errors.New("shard is stopped")
	ErrGone      = errors.New("connection is closed")
	ErrRestarted = errors.New("shard was restarted after a fault, its clients reconnect")
)

// postTimeout bounds the wait for room in a full inbox. A shard never blocks, so an inbox that stays full
// this long belongs to a machine that can't keep up.
const postTimeout = 5 * time.Second

// Options configures a Pool.
type Options struct {
	Shards int // number of shards, 1 to MaxShards; 0 means one for each core Go may use
	Inbox  int // commands that an inbox holds before senders wait; 0 means 8192
	// MaxPendingAcks bounds the acknowledgements that one socket may owe; 0 means 1000. A socket that is at the
	// bound is not sent events that want another.
	MaxPendingAcks int
	Log            zerolog.Logger
	Metrics        *metrics.Metrics
}

// Pool is a fixed set of shards. All methods are safe for concurrent use, but none may be called from a
// shard's own goroutine.
type Pool struct {
	shards    []*Shard
	directory *directory
	seed      maphash.Seed
	metrics   *metrics.Metrics
	maxAcks   int
	ctx       context.Context // ends when the pool stops
	stop      context.CancelFunc
	running   sync.WaitGroup // shard loops and their store readers
	delivers  sync.Pool      // of *deliver that have run
	failing   rate.Sometimes // how often failing reads of mail are logged

	mu      sync.RWMutex
	sources map[string]Source // by Box.App
}

// New starts a pool. Stop ends it.
func New(o Options) (*Pool, error) {
	if o.Shards == 0 {
		o.Shards = min(runtime.GOMAXPROCS(0), MaxShards)
	}
	if o.Shards < 1 || o.Shards > MaxShards {
		return nil, fmt.Errorf("%d shards: need 1 to %d", o.Shards, MaxShards)
	}
	if o.Inbox == 0 {
		o.Inbox = 8192
	}
	if o.MaxPendingAcks == 0 {
		o.MaxPendingAcks = 1000
	}
	p := &Pool{
		directory: newDirectory(),
		seed:      maphash.MakeSeed(),
		metrics:   o.Metrics,
		maxAcks:   o.MaxPendingAcks,
		failing:   rate.Sometimes{Interval: failingEvery},
		sources:   make(map[string]Source),
		delivers:  sync.Pool{New: func() any { return new(deliver) }},
	}
	p.ctx, p.stop = context.WithCancel(context.Background())
	for i := range o.Shards {
		p.shards = append(p.shards, newShard(p, i, o))
	}
	for _, s := range p.shards {
		p.running.Go(s.supervise)
	}
	return p, nil
}

// Stop ends the shards and waits for them; whoever waits for one gets ErrStopped. It does not close
// connections: that comes first. It may be called more than once.
func (p *Pool) Stop() {
	p.stop()
	p.running.Wait()
}

// WatchRooms has watch called when a room of this process gets its first member and when it loses its last, in
// order for each room. watch must not block. Call it before the first socket is registered.
func (p *Pool) WatchRooms(watch func(namespace, room string, present bool)) {
	p.directory.watch = watch
}

// Len returns the number of shards.
func (p *Pool) Len() int { return len(p.shards) }

// Owner returns the shard that owns key. It stays the same as long as the process runs.
func (p *Pool) Owner(key string) *Shard {
	return p.shards[maphash.String(p.seed, key)%uint64(len(p.shards))]
}

// At returns the i-th shard, or nil.
func (p *Pool) At(i int) *Shard {
	if i < 0 || i >= len(p.shards) {
		return nil
	}
	return p.shards[i]
}

// Emit gives an event to the sockets that its selector names, on every shard that has some. Events of one
// caller reach each socket in the order of the calls.
func (p *Pool) Emit(ctx context.Context, e *Envelope) error {
	e.seal()
	set := p.visited(e.Selector)
	if e.Acks != nil {
		e.Acks.Visit(set.len())
	}
	var errs error
	set.each(func(i int) {
		errs = errors.Join(errs, p.shards[i].post(ctx, &emit{envelope: e}))
	})
	return errs
}

// Query runs f on every shard that may have sockets which sel names, one after the other, each in the
// shard's goroutine: f must not block.
func (p *Pool) Query(ctx context.Context, sel Selector, f func(*View)) error {
	var errs error
	set := p.visited(sel)
	set.each(func(i int) {
		errs = errors.Join(errs, p.shards[i].Query(ctx, f))
	})
	return errs
}

// visited returns the shards that may hold sockets of sel.
func (p *Pool) visited(sel Selector) (set shardSet) {
	if len(sel.Rooms) == 0 {
		for i := range p.shards {
			set.add(i)
		}
		return set
	}
	for _, room := range sel.Rooms {
		p.directory.lookup(sel.Namespace, room, &set)
	}
	return set
}

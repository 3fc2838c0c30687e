package relay

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
	"golang.org/x/sync/singleflight"
)

// How long what Redis said is taken for true, and how much of it is kept. A name comes from a client, so those that
// nobody has are kept apart, where they push out no others.
const (
	freshFor  = 2 * time.Second
	absentFor = time.Second
	maxNames  = 1024 // of each kind
)

// directory knows where other processes are.
type directory struct {
	client redis.UniversalClient
	lease  time.Duration
	learn  func(key string) // told the key with which processes sign
	asking singleflight.Group

	mu     sync.Mutex
	known  map[string]place
	absent map[string]time.Time // until when nobody has the name
}

// place is where a process is.
type place struct {
	url   *url.URL
	until time.Time // when to ask again; what is older serves while Redis is away

	// missing is since when Redis does not know of the process, which may not have told it yet that it is there
	// still: Redis was away, or has lost everything. Zero if it does.
	missing time.Time
}

func newDirectory(client redis.UniversalClient, lease time.Duration, learn func(string)) *directory {
	return &directory{
		client: client, lease: lease, learn: learn, known: make(map[string]place), absent: make(map[string]time.Time),
	}
}

// find returns the address of a node, nil if there is no such process, or an error if that can't be found out.
func (d *directory) find(node string) (*url.URL, error) {
	now := time.Now()
	d.mu.Lock()
	p := d.known[node]
	absent := now.Before(d.absent[node])
	if absent || now.Before(p.until) {
		d.mu.Unlock()
		return p.url, nil
	}
	if p.url != nil {
		d.known[node] = place{p.url, now.Add(freshFor), p.missing} // one asks, the others go by the old answer meanwhile
	}
	d.mu.Unlock()
	found, err, _ := d.asking.Do(node, func() (any, error) { return d.ask(node) })
	switch {
	case err == nil:
		return found.(*url.URL), nil
	case p.url != nil:
		return p.url, nil // Redis is away, and the processes are where they were
	}
	return nil, err
}

// ask asks Redis, for the key too: a process whose address is there has agreed on one, which may be younger than ours.
func (d *directory) ask(node string) (*url.URL, error) {
	ctx, cancel := context.WithTimeout(context.Background(), redisTimeout) // many may wait for this answer
	defer cancel()
	pipe := d.client.Pipeline()
	seat, key := pipe.Get(ctx, prefixSeat+node), pipe.Get(ctx, keySecret)
	_, _ = pipe.Exec(ctx) // every command has its own error
	entry, err := seat.Result()
	if err != nil && !errors.Is(err, redis.Nil) {
		return nil, fmt.Errorf("ask Redis where a process is: %w", err)
	}
	if key.Err() == nil {
		d.learn(key.Val())
	}
	now := time.Now()
	_, address, _ := strings.Cut(entry, " ")
	d.mu.Lock()
	defer d.mu.Unlock()
	if p := d.known[node]; err != nil && p.url != nil && (p.missing.IsZero() || now.Sub(p.missing) < d.lease) {
		if p.missing.IsZero() {
			p.missing = now
		}
		p.until = now.Add(absentFor)
		d.known[node] = p
		return p.url, nil
	}
	if address == "" { // it is gone, has left, or does not listen yet
		delete(d.known, node)
		if len(d.absent) >= maxNames {
			clear(d.absent)
		}
		d.absent[node] = now.Add(absentFor)
		return nil, nil
	}
	u, err := url.Parse(address)
	if err != nil || u.Host == "" {
		return nil, errors.New("the register of processes has an address that is none")
	}
	if len(d.known) >= maxNames {
		for other, p := range d.known { // of those that left, some
			if now.After(p.until) {
				delete(d.known, other)
			}
		}
		if len(d.known) >= maxNames {
			clear(d.known)
		}
	}
	delete(d.absent, node)
	d.known[node] = place{url: u, until: now.Add(freshFor)}
	return u, nil
}

// gone forgets a process that is not where it was.
func (d *directory) gone(node string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.known, node)
}

// doubt has Redis asked again where a process is that could not be talked with.
func (d *directory) doubt(node string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if p, ok := d.known[node]; ok {
		p.until = time.Time{}
		d.known[node] = p
	}
}

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
	asking singleflight.Group

	mu     sync.Mutex
	known  map[string]place
	absent map[string]time.Time // until when nobody has the name
}

// place is where a process is.
type place struct {
	url   *url.URL
	until time.Time // when to ask again; what is older serves while Redis is away
}

func newDirectory(client redis.UniversalClient) *directory {
	return &directory{client: client, known: make(map[string]place), absent: make(map[string]time.Time)}
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
		d.known[node] = place{p.url, now.Add(freshFor)} // one asks, the others go by the old answer meanwhile
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

// ask asks Redis.
func (d *directory) ask(node string) (*url.URL, error) {
	ctx, cancel := context.WithTimeout(context.Background(), redisTimeout) // many may wait for this answer
	defer cancel()
	entry, err := d.client.Get(ctx, prefixSeat+node).Result()
	if err != nil && !errors.Is(err, redis.Nil) {
		return nil, fmt.Errorf("ask Redis where a process is: %w", err)
	}
	now := time.Now()
	_, address, _ := strings.Cut(entry, " ")
	d.mu.Lock()
	defer d.mu.Unlock()
	if address == "" { // it is gone, or does not listen yet
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
	d.known[node] = place{u, now.Add(freshFor)}
	return u, nil
}

// gone forgets a process that is not where it was.
func (d *directory) gone(node string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.known, node)
}

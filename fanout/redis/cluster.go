package redisfan

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"parley/internal/redisslot"
)

const (
	// topologyEvery is how often a Cluster is asked which node has which slots, topologyRetry how often while channels are
	// not heard, and topologyPause the least time between two times.
	topologyEvery = 5 * time.Second
	topologyRetry = 500 * time.Millisecond
	topologyPause = 100 * time.Millisecond
	// topologyTimeout bounds the asking.
	topologyTimeout = 5 * time.Second
)

// clusterLinks are the subscriber connections to a Cluster: one to each master that has channels of ours. A channel
// belongs to the master of its slot, and goes to another link when its slot gets another master. It is never heard on two
// at the same time, since that could double events, so it is not heard for a moment, which counts as a loss.
//
// Plain channels reach all nodes wherever they are published. The classic protocol has all of them on one node, the same
// where it publishes, as with a single Redis.
type clusterLinks struct {
	fanout *Fanout
	client *redis.ClusterClient
	keys   []string      // for each slot one that is in it
	wake   chan struct{} // has an element when the topology may have changed

	mu     sync.Mutex // taken before a link's
	owners []*link    // by slot; nil: see homeless
	links  map[*redis.Client]*link
	// homeless has the channels of slots whose master is not known, or is just being left. It has no connection.
	homeless *link
	known    bool // the topology was known at least once
}

func newClusterLinks(f *Fanout, client *redis.ClusterClient) *clusterLinks {
	return &clusterLinks{
		fanout: f, client: client, keys: redisslot.Keys(), wake: make(chan struct{}, 1),
		owners: make([]*link, redisslot.Count), links: make(map[*redis.Client]*link), homeless: newLink(f, nil),
	}
}

func (c *clusterLinks) start()   { c.fanout.running.Go(c.run) }
func (c *clusterLinks) close()   {} // all ends with the fan-out's context
func (c *clusterLinks) trouble() { c.fanout.signal(c.wake) }

func (c *clusterLinks) add(channel string, first bool) {
	slot := c.slot(channel)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.owner(slot).addSlot(channel, slot, first)
}

func (c *clusterLinks) drop(channel string) {
	slot := c.slot(channel)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.owner(slot).drop(channel)
}

// slot returns the slot that decides where a channel is heard.
func (c *clusterLinks) slot(channel string) uint16 {
	return uint16(redisslot.Of(c.fanout.protocol.slotKey(channel)))
}

// owner returns the link of a slot. c.mu is held.
func (c *clusterLinks) owner(slot uint16) *link {
	if l := c.owners[slot]; l != nil {
		return l
	}
	return c.homeless
}

// wait is link.wait. A channel that moves is waited for where it goes.
func (c *clusterLinks) wait(ctx context.Context, channel string) error {
	slot := c.slot(channel)
	for {
		c.mu.Lock()
		ready, err := c.owner(slot).settled(channel)
		c.mu.Unlock()
		if ready == nil {
			return err
		}
		select {
		case <-ready:
		case <-ctx.Done():
			return ctx.Err()
		case <-c.fanout.ctx.Done():
			return ErrUnavailable
		}
	}
}

func (c *clusterLinks) connected() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, l := range c.links {
		if !l.whole() {
			return false
		}
	}
	return len(c.links) > 0 && c.homeless.len() == 0
}

func (c *clusterLinks) len() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.homeless.len()
	for _, l := range c.links {
		n += l.len()
	}
	return n
}

// run follows the topology until the fan-out is closed.
func (c *clusterLinks) run() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-c.wake:
		case <-c.fanout.ctx.Done():
			return
		}
		c.follow()
		select {
		case <-time.After(topologyPause):
		case <-c.fanout.ctx.Done():
			return
		}
		next := topologyEvery
		if !c.connected() {
			next = topologyRetry
		}
		timer.Reset(next)
	}
}

// follow asks for the topology, and brings the channels where they belong by it.
func (c *clusterLinks) follow() {
	nodes, err := c.topology()
	if err != nil {
		c.fanout.warning.Do(func() {
			c.fanout.log.Warn().Err(err).Msg("the Redis Cluster does not say which node has which slots, asking again")
		})
		return
	}
	for _, l := range c.leave(nodes) {
		l.stop()
		<-l.ended // it may be at the end of a write, which has a deadline
	}
	c.settle(nodes)
}

// topology returns the master of each slot, nil where there is none.
func (c *clusterLinks) topology() ([]*redis.Client, error) {
	ctx, cancel := context.WithTimeout(c.fanout.ctx, topologyTimeout)
	defer cancel()
	var mu sync.Mutex
	masters := make(map[*redis.Client]struct{})
	err := c.client.ForEachMaster(ctx, func(_ context.Context, node *redis.Client) error { // it has the client ask for the topology
		mu.Lock()
		defer mu.Unlock()
		masters[node] = struct{}{}
		return nil
	})
	if err != nil {
		return nil, err
	}
	nodes := make([]*redis.Client, redisslot.Count)
	for slot, key := range c.keys {
		node, err := c.client.MasterForKey(ctx, key)
		if err != nil {
			return nil, err
		}
		if _, known := masters[node]; known { // for a slot that nobody has, the client may name a replica
			nodes[slot] = node
		}
	}
	return nodes, nil
}

// leave takes the channels away from links to nodes that have no slots any more, and returns those links. They have to end
// before their channels are heard elsewhere: such a node may have become a replica, which has the same messages.
func (c *clusterLinks) leave(nodes []*redis.Client) []*link {
	c.mu.Lock()
	defer c.mu.Unlock()
	var left []*link
	for node, l := range c.links {
		if slices.Contains(nodes, node) {
			continue
		}
		delete(c.links, node)
		left = append(left, l)
		for slot, owner := range c.owners {
			if owner == l {
				c.owners[slot] = nil
			}
		}
		l.mu.Lock()
		for _, s := range l.subs {
			c.move(l, s, c.homeless)
		}
		l.mu.Unlock()
	}
	return left
}

// settle brings each channel to the link of its slot's master.
func (c *clusterLinks) settle(nodes []*redis.Client) {
	c.mu.Lock()
	defer c.mu.Unlock()
	moved := false
	for slot, node := range nodes {
		var l *link
		if node != nil {
			if l = c.links[node]; l == nil {
				l = newLink(c.fanout, node)
				c.links[node] = l
				l.start()
			}
		}
		if c.owners[slot] != l {
			c.owners[slot] = l
			moved = true
		}
	}
	c.sort(c.homeless)
	c.known = true
	if !moved {
		return
	}
	for _, l := range c.links {
		c.sort(l)
	}
}

// sort moves the channels of a link that belong to others. c.mu is held.
func (c *clusterLinks) sort(l *link) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range l.subs {
		if owner := c.owner(s.slot); owner != l {
			c.move(l, s, owner)
		} else if l == c.homeless && s.users == 0 {
			l.forget(s)
		}
	}
	if l == c.homeless {
		l.waiting, l.idle = nil, nil // nobody looks there
	}
}

// move has s heard by another link. c.mu and the mu of from are held, and that of to is taken: nobody else holds two.
func (c *clusterLinks) move(from *link, s *subscription, to *link) {
	if s.users > 0 {
		to.take(s, c.known)
	}
	s.users = 0
	s.settle()
	if from == c.homeless || s.state == waiting && !s.unsure {
		from.forget(s)
	} else {
		from.found(s) // is not to be heard there any more
		from.retire(s, time.Now())
	}
}

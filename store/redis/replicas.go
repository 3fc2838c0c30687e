package redisstore

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

const (
	// replicaWait is how long a change may take to reach a replica of a master that has one. It is then refused: whether it
	// outlives the master is not known.
	replicaWait = time.Second
	// aloneWait is the same for a master that seems to have no replica, and aloneEvery how often it gets aloneSearch instead: a
	// replica that is back under load needs that.
	aloneWait   = 2 * time.Millisecond
	aloneEvery  = 250 * time.Millisecond
	aloneSearch = 20 * time.Millisecond
)

var (
	errUnconfirmed = errors.New("no replica has it yet")
	errReplaced    = errors.New("the cluster's master was replaced meanwhile")
)

// replicas has what was written to a Cluster confirmed. A master answers before its replicas have the change, so what it
// answered last is gone with it when it dies: a message that was acknowledged, and its number is given to another.
//
// A change counts as done when one replica has it. A master whose replicas are gone goes on alone, after one pipeline that
// is refused, since then it has to fail in turn for anything to be lost.
type replicas struct {
	client *redis.ClusterClient

	mu    sync.Mutex
	known map[*redis.Client]standing // by master
}

// standing is what is known of a master.
type standing struct {
	replicated bool      // a replica had the last change in time
	searched   time.Time // when it was last asked for longer, if not
}

// newReplicas returns nil for a client of anything but a Cluster.
func newReplicas(client redis.UniversalClient) *replicas {
	cluster, ok := client.(*redis.ClusterClient)
	if !ok {
		return nil
	}
	return &replicas{client: cluster, known: make(map[*redis.Client]standing)}
}

// masters returns the master of each command, nil where it is not known.
func (r *replicas) masters(ctx context.Context, commands []*command) []*redis.Client {
	if r == nil {
		return nil
	}
	masters := make([]*redis.Client, len(commands))
	for i, c := range commands {
		masters[i] = r.master(ctx, c)
	}
	return masters
}

func (r *replicas) master(ctx context.Context, c *command) *redis.Client {
	var key string
	if c.add != nil {
		key = c.add.list
	} else if keys := c.touches(); len(keys) > 0 {
		key = keys[0]
	}
	node, err := r.client.MasterForKey(ctx, key)
	if err != nil {
		return nil
	}
	return node
}

// confirm waits until replicas have what the commands changed that were done, and has those fail that did not get there. It
// returns those whose master is another now than before they were sent, as in masters: its replicas say nothing about them.
func (r *replicas) confirm(ctx context.Context, commands []*command, masters []*redis.Client) (moved []*command) {
	if r == nil {
		return nil
	}
	done := make(map[*redis.Client][]*command)
	for i, c := range commands {
		switch {
		case c.failure() != nil:
		case masters[i] == nil || r.master(ctx, c) != masters[i]:
			c.SetErr(errReplaced)
			moved = append(moved, c)
		default:
			done[masters[i]] = append(done[masters[i]], c)
		}
	}
	var asking sync.WaitGroup
	for node, commands := range done {
		asking.Go(func() {
			if err := r.ask(ctx, node); err != nil {
				for _, c := range commands {
					c.SetErr(err)
				}
			}
		})
	}
	asking.Wait()
	return moved
}

// ask waits until a replica of the node has all that the node has now.
func (r *replicas) ask(ctx context.Context, node *redis.Client) error {
	was, patience := r.patience(node)
	pipe := node.Pipeline()
	pipe.Ping(ctx) // WAIT is for what the same connection has seen
	wait := pipe.Do(ctx, "WAIT", 1, patience.Milliseconds())
	_, err := pipe.Exec(ctx)
	have, _ := wait.Int64()
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case refusal(err): // as where the user may not ask
		return nil
	case err != nil:
		delete(r.known, node) // it may be gone for good
		return err
	case have > 0:
		r.known[node] = standing{replicated: true}
	case was.replicated:
		r.known[node] = standing{}
		return errUnconfirmed
	}
	return nil
}

// patience returns what is known of a node, and how long to wait for its replicas.
func (r *replicas) patience(node *redis.Client) (standing, time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	was := r.known[node]
	switch {
	case was.replicated:
		return was, replicaWait
	case time.Since(was.searched) < aloneEvery:
		return was, aloneWait
	}
	r.known[node] = standing{searched: time.Now()}
	return was, aloneSearch
}

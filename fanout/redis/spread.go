package redisfan

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

// errNodeAway is the outcome for messages to a node that did not answer just now.
var errNodeAway = errors.New("the cluster's node for this channel did not answer just now")

// spread is a pipeline to the nodes of a Cluster, each channel's messages to the master of its slot. The client's own would
// send again what a node may have taken before the connection broke; here only what a node refused is sent to another,
// and messages on channels of one slot stay in order. The publisher uses it, and nobody else.
type spread struct {
	redis.Pipeliner // collects
	fanout          *Fanout
	client          *redis.ClusterClient

	mu sync.Mutex
	// away has the nodes that did not answer. Nothing is published there until they answer a PING: all other messages would
	// wait for that.
	away map[*redis.Client]struct{}
}

func newSpread(f *Fanout, client *redis.ClusterClient) *spread {
	return &spread{Pipeliner: client.Pipeline(), fanout: f, client: client, away: make(map[*redis.Client]struct{})}
}

// isAway tells whether a node did not answer just now.
func (s *spread) isAway(node *redis.Client) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, away := s.away[node]
	return away
}

// whole tells whether all nodes answer.
func (s *spread) whole() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.away) == 0
}

// leave has nothing sent to a node until it answers.
func (s *spread) leave(node *redis.Client) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.away[node] = struct{}{}
	s.fanout.running.Go(func() { s.await(node) })
}

// await pings a node that is away until it answers, or is no longer one of the Cluster: then the client closes it.
func (s *spread) await(node *redis.Client) {
	ctx := s.fanout.ctx
	for pause := publishPause; ; pause = min(2*pause, publishPauseMax) {
		s.fanout.links.trouble() // another may have its slots
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return
		}
		ping, cancel := context.WithTimeout(ctx, pipelineTimeout)
		err := node.Ping(ping).Err()
		cancel()
		if answered(err) || errors.Is(err, redis.ErrClosed) {
			break
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.away, node)
}

// answered tells whether a server answered, be it with a refusal.
func answered(err error) bool {
	var refused redis.Error
	return err == nil || errors.As(err, &refused)
}

// Exec sends what was collected. The error, if there is one, says that no node answered: errNodeAway that none was asked. Each
// command has its own, and no command is returned.
func (s *spread) Exec(ctx context.Context) ([]redis.Cmder, error) {
	commands := s.Cmds()
	s.Discard()
	defer clear(commands) // the next ones are collected in the same place
	err := s.send(ctx, commands)
	var moved []redis.Cmder
	for _, command := range commands {
		if redis.HasErrorPrefix(command.Err(), "MOVED ") {
			moved = append(moved, command)
		}
	}
	if len(moved) > 0 && s.reload(ctx) {
		for _, command := range moved {
			command.SetErr(nil)
		}
		_ = s.send(ctx, moved) // some node answered, or none had said that it moved
	}
	return nil, err
}

// reload has the client ask which node has which slots.
func (s *spread) reload(ctx context.Context) bool {
	return s.client.ForEachMaster(ctx, func(context.Context, *redis.Client) error { return nil }) == nil
}

// send sends commands once, to all nodes at the same time.
func (s *spread) send(ctx context.Context, commands []redis.Cmder) error {
	pipes := make(map[*redis.Client]redis.Pipeliner)
	var failure error
	for _, command := range commands {
		node, err := s.client.MasterForKey(ctx, command.Args()[1].(string))
		if err == nil && s.isAway(node) {
			err = errNodeAway
		}
		if err == nil && pipes[node] == nil {
			pipes[node] = node.Pipeline()
		}
		if err == nil {
			err = pipes[node].Process(ctx, command)
		}
		if err != nil {
			command.SetErr(err)
			if failure == nil || errors.Is(failure, errNodeAway) {
				failure = err
			}
		}
	}
	var mu sync.Mutex
	var sending sync.WaitGroup
	some := false
	for node, pipe := range pipes {
		sending.Go(func() {
			_, err := pipe.Exec(ctx)
			mu.Lock()
			defer mu.Unlock()
			if answered(err) {
				some = true
				return
			}
			failure = err
			s.leave(node)
		})
	}
	sending.Wait()
	if some {
		return nil
	}
	return failure
}

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
	client          *redis.ClusterClient
	away            map[*redis.Client]absence // nodes that did not answer
}

// absence is how long nothing is sent to a node that did not answer, since all other messages would wait for it too.
type absence struct {
	until time.Time
	pause time.Duration
}

func newSpread(client *redis.ClusterClient) *spread {
	return &spread{Pipeliner: client.Pipeline(), client: client, away: make(map[*redis.Client]absence)}
}

// Exec sends what was collected. The error, if there is one, says that no node answered; each command has its own, and no
// command is returned.
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
	now := time.Now()
	var failure error
	for _, command := range commands {
		node, err := s.client.MasterForKey(ctx, command.Args()[1].(string))
		if err == nil && now.Before(s.away[node].until) {
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
			failure = err
		}
	}
	var mu sync.Mutex
	var sending sync.WaitGroup
	answered := false
	for node, pipe := range pipes {
		sending.Go(func() {
			_, err := pipe.Exec(ctx)
			mu.Lock()
			defer mu.Unlock()
			var refused redis.Error
			if err == nil || errors.As(err, &refused) {
				answered = true
				delete(s.away, node)
				return
			}
			failure = err
			pause := min(max(2*s.away[node].pause, publishPause), publishPauseMax)
			s.away[node] = absence{time.Now().Add(pause), pause}
		})
	}
	sending.Wait()
	for node, absent := range s.away { // those that are gone for good
		if now.Sub(absent.until) > time.Minute {
			delete(s.away, node)
		}
	}
	if answered {
		return nil
	}
	return failure
}

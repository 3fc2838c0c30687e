package redisstore

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/rs/zerolog"
)

const (
	// confirmTimeout is how long the replicas of a server have to confirm what a pipeline has appended.
	confirmTimeout = time.Second
	// replicaPatience is how long nothing is appended without a replica once there was one: longer than it takes to replace
	// a server that the others do not reach, and to tell it so when it is back (cluster-node-timeout is 15 s by default).
	replicaPatience = 20 * time.Second
	// replicaPause is between two looks for replicas of a server that has none: what is appended to it shortly after it got one
	// is not confirmed.
	replicaPause = 100 * time.Millisecond
)

// replicas has a replica confirm what is appended to a server, if it has one that follows, before anybody is told that it
// was. A server that dies is replaced by a replica, with what that one has: without this, what was on its way to it would
// have been acknowledged and lost.
//
// To this end WAIT goes behind the appends of a pipeline, as WAIT is about what its own connection has written. If no
// replica confirms, the appends count as not done, and can be made again. When there is no replica, the server is on its
// own; but not when it had one just now: it may be one that was replaced and does not know it yet.
//
// It is a hook of a server's client, and safe for concurrent use.
type replicas struct {
	client   *redis.Client
	log      zerolog.Logger
	patience time.Duration

	mu       sync.Mutex
	expected bool                 // a replica is to confirm
	looked   time.Time            // for one, when none was expected
	followed map[string]time.Time // when a server last had one, by the id of its data (master_replid)
	barred   bool                 // Redis does not let us ask for confirmation
}

// confirmed makes all servers of the client confirm appends. It is called before the client is used.
func (s *Store) confirmed() {
	hook := func(c *redis.Client) {
		c.AddHook(&replicas{client: c, log: s.log, patience: replicaPatience, followed: map[string]time.Time{}})
	}
	switch c := s.client.(type) {
	case *redis.ClusterClient:
		c.OnNewNode(hook)
	case *redis.Client:
		hook(c)
	}
}

// DialHook implements [redis.Hook].
func (r *replicas) DialHook(next redis.DialHook) redis.DialHook { return next }

// ProcessHook implements [redis.Hook].
func (r *replicas) ProcessHook(next redis.ProcessHook) redis.ProcessHook { return next }

// ProcessPipelineHook implements [redis.Hook].
func (r *replicas) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		if !slices.ContainsFunc(cmds, appends) || !r.expects(ctx) {
			return next(ctx, cmds)
		}
		wait := redis.NewIntCmd(ctx, "wait", 1, confirmTimeout.Milliseconds())
		info := redis.NewStringCmd(ctx, "info", "replication")
		err := next(ctx, append(slices.Clip(cmds), wait, info))
		if failure := r.judge(wait, info); failure != nil {
			for _, cmd := range cmds {
				if appends(cmd) && cmd.Err() == nil {
					cmd.SetErr(failure)
				}
			}
		}
		return err
	}
}

// appends reports whether a command is a script that appends. It writes something also when it finds the entry there, so that
// there is something to confirm.
func appends(cmd redis.Cmder) bool {
	args := cmd.Args()
	if len(args) < 2 {
		return false
	}
	for _, s := range [...]*script{scriptAppend, scriptMany} {
		if args[1] == s.sha || args[1] == s.text {
			return true
		}
	}
	return false
}

// expects reports whether a replica is to confirm what is appended now. If it knows of none, it looks for one from time to
// time.
func (r *replicas) expects(ctx context.Context) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.barred || r.expected || time.Since(r.looked) < replicaPause {
		return r.expected
	}
	info := r.client.Info(ctx, "replication")
	switch err := info.Err(); {
	case err == nil:
		at := parseReplication(info.Val())
		r.note(at)
		r.expect(at.lag < r.patience)
	case !refusal(err):
		return true // it did not answer, and may have one
	case forbidden(err):
		r.bar(err)
	}
	r.looked = time.Now()
	return r.expected
}

// judge returns why what was appended may be lost, or nil.
func (r *replicas) judge(wait *redis.IntCmd, info *redis.StringCmd) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	at := parseReplication(info.Val())
	r.note(at)
	_, had := r.followed[at.id]
	switch n, err := wait.Result(); {
	case err == nil && n > 0:
		return nil
	case err != nil && forbidden(err):
		r.bar(err)
		return nil
	case err != nil:
		return fmt.Errorf("no replica could confirm it: %v", err) // not wrapped: it is no reply to the append
	case had || at.role != "master":
		return errUnconfirmed
	}
	r.expect(false)
	return nil
}

var errUnconfirmed = errors.New("no replica has confirmed it in time: see whether the replicas of Redis run and follow")

// forbidden reports whether Redis, or what is in front of it, does not do a command at all.
func forbidden(err error) bool {
	return redis.HasErrorPrefix(err, "NOPERM") || redis.HasErrorPrefix(err, "ERR unknown command")
}

// bar ends all asking. The lock is held.
func (r *replicas) bar(err error) {
	r.barred, r.expected = true, false
	r.log.Warn().Err(err).Stringer("server", r.client).Msg("Redis can't be asked for confirmation by its replicas: " +
		"messages are acknowledged once the primary has them; to change that, allow INFO and WAIT and start again")
}

// note keeps in mind which servers have a replica, for as long as nothing is appended without one. The lock is held.
func (r *replicas) note(at replication) {
	now := time.Now()
	if at.lag < r.patience {
		r.followed[at.id] = now.Add(-at.lag)
	}
	for id, when := range r.followed {
		if now.Sub(when) >= r.patience {
			delete(r.followed, id)
		}
	}
}

// expect changes whether a replica is to confirm, and logs it. The lock is held.
func (r *replicas) expect(yes bool) {
	if r.expected == yes {
		return
	}
	r.expected = yes
	if yes {
		r.log.Info().Stringer("server", r.client).Msg("Redis has a replica: messages are acknowledged once one has them")
	} else {
		r.log.Warn().Stringer("server", r.client).Msg("Redis has no replica any more: messages are acknowledged once the primary has them")
	}
}

// replication is what INFO says of a server.
type replication struct {
	role string
	id   string        // of its data: a replica that becomes the primary gives it another
	lag  time.Duration // since the replica that it heard of last was heard of
}

// noReplica is the lag of a server without replicas.
const noReplica = time.Duration(math.MaxInt64)

// parseReplication reads what INFO says. What it does not say is left empty.
func parseReplication(info string) replication {
	at := replication{lag: noReplica}
	for line := range strings.Lines(info) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		switch name {
		case "role":
			at.role = value
		case "master_replid":
			at.id = value
		default:
			if strings.HasPrefix(name, "slave") && strings.Contains(value, ",state=online,") {
				_, lag, _ := strings.Cut(value, ",lag=")
				if d, err := time.ParseDuration(lag + "s"); err == nil {
					at.lag = min(at.lag, d)
				}
			}
		}
	}
	return at
}

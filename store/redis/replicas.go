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
	"golang.org/x/time/rate"
)

const (
	// confirmTimeout is how long the replicas of a server have to confirm what a pipeline has appended.
	confirmTimeout = time.Second
	// doubtTimeout is the same for some time after they did not, as everything else that is written waits behind it.
	doubtTimeout = 50 * time.Millisecond
	// replicaPatience is how long nothing is appended without a replica once there was one: longer than it takes to replace
	// a server that the others do not reach, and to tell it so when it is back (cluster-node-timeout is 15 s by default).
	replicaPatience = 20 * time.Second
	// missedStep bounds what counts of the time between two attempts: while nothing is appended, nobody knows.
	missedStep = 5 * time.Second
	// replicaPause is between two looks for replicas of a server that has none: what is appended to it shortly after it got one
	// is not confirmed.
	replicaPause = 100 * time.Millisecond
	// replicaServers bounds the servers that are kept in mind: as many as a Cluster may have masters, and those before them.
	replicaServers = 4096
)

// replicas has a replica confirm what is appended to a server, if it has one that follows, before anybody is told that it
// was. A server that dies is replaced by a replica, with what that one has: without this, what was on its way to it would
// have been acknowledged and lost.
//
// To this end WAIT goes behind the appends of a pipeline, as WAIT is about what its own connection has written, and INFO
// behind that, as a client may have connections to a server and to the one that has replaced it. If no replica confirms, the
// appends count as not done, and can be made again. A server that never had a replica is on its own. One that had is so
// after a while, and not at once: it may have been replaced, and not know it yet.
//
// It is a hook of a server's client, and safe for concurrent use.
type replicas struct {
	client *redis.Client
	name   string // of the server, in the log
	log    zerolog.Logger

	servers *servers // of all hooks of a store

	mu        sync.Mutex
	state     replication
	since     time.Time      // of the state
	follows   bool           // a replica was there when Redis was asked last
	had       bool           // there was one at some time
	looked    time.Time      // for one, when there was none
	confirmed time.Time      // when one did so last
	doubted   time.Time      // when one did not though it had confirmTimeout; zero: it has since
	barred    bool           // Redis does not let us ask for confirmation
	often     rate.Sometimes // logs what may change again and again
}

// replication is what becomes of appends.
type replication uint8

const (
	alone    replication = iota // the primary has them
	followed                    // a replica has them, too
	refused                     // they are not confirmed
)

// servers are those that had a replica. Their hooks share them: one that takes another's place is known by that one's id.
type servers struct {
	mu   sync.Mutex
	byID map[string]following // by the id of their data
}

// following is a server that had a replica.
type following struct {
	seen    time.Time     // last
	missing bool          // none has confirmed what was appended last
	missed  time.Duration // for how long, as far as somebody has tried
}

// confirmAppends makes all servers of the client confirm appends. It is called before the client is used.
func (s *Store) confirmAppends() {
	all := &servers{byID: map[string]following{}}
	hook := func(c *redis.Client, name string) {
		c.AddHook(&replicas{client: c, name: name, log: s.log, servers: all, often: rate.Sometimes{First: 10, Interval: time.Minute}})
	}
	switch c := s.client.(type) {
	case *redis.ClusterClient:
		c.OnNewNode(func(node *redis.Client) { hook(node, node.Options().Addr) })
	case *redis.Client:
		hook(c, s.String())
	}
}

// DialHook implements [redis.Hook].
func (r *replicas) DialHook(next redis.DialHook) redis.DialHook { return next }

// ProcessHook implements [redis.Hook].
func (r *replicas) ProcessHook(next redis.ProcessHook) redis.ProcessHook { return next }

// ProcessPipelineHook implements [redis.Hook].
func (r *replicas) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		// The client of a Cluster sends what has failed to any other node, and with it what was put behind it for the first.
		if slices.ContainsFunc(cmds, behind) {
			cmds = slices.DeleteFunc(slices.Clone(cmds), behind)
		}
		if len(cmds) == 0 {
			return nil
		}
		if !slices.ContainsFunc(cmds, appends) {
			return next(ctx, cmds)
		}
		timeout, asked := r.plan(ctx)
		if !asked {
			return next(ctx, cmds)
		}
		all := slices.Clip(cmds)
		var wait *redis.IntCmd
		if timeout > 0 {
			wait = redis.NewIntCmd(ctx, "wait", 1, timeout.Milliseconds())
			all = append(all, wait)
		}
		info := redis.NewStringCmd(ctx, "info", "replication")
		err := next(ctx, append(all, info))
		if failure := r.judge(cmds, timeout, wait, info); failure != nil {
			for _, cmd := range cmds {
				if done(cmd) {
					cmd.SetErr(failure)
				}
			}
		}
		return err
	}
}

// behind reports whether a command is one that is put behind appends. Nobody else has them in a pipeline.
func behind(cmd redis.Cmder) bool { return cmd.Name() == "wait" || cmd.Name() == "info" }

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

// done reports whether a command is an append that was done.
func done(cmd redis.Cmder) bool { return appends(cmd) && cmd.Err() == nil }

// plan returns how long a replica has to confirm what is appended now, zero if none is there, and whether the server is to be
// asked about its replicas behind it. It is not while none was ever seen: then the server is asked ahead, now and then.
func (r *replicas) plan(ctx context.Context) (timeout time.Duration, asked bool) {
	r.mu.Lock()
	follows, had, looked, confirmed, doubted, barred := r.follows, r.had, r.looked, r.confirmed, r.doubted, r.barred
	r.mu.Unlock()
	switch {
	case barred:
		return 0, false
	case follows && time.Since(doubted) < confirmTimeout:
		return doubtTimeout, true
	case follows && time.Since(confirmed) < confirmTimeout:
		return confirmTimeout, true
	case !follows && time.Since(looked) < replicaPause:
		return 0, had
	}
	info := r.client.Info(ctx, "replication")
	r.mu.Lock()
	defer r.mu.Unlock()
	at := parseReplication(info.Val())
	switch err := info.Err(); {
	case err != nil && redis.HasErrorPrefix(err, "NOPERM"):
		r.bar(err)
		return 0, false
	case err != nil && !refusal(err):
		return confirmTimeout, true // it did not answer, and may have one
	case at.lag < replicaPatience:
		r.follows = true
		return confirmTimeout, true
	case follows:
		return doubtTimeout, true // another server may get the appends
	}
	r.looked = time.Now()
	return 0, r.had
}

// judge returns why what was appended may be lost, or nil. Wait is nil if there was nobody to wait for.
func (r *replicas) judge(cmds []redis.Cmder, timeout time.Duration, wait *redis.IntCmd, info *redis.StringCmd) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	now, at := time.Now(), parseReplication(info.Val())
	if at.id == "" {
		at.id = r.name
	}
	if wait != nil {
		n, err := wait.Result()
		switch {
		case err == nil && n > 0:
			r.follows, r.had, r.confirmed, r.doubted = true, true, now, time.Time{}
			r.servers.set(at.id, following{seen: now})
			r.become(followed)
			return nil
		case err != nil && refusal(err) && !replaced(err) && slices.ContainsFunc(cmds, done):
			r.bar(err)
			return nil
		case err != nil:
			return fmt.Errorf("no replica could confirm it: %v", err) // not wrapped: it is no reply to the append
		}
	}
	if info.Err() != nil || at.role == "" || at.role == "slave" { // where nothing was sent, there is nothing in the replies
		return errUnconfirmed
	}
	if timeout >= confirmTimeout {
		r.doubted = now
	}
	r.follows = at.lag < replicaPatience
	server, had := r.servers.get(at.id)
	_, promoted := r.servers.get(at.former)
	switch {
	case had && server.missed >= replicaPatience:
		if !r.follows { // or else it may catch up
			r.servers.forget(at.id)
			r.had = false
		}
		r.become(alone)
		return nil
	case had:
	case r.had && !promoted: // it may be one that had a replica and was started again, with another id
	case !r.follows:
		if r.become(alone); now.Sub(r.since) >= replicaPatience {
			r.had = false
		}
		return nil
	case wait == nil: // the replica has just come
		r.had = true
		r.servers.set(at.id, following{seen: now})
		return nil
	}
	if server.missing {
		server.missed += min(now.Sub(server.seen), missedStep)
	}
	server.missing = true
	server.seen, r.had = now, true
	r.servers.set(at.id, server)
	r.become(refused)
	return errUnconfirmed
}

var errUnconfirmed = errors.New("no replica has confirmed it: see whether the replicas of Redis run and follow")

// replaced reports whether WAIT was refused because the server is no primary any more.
func replaced(err error) bool {
	text := err.Error()
	return redis.HasErrorPrefix(err, "UNBLOCKED") || strings.Contains(text, "replica instances") || strings.Contains(text, "slave instances")
}

// bar ends all asking. The lock is held.
func (r *replicas) bar(err error) {
	r.barred = true
	r.log.Warn().Err(err).Str("server", r.name).Msg("Redis can't be asked for confirmation by its replicas: " +
		"messages are acknowledged once the primary has them; to change that, allow INFO and WAIT and start again")
}

func (s *servers) get(id string) (f following, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f, ok = s.byID[id]
	return f, ok
}

func (s *servers) forget(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.byID, id)
}

// set keeps a server in mind, and forgets the one that was seen last longest ago if there are too many.
func (s *servers) set(id string, f following) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.byID[id] = f
	if len(s.byID) <= replicaServers {
		return
	}
	oldest := id
	for other, o := range s.byID {
		if o.seen.Before(s.byID[oldest].seen) {
			oldest = other
		}
	}
	delete(s.byID, oldest)
}

// become logs what changes. The lock is held.
func (r *replicas) become(state replication) {
	if r.state == state {
		return
	}
	r.state, r.since = state, time.Now()
	switch state {
	case alone:
		r.log.Warn().Str("server", r.name).Msg("Redis has no replica that follows: messages are acknowledged once the primary has them")
	case followed:
		r.often.Do(func() {
			r.log.Info().Str("server", r.name).Msg("replicas of Redis confirm messages before they are acknowledged")
		})
	case refused:
		r.often.Do(func() {
			r.log.Warn().Str("server", r.name).Stringer("limit", replicaPatience).Msg("messages are refused: no replica of Redis confirms them, " +
				"and one did; the primary is on its own after this time")
		})
	}
}

// inform is what INFO says of a server.
type inform struct {
	role   string
	id     string        // of its data: a replica that becomes the primary gives it another (master_replid)
	former string        // what it was before that (master_replid2)
	lag    time.Duration // since the replica that it heard of last was heard of
}

// noReplica is the lag of a server without replicas.
const noReplica = time.Duration(math.MaxInt64)

// parseReplication reads what INFO says. What it does not say is left empty. A replica counts once it has told how far it is,
// and not while it loads.
func parseReplication(info string) inform {
	at := inform{lag: noReplica}
	for line := range strings.Lines(info) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		switch name {
		case "role":
			at.role = value
		case "master_replid":
			at.id = value
		case "master_replid2":
			at.former = value
		default:
			if !strings.HasPrefix(name, "slave") {
				continue
			}
			facts := map[string]string{}
			for fact := range strings.SplitSeq(value, ",") {
				key, v, _ := strings.Cut(fact, "=")
				facts[key] = v
			}
			lag, err := time.ParseDuration(facts["lag"] + "s")
			if err == nil && lag >= 0 && facts["state"] == "online" && facts["offset"] != "0" {
				at.lag = min(at.lag, lag)
			}
		}
	}
	return at
}

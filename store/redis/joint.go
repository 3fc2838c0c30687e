package redisstore

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// jointLimit bounds the mailboxes of one call of a script, which Redis does without a pause: it takes them some 15 µs each.
const jointLimit = 32

// probeKeys are so many that several servers would hardly have all of them on one.
const probeKeys = 16

// joins finds out whether one script can have keys of any mailboxes. In a Cluster it can't, and neither where a proxy makes
// several servers look like one: some of those refuse it, and some would run it where only the first of the keys belongs.
func (s *Store) joins(ctx context.Context) bool {
	if _, cluster := s.client.(*redis.ClusterClient); cluster {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	var commands []*command
	var keys []string
	for i := range probeKeys {
		keys = append(keys, keyProbe+":"+strconv.Itoa(i))
		commands = append(commands, plain("SET", keys[i], "1", "PX", probeLife.Milliseconds()))
	}
	probe := scriptProbe.run(keys, "1")
	err := do(ctx, s.client, append(commands, probe)...)
	if n, ok := probe.Val().(int64); err == nil && ok && n == 1 {
		return true
	}
	s.log.Info().Err(err).Stringer("store", s).Msg("appends to several mailboxes can't be one call here: each is a call of its own until the next start, which costs more CPU")
	return false
}

// probeLife is longer than it takes, also while other processes do the same.
const probeLife = time.Minute

// joint is one call for additions to many mailboxes (append_many.lua). A single server does them at a cost far below that of
// a call for each, and so does this process.
type joint struct {
	*command
	members []*command
}

// newJoint returns a call for the members.
func newJoint(members []*command) joint {
	keys, args := make([]string, 0, 4*len(members)), make([]any, 2, 2+5*len(members))
	args[0], args[1] = members[0].add.life, members[0].add.limit
	for _, c := range members {
		a := c.add
		keys = a.appendKeys(keys)
		args = append(args, &a.user, &a.key, &a.at, &a.head, &a.rest) // pointers are not copied to be put there
	}
	return joint{&command{script: scriptMany, keys: keys, args: args}, members}
}

// joinable reports whether the command may be a part of a joint.
func (c *command) joinable() bool { return c.add != nil && !c.add.whole }

// join returns what is sent for the commands, in their order: a joint for additions that follow each other, and the rest
// as it is.
func (l *lanes) join(commands []*command) (units []*command, joints []joint) {
	units = make([]*command, 0, len(commands))
	joins := l.joins.Load()
	for len(commands) > 0 {
		n := 0
		for joins && n < min(len(commands), jointLimit) && commands[n].joinable() {
			n++
		}
		if n < 2 {
			units, commands = append(units, commands[0].alone()), commands[1:]
			continue
		}
		j := newJoint(commands[:n])
		units, joints, commands = append(units, j.command), append(joints, j), commands[n:]
	}
	return units, joints
}

// alone returns the command as it is sent by itself.
func (c *command) alone() *command {
	if c.add != nil {
		c.add.fill(c)
	}
	return c
}

// transmit sends commands in one pipeline, additions together where they may be. What a joint has left because of an error
// is done by itself behind it, which tells the error. So is what a joint was to do that was refused as a whole, as proxies in
// front of several servers do: that those refuse is found out by this, if not at the start, and kept in mind.
func (l *lanes) transmit(ctx context.Context, commands []*command) {
	units, joints := l.join(commands)
	pipeline(ctx, l.client, units)
	var left, refused []*command
	for _, j := range joints {
		err := j.failure()
		switch {
		case err == nil:
			left = append(left, j.hand()...)
		case !refusal(err):
			for _, c := range j.members {
				c.Cmd = j.Cmd
			}
		default:
			refused = append(refused, j.members...)
		}
	}
	if len(left)+len(refused) == 0 {
		return
	}
	all := append(left, refused...)
	for _, c := range all {
		c.alone()
	}
	pipeline(ctx, l.client, all)
	if slices.ContainsFunc(refused, func(c *command) bool { return c.failure() == nil }) {
		l.joins.Store(false)
	}
}

// hand gives the members what the script said of each, and returns those that it left. What is not in the form of its
// reply says nothing: the script of one addition finds out what was done.
func (j joint) hand() (left []*command) {
	reply, _ := j.Val().(string)
	if strings.Count(reply, "\n") != len(j.members)-1 {
		return j.members
	}
	for _, c := range j.members {
		c.add.done, reply, _ = strings.Cut(reply, "\n")
		if c.Cmd = j.Cmd; c.add.done == "" {
			left = append(left, c)
		}
	}
	return left
}

// refusal reports whether Redis, or what is in front of it, has answered, and would answer the same again.
func refusal(err error) bool {
	var reply redis.Error
	return errors.As(err, &reply) && !slices.ContainsFunc(notNow, func(prefix string) bool {
		return redis.HasErrorPrefix(reply, prefix)
	})
}

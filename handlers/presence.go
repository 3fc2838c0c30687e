package handlers

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"parley/socketio"
)

// presenceEvent is the server-side event by which processes tell each other of presence once the roster limit
// is passed: event, user, argument, and the socket that is not told.
const presenceEvent = "parley:presence"

// arrival is the argument of "user connected" (contracts.md A3).
func arrival(user, name string) rosterEntry {
	return rosterEntry{UserID: user, Username: name, Connected: true, Messages: []json.RawMessage{}}
}

// announce tells a change of a user's presence to all who have the user in their roster, but not to the socket
// except. Up to the roster limit that is everybody who was welcomed; where Node servers may take part it is the
// whole namespace, as theirs are in no room of ours. Past the limit it is those who were given all users while
// they were fewer, and those who watch this one, on every process.
func (c *Chat) announce(ctx context.Context, except, user, event string, arg any) error {
	online := event == "user connected"
	if !c.options.Shared {
		prepared, err := c.namespace.Prepare(event, arg)
		if err != nil {
			return err
		}
		c.changes.add(change{user, online, prepared}) // before they are told: see settle
		return c.hearers(except, user).EmitPrepared(prepared)
	}
	// While the store can't be asked, the sockets of these processes are told, and Node servers' are not.
	if count, err := c.store.CountUsers(ctx); err == nil && count <= c.options.RosterLimit {
		others := c.namespace.Except(except, byParley).Later()
		return c.told.say(user, online, func() error { return others.Emit(event, arg) })
	}
	return errors.Join(
		c.told.say(user, online, func() error { return c.tellHere(except, user, event, arg) }),
		c.namespace.ServerSideEmit(presenceEvent, event, user, arg, except),
	)
}

// tellHere tells the sockets of this process that have user in their list.
func (c *Chat) tellHere(except, user, event string, arg any) error {
	return c.hearers(except, user).Emit(event, arg)
}

// hearers are the sockets of this process that have user in their list, but for the socket except. When a process starts
// again very many users come at once, and nobody waits to hear of them.
func (c *Chat) hearers(except, user string) *socketio.Operator {
	return c.namespace.Except(except).To(append(c.watchers.of(user), everybody)...).Local().Later()
}

// presenceElsewhere tells the sockets of this process what another one announces.
func (c *Chat) presenceElsewhere(_ context.Context, args socketio.Args) (any, error) {
	var event, user, except string
	var arg json.RawMessage
	for i, v := range []any{&event, &user, &arg, &except} {
		if err := args.Decode(i, v); err != nil {
			return nil, err
		}
	}
	if event != "user connected" && event != "user disconnected" {
		return nil, fmt.Errorf("presence event %q is unknown", event)
	}
	if c.told == nil {
		return nil, nil // nobody else serves the namespace: this is not meant for it
	}
	return nil, c.told.relay(user, event == "user connected", func() error { return c.tellHere(except, user, event, arg) })
}

// SettlePresence announces that a user is online, or is not, whose presence changed without a socket of this process coming
// or going: the process that had their last socket died, or the store was away. If that has changed again by now, who made it
// change tells of that, and nothing is announced here.
func (c *Chat) SettlePresence(user string, online bool) {
	ctx, cancel := bounded(context.Background())
	defer cancel()
	if err := c.settlePresence(ctx, user, online); err != nil {
		c.log.Warn().Err(err).Str("uid", user).Msg("a change of presence could not be announced: each process finds it out later")
	}
}

func (c *Chat) settlePresence(ctx context.Context, user string, online bool) error {
	turn := c.turn(user)
	turn.Lock()
	defer turn.Unlock()
	is, err := c.store.Online(ctx, []string{user})
	if err != nil {
		return fmt.Errorf("read presence: %w", err)
	}
	switch {
	case is[0] != online:
		return nil
	case !online:
		return c.announce(ctx, "", user, "user disconnected", user)
	}
	known, err := c.store.UsersByID(ctx, []string{user})
	if err != nil || len(known) == 0 {
		return err
	}
	return c.announce(ctx, "", user, "user connected", arrival(user, known[0].Username))
}

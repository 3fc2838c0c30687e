package handlers

import (
	"bytes"
	"context"
	"encoding/json"
	"time"

	"parley/store"
)

// A message of another process may be from, or to, somebody whom devices here were not told of. Who sent it can't know that,
// and here nobody may wait for the store where it arrives. So the shard is told only that there is a message; it reads it as
// it reads any that it missed, in its place and without waiting, and before the message is handed on the devices are told
// who that is.

// strange tells whether introduceAll has something to do for a message that is about to reach the devices of user here.
func (c *Chat) strange(user string, event []byte) bool {
	if !c.watchers.any.Load() {
		return false
	}
	peer, ok := peerIn(event, user)
	return !ok || c.watchers.lacks(user, peer)
}

// introducing bounds how long messages wait for introductions. Then they come without: as where the store does not answer,
// what there is of a message is better than none.
const introducing = time.Second

// introduceAll introduces those with whom user has exchanged these messages to the sockets of user here.
func (c *Chat) introduceAll(ctx context.Context, user string, entries []store.Entry) {
	if !c.watchers.any.Load() {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, introducing)
	defer cancel()
	done := make(map[string]struct{})
	for i := range entries {
		peer := entries[i].Peer
		if _, ok := done[peer]; ok {
			continue
		}
		done[peer] = struct{}{}
		if err := c.introduce(ctx, user, peer); err != nil {
			c.log.Warn().Err(err).Str("uid", user).Msg("messages are delivered whose senders may be unknown to the user's devices")
			return
		}
	}
}

// peerIn finds out with whom user exchanges a message, by the end that encodeMessage gives it; false if it has none. Nothing
// within a string looks like that end, since quotes in it are escaped, and what is in the content comes first.
func peerIn(event []byte, user string) (peer []byte, ok bool) {
	const from, to = `,"from":`, `,"to":`
	at := bytes.LastIndex(event, []byte(from))
	if at < 0 {
		return nil, false
	}
	sender, rest, ok := cutString(event[at+len(from):])
	if !ok {
		return nil, false
	}
	if string(sender) != user {
		return sender, true
	}
	rest, ok = bytes.CutPrefix(rest, []byte(to))
	if !ok {
		return nil, false
	}
	peer, _, ok = cutString(rest)
	return peer, ok
}

// cutString returns the text of the JSON string that b begins with, and what follows it.
func cutString(b []byte) (text, rest []byte, ok bool) {
	if len(b) == 0 || b[0] != '"' {
		return nil, nil, false
	}
	for i := 1; i < len(b); i++ {
		switch b[i] {
		case '"':
			return b[1:i], b[i+1:], true
		case '\\':
			var text string
			decoder := json.NewDecoder(bytes.NewReader(b))
			if decoder.Decode(&text) != nil {
				return nil, nil, false
			}
			return []byte(text), b[decoder.InputOffset():], true
		}
	}
	return nil, nil, false
}

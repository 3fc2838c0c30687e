package socketio

import (
	"context"
	"encoding/json"
	"time"

	"parley/shard"
	"parley/store"
)

// DieAt returns a function that kills the shard which owns key.
func (s *Server) DieAt(key string) func() {
	return func() {
		_ = s.pool.Owner(key).Query(context.Background(), func(*shard.View) { panic("killed by a test") })
	}
}

// HoldWelcomes changes how long a welcome may be held.
func (s *Server) HoldWelcomes(limit time.Duration) { s.holdLimit = limit }

// EncodeKept returns what is kept of a socket that may come back, as it is written and as encoding/json writes it.
func EncodeKept(user string, data json.RawMessage, start store.Offset, snapshot bool) (fast, slow string) {
	k := keptData{User: user, Data: data, Start: start, Snapshot: snapshot}
	text, err := json.Marshal(k)
	if err != nil {
		panic(err)
	}
	return string(k.appendJSON(nil)), string(text)
}

// Claimed is claimed.
var Claimed = claimed

package socketio

import (
	"context"

	"parley/shard"
)

// DieAt returns a function that kills the shard which owns key.
func (s *Server) DieAt(key string) func() {
	return func() {
		_ = s.pool.Owner(key).Query(context.Background(), func(*shard.View) { panic("killed by a test") })
	}
}

package redisstore

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"parley/store"
)

// hurriedTimeout bounds each call once there is no time left.
const hurriedTimeout = 500 * time.Millisecond

// hurry makes calls short when the process has to end: with Redis away each would wait for as long as it may.
type hurry struct {
	begun atomic.Bool
	over  chan struct{} // closed when calls that had begun before have had their time
}

func newHurry() *hurry { return &hurry{over: make(chan struct{})} }

func (h *hurry) on() bool { return h.begun.Load() }

func (h *hurry) begin() {
	if !h.begun.Swap(true) {
		time.AfterFunc(hurriedTimeout, func() { close(h.over) })
	}
}

// errHurried is why a call was given up to end in time.
var errHurried = fmt.Errorf("redis: this process is ending and has no time to wait: %w", store.ErrUnavailable)

// bound returns the context and a channel whose end ends one call.
func (h *hurry) bound(ctx context.Context) (context.Context, <-chan struct{}, context.CancelFunc) {
	if h.on() {
		ctx, cancel := context.WithTimeoutCause(ctx, hurriedTimeout, errHurried)
		return ctx, nil, cancel
	}
	return ctx, h.over, func() {}
}

// Hurry leaves half a second to each call from now on. It is for a process that has to end: calls that Redis does not
// answer would keep it. Nothing else changes, and Redis may well answer in time.
func (s *Store) Hurry() { s.hurry.begin() }

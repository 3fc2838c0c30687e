package handlers

import (
	"context"
	"time"

	"parley/internal/deadline"
)

// storeTimeout bounds what a handler waits for the store.
const storeTimeout = 10 * time.Second

// bounded gives work on the store its deadline. It outlives the connection: what a client sent before it left
// is still done.
func bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	return deadline.Context(context.WithoutCancel(ctx), storeTimeout)
}

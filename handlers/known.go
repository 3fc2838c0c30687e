package handlers

import (
	"sync"
	"time"
)

const (
	// knownFor is how long a user that the store knew is taken for known: far less than a session lives.
	knownFor = time.Minute
	// knownLimit bounds the users that are remembered.
	knownLimit = 1 << 16
)

// known remembers which users there are, so that not every message asks the store. Its zero value is empty.
type known struct {
	mu    sync.RWMutex
	until map[string]time.Time // by user
}

func (k *known) has(user string) bool {
	k.mu.RLock()
	until, ok := k.until[user]
	k.mu.RUnlock()
	return ok && time.Now().Before(until)
}

func (k *known) add(user string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.until == nil || len(k.until) >= knownLimit {
		k.until = make(map[string]time.Time)
	}
	k.until[user] = time.Now().Add(knownFor)
}

package memory

import (
	"context"
	"hash/maphash"
	"sync"
	"sync/atomic"

	"parley/store"
)

// Presence is a [store.Presence] in memory. Make one with [NewPresence].
type Presence struct {
	seed    maphash.Seed
	closed  atomic.Bool
	stripes [stripes]presenceStripe
}

// presenceStripe holds the users that hash to it.
type presenceStripe struct {
	mu      sync.Mutex
	sockets map[userSocket]struct{}
	counts  map[string]int // sockets per user; never zero
}

type userSocket struct{ user, socket string }

var _ store.Presence = (*Presence)(nil)

// NewPresence returns a presence without users.
func NewPresence() *Presence {
	p := new(Presence)
	p.init()
	return p
}

func (p *Presence) init() {
	p.seed = maphash.MakeSeed()
	for i := range p.stripes {
		p.stripes[i].sockets = map[userSocket]struct{}{}
		p.stripes[i].counts = map[string]int{}
	}
}

// stripe returns the stripe of user, locked.
func (p *Presence) stripe(user string) *presenceStripe {
	stripe := &p.stripes[maphash.String(p.seed, user)%stripes]
	stripe.mu.Lock()
	return stripe
}

// Close makes all other methods return [store.ErrClosed].
func (p *Presence) Close() error {
	p.closed.Store(true)
	return nil
}

func (p *Presence) check(ctx context.Context, user, socket string) error {
	if err := store.CheckID("user id", user); err != nil {
		return err
	}
	if err := store.CheckID("socket id", socket); err != nil {
		return err
	}
	return usable(ctx, &p.closed)
}

// Connect implements [store.Presence].
func (p *Presence) Connect(ctx context.Context, user, socket string) (first bool, err error) {
	if err := p.check(ctx, user, socket); err != nil {
		return false, err
	}
	stripe := p.stripe(user)
	defer stripe.mu.Unlock()
	key := userSocket{user, socket}
	if _, ok := stripe.sockets[key]; ok {
		return false, nil
	}
	stripe.sockets[key] = struct{}{}
	stripe.counts[user]++
	return stripe.counts[user] == 1, nil
}

// Disconnect implements [store.Presence].
func (p *Presence) Disconnect(ctx context.Context, user, socket string) (last bool, err error) {
	if err := p.check(ctx, user, socket); err != nil {
		return false, err
	}
	stripe := p.stripe(user)
	defer stripe.mu.Unlock()
	key := userSocket{user, socket}
	if _, ok := stripe.sockets[key]; !ok {
		return false, nil
	}
	delete(stripe.sockets, key)
	if stripe.counts[user] > 1 {
		stripe.counts[user]--
		return false, nil
	}
	delete(stripe.counts, user)
	return true, nil
}

// Online implements [store.Presence].
func (p *Presence) Online(ctx context.Context, users []string) ([]bool, error) {
	if err := usable(ctx, &p.closed); err != nil {
		return nil, err
	}
	online := make([]bool, len(users))
	for i, user := range users {
		stripe := p.stripe(user)
		online[i] = stripe.counts[user] > 0
		stripe.mu.Unlock()
	}
	return online, nil
}

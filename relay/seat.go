package relay

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"parley/engineio"
)

// seat is this process' entry in the register.
type seat struct {
	node        string // its name
	incarnation string // tells it from another process that took the same name
	url         atomic.Pointer[string]
}

const prefixSeat = "parley:relay:"

// beats is how often a lease is renewed in its length.
const beats = 3

// hold takes or renews a name. It returns 0 if another process has it. ARGV: incarnation, URL, lease in ms.
var hold = redis.NewScript(`
local is = redis.call('GET', KEYS[1])
if is and string.sub(is, 1, #ARGV[1] + 1) ~= ARGV[1] .. ' ' then
	return 0
end
redis.call('SET', KEYS[1], ARGV[1] .. ' ' .. ARGV[2], 'PX', ARGV[3])
return 1
`)

// leave takes the URL away, and leaves the name to the lease: who finds nothing takes the process for one that Redis
// has lost. ARGV: incarnation, lease in ms.
var leave = redis.NewScript(`
local is = redis.call('GET', KEYS[1])
if is and string.sub(is, 1, #ARGV[1] + 1) == ARGV[1] .. ' ' then
	redis.call('SET', KEYS[1], ARGV[1] .. ' ', 'PX', ARGV[2])
end
return 1
`)

// random returns n random bytes as text of [A-Za-z0-9_-].
func random(n int) string {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails
	return base64.RawURLEncoding.EncodeToString(b)
}

// takeSeat finds a name that is free.
func (r *Relay) takeSeat(ctx context.Context) error {
	r.seat.incarnation = random(12)
	r.seat.url.Store(new(""))
	for range 10 { // two of a thousand processes meet once in two thousand times
		r.seat.node = random(engineio.NodeLength)[:engineio.NodeLength]
		free, err := r.renew(ctx)
		if err != nil {
			return fmt.Errorf("register with the other processes: %w", err)
		}
		if free {
			return nil
		}
	}
	return errors.New("register with the other processes: every name is taken; is the register in Redis broken?")
}

// renew tells the others that this process is there. It returns false if its name has been given to another.
func (r *Relay) renew(ctx context.Context) (bool, error) {
	n, err := hold.Run(ctx, r.opts.Client, []string{prefixSeat + r.seat.node},
		r.seat.incarnation, *r.seat.url.Load(), r.opts.Lease.Milliseconds()).Int()
	return n == 1, err
}

// leaveSeat tells the others that this process is not there any more. If that fails they know when it can't be reached,
// or when the lease ended a lease ago.
func (r *Relay) leaveSeat(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, redisTimeout)
	defer cancel()
	if err := leave.Run(ctx, r.opts.Client, []string{prefixSeat + r.seat.node},
		r.seat.incarnation, r.opts.Lease.Milliseconds()).Err(); err != nil {
		r.opts.Log.Debug().Err(err).Msg("the other processes could not be told that this one leaves")
	}
}

// Advertise tells the other processes where this one listens: scheme, host and port. Until then none forwards to
// it. ctx bounds that. While Redis does not answer they get to know with the next renewal.
func (r *Relay) Advertise(ctx context.Context, url string) error {
	r.seat.url.Store(&url)
	mine, err := r.renew(ctx)
	switch {
	case err != nil && ctx.Err() == nil:
		r.opts.Log.Warn().Err(err).Msg("other processes may not find this one until Redis answers")
		return nil
	case err == nil && !mine:
		err = errors.New("another process took the name of this one")
	}
	if err != nil {
		return fmt.Errorf("register with the other processes: %w", err)
	}
	return nil
}

// redisTimeout bounds a command to Redis.
const redisTimeout = 2 * time.Second

// keep renews the lease, and the agreement on the key, until ctx ends.
func (r *Relay) keep(ctx context.Context) {
	ticker := time.NewTicker(r.opts.Lease / beats)
	defer ticker.Stop()
	well := true
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		err := r.beat(ctx)
		if ctx.Err() != nil {
			return
		}
		if (err == nil) != well {
			if well = err == nil; well {
				r.opts.Log.Info().Msg("other processes can find this one again")
			} else {
				r.opts.Log.Warn().Err(err).Msg("other processes may not find this one until Redis answers")
			}
		}
	}
}

func (r *Relay) beat(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, redisTimeout)
	defer cancel()
	disagree := r.agree(ctx) // first: whose address is there has agreed on the key
	mine, err := r.renew(ctx)
	if err == nil && !mine {
		err = errors.New("another process took the name of this one, while this one could not renew it")
	}
	return errors.Join(disagree, err)
}

// Package quietconn makes connections to Redis whose calls to the kernel the scheduler is not told of.
//
// A process with little to do rests between messages, and the runtime's monitor with it. Each ordinary system call wakes the
// monitor, which then looks around every 20 µs or so for at least a millisecond: with a thousand messages a second it
// hardly ever rests, and takes a tenth of all CPU time. The connections of clients are read and written without that
// already (package engineio), which would gain nothing if those to Redis woke the monitor.
package quietconn

import (
	"context"
	"net"
	"time"

	"github.com/redis/go-redis/v9"
)

// DialFunc makes a connection, as [net.Dialer.DialContext] does.
type DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error)

// dialTimeout is how long a client tries to connect unless its options say otherwise, as the library has it.
const dialTimeout = 5 * time.Second

// Options returns o changed to have quiet connections. Those of TLS stay as they are, and those of a Cluster, where the gain was
// not measured.
func Options(o redis.UniversalOptions) *redis.UniversalOptions {
	if o.TLSConfig != nil || o.IsClusterMode {
		return &o
	}
	if o.Dialer == nil {
		timeout := o.DialTimeout
		if timeout == 0 {
			timeout = dialTimeout
		}
		o.Dialer = redis.NewDialer(&redis.Options{DialTimeout: timeout})
	}
	o.Dialer = Dialer(o.Dialer)
	return &o
}

// Dialer returns dial, with quiet connections: those of TCP and Unix sockets. Others, as of TLS, are left as they are.
func Dialer(dial DialFunc) DialFunc {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		return wrap(c), nil
	}
}

package redisfan

import (
	"bytes"
	"context"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"parley/metrics"
)

// hole is where what is sent to one address vanishes, as with a node whose machine is gone.
type hole struct {
	addr          atomic.Pointer[string]
	pings, events atomic.Int64 // that vanished
}

func (h *hole) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	return &holedConn{conn, h, conn.RemoteAddr().String()}, nil
}

type holedConn struct {
	net.Conn
	hole *hole
	addr string
}

func (c *holedConn) Write(b []byte) (int, error) {
	if at := c.hole.addr.Load(); at == nil || *at != c.addr {
		return c.Conn.Write(b)
	}
	switch {
	case bytes.Contains(b, []byte("publish")):
		c.hole.events.Add(1)
	case bytes.Contains(b, []byte("ping")):
		c.hole.pings.Add(1)
	default: // of what a new connection begins with
		return c.Conn.Write(b)
	}
	return len(b), nil
}

// A node that takes messages and does not answer keeps nobody else waiting but once.
func TestSilentNodeDoesNotStopTheOthers(t *testing.T) {
	m := newMasters(t, 2)
	var h hole
	client := m.client(redis.UniversalOptions{Dialer: h.dial, DialTimeout: time.Second, ReadTimeout: 500 * time.Millisecond})
	a := m.server(useSharded, func(o *Options) { o.Client = client })
	b := m.server(useSharded)
	rooms := m.rooms()
	away, _ := m.of("socket.io#/#" + rooms[0] + "#")
	there := b.connect("/", "BBBBBBBBBBBBBBBBBBBB", rooms...)
	ctx := context.Background()
	dropped := func() float64 { return a.metrics.Value(metrics.BusDropped, "not published") }
	lost, kept := event("/", rooms[:1], nil, "lost"), event("/", rooms[1:], nil, "kept")

	h.addr.Store(&m.addrs[away])
	must(t, a.Emit(ctx, lost))
	eventually(t, "it is away", func() bool { return dropped() > 0 })
	must(t, a.Emit(ctx, kept))
	there.expect(`2["kept"]`)
	next(t, a.host.unpublished)
	began := time.Now()
	for time.Since(began) < 1200*time.Millisecond || h.pings.Load() < 2 { // the host is told at most once a second
		before := dropped()
		must(t, a.Emit(ctx, lost))
		eventually(t, "it is dropped", func() bool { return dropped() > before })
		if a.publisher.away.Load() {
			t.Fatal("Redis is taken to be away because one node is")
		}
		must(t, a.Emit(ctx, kept))
		there.expect(`2["kept"]`)
	}
	if n := h.events.Load(); n > 1 {
		t.Errorf("the others waited %d times", n)
	}
	if len(a.host.unpublished) > 0 {
		t.Error("others are told again and again")
	}

	h.addr.Store(nil)
	flows(a, rooms[0], there)
	next(t, a.host.unpublished)
}

package redisstore

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
	"go.uber.org/goleak"

	"parley/store"
	"parley/store/storetest"
)

// realRedis names the variable with the URL of a Redis whose database the tests may empty. Without it they use one in
// this process.
const realRedis = "PARLEY_TEST_REDIS"

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// server is a Redis for one test.
type server struct {
	url  string
	mini *miniredis.Miniredis // nil for a real one
}

// newServer returns an empty Redis: that of the environment, or else one in this process.
func newServer(t testing.TB) *server {
	t.Helper()
	url := os.Getenv(realRedis)
	if url == "" {
		mini := miniredis.RunT(t)
		return &server{url: "redis://" + mini.Addr(), mini: mini}
	}
	s := &server{url: url}
	s.each(t, s.client(t), func(ctx context.Context, c *redis.Client) error { return c.FlushDB(ctx).Err() })
	return s
}

// each calls f with all servers behind a client, one or those of a Cluster.
func (s *server) each(t testing.TB, c redis.UniversalClient, f func(context.Context, *redis.Client) error) {
	t.Helper()
	var err error
	switch c := c.(type) {
	case *redis.ClusterClient:
		err = c.ForEachMaster(t.Context(), f)
	case *redis.Client:
		err = f(t.Context(), c)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// client returns a client of its own, which is closed at the end of the test.
func (s *server) client(t testing.TB) redis.UniversalClient {
	t.Helper()
	o, err := Parse(s.url)
	if err != nil {
		t.Fatal(err)
	}
	c := redis.NewUniversalClient(o)
	t.Cleanup(func() { c.Close() })
	return c
}

// advance lets time pass for all keys.
func (s *server) advance(t testing.TB, c redis.UniversalClient, d time.Duration) {
	t.Helper()
	if s.mini != nil {
		s.mini.FastForward(d)
		return
	}
	s.each(t, c, func(ctx context.Context, c *redis.Client) error {
		keys := c.Scan(ctx, 0, "*", 1000).Iterator()
		for keys.Next(ctx) {
			left, err := c.PTTL(ctx, keys.Val()).Result()
			if err == nil && left > 0 {
				err = c.PExpire(ctx, keys.Val(), left-d).Err()
			}
			if err != nil {
				return err
			}
		}
		return keys.Err()
	})
}

// open returns a store that is closed at the end of the test.
func open(t testing.TB, c redis.UniversalClient, opts Options) *Store {
	t.Helper()
	s, err := Open(context.Background(), c, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func TestConformance(t *testing.T) {
	storetest.Run(t, func(t *testing.T, opts store.Options) (store.Store, func(time.Duration)) {
		server := newServer(t)
		clock := storetest.NewClock()
		opts.Now = clock.Now
		c := server.client(t)
		s := open(t, c, Options{Options: opts})
		return s, func(d time.Duration) {
			s.writes.flush(t)
			clock.Advance(d)
			server.advance(t, c, d)
		}
	})
}

// flush waits until all that was given to the lanes is done.
func (l *lanes) flush(t testing.TB) {
	t.Helper()
	for _, queue := range l.queues {
		c := &call{ctx: t.Context(), commands: []*command{plain("PING")}, done: make(chan error, 1)}
		queue <- c
		if err := <-c.done; err != nil {
			t.Fatal(err)
		}
	}
}

// bubble is for tests inside a synctest bubble: it returns a Redis in whose time the keys expire, and a way to connect to it.
func bubble(t *testing.T) (mini *miniredis.Miniredis, client func(hooks ...redis.Hook) redis.UniversalClient) {
	t.Helper()
	mini = miniredis.NewMiniRedis()
	mini.ClockTTL(true)
	t.Cleanup(mini.Close)
	return mini, func(hooks ...redis.Hook) redis.UniversalClient {
		o, err := Parse("redis://redis")
		if err != nil {
			t.Fatal(err)
		}
		o.Dialer = func(context.Context, string, string) (net.Conn, error) {
			conn, err := mini.Dial()
			if err != nil {
				return nil, err
			}
			return newBuffered(conn), nil
		}
		c := redis.NewUniversalClient(o)
		for _, hook := range hooks {
			c.AddHook(hook)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
}

// buffered is a connection with room for what the other side has not read yet, as the kernel gives it. In a pipe without,
// the two sides of a long pipeline wait for each other.
type buffered struct {
	net.Conn
	writes chan []byte
	closed chan struct{}
	once   sync.Once
}

func newBuffered(conn net.Conn) *buffered {
	b := &buffered{Conn: conn, writes: make(chan []byte, 1024), closed: make(chan struct{})}
	go func() { // ends when the connection is closed
		for {
			select {
			case data := <-b.writes:
				if _, err := conn.Write(data); err != nil {
					return
				}
			case <-b.closed:
				return
			}
		}
	}()
	return b
}

func (b *buffered) Write(data []byte) (int, error) {
	select {
	case b.writes <- bytes.Clone(data):
		return len(data), nil
	case <-b.closed:
		return 0, net.ErrClosed
	}
}

func (b *buffered) SetWriteDeadline(time.Time) error { return nil }

func (b *buffered) SetDeadline(t time.Time) error { return b.SetReadDeadline(t) }

func (b *buffered) Close() error {
	b.once.Do(func() { close(b.closed) })
	return b.Conn.Close()
}

// message returns a private message as the chat posts it.
func message(id, from, to string) store.Post {
	return store.Post{
		ID: id, Sender: from, Origin: "socket of " + from, Data: fmt.Appendf(nil, `{"content":"%s","from":"%s","to":"%s"}`, id, from, to),
		To: []store.Delivery{{Box: store.Box{App: chatApp, User: from}, Peer: to, Sent: true}, {Box: store.Box{App: chatApp, User: to}, Peer: from}},
	}
}

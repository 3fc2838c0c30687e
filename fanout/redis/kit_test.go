package redisfan

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
	"go.uber.org/goleak"

	"parley/engineio"
	"parley/fanout"
	"parley/metrics"
	"parley/registry"
	"parley/shard"
	"parley/socketio/packet"
	"parley/store"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds every wait of a test.
const patience = 10 * time.Second

var _ fanout.Fanout = (*Fanout)(nil)

// server is a process: a pool, its fan-out and what stands above it.
type server struct {
	*Fanout
	t    testing.TB
	pool *shard.Pool
	host *host
}

// newServer returns a running server, its namespaces "/" and "/chat" subscribed.
func newServer(t testing.TB, addr string, options ...func(*Options)) *server {
	t.Helper()
	s := unopened(t, addr, options...)
	s.open()
	return s
}

// unopened returns a running server without namespaces.
func unopened(t testing.TB, addr string, options ...func(*Options)) *server {
	t.Helper()
	m := metrics.New()
	pool, err := shard.New(shard.Options{Shards: 2, Metrics: m})
	must(t, err)
	client := redis.NewUniversalClient(ClientOptions(redis.UniversalOptions{Addrs: []string{addr}, DialTimeout: time.Second}))
	h := &host{resubscribed: make(chan struct{}, 100), unpublished: make(chan struct{}, 100), events: make(chan serverSideCall, 100)}
	o := Options{Client: client, Metrics: m, Grace: 20 * time.Millisecond, RequestTimeout: 5 * time.Second}
	for _, set := range options {
		set(&o)
	}
	f, err := New(pool, fanout.NewLocal(pool, 0), h, o)
	must(t, err)
	s := &server{f, t, pool, h}
	t.Cleanup(func() {
		must(t, f.Close())
		pool.Stop()
		must(t, client.Close())
	})
	return s
}

func (s *server) open() {
	s.t.Helper()
	s.Open("/")
	s.Open("/chat")
	ctx := bounded(s.t)
	must(s.t, s.Wait(ctx, "/"))
	must(s.t, s.Wait(ctx, "/chat"))
}

func bounded(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

// two returns two servers on one miniredis.
func two(t testing.TB, options ...func(*Options)) (*miniredis.Miniredis, *server, *server) {
	t.Helper()
	mr := miniredis.RunT(t)
	return mr, newServer(t, mr.Addr(), options...), newServer(t, mr.Addr(), options...)
}

// host records what a fan-out tells.
type host struct {
	ackIDs       atomic.Uint64
	mode         atomic.Int32
	resubscribed chan struct{}
	unpublished  chan struct{}
	events       chan serverSideCall
}

type serverSideCall struct {
	namespace, data string
	ack             func(fanout.Answer)
}

func (h *host) OffsetMode(string, []byte, engineio.Flags) shard.OffsetMode {
	return shard.OffsetMode(h.mode.Load())
}
func (h *host) NextAckID(string) uint64 { return 1000 + h.ackIDs.Add(1) }
func (h *host) Resubscribed()           { h.resubscribed <- struct{}{} }
func (h *host) Unpublished()            { h.unpublished <- struct{}{} }
func (h *host) Emitted(_ shard.Selector, data []byte, deliver func() error) error {
	if strings.HasPrefix(string(data), `["kept back"`) {
		return nil
	}
	return deliver()
}
func (h *host) Unready(_ string, _ store.Box, data []byte) bool {
	return strings.HasPrefix(string(data), `["unready"`)
}
func (h *host) ServerSide(namespace string, data []byte, _ [][]byte, ack func(fanout.Answer)) {
	h.events <- serverSideCall{namespace, string(data), ack}
}

// device is a client's connection.
type device struct {
	t      testing.TB
	server *server
	socket *registry.Socket
	got    chan frame
	mu     sync.Mutex
	ended  []bool // with what Disconnect was called
}

type frame struct {
	text        string
	attachments [][]byte
	flags       engineio.Flags
}

func (d *device) Enqueue(m *engineio.Message, flags engineio.Flags) bool {
	f := frame{text: string(m.Text()), attachments: m.Attachments(), flags: flags}
	d.got <- f
	return true
}
func (d *device) Flush()                {}
func (d *device) Close(engineio.Reason) {}
func (d *device) Describe() fanout.Socket {
	return fanout.Socket{ID: d.socket.ID, Handshake: []byte(`{"headers":{"a":"b"}}`), Data: []byte(`{"n":1}`)}
}
func (d *device) Disconnect(closing bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.ended = append(d.ended, closing)
}

// connect registers a socket in its own room and others, and waits until others reach it.
func (s *server) connect(namespace, id string, rooms ...string) *device {
	s.t.Helper()
	d := &device{t: s.t, server: s, got: make(chan frame, 20000)}
	d.socket = &registry.Socket{ID: id, Namespace: namespace, Key: id, Out: d, App: d}
	all := append([]string{id}, rooms...)
	must(s.t, s.pool.Owner(id).Register(context.Background(), d.socket, all))
	for _, room := range all {
		s.RoomChanged(namespace, room, true)
	}
	must(s.t, s.Wait(bounded(s.t), namespace, all...))
	return d
}

// next returns the next frame that the device is sent.
func (d *device) next() frame {
	d.t.Helper()
	return next(d.t, d.got)
}

// expect checks what the device is sent next.
func (d *device) expect(texts ...string) {
	d.t.Helper()
	for _, want := range texts {
		if got := d.next().text; got != want {
			d.t.Fatalf("%s was sent %s, want %s", d.socket.ID, got, want)
		}
	}
}

// ack answers the event in f.
func (d *device) ack(f frame, answer string) {
	d.t.Helper()
	digits := strings.TrimLeft(f.text, "2")
	if i := strings.IndexByte(digits, ','); strings.HasPrefix(digits, "/") {
		digits = digits[i+1:]
	}
	var id uint64
	if _, err := fmt.Sscanf(digits, "%d", &id); err != nil {
		d.t.Fatalf("%s wants no answer: %v", f.text, err)
	}
	must(d.t, d.server.pool.Owner(d.socket.Key).Acknowledge(context.Background(), d.socket, id, []byte(answer), nil))
}

func (d *device) rooms() (rooms []string) {
	must(d.t, d.server.pool.Owner(d.socket.Key).Query(context.Background(), func(*shard.View) { rooms = d.socket.Rooms() }))
	return rooms
}

func next[T any](t testing.TB, ch <-chan T) T {
	t.Helper()
	select {
	case v := <-ch:
		return v
	case <-time.After(patience):
		t.Fatal("nothing came in time")
		panic("not reached")
	}
}

// eventually waits for a condition.
func eventually(t testing.TB, what string, condition func() bool) {
	t.Helper()
	deadline := time.After(patience)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !condition() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("not in time: %s", what)
		}
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// event returns an envelope for an event.
func event(namespace string, rooms, except []string, args ...any) *shard.Envelope {
	data, attachments, err := packet.EncodeArgs(args...)
	if err != nil {
		panic(err)
	}
	text := packet.Append(nil, &packet.Packet{Type: packet.Event, Namespace: namespace, Data: data, Attachments: attachments})
	return &shard.Envelope{
		Selector: shard.Selector{Namespace: namespace, Rooms: rooms, Except: except}, Text: text, Attachments: attachments,
	}
}

// peer is any other program on the same Redis: it publishes what it likes, and hears everything on some channels.
type peer struct {
	t      testing.TB
	client *redis.Client
}

func newPeer(t testing.TB, addr string) *peer {
	p := &peer{t, redis.NewClient(&redis.Options{Addr: addr})}
	t.Cleanup(func() { must(t, p.client.Close()) })
	return p
}

func (p *peer) publish(channel string, body string) {
	p.t.Helper()
	must(p.t, p.client.Publish(context.Background(), channel, body).Err())
}

// listen subscribes as a Node server does.
func (p *peer) listen(channels ...string) <-chan *redis.Message {
	p.t.Helper()
	sub := p.client.Subscribe(context.Background(), channels...)
	for range channels {
		_, err := sub.ReceiveTimeout(context.Background(), patience)
		must(p.t, err)
	}
	heard := make(chan *redis.Message, 1000)
	var done sync.WaitGroup
	done.Go(func() {
		for {
			m, err := sub.ReceiveMessage(context.Background())
			if err != nil {
				return
			}
			heard <- m
		}
	})
	p.t.Cleanup(func() { _ = sub.Close(); done.Wait() })
	return heard
}

func subscribers(t testing.TB, mr *miniredis.Miniredis, channel string) int {
	t.Helper()
	return mr.PubSubNumSub(channel)[channel]
}

func sorted(list []string) []string {
	slices.Sort(list)
	return list
}

// follower returns the device's socket, registered with the shard that owns user.
func follower(s *server, d *device, user string) *registry.Socket {
	d.t.Helper()
	ctx := context.Background()
	must(d.t, s.pool.Owner(d.socket.Key).Unregister(ctx, d.socket))
	moved := *d.socket
	moved.Key = user
	d.socket = &moved
	must(d.t, s.pool.Owner(user).Register(ctx, d.socket, []string{d.socket.ID, user}))
	return d.socket
}

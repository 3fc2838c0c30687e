package shard

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"go.uber.org/goleak"

	"parley/engineio"
	"parley/metrics"
	"parley/registry"
	"parley/store"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// start returns a pool that the test stops. Most tests run in a synctest bubble, in which synctest.Wait
// returns when all shards have done what waits for them.
func start(t testing.TB, o Options) *Pool {
	t.Helper()
	if o.Metrics == nil {
		o.Metrics = metrics.New()
	}
	p, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Stop)
	return p
}

// wire is an Outbound that remembers. Tests read it after synctest.Wait.
type wire struct {
	mu      sync.Mutex
	queued  []*engineio.Message
	sent    []*engineio.Message
	flushes int
	gone    bool // Enqueue refuses
	closed  []engineio.Reason
	onClose func()
}

func (w *wire) Enqueue(m *engineio.Message, _ engineio.Flags) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.gone {
		return false
	}
	w.queued = append(w.queued, m)
	return true
}

func (w *wire) Flush() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.flushes++
	w.sent = append(w.sent, w.queued...)
	w.queued = w.queued[:0]
}

func (w *wire) Close(reason engineio.Reason) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.gone = true
	w.closed = append(w.closed, reason)
	if w.onClose != nil {
		w.onClose()
	}
}

// texts returns what was sent.
func (w *wire) texts() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var texts []string
	for _, m := range w.sent {
		texts = append(texts, text(m))
	}
	return texts
}

// text returns the Socket.IO packet in m. Messages are opaque outside engineio, so it looks inside.
func text(m *engineio.Message) string {
	return strings.TrimPrefix(string(reflect.ValueOf(m).Elem().FieldByName("text").Bytes()), "4")
}

func message(s string) *engineio.Message { return engineio.NewMessage([]byte(s)) }

const ns = "/"

// newSocket returns a socket that is not registered yet.
func newSocket(id, key string) (*registry.Socket, *wire) {
	w := &wire{}
	return &registry.Socket{ID: id, Namespace: ns, Key: key, Out: w, App: id}, w
}

// join registers a new socket of the user in its own room and others.
func join(t testing.TB, p *Pool, id, user string, rooms ...string) (*registry.Socket, *wire) {
	t.Helper()
	s, w := newSocket(id, user)
	must(t, p.Owner(user).Register(context.Background(), s, append([]string{id}, rooms...)))
	return s, w
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// userOn returns a user whose sockets the shard owns.
func userOn(p *Pool, shard int) string {
	for i := 0; ; i++ {
		if user := fmt.Sprint("user", i); p.Owner(user).Index() == shard {
			return user
		}
	}
}

func event(text string, rooms ...string) *Envelope {
	return &Envelope{Selector: Selector{Namespace: ns, Rooms: rooms}, Text: []byte(text)}
}

func expect(t testing.TB, what string, got, want []string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s: got %q, want %q", what, got, want)
	}
}

// inside runs f in the shard's goroutine. Only in a synctest bubble is its turn over then.
func inside(t testing.TB, s *Shard, f func(*Shard)) {
	t.Helper()
	must(t, s.do(context.Background(), f))
	synctest.Wait()
}

// empty fails the test if the shard holds anything: what a test has made must be gone.
func empty(t testing.TB, p *Pool) {
	t.Helper()
	for _, s := range p.shards {
		inside(t, s, func(s *Shard) {
			for what, n := range map[string]int{
				"sockets": s.registry.Len(), "streams": len(s.streams), "waiting streams": len(s.waiting),
				"followers": len(s.followers), "logs": len(s.logs), "returning": len(s.returning),
			} {
				if n != 0 {
					t.Errorf("shard %d still holds %d %s", s.index, n, what)
				}
			}
		})
	}
	for i := range p.directory.stripes {
		if n := len(p.directory.stripes[i].rooms); n != 0 {
			t.Errorf("the directory still holds %d rooms", n)
		}
	}
}

// occupy keeps the shard busy until the function it returns is called.
func occupy(t testing.TB, s *Shard) (release func()) {
	t.Helper()
	busy, free := make(chan struct{}), make(chan struct{})
	go func() { // for it may run the command itself
		if err := s.post(context.Background(), commandFunc(func(*Shard) { close(busy); <-free })); err != nil {
			t.Error(err)
		}
	}()
	<-busy
	return func() { close(free) }
}

// answers is an AckCollector that remembers.
type answers struct {
	mu       sync.Mutex
	visits   int
	shards   int // that said what to expect
	expected int
	lost     int
	data     []string
}

func (a *answers) Visit(shards int) { a.mu.Lock(); a.visits += shards; a.mu.Unlock() }

func (a *answers) Expect(n int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.shards++
	a.expected += n
}

func (a *answers) Lost() { a.mu.Lock(); a.lost++; a.mu.Unlock() }

func (a *answers) Acknowledge(data []byte, _ [][]byte) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.data = append(a.data, string(data))
}

func (a *answers) check(t testing.TB, visits, expected, lost int, data ...string) {
	t.Helper()
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.visits != visits || a.shards != visits || a.expected != expected || a.lost != lost {
		t.Errorf("visits %d, said %d, expected %d, lost %d; want %d, %d, %d, %d",
			a.visits, a.shards, a.expected, a.lost, visits, visits, expected, lost)
	}
	slices.Sort(a.data)
	expect(t, "answers", a.data, data)
}

// sourceFunc is a Source.
type sourceFunc func(ctx context.Context, box store.Box, after store.Offset, limit int) ([]Mail, error)

func (f sourceFunc) Mail(ctx context.Context, box store.Box, after store.Offset, limit int) ([]Mail, error) {
	return f(ctx, box, after, limit)
}

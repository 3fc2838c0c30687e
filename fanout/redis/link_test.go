package redisfan

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"parley/engineio"
	"parley/metrics"
	"parley/shard"
	"parley/store"
)

func TestExactlyTheRoomsWithMembersAreHeard(t *testing.T) {
	mr, a, b := two(t, func(o *Options) { o.Grace = 300 * time.Millisecond })
	for channel, want := range map[string]int{"socket.io#/#": 2, "socket.io-request#/#": 2, "socket.io-response#/#": 2, "socket.io#/#r#": 0} {
		if n := subscribers(t, mr, channel); n != want {
			t.Errorf("%d hear %s, want %d", n, channel, want)
		}
	}
	a.connect("/", "s", "r")
	b.connect("/", "t", "r")
	if r, s := subscribers(t, mr, "socket.io#/#r#"), subscribers(t, mr, "socket.io#/#s#"); r != 2 || s != 1 {
		t.Errorf("%d hear the room, %d the socket's own", r, s)
	}
	if n := mr.PubSubNumPat(); n != 0 {
		t.Errorf("%d patterns", n)
	}
	// A room that has a member again in time is never given up.
	before := mr.CommandCount()
	a.RoomChanged("/", "r", false)
	a.RoomChanged("/", "r", true)
	b.RoomChanged("/", "r", false)
	eventually(t, "the other process is gone", func() bool { return subscribers(t, mr, "socket.io#/#r#") == 1 })
	must(t, a.Wait(bounded(t), "/", "r"))
	if n := mr.CommandCount() - before; n > 1 {
		t.Errorf("%d commands", n)
	}
	a.Shut("/chat")
	eventually(t, "the namespace is given up", func() bool { return subscribers(t, mr, "socket.io-request#/chat#") == 1 })
	if err := a.Wait(bounded(t), "/", "nobody"); !errors.Is(err, errNotMember) {
		t.Errorf("waiting for a room without members: %v", err)
	}
}

func TestSubscriptionsAreBatched(t *testing.T) {
	mr := miniredis.RunT(t)
	a := newServer(t, mr.Addr())
	const n = 5000
	before := mr.CommandCount()
	for i := range n {
		a.RoomChanged("/", fmt.Sprint("room", i), true)
	}
	must(t, a.Wait(bounded(t), "/", fmt.Sprint("room", n-1)))
	if used := mr.CommandCount() - before; used > n/10 {
		t.Errorf("%d commands for %d rooms", used, n)
	}
	for i := range n {
		a.RoomChanged("/", fmt.Sprint("room", i), false)
	}
	eventually(t, "all are given up", func() bool { return len(mr.PubSubChannels("socket.io#/#room*")) == 0 })
	if used := mr.CommandCount() - before; used > n/5 {
		t.Errorf("%d commands for %d rooms, both ways", used, n)
	}
	eventually(t, "the table is as it was", func() bool { return a.links.len() == 8 })
}

func TestLostConnectionIsRestored(t *testing.T) {
	mr, a, b := two(t)
	there := b.connect("/", "there", "r")
	for range 3 {
		mr.Close()
		must(t, mr.Restart())
		next(t, a.host.resubscribed)
		next(t, b.host.resubscribed)
		if !b.Connected() {
			t.Error("not connected")
		}
		for _, channel := range []string{"socket.io-request#/#", "socket.io#/#"} {
			if n := subscribers(t, mr, channel); n != 2 {
				t.Errorf("%d subscriptions to %s: a second one makes every Node peer's requests fail", n, channel)
			}
		}
		eventually(t, "events flow again", func() bool {
			must(t, a.Emit(context.Background(), event("/", []string{"r"}, nil, "x")))
			select {
			case f := <-there.got:
				return f.text == `2["x"]`
			case <-time.After(10 * time.Millisecond):
				return false
			}
		})
		eventually(t, "publishing works", a.Connected)
	}
	found, err := a.Fetch(bounded(t), all("/"))
	if err != nil || len(found) != 1 {
		t.Errorf("found %v, %v", found, err)
	}
}

func TestRoomsJoinedWhileRedisIsAwayAreHeardWhenItIsBack(t *testing.T) {
	mr, a, b := two(t)
	mr.Close()
	eventually(t, "the loss is noticed", func() bool { return !b.links.connected() })
	b.RoomChanged("/", "new", true)
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if err := b.Wait(ctx, "/", "new"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("waiting for an absent Redis: %v", err)
	}
	must(t, mr.Restart())
	must(t, b.Wait(bounded(t), "/", "new"))
	must(t, a.Wait(bounded(t), "/"))
}

func TestWithoutRedisEventsReachThisProcess(t *testing.T) {
	mr, a, _ := two(t, func(o *Options) { o.queue = 100 })
	here := a.connect("/", "here")
	mr.Close()
	ctx := context.Background()
	started := time.Now()
	const n = 1000
	for i := range n {
		must(t, a.Emit(ctx, event("/", nil, nil, "n", i)))
		here.expect(fmt.Sprintf(`2["n",%d]`, i))
	}
	if took := time.Since(started); took > patience {
		t.Errorf("took %v", took)
	}
	if a.Connected() {
		t.Error("connected without Redis")
	}
	found, err := a.Fetch(withTimeout(t, 100*time.Millisecond), all("/"))
	if !errors.Is(err, ErrPartial) || len(found) != 1 {
		t.Errorf("found %v, %v", found, err)
	}
	acks := newCollector()
	must(t, a.Emit(withTimeout(t, 100*time.Millisecond), ask(nil, 7, acks)))
	here.ack(here.next(), `["ok"]`)
	if got := next(t, acks.answers); got != `["ok"]` {
		t.Errorf("got %s", got)
	}
	eventually(t, "drops are counted", func() bool { return a.metrics.Value(metrics.BusDropped, "not published") > 0 })
}

// What was not published is not known to those who should have got it: they are told once they can be.
func TestOthersAreToldThatTheyMissedSomething(t *testing.T) {
	mr, a, b := two(t)
	there := b.connect("/", "there")
	must(t, a.Emit(bounded(t), event("/", nil, nil, "before")))
	there.expect(`2["before"]`)
	mr.SetError("LOADING Redis is loading the dataset in memory")
	must(t, a.Emit(bounded(t), event("/", nil, nil, "lost")))
	eventually(t, "it is dropped", func() bool { return a.metrics.Value(metrics.BusDropped, "not published") > 0 })
	mr.SetError("")
	eventually(t, "others are to be told", func() bool {
		must(t, a.Emit(bounded(t), event("/", nil, nil, "after")))
		return len(a.host.unpublished) > 0
	})
	there.expect(`2["after"]`)
	if len(b.host.unpublished) > 0 {
		t.Error("a process that published nothing told others that they missed it")
	}
}

func TestHostMayKeepEventsBack(t *testing.T) {
	_, a, b := two(t)
	there := b.connect("/", "there")
	must(t, a.Emit(bounded(t), event("/", nil, nil, "kept back")))
	must(t, a.Emit(bounded(t), event("/", nil, nil, "end")))
	there.expect(`2["end"]`)
}

func withTimeout(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

// A process whose shards stand still loses messages, and hears of that, but not its connection.
func TestSlowShardNeverCostsTheConnection(t *testing.T) {
	mr, a, b := two(t, func(o *Options) { o.Workers, o.queue = 1, 100 })
	there := b.connect("/", "there")
	release := make(chan struct{})
	var blocked []chan struct{}
	for i := range b.pool.Len() {
		entered := make(chan struct{})
		blocked = append(blocked, entered)
		go func() {
			_ = b.pool.At(i).Query(context.Background(), func(*shard.View) { close(entered); <-release })
		}()
	}
	for _, entered := range blocked {
		<-entered
	}
	p := newPeer(t, mr.Addr())
	body := "\x93\xa6AbCd12\x83\xa4type\x02\xa4data\x91\xa1x\xa3nsp\xa1/\x80"
	for range 10 {
		pipe := p.client.Pipeline()
		for range 1000 {
			pipe.Publish(context.Background(), "socket.io#/#", body)
		}
		_, err := pipe.Exec(context.Background())
		must(t, err)
	}
	eventually(t, "messages are dropped", func() bool { return b.metrics.Value(metrics.BusDropped, "queue is full") > 0 })
	close(release)
	next(t, b.host.resubscribed)
	eventually(t, "events flow again", func() bool {
		must(t, a.Emit(context.Background(), event("/", nil, nil, "end")))
		for {
			select {
			case f := <-there.got:
				if f.text == `2["end"]` {
					return true
				}
			case <-time.After(10 * time.Millisecond):
				return false
			}
		}
	})
	if n := b.metrics.Value(metrics.BusReconnects, "lost"); n > 0 {
		t.Errorf("the connection was lost %v times", n)
	}
}

// The reader does not wait for a shard that takes no more mail.
func TestReaderDoesNotWaitForAShard(t *testing.T) {
	_, a, b := two(t)
	heard := make(chan Notification, 1)
	b.OnNotification(func(_ context.Context, n Notification) { heard <- n })
	box := store.Box{App: "chat", User: "user"}
	b.pool.HandleMail("chat", noMail{})
	there := b.connect("/", "there", "user")
	ctx := context.Background()
	_, err := b.pool.Owner("user").Follow(ctx, follower(b, there, "user"), box, store.Offset{Epoch: 5})
	must(t, err)
	entered, release := make(chan struct{}), make(chan struct{})
	go func() {
		_ = b.pool.Owner("user").Query(ctx, func(*shard.View) { close(entered); <-release })
	}()
	<-entered
	const n, most = 9000, 8000 // more than a shard's inbox takes, and what it takes at least
	for i := range n {
		must(t, a.Deliver(ctx, shard.Mail{
			Box: box, Offset: store.Offset{Epoch: 5, Seq: uint64(i + 1)}, Namespace: "/", Text: fmt.Appendf(nil, `2["mail",%d]`, i),
			Message: engineio.NewMessage([]byte("not for others")),
		}))
	}
	must(t, b.links.wait(bounded(t), notifyChannel))
	must(t, a.Notify(bounded(t), Notification{Event: "e", ID: "user"}))
	next(t, heard)
	close(release)
	for i := range most { // the rest may have waited for too long
		there.expect(fmt.Sprintf(`2["mail",%d,"5-%d"]`, i, i+1))
	}
}

// A node of a Cluster that does not serve a slot now says so, and keeps all else that it serves.
func TestWhatIsRefusedForNowIsAskedForAgain(t *testing.T) {
	for _, refusal := range []string{"CLUSTERDOWN The cluster is down", "MOVED 7 127.0.0.1:1"} {
		mr, a, b := two(t)
		mr.SetError(refusal)
		b.RoomChanged("/", "new", true)
		eventually(t, "it is refused", func() bool { return !b.links.connected() })
		mr.SetError("")
		there := b.connect("/", "there", "new")
		next(t, b.host.resubscribed)
		flows(a, "new", there)
		if n := b.metrics.Value(metrics.BusReconnects, "lost"); n > 0 || !b.links.connected() {
			t.Errorf("the connection was lost %v times", n)
		}
	}
}

// Redis refuses one channel and takes another, that nobody wants any more: it is not left subscribed to.
func TestWhatWasTakenAllTheSameIsGivenUp(t *testing.T) {
	mr := miniredis.RunT(t)
	var b *server
	b = newServer(t, mr.Addr(), subscribing(func(channels []string) {
		if slices.Contains(channels, "socket.io#/#new#") {
			b.RoomChanged("/", "new", false)
			b.links.(*link).refused()
		}
	}))
	before := b.links.len()
	b.RoomChanged("/", "new", true)
	eventually(t, "it is forgotten", func() bool { return b.links.len() == before })
	b.RoomChanged("/", "later", true)
	must(t, b.Wait(bounded(t), "/", "later"))
	if n := subscribers(t, mr, "socket.io#/#new#"); n != 0 {
		t.Errorf("%d hear a room that has no members", n)
	}
}

func TestEchoesAreOfOneConnection(t *testing.T) {
	a := newServer(t, miniredis.RunT(t).Addr())
	l := a.links.(*link)
	before, now := &echo{link: l}, &echo{link: l}
	for range 3 {
		before.next()
		must(t, <-before.taken)
		before.taken = nil
	}
	now.next()
	question := strconv.FormatInt(now.number, 10)
	now.take(echoHead + strconv.FormatInt(before.number, 10))
	if !now.missing(question) {
		t.Error("an echo that the last connection asked for was taken for one of this")
	}
	now.take(echoHead + question)
	if now.missing(question) {
		t.Error("an echo was not recognized")
	}
	l.add("c", false)
	must(t, l.wait(bounded(t), "c"))
	heard := l.hears("c")
	l.drop("c")
	if !heard || l.hears("c") {
		t.Error("only what has users is to be heard")
	}
}

// switching is how a client behind Sentinel connects: to the server that is in charge. When that changes, the connections
// to the last one are closed, but not those of subscribers.
type switching struct {
	mu    sync.Mutex
	addr  string
	conns []*switchedConn
}

type switchedConn struct {
	net.Conn
	subscriber atomic.Bool
}

func (c *switchedConn) Write(b []byte) (int, error) {
	if bytes.Contains(b, []byte("subscribe")) {
		c.subscriber.Store(true)
	}
	return c.Conn.Write(b)
}

func (s *switching) dial(ctx context.Context, network, _ string) (net.Conn, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	conn, err := new(net.Dialer).DialContext(ctx, network, s.addr)
	if err != nil {
		return nil, err
	}
	own := &switchedConn{Conn: conn}
	s.conns = append(s.conns, own)
	return own, nil
}

func (s *switching) to(addr string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.addr = addr
	for _, conn := range s.conns {
		if !conn.subscriber.Load() {
			_ = conn.Close()
		}
	}
	s.conns = nil
}

func TestSubscribersFollowThePublisherToAnotherServer(t *testing.T) {
	one, other := miniredis.RunT(t), miniredis.RunT(t)
	var sentinel switching
	sentinel.to(one.Addr())
	behind := func(o *Options) {
		client := redis.NewUniversalClient(ClientOptions(redis.UniversalOptions{Dialer: sentinel.dial}))
		t.Cleanup(func() { must(t, client.Close()) })
		o.Client, o.ping = client, 20*time.Millisecond
	}
	a, b := newServer(t, one.Addr(), behind), newServer(t, one.Addr(), behind)
	there := b.connect("/", "there", "r")
	flows(a, "r", there)
	before := one.CommandCount()
	eventually(t, "echoes come", func() bool { return one.CommandCount() > before+20 })
	if n := a.metrics.Value(metrics.BusReconnects, "lost") + a.metrics.Value(metrics.BusRejected, "response: malformed"); n > 0 {
		t.Errorf("%v connections were given up, or echoes taken for messages, though nothing happened", n)
	}
	sentinel.to(other.Addr())
	next(t, b.host.resubscribed)
	flows(a, "r", there)
	eventually(t, "nobody is left behind", func() bool { return subscribers(t, one, "socket.io#/#") == 0 })
}

func TestNotifyBus(t *testing.T) {
	mr, a, b := two(t)
	got := make(chan Notification, 10)
	for _, s := range []*server{a, b} {
		s.OnNotification(func(_ context.Context, n Notification) { got <- n })
		must(t, s.links.wait(bounded(t), notifyChannel))
	}
	p := newPeer(t, mr.Addr())
	heard := p.listen(notifyChannel)
	for _, bad := range []string{"", "null", "{", `"x"`, `{"event":5,"id":"u"}`, `{"event":"e"}`, `{"id":"u"}`, `{"event":"e","id":7}`} {
		p.publish(notifyChannel, bad)
		next(t, heard)
	}
	p.publish(notifyChannel, `{"event":"message_sent","id":"u1","args":{"message":"hi"}}`)
	for range 2 {
		if n := next(t, got); n.Event != "message_sent" || n.ID != "u1" || string(n.Args) != `{"message":"hi"}` {
			t.Errorf("got %+v", n)
		}
	}
	next(t, heard)
	must(t, a.Notify(bounded(t), Notification{Event: "e", ID: "u", Args: json.RawMessage(`{"a":1}`)}))
	if m := next(t, heard); m.Payload != `{"event":"e","id":"u","args":{"a":1}}` {
		t.Errorf("published %s", m.Payload)
	}
	for range 2 {
		next(t, got)
	}
	if n := a.metrics.Value(metrics.BusRejected, "notification"); n != 8 {
		t.Errorf("%v were counted", n)
	}
	mr.Close()
	if err := a.Notify(bounded(t), Notification{Event: "e", ID: "u"}); !errors.Is(err, ErrUnavailable) {
		t.Errorf("without Redis: %v", err)
	}
}

func TestCloseSendsWhatWaits(t *testing.T) {
	mr := miniredis.RunT(t)
	a := newServer(t, mr.Addr())
	heard := newPeer(t, mr.Addr()).listen("socket.io#/#")
	const n = 500
	for i := range n {
		must(t, a.Emit(context.Background(), event("/", nil, nil, "n", i)))
	}
	must(t, a.Close())
	for range n {
		next(t, heard)
	}
	must(t, a.Emit(context.Background(), event("/", nil, nil, "after")))
}

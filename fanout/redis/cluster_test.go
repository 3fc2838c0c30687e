package redisfan

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"parley/internal/redisslot"
	"parley/metrics"
)

// masters are the nodes of a Cluster. They do not know of each other: what is published on one is heard there alone, as
// sharded channels are. The clients are told which node has which slots.
type masters struct {
	t     *testing.T
	nodes []*miniredis.Miniredis
	addrs []string

	mu    sync.Mutex
	slots []int // the node of each slot
	fault error // instead of an answer
}

func newMasters(t *testing.T, n int) *masters {
	m := &masters{t: t, slots: make([]int, redisslot.Count)}
	for range n {
		node := miniredis.RunT(t)
		m.nodes, m.addrs = append(m.nodes, node), append(m.addrs, node.Addr())
	}
	for slot := range m.slots {
		m.slots[slot] = slot * n / redisslot.Count
	}
	return m
}

// topology is what the clients are told.
func (m *masters) topology(context.Context) ([]redis.ClusterSlot, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fault != nil {
		return nil, m.fault
	}
	var ranges []redis.ClusterSlot
	for slot, node := range m.slots {
		switch last := len(ranges) - 1; {
		case last >= 0 && ranges[last].End == slot-1 && ranges[last].Nodes[0].Addr == m.addrs[node]:
			ranges[last].End = slot
		default:
			ranges = append(ranges, redis.ClusterSlot{Start: slot, End: slot, Nodes: []redis.ClusterNode{{Addr: m.addrs[node]}}})
		}
	}
	return ranges, nil
}

// assign gives slots to a node.
func (m *masters) assign(node int, of func(slot int) bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for slot := range m.slots {
		if of(slot) {
			m.slots[slot] = node
		}
	}
}

// silence has clients get a fault when they ask for the topology.
func (m *masters) silence(fault error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fault = fault
}

// of returns the node of a channel, and the channel's slot.
func (m *masters) of(channel string) (node, slot int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	slot = redisslot.Of(channel)
	return m.slots[slot], slot
}

// subscribers returns how many listen to a channel on each node.
func (m *masters) subscribers(channel string) (counts []int) {
	for _, node := range m.nodes {
		counts = append(counts, subscribers(m.t, node, channel))
	}
	return counts
}

// server returns a process on the Cluster.
func (m *masters) server(options ...func(*Options)) *server {
	s := m.unopened(options...)
	s.open()
	return s
}

// unopened returns a process that has no namespaces yet.
func (m *masters) unopened(options ...func(*Options)) *server {
	client := m.client(redis.UniversalOptions{DialTimeout: time.Second})
	return unopened(m.t, m.addrs[0], append([]func(*Options){func(o *Options) { o.Client = client }}, options...)...)
}

func (m *masters) client(options redis.UniversalOptions) *redis.ClusterClient {
	cluster := ClientOptions(options).Cluster()
	cluster.ClusterSlots = m.topology
	client := redis.NewClusterClient(cluster)
	m.t.Cleanup(func() { must(m.t, client.Close()) })
	return client
}

// rooms returns a room of each node.
func (m *masters) rooms() []string {
	rooms := make([]string, len(m.nodes))
	for i, found := 0, 0; found < len(rooms); i++ {
		room := fmt.Sprint("room", i)
		if node, _ := m.of("socket.io#/#" + room + "#"); rooms[node] == "" {
			rooms[node] = room
			found++
		}
	}
	return rooms
}

// flows waits until events for a room get from one server to the other's device.
func flows(from *server, room string, to *device) {
	to.t.Helper()
	eventually(to.t, "events for "+room+" flow", func() bool {
		must(to.t, from.Emit(context.Background(), event("/", []string{room}, nil, "to", room)))
		want := fmt.Sprintf(`2["to","%s"]`, room)
		for {
			select {
			case f := <-to.got:
				if f.text == want {
					return true
				}
			case <-time.After(20 * time.Millisecond):
				return false
			}
		}
	})
}

func TestShardedChannelsAreHeardOnTheMastersOfTheirSlots(t *testing.T) {
	m := newMasters(t, 3)
	a, b := m.server(useSharded), m.server(useSharded)
	rooms := m.rooms()
	there := b.connect("/", "BBBBBBBBBBBBBBBBBBBB", rooms...)
	for node, room := range rooms {
		want := make([]int, len(rooms))
		want[node] = 1
		if got := m.subscribers("socket.io#/#" + room + "#"); fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%s is heard by %v on the nodes, want %v", room, got, want)
		}
		for i := range 100 { // in order for each slot
			must(t, a.Emit(context.Background(), event("/", []string{room}, nil, room, i)))
		}
		for i := range 100 {
			there.expect(fmt.Sprintf(`2["%s",%d]`, room, i))
		}
	}
	eventually(t, "both are connected", func() bool { return a.Connected() && b.Connected() })
	found, err := a.Fetch(bounded(t), all("/"))
	if err != nil || len(found) != 1 {
		t.Errorf("found %v, %v", found, err)
	}
	if len(a.host.resubscribed)+len(b.host.resubscribed) > 0 {
		t.Error("a loss was reported, though nothing was lost")
	}
	// A room that nobody is in any more is given up, and another can be joined on the same node.
	b.RoomChanged("/", rooms[1], false)
	eventually(t, "the room is given up", func() bool { return m.subscribers("socket.io#/#" + rooms[1] + "#")[1] == 0 })
	b.RoomChanged("/", rooms[1], true)
	must(t, b.Wait(bounded(t), "/", rooms[1]))
}

func TestChannelsFollowTheirSlots(t *testing.T) {
	m := newMasters(t, 3)
	a, b := m.server(useSharded), m.server(useSharded)
	rooms := m.rooms()
	there := b.connect("/", "BBBBBBBBBBBBBBBBBBBB", rooms...)
	for _, room := range rooms {
		flows(a, room, there)
	}
	_, slot := m.of("socket.io#/#" + rooms[0] + "#")
	for _, to := range []int{1, 0, 2} { // back too, where the old subscription may still be
		m.assign(to, func(s int) bool { return s == slot })
		a.links.trouble()
		b.links.trouble()
		next(t, b.host.resubscribed)
		flows(a, rooms[0], there)
		want := []int{0, 0, 0}
		want[to] = 1
		eventually(t, "the channel is heard where it belongs", func() bool {
			return fmt.Sprint(m.subscribers("socket.io#/#"+rooms[0]+"#")) == fmt.Sprint(want)
		})
	}
	for _, room := range rooms[1:] {
		flows(a, room, there)
	}
	if lost := b.metrics.Value(metrics.BusReconnects, "lost"); lost > 0 {
		t.Errorf("%v connections were lost by moving a slot", lost)
	}
}

// A node that gives up a slot takes its channels away. They may be asked for there once more before it is known who has
// them now: that is refused, and not to be tried again.
func TestWhatHasMovedIsNotAskedForAgain(t *testing.T) {
	m := newMasters(t, 2)
	room := m.rooms()[0]
	channel := "socket.io#/#" + room + "#"
	_, slot := m.of(channel)
	var armed atomic.Bool
	entered, held := make(chan struct{}), make(chan struct{})
	release := sync.OnceFunc(func() { close(held) })
	b := m.server(subscribing(func(channels []string) {
		if slices.Contains(channels, channel) && armed.CompareAndSwap(true, false) {
			close(entered)
			<-held
		}
	}))
	t.Cleanup(release)
	b.connect("/", "BBBBBBBBBBBBBBBBBBBB", room)
	links := b.links.(*clusterLinks)
	links.mu.Lock()
	old := links.owner(uint16(slot))
	links.mu.Unlock()

	armed.Store(true)
	old.lost(channel)
	next(t, entered)
	m.assign(1, func(s int) bool { return s == slot })
	b.links.trouble()
	must(t, b.Wait(bounded(t), "/", room))
	eventually(t, "nothing is missing", b.Connected)
	m.nodes[0].SetError(fmt.Sprint("MOVED ", slot, " ", m.addrs[1]))
	release()
	eventually(t, "it is refused", func() bool {
		old.mu.Lock()
		defer old.mu.Unlock()
		return !old.hold.IsZero()
	})
	eventually(t, "it is forgotten there", func() bool {
		old.mu.Lock()
		defer old.mu.Unlock()
		return old.subs[channel] == nil
	})
	eventually(t, "all is well", b.Connected)
	m.nodes[0].SetError("")
	b.connect("/", "CCCCCCCCCCCCCCCCCCCC", m.rooms()[0])
}

func TestAnotherNodeTakesOverADeadOnesSlots(t *testing.T) {
	for name, options := range map[string][]func(*Options){"sharded": {useSharded}, "classic": nil} {
		t.Run(name, func(t *testing.T) {
			m := newMasters(t, 3)
			a, b := m.server(options...), m.server(options...)
			rooms := m.rooms()
			there := b.connect("/", "BBBBBBBBBBBBBBBBBBBB", rooms...)
			for _, room := range rooms {
				flows(a, room, there)
			}
			dead, _ := m.of("socket.io") // the node of the classic protocol
			if name == "sharded" {
				dead, _ = m.of("socket.io#/#")
			}
			m.nodes[dead].Close()
			eventually(t, "the loss is noticed", func() bool { return !b.links.connected() })
			// A room that gets members meanwhile is heard when there is a node again.
			b.RoomChanged("/", "new", true)
			heir := (dead + 1) % 3
			m.assign(heir, func(slot int) bool { return m.slots[slot] == dead })
			must(t, b.Wait(bounded(t), "/", "new"))
			next(t, b.host.resubscribed)
			for _, room := range rooms {
				flows(a, room, there)
			}
			eventually(t, "all is well", func() bool { return a.Connected() && b.Connected() })
			if a.metrics.Value(metrics.BusDropped, "not published") > 0 {
				next(t, a.host.unpublished)
			}
			if links := b.links.(*clusterLinks); len(links.links) != 2 {
				t.Errorf("%d links", len(links.links))
			}
		})
	}
}

func TestClassicChannelsOfAClusterAreOnOneNode(t *testing.T) {
	m := newMasters(t, 3)
	a, b := m.server(), m.server()
	there := b.connect("/", "there", m.rooms()...)
	home, _ := m.of("socket.io")
	for _, channel := range []string{"socket.io#/#", "socket.io-request#/#", "socket.io#/#there#"} {
		for node, n := range m.subscribers(channel) {
			if n > 0 && node != home {
				t.Errorf("%s is heard on node %d, want all on %d", channel, node, home)
			}
		}
	}
	for i := range 100 {
		must(t, a.Emit(context.Background(), event("/", m.rooms()[i%3:i%3+1], nil, i)))
	}
	for i := range 100 {
		there.expect(fmt.Sprintf(`2[%d]`, i))
	}
	// Its slot moves: nothing is heard twice.
	m.assign((home+1)%3, func(int) bool { return true })
	a.links.trouble()
	b.links.trouble()
	next(t, b.host.resubscribed)
	for _, channel := range []string{"socket.io#/#", "socket.io-request#/#"} {
		eventually(t, "one node has them", func() bool { return m.subscribers(channel)[home] == 0 && m.subscribers(channel)[(home+1)%3] == 2 })
	}
	flows(a, "there", there)
}

func TestChannelsWaitForTheTopology(t *testing.T) {
	m := newMasters(t, 3)
	a := m.server(useSharded)
	room := m.rooms()[1]
	m.silence(errors.New("no node answers"))
	late := m.unopened(useSharded)
	late.Open("/")
	for range 2 {
		late.RoomChanged("/", room, true)
		late.RoomChanged("/", room, false)
	}
	if late.Connected() {
		t.Error("connected without channels that are heard")
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	if err := late.Wait(ctx, "/"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("waiting for a Cluster that does not answer: %v", err)
	}
	m.silence(nil)
	late.links.trouble()
	must(t, late.Wait(bounded(t), "/"))
	eventually(t, "it is connected", late.Connected)
	if n := late.links.len(); n != 2 {
		t.Errorf("%d channels", n)
	}
	flows(a, room, late.connect("/", "CCCCCCCCCCCCCCCCCCCC", room))
	if len(late.host.resubscribed) > 0 {
		t.Error("a loss was reported, though nothing was heard before")
	}
}

func TestManyChannelsMoveAtOnce(t *testing.T) {
	m := newMasters(t, 3)
	b := m.server(useSharded)
	const n = 3000
	for i := range n {
		b.RoomChanged("/", fmt.Sprint("room", i), true)
	}
	for i := range n {
		must(t, b.Wait(bounded(t), "/", fmt.Sprint("room", i)))
	}
	m.assign(0, func(int) bool { return true })
	var changing sync.WaitGroup
	changing.Go(func() { // while they move
		for i := range n / 2 {
			b.RoomChanged("/", fmt.Sprint("room", i), false)
		}
	})
	b.links.trouble()
	changing.Wait()
	next(t, b.host.resubscribed)
	for i := range n {
		want := 1
		if i < n/2 {
			want = 0
		}
		channel := fmt.Sprintf("socket.io#/#room%d#", i)
		eventually(t, channel+" is where it belongs", func() bool {
			return fmt.Sprint(m.subscribers(channel)) == fmt.Sprint([]int{want, 0, 0})
		})
	}
	eventually(t, "the table is as it was", func() bool { return b.links.len() == n/2+4 })
}

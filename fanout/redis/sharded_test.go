package redisfan

import (
	"context"
	"slices"
	"testing"

	"github.com/redis/go-redis/v9"

	"parley/fanout"
	"parley/metrics"
	"parley/shard"
)

// plainSharded is the sharded protocol on plain channels, which miniredis has.
type plainSharded struct {
	sharded
	plain classic
}

func (p plainSharded) subscribe(ctx context.Context, conn *redis.PubSub, channels []string) error {
	return p.plain.subscribe(ctx, conn, channels)
}

func (p plainSharded) unsubscribe(ctx context.Context, conn *redis.PubSub, channels []string) error {
	return p.plain.unsubscribe(ctx, conn, channels)
}

func (p plainSharded) publish(ctx context.Context, pipe redis.Pipeliner, channel string, body []byte) *redis.IntCmd {
	return p.plain.publish(ctx, pipe, channel, body)
}

func (p plainSharded) servers(ctx context.Context, namespace string) (int, error) {
	channel := p.base(namespace)
	return sumOverMasters(ctx, p.fanout.options.Client, func(ctx context.Context, node redis.Cmdable) (int64, error) {
		found, err := node.PubSubNumSub(ctx, channel).Result()
		return found[channel], err
	})
}

func useSharded(o *Options) {
	o.Sharded = true
	o.protocol = func(f *Fanout) protocol { return plainSharded{sharded{f, "socket.io"}, classic{f, "socket.io"}} }
}

// watched has a function called before channels are subscribed to.
type watched struct {
	plainSharded
	before func(channels []string)
}

func (w watched) subscribe(ctx context.Context, conn *redis.PubSub, channels []string) error {
	w.before(channels)
	return w.plainSharded.subscribe(ctx, conn, channels)
}

func subscribing(before func(channels []string)) func(*Options) {
	return func(o *Options) {
		o.Sharded = true
		o.protocol = func(f *Fanout) protocol {
			return watched{plainSharded{sharded{f, "socket.io"}, classic{f, "socket.io"}}, before}
		}
	}
}

func TestShardedProtocol(t *testing.T) {
	mr, a, b := two(t, useSharded)
	ctx := context.Background()
	const id = "BBBBBBBBBBBBBBBBBBBB" // as long as socket ids are
	here, there := a.connect("/", "AAAAAAAAAAAAAAAAAAAA", "r"), b.connect("/", id, "r")
	if n := subscribers(t, mr, "socket.io#/#"+id+"#"); n != 0 {
		t.Errorf("%d hear the channel of a socket's own room, which the protocol does not have", n)
	}
	p := newPeer(t, mr.Addr())
	heard := p.listen("socket.io#/#r#") // who listens to the namespace's is counted as a server
	must(t, a.Emit(ctx, event("/", []string{"r"}, nil, "hello")))
	uid := a.spaces.get("/").uid
	m := next(t, heard)
	want := `{"type":3,"data":{"packet":{"type":2,"data":["hello"]},"opts":{"rooms":["r"],"except":[],"flags":{}}},"uid":"` + uid + `","nsp":"/"}`
	if m.Channel != "socket.io#/#r#" || m.Payload != want || len(uid) != 16 {
		t.Errorf("published %s on %s", m.Payload, m.Channel)
	}
	must(t, a.Emit(ctx, event("/", []string{id}, nil, "id", []byte{1})))
	there.expect(`2["hello"]`, `51-["id",{"_placeholder":true,"num":0}]`)
	here.expect(`2["hello"]`)

	must(t, a.Join(ctx, shard.Selector{Namespace: "/", Rooms: []string{"r"}}, []string{"x"}))
	eventually(t, "joined", func() bool { return slices.Contains(there.rooms(), "x") && slices.Contains(here.rooms(), "x") })
	must(t, a.Leave(ctx, shard.Selector{Namespace: "/", Rooms: []string{"r"}}, []string{"x"}))
	eventually(t, "left", func() bool { return !slices.Contains(there.rooms(), "x") })

	found, err := a.Fetch(bounded(t), all("/"))
	if err != nil || len(found) != 2 {
		t.Errorf("found %v, %v", found, err)
	}
	ids, err := a.SocketIDs(bounded(t), "/", []string{"r"})
	if err != nil || len(ids) != 2 {
		t.Errorf("ids %v, %v", ids, err)
	}
	rooms, err := a.AllRooms(bounded(t), "/")
	if err != nil || len(rooms) != 3 {
		t.Errorf("rooms %v, %v", rooms, err)
	}
	answers := make(chan []fanout.Answer, 1)
	go func() {
		got, err := a.ServerSideEmitWithAck(bounded(t), "/", []byte(`["ping"]`), nil)
		if err != nil {
			t.Error(err)
		}
		answers <- got
	}()
	next(t, b.host.events).ack(fanout.Answer{JSON: []byte(`7`)})
	if got := next(t, answers); len(got) != 1 || string(got[0].JSON) != "7" {
		t.Errorf("answers %v", got)
	}
	acks := newCollector()
	must(t, a.Emit(bounded(t), ask([]string{"r"}, 1, acks)))
	here.ack(here.next(), `["here"]`)
	there.ack(there.next(), `["there"]`)
	if got := []string{next(t, acks.answers), next(t, acks.answers)}; !slices.Equal(sorted(got), []string{`["here"]`, `["there"]`}) {
		t.Errorf("acknowledgements %v", got)
	}
	must(t, a.Disconnect(ctx, shard.Selector{Namespace: "/", Rooms: []string{id}}, true))
	eventually(t, "disconnected", func() bool {
		there.mu.Lock()
		defer there.mu.Unlock()
		return slices.Equal(there.ended, []bool{true})
	})

	before := b.metrics.Value(metrics.BusRejected, "unexpected shape") + b.metrics.Value(metrics.BusRejected, "malformed")
	bad := []string{"", "{", "{}", "\xc0", `{"type":3,"data":{},"uid":"x","nsp":"/"}`, `{"type":7,"data":{},"uid":"x","nsp":"/"}`}
	for _, body := range bad {
		p.publish("socket.io#/#", body)
	}
	eventually(t, "malformed messages are counted", func() bool {
		return b.metrics.Value(metrics.BusRejected, "unexpected shape")+b.metrics.Value(metrics.BusRejected, "malformed") == before+float64(len(bad))
	})
}

package redisfan

import (
	"context"
	"strings"

	"github.com/redis/go-redis/v9"

	"parley/fanout/redis/wire"
)

// protocol is how servers talk to each other: the classic adapter's way or the sharded one's.
type protocol interface {
	// idLen is the length of uids and request ids.
	idLen() int
	// fixed returns the channels of a namespace that every server listens to, its own among them.
	fixed(namespace, uid string) []string
	// room returns the channel of a room, if it has one of its own.
	room(namespace, room string) (channel string, own bool)

	// broadcast, request and response encode a message, and say where it goes.
	broadcast(*wire.Broadcast) (channel string, body []byte, err error)
	request(namespace string, r *wire.Request) (channel string, body []byte, err error)
	response(namespace string, to *wire.Request, r *wire.Response) (channel string, body []byte, err error)
	// sort says who handles an incoming message, nil if nobody. It is called by the reader and must not wait.
	sort(in *inbox, channel, body string) (*worker, delivery)
	// slotKey returns the key whose slot of a Cluster decides which node a channel is heard on.
	slotKey(channel string) string
	// owns tells whether a namespace's broadcasts may come on a channel.
	owns(namespace, channel string) bool
	// servers counts those who hear the namespace's requests.
	servers(ctx context.Context, namespace string) (int, error)

	subscribe(ctx context.Context, conn *redis.PubSub, channels []string) error
	unsubscribe(ctx context.Context, conn *redis.PubSub, channels []string) error
	publish(ctx context.Context, pipe redis.Pipeliner, channel string, body []byte) *redis.IntCmd
}

// classic is the protocol of redis-adapter.md sections 1 to 5 and 9.
type classic struct {
	fanout *Fanout
	key    string
}

func (c classic) idLen() int                   { return 6 }
func (c classic) base(namespace string) string { return c.key + "#" + namespace + "#" }
func (c classic) requests(namespace string) string {
	return c.key + "-request#" + namespace + "#"
}
func (c classic) responses(namespace string) string {
	return c.key + "-response#" + namespace + "#"
}

func (c classic) fixed(namespace, uid string) []string {
	return []string{
		c.base(namespace), c.requests(namespace), c.responses(namespace), c.responses(namespace) + uid + "#",
	}
}

func (c classic) room(namespace, room string) (string, bool) {
	return c.base(namespace) + room + "#", true
}

func (c classic) broadcast(b *wire.Broadcast) (string, []byte, error) {
	channel := c.base(b.Namespace)
	if len(b.Rooms) == 1 {
		channel, _ = c.room(b.Namespace, b.Rooms[0])
	}
	body, err := b.Encode()
	return channel, body, err
}

func (c classic) request(namespace string, r *wire.Request) (string, []byte, error) {
	r.Direct = r.ID != ""
	body, err := r.Encode()
	return c.requests(namespace), body, err
}

// response goes to the server that asked if that is known to listen for it, or else to all; Node servers expect
// answers to their server-side events where all hear them.
func (c classic) response(namespace string, to *wire.Request, r *wire.Response) (string, []byte, error) {
	channel := c.responses(namespace)
	if to.Direct && to.Type != wire.ServerSideEmit && len(to.UID) == c.idLen() {
		channel += to.UID + "#"
	}
	body, err := r.Encode()
	return channel, body, err
}

func (c classic) sort(in *inbox, channel, body string) (*worker, delivery) {
	kind, ok := strings.CutPrefix(channel, c.key)
	if !ok {
		return nil, delivery{}
	}
	switch {
	case strings.HasPrefix(kind, "#"):
		uid, _ := wire.Sender(body)
		if !c.fanout.spaces.isOwn(uid) {
			return in.worker(uid), delivery{kind: broadcastMessage, topic: channel, body: body}
		}
	case strings.HasPrefix(kind, "-request#"):
		uid := wire.RequestSender(body)
		if !c.fanout.spaces.isOwn(uid) {
			namespace := strings.TrimSuffix(kind[len("-request#"):], "#")
			return in.worker(uid), delivery{kind: requestMessage, topic: namespace, body: body}
		}
	case strings.HasPrefix(kind, "-response#"):
		if c.fanout.pending.any() {
			return in.responses, delivery{kind: responseMessage, body: body}
		}
	}
	return nil, delivery{}
}

// slotKey has all channels on one node, where everything is published too: so the messages of a sender stay in order.
func (c classic) slotKey(string) string { return c.key }

func (c classic) owns(namespace, channel string) bool {
	return strings.HasPrefix(channel, c.base(namespace))
}

func (c classic) servers(ctx context.Context, namespace string) (int, error) {
	channel := c.requests(namespace)
	return sumOverMasters(ctx, c.fanout.options.Client, func(ctx context.Context, node redis.Cmdable) (int64, error) {
		found, err := node.PubSubNumSub(ctx, channel).Result()
		return found[channel], err
	})
}

func (c classic) subscribe(ctx context.Context, conn *redis.PubSub, channels []string) error {
	return conn.Subscribe(ctx, channels...)
}

func (c classic) unsubscribe(ctx context.Context, conn *redis.PubSub, channels []string) error {
	return conn.Unsubscribe(ctx, channels...)
}

func (c classic) publish(ctx context.Context, pipe redis.Pipeliner, channel string, body []byte) *redis.IntCmd {
	return pipe.Publish(ctx, channel, body)
}

package redisfan

import (
	"context"
	"errors"
	"strings"

	"github.com/redis/go-redis/v9"

	"parley/fanout/redis/wire"
	"parley/internal/redisslot"
)

// shardedIDLen is the length of the sharded adapter's uids and request ids.
const shardedIDLen = 16

// socketIDLen is the length of socket ids. Peers tell by it that a room is a socket's own, which has no channel.
const socketIDLen = 20

// sharded is the protocol of redis-adapter.md section 6, in the mode "dynamic".
type sharded struct {
	fanout *Fanout
	key    string
}

func (s sharded) idLen() int                   { return shardedIDLen }
func (s sharded) base(namespace string) string { return s.key + "#" + namespace + "#" }

func (s sharded) fixed(namespace, uid string) []string {
	return []string{s.base(namespace), s.base(namespace) + uid + "#"}
}

func (s sharded) room(namespace, room string) (string, bool) {
	return s.base(namespace) + room + "#", len(room) != socketIDLen
}

func (s sharded) broadcast(b *wire.Broadcast) (string, []byte, error) {
	channel := s.base(b.Namespace)
	if len(b.Rooms) == 1 {
		if room, own := s.room(b.Namespace, b.Rooms[0]); own {
			channel = room
		}
	}
	body, err := (&wire.Sharded{UID: b.UID, Namespace: b.Namespace, Broadcast: b}).Encode()
	return channel, body, err
}

func (s sharded) request(namespace string, r *wire.Request) (string, []byte, error) {
	body, err := (&wire.Sharded{UID: r.UID, Namespace: namespace, Request: r}).Encode()
	return s.base(namespace), body, err
}

func (s sharded) response(namespace string, to *wire.Request, r *wire.Response) (string, []byte, error) {
	uid := randomID(shardedIDLen) // of a namespace that was shut, but is still counted
	if own := s.fanout.spaces.get(namespace); own != nil {
		uid = own.uid
	}
	body, err := (&wire.Sharded{UID: uid, Namespace: namespace, Response: r}).Encode()
	return s.base(namespace) + to.UID + "#", body, err
}

func (s sharded) slotKey(channel string) string { return channel }

func (s sharded) owns(namespace, channel string) bool {
	return strings.HasPrefix(channel, s.base(namespace))
}

func (s sharded) sort(in *inbox, channel, body string) (*worker, delivery) {
	uid := wire.ShardedSender(body)
	if s.fanout.spaces.isOwn(uid) {
		return nil, delivery{}
	}
	return in.worker(uid), delivery{kind: shardedMessage, topic: channel, body: body}
}

// handleSharded does what a message of the sharded adapter asks, as handle says.
func (f *Fanout) handleSharded(channel, body string, wait bool) (done bool) {
	m, err := f.decoder.Sharded(body)
	if err != nil {
		f.reject(reasonOf(err))
		return true
	}
	if f.spaces.isOwn(m.UID) {
		return true
	}
	if !wait && m.Broadcast == nil {
		return false
	}
	switch {
	case m.Response != nil:
		f.pending.take(m.Response)
	case m.Broadcast != nil && f.spaces.get(m.Namespace) == nil:
		f.reject("unknown namespace")
	case !f.protocol.owns(m.Namespace, channel):
		f.reject("wrong channel")
	case m.Broadcast != nil:
		return f.deliver(m.Broadcast, wait)
	default:
		f.answer(m.Namespace, m.Request)
	}
	return true
}

func (s sharded) servers(ctx context.Context, namespace string) (int, error) {
	channel := s.base(namespace)
	return sumOverMasters(ctx, s.fanout.options.Client, func(ctx context.Context, node redis.Cmdable) (int64, error) {
		found, err := node.PubSubShardNumSub(ctx, channel).Result()
		return found[channel], err
	})
}

// subscribe asks for the notify bus as any process does, for all else by sharded channels.
func (s sharded) subscribe(ctx context.Context, conn *redis.PubSub, channels []string) error {
	plain, own := split(channels)
	err := s.bySlot(own, func(own []string) error { return conn.SSubscribe(ctx, own...) })
	if len(plain) > 0 {
		err = errors.Join(err, conn.Subscribe(ctx, plain...))
	}
	return err
}

func (s sharded) unsubscribe(ctx context.Context, conn *redis.PubSub, channels []string) error {
	plain, own := split(channels)
	err := s.bySlot(own, func(own []string) error { return conn.SUnsubscribe(ctx, own...) })
	if len(plain) > 0 {
		err = errors.Join(err, conn.Unsubscribe(ctx, plain...))
	}
	return err
}

// bySlot calls do with all channels, or with as many at a time as a Cluster takes in one command: those next to each other
// that are in the same slot.
func (s sharded) bySlot(channels []string, do func([]string) error) error {
	_, cluster := s.fanout.options.Client.(*redis.ClusterClient)
	for len(channels) > 0 {
		n := len(channels)
		if cluster {
			n = 1
			for slot := redisslot.Of(channels[0]); n < len(channels) && redisslot.Of(channels[n]) == slot; n++ {
			}
		}
		if err := do(channels[:n]); err != nil {
			return err
		}
		channels = channels[n:]
	}
	return nil
}

// split tells plain channels from sharded ones.
func split(channels []string) (plain, own []string) {
	for _, channel := range channels {
		if channel == notifyChannel {
			plain = append(plain, channel)
		} else {
			own = append(own, channel)
		}
	}
	return plain, own
}

func (s sharded) publish(ctx context.Context, pipe redis.Pipeliner, channel string, body []byte) *redis.IntCmd {
	if channel == notifyChannel {
		return pipe.Publish(ctx, channel, body)
	}
	return pipe.SPublish(ctx, channel, body)
}

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/rs/zerolog"

	"parley/config"
	"parley/fanout"
	redisfan "parley/fanout/redis"
	"parley/handlers"
	"parley/internal/quietconn"
	"parley/metrics"
	"parley/relay"
	"parley/shard"
	redisstore "parley/store/redis"
)

// cluster is what connects this process with others: the store that they share, and the fan-out between them.
type cluster struct {
	cfg     *config.Config
	log     zerolog.Logger
	metrics *metrics.Metrics
	clients []redis.UniversalClient // of the store and of the fan-out
	store   *redisstore.Store
	fanout  *redisfan.Fanout
	relay   *relay.Relay
	settle  atomic.Pointer[func(user string, online bool)] // announces a user's presence; set once there is a chat
}

// joinCluster connects to Redis, and waits for it up to REDIS_WAIT.
func joinCluster(ctx context.Context, cfg *config.Config, log zerolog.Logger, counters *metrics.Metrics) (*cluster, error) {
	redis.SetLogger(redisLogger{log})
	options, err := redisstore.Parse(cfg.RedisURL)
	if err != nil {
		return nil, fmt.Errorf("REDIS_URL can't be used: %w", err)
	}
	c := &cluster{cfg: cfg, log: log, metrics: counters}
	c.clients = []redis.UniversalClient{newClient(quietconn.Options(*options)), newClient(redisfan.ClientOptions(*options))}
	settle := func(user string, online bool) {
		if f := c.settle.Load(); f != nil {
			(*f)(user, online)
		}
	}
	c.store, err = redisstore.Open(ctx, c.clients[0], redisstore.Options{
		Options: storeOptions(cfg), Wait: cfg.RedisWait, Logger: log,
		Departed: func(user string) { settle(user, false) }, Returned: func(user string) { settle(user, true) },
	})
	if err != nil {
		return nil, errors.Join(err, c.closeClients())
	}
	c.relay, err = relay.Join(ctx, relay.Options{
		Client: c.clients[0], Wait: cfg.RedisWait, ResponseTimeout: cfg.PingInterval + cfg.PingTimeout, MaxPayload: cfg.MaxPayload,
		Log: log, Metrics: counters,
	})
	if err != nil {
		return nil, errors.Join(err, c.store.Close(), c.closeClients())
	}
	return c, nil
}

// topologyAge is how old a client's knowledge of a Cluster may be. A node that died does not say where its slots went.
const topologyAge = time.Second

// newClient returns a client of a single server, of one behind Sentinel, or of a Cluster.
func newClient(o *redis.UniversalOptions) redis.UniversalClient {
	if !o.IsClusterMode {
		return redis.NewUniversalClient(o)
	}
	cluster := o.Cluster()
	cluster.ClusterStateReloadInterval = topologyAge
	return redis.NewClusterClient(cluster)
}

// advertise tells the other processes where this one listens.
func (c *cluster) advertise(ctx context.Context, listening net.Addr) (err error) {
	url := c.cfg.AdvertiseURL
	if url == "" {
		if url, err = relay.URL(listening); err != nil {
			return fmt.Errorf("find out by which address other processes reach this one: %w: set ADVERTISE_URL", err)
		}
	}
	c.log.Info().Str("url", url).Msg("other processes reach this one here; ADVERTISE_URL changes that")
	return c.relay.Advertise(ctx, url)
}

// newFanout makes the fan-out; it has the signature of socketio.Options.Fanout.
func (c *cluster) newFanout(pool *shard.Pool, local *fanout.Local, host fanout.Host) (fanout.Fanout, error) {
	f, err := redisfan.New(pool, local, host, redisfan.Options{
		Client: c.clients[1], Sharded: c.cfg.Fanout == config.FanoutSharded, MaxAttachments: c.cfg.MaxAttachments,
		Log: c.log, Metrics: c.metrics,
	})
	if err != nil {
		return nil, err
	}
	pool.WatchRooms(f.RoomChanged)
	c.fanout = f
	return f, nil
}

// serve ties the applications to the other processes: presence that changes elsewhere, and the notify bus.
func (c *cluster) serve(chat *handlers.Chat, notify *handlers.Notify) {
	settle := chat.SettlePresence
	c.settle.Store(&settle)
	c.fanout.OnNotification(func(_ context.Context, n redisfan.Notification) {
		if n.Parley {
			return
		}
		if err := notify.FromBus(n.ID, n.Event, n.Args); err != nil {
			c.log.Warn().Err(err).Msg("a notification of another process was not delivered")
		}
	})
	if c.cfg.NotifyBus == config.NotifyBusClassic {
		notify.PublishTo(func(ctx context.Context, id, event string, args json.RawMessage) error {
			return c.fanout.Notify(ctx, redisfan.Notification{ID: id, Event: event, Args: args, Parley: true})
		})
	}
}

// degraded says what does not work as it should, or "".
func (c *cluster) degraded() string {
	if err := c.store.Health(); err != nil {
		return "degraded: the store does not answer, messages are refused until it does"
	}
	if !c.fanout.Connected() {
		return "degraded: other processes are out of reach, messages from there come late"
	}
	return ""
}

// Close closes the relay, the store, and then the connections below them and the fan-out, which is closed already.
func (c *cluster) Close() error {
	c.stopRelay()
	return errors.Join(c.store.Close(), c.closeClients())
}

// stopRelay ends what is forwarded from here. It may be called more than once.
func (c *cluster) stopRelay() {
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	c.relay.Close(ctx)
}

func (c *cluster) closeClients() error {
	var errs error
	for _, client := range c.clients {
		errs = errors.Join(errs, client.Close())
	}
	return errs
}

// redisLogger takes what the Redis client has to say. Who uses the client is told of failures too.
type redisLogger struct{ log zerolog.Logger }

// Printf implements the client's logger.
func (l redisLogger) Printf(_ context.Context, format string, v ...any) {
	l.log.Debug().Msgf("redis: "+format, v...)
}

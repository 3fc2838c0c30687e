// Package redisfan is the fan-out between processes over Redis pub/sub. It speaks the protocol of the Node
// Socket.IO adapter (redis-adapter.md), so that Parley's processes, Node servers and emitters reach each other's
// sockets.
//
// Three kinds of goroutine stand between Redis and the shards, with bounded queues between them:
//   - The publisher sends everything that waits in one pipeline.
//   - The reader of the subscriber connection (with a Cluster there is one to each master) sorts messages into queues. So that
//     Redis never drops it for being slow, it handles nothing itself but small mail for which nobody has to be waited.
//   - Workers decode; the messages of one sender have one worker, so that they stay in order.
//
// What does not fit into a queue is dropped and counted: pub/sub promises nothing, and what must not be lost is in a mailbox
// of the store.
package redisfan

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/rs/zerolog"
	"golang.org/x/time/rate"

	"parley/engineio"
	"parley/fanout"
	"parley/fanout/redis/wire"
	"parley/internal/quietconn"
	"parley/metrics"
	"parley/shard"
	"parley/socketio/packet"
	"parley/store"
)

// ErrPartial means that not all servers answered in time: the result holds what the others said.
var ErrPartial = errors.New("not all servers answered in time")

// ErrUnavailable means that Redis did not take a message in time.
var ErrUnavailable = errors.New("redis is not available, try again later")

// Options configures a Fanout. Zero values mean the defaults.
type Options struct {
	// Client reaches Redis. It should be made with ClientOptions, and stays the caller's to close, after Close.
	Client redis.UniversalClient
	// Key is the prefix of all channels. Default "socket.io".
	Key string
	// Sharded speaks the sharded adapter's protocol instead of the classic one. It needs Redis 7; all servers
	// must speak the same.
	Sharded bool
	// Grace is how long the channel of a room is still listened to after its last member left. Default 3 s.
	Grace time.Duration
	// RequestTimeout bounds the wait for other servers' answers. Default 5 s.
	RequestTimeout time.Duration
	// MaxAttachments bounds the attachments of an event from others. Default wire.DefaultMaxAttachments.
	MaxAttachments int
	// MaxMessage bounds the bytes of a message in either direction. Default 16 MiB.
	MaxMessage int
	// Workers decode messages. Default one for each core Go may use.
	Workers int

	Log     zerolog.Logger
	Metrics *metrics.Metrics

	queue    int                    // messages that one queue holds; tests make it small
	ping     time.Duration          // how often a subscriber connection is tried; tests make it short
	protocol func(*Fanout) protocol // tests put sharded messages on plain channels
}

func (o Options) withDefaults() Options {
	if o.Key == "" {
		o.Key = "socket.io"
	}
	if o.Grace == 0 {
		o.Grace = 3 * time.Second
	}
	if o.RequestTimeout == 0 {
		o.RequestTimeout = 5 * time.Second
	}
	if o.MaxMessage == 0 {
		o.MaxMessage = 16 << 20
	}
	if o.ping == 0 {
		o.ping = pingEvery
	}
	if o.queue == 0 {
		o.queue = queueLen
	}
	if o.Workers == 0 {
		o.Workers = runtime.GOMAXPROCS(0)
	}
	return o
}

// ClientOptions returns o changed to what a Fanout's client should have: publishes are not retried, because a
// peer would get twice what Redis took the first time, an absent Redis is noticed at once, and calls to the kernel cost little.
func ClientOptions(o redis.UniversalOptions) *redis.UniversalOptions {
	o.MaxRetries, o.DialerRetries = -1, 1
	o.ContextTimeoutEnabled = true
	o.Protocol = 2 // with 3 the client looks for notifications of its own before each message
	return quietconn.Options(o)
}

// Fanout reaches the sockets of all processes. It implements fanout.Fanout.
type Fanout struct {
	options  Options
	pool     *shard.Pool
	local    *fanout.Local
	host     fanout.Host
	protocol protocol
	decoder  wire.Decoder
	log      zerolog.Logger
	metrics  *metrics.Metrics
	warning  rate.Sometimes // how often losses are logged

	ended   context.Context // has ended: for calls that are not to wait
	ctx     context.Context // ends when Close is called
	cancel  context.CancelFunc
	running sync.WaitGroup
	closing sync.Once

	spaces     spaces
	links      links
	publisher  *publisher
	echoes     atomic.Int64 // numbers them: what one connection asked for may arrive on the next
	inbox      *inbox
	pending    pending
	errandMu   sync.Mutex       // held while an errand starts, and while Close begins
	errands    chan struct{}    // bounds the goroutines that answer requests
	answering  atomic.Int64     // broadcasts of others whose acknowledgements are collected
	serverSide chan serverEvent // waits for the host
	replies    chan func()      // encodes and publishes what shards have to say
	lost       chan struct{}    // something was missed
	// unpublished gets an element when others may have missed something.
	unpublished chan struct{}
	bus         atomic.Pointer[func(context.Context, Notification)]
}

// New returns a running fan-out over the shards of pool, of which local is the Local. It does not wait for Redis.
// Close ends it.
func New(pool *shard.Pool, local *fanout.Local, host fanout.Host, o Options) (*Fanout, error) {
	if o.Client == nil {
		return nil, errors.New("redis fan-out needs a client")
	}
	o = o.withDefaults()
	f := &Fanout{
		options: o, pool: pool, local: local, host: host,
		decoder: wire.Decoder{MaxAttachments: o.MaxAttachments},
		log:     o.Log, metrics: o.Metrics,
		warning:    rate.Sometimes{Interval: 10 * time.Second},
		errands:    make(chan struct{}, maxErrands),
		serverSide: make(chan serverEvent, serverSideQueue),
		replies:    make(chan func(), replyQueue),
		lost:       make(chan struct{}, 1),

		unpublished: make(chan struct{}, 1),
	}
	switch {
	case o.protocol != nil:
		f.protocol = o.protocol(f)
	case o.Sharded:
		f.protocol = sharded{f, o.Key}
	default:
		f.protocol = classic{f, o.Key}
	}
	f.ended = endedContext()
	f.ctx, f.cancel = context.WithCancel(context.Background())
	f.publisher = newPublisher(f)
	f.inbox = newInbox(f)
	f.links = newLinks(f)
	o.Metrics.Gauge("bus_channels", "Redis channels that this process listens to.", func() float64 { return float64(f.links.len()) })
	o.Metrics.Gauge("bus_connected", "1 while Redis reaches this process and takes what it publishes.", func() float64 {
		if f.Connected() {
			return 1
		}
		return 0
	})
	f.running.Go(f.publisher.run)
	f.running.Go(f.runServerSide)
	f.running.Go(f.runReplies)
	f.running.Go(f.runLost)
	f.inbox.start()
	f.links.start()
	return f, nil
}

// Close publishes what waits, within a second, and ends the fan-out. Afterwards events reach this process only.
func (f *Fanout) Close() error {
	f.closing.Do(func() {
		f.publisher.drain(time.Second)
		f.errandMu.Lock()
		f.cancel()
		f.errandMu.Unlock()
		f.links.close()
		f.running.Wait()
	})
	return nil
}

// Connected tells whether everything is subscribed to that has to be, and Redis takes what is published.
func (f *Fanout) Connected() bool { return f.links.connected() && !f.publisher.away.Load() }

// Open implements fanout.Fanout: from now on the namespace's events and requests of other servers are heard.
func (f *Fanout) Open(namespace string) { f.space(namespace) }

// Shut implements fanout.Fanout.
func (f *Fanout) Shut(namespace string) {
	s := f.spaces.remove(namespace)
	if s == nil {
		return
	}
	for _, channel := range s.channels {
		f.links.drop(channel)
	}
}

// RoomChanged says that a room of this process has got its first member, or lost its last. It never blocks, so it
// may be called under a lock, which keeps the calls for one room in order.
func (f *Fanout) RoomChanged(namespace, room string, present bool) {
	channel, own := f.protocol.room(namespace, room)
	if !own {
		return
	}
	if present {
		f.space(namespace) // if nobody has opened it yet
		f.links.add(channel, false)
	} else {
		f.links.drop(channel)
	}
}

// Wait returns when what others emit to the namespace and to those rooms reaches this process: when Redis has
// confirmed the subscriptions. The rooms must have members here.
func (f *Fanout) Wait(ctx context.Context, namespace string, rooms ...string) error {
	channels := f.space(namespace).channels
	for _, room := range rooms {
		if channel, own := f.protocol.room(namespace, room); own {
			channels = append(channels[:len(channels):len(channels)], channel)
		}
	}
	for _, channel := range channels {
		if err := f.links.wait(ctx, channel); err != nil {
			return fmt.Errorf("waiting for a subscription: %w", err)
		}
	}
	return nil
}

// Emit implements fanout.Fanout. Other processes get the event at most once; if Redis does not take it in time, it
// is dropped for them and counted.
func (f *Fanout) Emit(ctx context.Context, e *shard.Envelope) error {
	if e.Local {
		return f.local.Emit(ctx, e)
	}
	if e.Acks != nil {
		return f.emitWithAcks(ctx, e)
	}
	s := f.space(e.Namespace)
	b := &wire.Broadcast{UID: s.uid, Event: eventOf(e.Namespace, e.Text, e.Attachments), Opts: optsOf(e.Selector, e.Flags)}
	channel, body, err := f.protocol.broadcast(b)
	if err != nil {
		f.refused(err)
	} else {
		f.publish(ctx, channel, body)
	}
	return f.local.Emit(ctx, e)
}

// Deliver implements fanout.Fanout. Servers of other kinds get the entry as an event for the user's room.
// All are encoded before the first is published, so that they go out in one pipeline and others are woken once.
func (f *Fanout) Deliver(ctx context.Context, mails ...shard.Mail) error {
	var room [2]publication // a message has two mailboxes
	ready := room[:0]
	for i := range mails {
		if mails[i].Text == nil {
			continue
		}
		if channel, body, err := f.protocol.broadcast(f.broadcastOf(&mails[i])); err != nil {
			f.refused(err)
		} else {
			ready = append(ready, publication{channel: channel, body: body})
		}
	}
	for _, p := range ready {
		f.publish(ctx, p.channel, p.body)
	}
	return f.local.Deliver(ctx, mails...)
}

// mailBroadcast is a broadcast of mail with all that it refers to.
type mailBroadcast struct {
	wire.Broadcast
	mail         wire.Mail
	room, except [1]string
}

// broadcastOf is mail as other processes are told of it.
func (f *Fanout) broadcastOf(m *shard.Mail) *wire.Broadcast {
	b := &mailBroadcast{
		mail: wire.Mail{App: m.Box.App, User: m.Box.User, Epoch: m.Offset.Epoch, Seq: m.Offset.Seq, Origin: m.Origin},
		room: [1]string{m.Box.User}, except: [1]string{m.Origin},
	}
	b.UID, b.Event = f.space(m.Namespace).uid, eventOf(m.Namespace, m.Text, m.Attachments)
	b.Rooms, b.Mail = b.room[:], &b.mail
	if m.Origin != "" {
		b.Except = b.except[:]
	}
	return &b.Broadcast
}

// Join implements fanout.Fanout. It returns when the sockets of this process have joined.
func (f *Fanout) Join(ctx context.Context, sel shard.Selector, rooms []string) error {
	f.tell(ctx, sel, &wire.Request{Type: wire.RemoteJoin, Rooms: rooms})
	return f.local.Join(ctx, sel, rooms)
}

// Leave implements fanout.Fanout. It returns when the sockets of this process have left.
func (f *Fanout) Leave(ctx context.Context, sel shard.Selector, rooms []string) error {
	f.tell(ctx, sel, &wire.Request{Type: wire.RemoteLeave, Rooms: rooms})
	return f.local.Leave(ctx, sel, rooms)
}

// Disconnect implements fanout.Fanout.
func (f *Fanout) Disconnect(ctx context.Context, sel shard.Selector, closing bool) error {
	f.tell(ctx, sel, &wire.Request{Type: wire.RemoteDisconnect, Closing: closing})
	return f.local.Disconnect(ctx, sel, closing)
}

// tell publishes a request that nobody answers.
func (f *Fanout) tell(ctx context.Context, sel shard.Selector, r *wire.Request) {
	opts := optsOf(sel, 0)
	r.UID, r.Opts = f.space(sel.Namespace).uid, &opts
	channel, body, err := f.protocol.request(sel.Namespace, r)
	if err != nil {
		f.refused(err)
		return
	}
	f.publish(ctx, channel, body)
}

// publish hands a message to the publisher, or counts it as dropped.
func (f *Fanout) publish(ctx context.Context, channel string, body []byte) bool {
	err := f.publisher.publish(ctx, publication{channel: channel, body: body})
	return err == nil
}

// refused counts an event that others must not be sent.
func (f *Fanout) refused(err error) {
	f.metrics.Count(metrics.BusRefused, reasonOf(err))
	f.warning.Do(func() {
		f.log.Warn().Err(err).Msg("an event was kept from other processes: their clients would fail on it")
	})
}

// reject counts a message of another server.
func (f *Fanout) reject(reason string) { f.metrics.Count(metrics.BusRejected, reason) }

// drop counts a message that did not fit into a queue, and has mail read again.
func (f *Fanout) drop(reason string) {
	f.metrics.Count(metrics.BusDropped, reason)
	f.warning.Do(func() { f.log.Warn().Str("reason", reason).Msg("messages between processes are being dropped") })
	f.missed()
}

// missed has the host told that something may have been missed.
func (f *Fanout) missed() { f.signal(f.lost) }

// signal puts an element on a channel that has room for one, which stands for all.
func (f *Fanout) signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// runLost tells the host, once for losses that are close together.
func (f *Fanout) runLost() {
	for {
		select {
		case <-f.lost:
			f.contain("resubscribed", f.host.Resubscribed)
		case <-f.unpublished:
			f.contain("unpublished", f.host.Unpublished)
		case <-f.ctx.Done():
			return
		}
		select {
		case <-time.After(time.Second):
		case <-f.ctx.Done():
			return
		}
	}
}

func reasonOf(err error) string {
	if e, ok := errors.AsType[*wire.Error](err); ok {
		return e.Reason
	}
	return "malformed"
}

// optsOf says on the wire whom an event is for.
func optsOf(sel shard.Selector, flags engineio.Flags) wire.Opts {
	return wire.Opts{
		Rooms: sel.Rooms, Except: sel.Except,
		Volatile: flags&engineio.Volatile != 0, NoCompress: flags&engineio.NoCompress != 0,
	}
}

// selectorOf is optsOf read backwards.
func selectorOf(namespace string, o *wire.Opts) (shard.Selector, engineio.Flags) {
	var flags engineio.Flags
	if o.Volatile {
		flags |= engineio.Volatile
	}
	if o.NoCompress {
		flags |= engineio.NoCompress
	}
	return shard.Selector{Namespace: namespace, Rooms: o.Rooms, Except: o.Except}, flags
}

// eventOf takes the event out of its packet. An acknowledgement id stays behind: other servers choose their own.
func eventOf(namespace string, text []byte, attachments [][]byte) wire.Event {
	return wire.Event{Namespace: namespace, Data: payload(text), Attachments: attachments}
}

// payload returns what follows the head of a packet that packet.Append wrote from an event: the array.
func payload(text []byte) []byte {
	i := 1 // over the type
	if len(text) > 0 && text[0] == '0'+byte(packet.BinaryEvent) {
		for i < len(text) && text[i] != '-' {
			i++
		}
		i++
	}
	if i < len(text) && text[i] == '/' {
		for i < len(text) && text[i] != ',' {
			i++
		}
		i++
	}
	for i < len(text) && '0' <= text[i] && text[i] <= '9' {
		i++
	}
	return text[min(i, len(text)):]
}

// packetOf is eventOf read backwards.
func packetOf(e *wire.Event) []byte {
	return packet.Append(nil, &packet.Packet{Type: packet.Event, Namespace: e.Namespace, Data: e.Data, Attachments: e.Attachments})
}

// mailOf returns the mail that a message is.
func mailOf(b *wire.Broadcast) shard.Mail {
	m := shard.Mail{
		Box:    store.Box{App: b.Mail.App, User: b.Mail.User},
		Offset: store.Offset{Epoch: b.Mail.Epoch, Seq: b.Mail.Seq},
		Origin: b.Mail.Origin,
	}
	offset := m.Offset.String()
	const head = engineio.Headroom + 2*16 // the packet's type and numbers, and what goes around the offset
	text := make([]byte, engineio.Headroom, head+len(b.Namespace)+len(b.Data)+len(offset))
	text = packet.Append(text, &packet.Packet{Type: packet.Event, Namespace: b.Namespace, Data: b.Data, Attachments: b.Attachments})
	text = packet.AppendArg(text[:engineio.Headroom], text[engineio.Headroom:], offset) // copied to where it is
	m.Message = engineio.NewMessageInPlace(text, b.Attachments...)
	return m
}

package redisfan

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"runtime/debug"
	"sync/atomic"
	"time"

	"parley/fanout/redis/wire"
	"parley/metrics"
	"parley/shard"
)

const (
	// queueLen bounds the messages that wait in one queue: for the publisher, or for a worker. It is long enough
	// for bursts, which cost a message when they don't fit.
	queueLen = 32 << 10
	// inboxBytes bounds what waits for all workers together.
	inboxBytes = 128 << 20
	// shardWait bounds the wait for a shard's inbox. Others' messages wait behind it.
	shardWait = time.Second
)

// delivery is a message that waits for its worker.
type delivery struct {
	kind  messageKind
	topic string // the channel of a broadcast or a sharded message, the namespace of a request
	body  string
}

type messageKind uint8

const (
	broadcastMessage messageKind = iota
	requestMessage
	responseMessage
	shardedMessage
	busMessage
)

// inbox holds what has arrived and was not looked into yet. The messages of one sender are in one queue.
type inbox struct {
	fanout    *Fanout
	seed      maphash.Seed
	workers   []chan delivery
	responses chan delivery
	bus       chan delivery
	bytes     atomic.Int64 // of what is in the queues
}

func newInbox(f *Fanout) *inbox {
	in := &inbox{
		fanout: f, seed: maphash.MakeSeed(),
		responses: make(chan delivery, f.options.queue), bus: make(chan delivery, f.options.queue),
	}
	for range f.options.Workers {
		in.workers = append(in.workers, make(chan delivery, f.options.queue))
	}
	return in
}

func (in *inbox) start() {
	for _, queue := range append(in.workers[:len(in.workers):len(in.workers)], in.responses, in.bus) {
		in.fanout.running.Go(func() { in.work(queue) })
	}
}

// worker returns the queue for the messages of a sender.
func (in *inbox) worker(uid string) chan delivery {
	return in.workers[maphash.String(in.seed, uid)%uint64(len(in.workers))]
}

// sort puts a message into the queue where it belongs. The reader calls it: it never waits.
func (in *inbox) sort(channel, body string) {
	if len(body) > in.fanout.options.MaxMessage {
		in.fanout.reject("too large")
		return
	}
	if channel == notifyChannel {
		in.put(in.bus, delivery{kind: busMessage, body: body})
		return
	}
	in.fanout.protocol.sort(in, channel, body)
}

func (in *inbox) put(queue chan<- delivery, d delivery) {
	if in.bytes.Load() <= inboxBytes {
		in.bytes.Add(int64(len(d.body)))
		select {
		case queue <- d:
			return
		default:
			in.bytes.Add(-int64(len(d.body)))
		}
	}
	in.fanout.drop("queue is full")
}

func (in *inbox) work(queue <-chan delivery) {
	f := in.fanout
	for {
		select {
		case d := <-queue:
			in.bytes.Add(-int64(len(d.body)))
			f.contain("message", func() { f.handle(d) })
		case <-f.ctx.Done():
			return
		}
	}
}

// contain runs what a message asks for, and keeps a panic from everything else.
func (f *Fanout) contain(what string, do func()) {
	defer func() {
		if v := recover(); v != nil {
			f.metrics.Count(metrics.BusPanics, what)
			f.log.Error().Str("panic", fmt.Sprint(v)).Bytes("stack", debug.Stack()).
				Msg("handling a message from redis panicked: it is lost; please report this fault")
		}
	}()
	do()
}

func (f *Fanout) handle(d delivery) {
	body := []byte(d.body)
	switch d.kind {
	case broadcastMessage:
		b, err := f.decoder.Broadcast(body)
		if err != nil {
			f.reject(reasonOf(err))
			return
		}
		switch {
		case f.spaces.get(b.Namespace) == nil:
			f.reject("unknown namespace")
		case !f.protocol.owns(b.Namespace, d.topic):
			f.reject("wrong channel")
		default:
			f.deliver(b)
		}
	case requestMessage:
		r, err := f.decoder.Request(body)
		if err != nil {
			f.reject("request: " + reasonOf(err))
			return
		}
		f.answer(d.topic, r)
	case responseMessage:
		r, err := f.decoder.Response(body)
		if err != nil {
			f.reject("response: " + reasonOf(err))
			return
		}
		f.pending.take(r)
	case shardedMessage:
		f.handleSharded(d.topic, body)
	case busMessage:
		f.handleNotification(body)
	}
}

// deliver gives an event of another server to this process' sockets.
func (f *Fanout) deliver(b *wire.Broadcast) {
	if b.Nobody || f.spaces.isOwn(b.UID) {
		return
	}
	ctx, cancel := context.WithTimeout(f.ctx, shardWait)
	defer cancel()
	var err error
	if b.Mail != nil {
		err = f.local.Deliver(ctx, mailOf(b))
	} else {
		sel, flags := selectorOf(b.Namespace, &b.Opts)
		err = f.host.Emitted(sel, b.Data, func() error {
			text := packetOf(&b.Event)
			return f.local.Emit(ctx, &shard.Envelope{
				Selector: sel, Text: text, Attachments: b.Attachments, Flags: flags,
				Offset: f.host.OffsetMode(b.Namespace, text, flags),
			})
		})
	}
	if err != nil && !errors.Is(err, shard.ErrStopped) {
		f.drop("shard is busy")
	}
}

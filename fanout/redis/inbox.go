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
	"parley/internal/deadline"
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
	// atOnceBytes bounds the mail that the reader handles by itself, and atOnceRow how much of it there is in a row without
	// the reader having waited for more: one that is behind hands on.
	atOnceBytes = 4 << 10
	atOnceRow   = 32
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
	workers   []*worker
	responses *worker
	bus       *worker
	bytes     atomic.Int64 // of what is in the queues
}

// worker handles the messages of its queue, one after the other.
type worker struct {
	queue chan delivery
	left  atomic.Int64 // messages that were given to it and that it is not done with
}

func newInbox(f *Fanout) *inbox {
	newWorker := func() *worker { return &worker{queue: make(chan delivery, f.options.queue)} }
	in := &inbox{fanout: f, seed: maphash.MakeSeed(), responses: newWorker(), bus: newWorker()}
	for range f.options.Workers {
		in.workers = append(in.workers, newWorker())
	}
	return in
}

func (in *inbox) start() {
	for _, w := range append(in.workers[:len(in.workers):len(in.workers)], in.responses, in.bus) {
		in.fanout.running.Go(func() { in.work(w) })
	}
}

// worker returns who handles the messages of a sender.
func (in *inbox) worker(uid string) *worker {
	return in.workers[maphash.String(in.seed, uid)%uint64(len(in.workers))]
}

// sort puts a message into the queue where it belongs, or with atOnce may handle it. The reader calls it: it never waits.
func (in *inbox) sort(channel, body string, atOnce bool) (handled bool) {
	if len(body) > in.fanout.options.MaxMessage {
		in.fanout.reject("too large")
		return false
	}
	if channel == notifyChannel {
		in.put(in.bus, delivery{kind: busMessage, body: body})
		return false
	}
	w, d := in.fanout.protocol.sort(in, channel, body)
	if w == nil {
		return false
	}
	if atOnce && in.handle(w, d) {
		return true
	}
	in.put(w, d)
	return false
}

// handle has the reader do what a worker would, and reports whether it did: for small mail, of which most others are told,
// when the worker has nothing to do, and as long as nobody has to be waited for. So a worker need not be woken, which costs
// more than most messages.
func (in *inbox) handle(w *worker, d delivery) (done bool) {
	if w.left.Load() > 0 || len(d.body) > atOnceBytes || d.kind != broadcastMessage && d.kind != shardedMessage || !wire.IsMail(d.body) {
		return false
	}
	done = true
	in.fanout.contain("message", func() { done = in.fanout.handle(d, false) })
	return done
}

func (in *inbox) put(w *worker, d delivery) {
	if in.bytes.Load() <= inboxBytes {
		in.bytes.Add(int64(len(d.body)))
		w.left.Add(1)
		select {
		case w.queue <- d:
			return
		default:
			w.left.Add(-1)
			in.bytes.Add(-int64(len(d.body)))
		}
	}
	in.fanout.drop("queue is full")
}

func (in *inbox) work(w *worker) {
	f := in.fanout
	for {
		select {
		case d := <-w.queue:
			in.bytes.Add(-int64(len(d.body)))
			f.contain("message", func() { f.handle(d, true) })
			w.left.Add(-1)
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

// handle does what a message asks, and reports that it did. Without wait it does not if somebody is to be waited for, or if
// it is anything but mail.
func (f *Fanout) handle(d delivery, wait bool) (done bool) {
	switch d.kind {
	case broadcastMessage:
		b, err := f.decoder.Broadcast(d.body)
		if err != nil {
			f.reject(reasonOf(err))
			return true
		}
		switch {
		case f.spaces.get(b.Namespace) == nil:
			f.reject("unknown namespace")
		case !f.protocol.owns(b.Namespace, d.topic):
			f.reject("wrong channel")
		default:
			return f.deliver(b, wait)
		}
	case requestMessage:
		r, err := f.decoder.Request(d.body)
		if err != nil {
			f.reject("request: " + reasonOf(err))
			return true
		}
		f.answer(d.topic, r)
	case responseMessage:
		r, err := f.decoder.Response(d.body)
		if err != nil {
			f.reject("response: " + reasonOf(err))
			return true
		}
		f.pending.take(r)
	case shardedMessage:
		return f.handleSharded(d.topic, d.body, wait)
	case busMessage:
		f.handleNotification([]byte(d.body))
	}
	return true
}

// deliver gives an event of another server to this process' sockets, as handle says.
func (f *Fanout) deliver(b *wire.Broadcast, wait bool) (done bool) {
	if b.Nobody || f.spaces.isOwn(b.UID) {
		return true
	}
	var err error
	if b.Mail != nil {
		mail := mailOf(b)
		mail.Unread = f.host.Unready(b.Namespace, mail.Box, b.Data)
		if err = f.pool.Offer(f.ended, mail); err != nil && !errors.Is(err, shard.ErrStopped) { // its inbox is full
			if !wait {
				return false
			}
			err = f.deliverMail(mail)
		}
	} else if wait {
		err = f.emit(b)
	} else {
		return false
	}
	if err != nil && !errors.Is(err, shard.ErrStopped) {
		f.drop("shard is busy")
	}
	return true
}

// deliverMail waits until a shard takes mail.
func (f *Fanout) deliverMail(m shard.Mail) error {
	ctx, cancel := context.WithTimeout(f.ctx, shardWait)
	defer cancel()
	return f.pool.Deliver(ctx, m)
}

// emit gives an event to all sockets here that it is for.
func (f *Fanout) emit(b *wire.Broadcast) error {
	ctx, cancel := deadline.Context(f.ctx, shardWait)
	defer cancel()
	sel, flags := selectorOf(b.Namespace, &b.Opts)
	return f.host.Emitted(sel, b.Data, func() error {
		text := packetOf(&b.Event)
		return f.local.Emit(ctx, &shard.Envelope{
			Selector: sel, Text: text, Attachments: b.Attachments, Flags: flags,
			Offset: f.host.OffsetMode(b.Namespace, text, flags),
		})
	})
}

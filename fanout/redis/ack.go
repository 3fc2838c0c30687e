package redisfan

import (
	"context"
	"encoding/json"
	"sync"
	"time"

	"parley/fanout/redis/wire"
	"parley/metrics"
	"parley/registry"
	"parley/shard"
	"parley/socketio/packet"
)

const (
	// maxAnswering bounds the broadcasts of other servers whose acknowledgements are being collected here.
	maxAnswering = 1024
	// answerTimeout is how long clients may take to acknowledge, if the other server does not say, and
	// answerTimeoutMax if it does.
	answerTimeout    = time.Minute
	answerTimeoutMax = 10 * time.Minute
)

// emitWithAcks is Emit for an event that all sockets of all servers are to acknowledge. ctx ends when nobody waits
// for answers any more.
func (f *Fanout) emitWithAcks(ctx context.Context, e *shard.Envelope) error {
	local := *e // the caller's envelope stays as it is
	a := &remoteAnswers{AckCollector: e.Acks}
	local.Acks = a

	asking, cancel := context.WithTimeout(ctx, f.options.RequestTimeout)
	defer cancel()
	n, err := f.others(asking, e.Namespace)
	if err != nil {
		f.metrics.Count(metrics.BusDropped, "not published")
	}
	if n == 0 {
		return f.local.Emit(ctx, &local)
	}
	opts := optsOf(e.Selector, e.Flags)
	if deadline, ok := ctx.Deadline(); ok {
		opts.Timeout = max(time.Until(deadline).Milliseconds(), 1)
	}
	r := &wire.Request{
		UID: f.space(e.Namespace).uid, ID: randomID(f.protocol.idLen()), Type: wire.BroadcastAck, Opts: &opts,
		Event: eventOf(e.Namespace, e.Text, e.Attachments),
	}
	channel, body, err := f.protocol.request(e.Namespace, r)
	if err != nil {
		f.refused(err)
		return f.local.Emit(ctx, &local)
	}
	a.servers = n
	f.pending.add(r.ID, a)
	if f.publish(ctx, channel, body) {
		late := time.AfterFunc(answerTimeoutMax, func() { f.pending.remove(r.ID) }) // if ctx has no end
		context.AfterFunc(ctx, func() {
			late.Stop()
			f.pending.remove(r.ID)
		})
	} else {
		f.pending.remove(r.ID)
		a.servers = 0
	}
	return f.local.Emit(ctx, &local)
}

// remoteAnswers stands between shards and other servers on one side and a collector of answers on the other: to the
// collector, a server is one more shard.
type remoteAnswers struct {
	shard.AckCollector
	servers int // fixed before Visit

	mu      sync.Mutex
	counted int // servers that have said how many sockets they reached
	sockets int // of those servers
	answers int
}

// Visit implements shard.AckCollector.
func (a *remoteAnswers) Visit(shards int) { a.AckCollector.Visit(shards + a.servers) }

// take implements taker. Servers answer with a count and with at most so many acknowledgements.
func (a *remoteAnswers) take(r *wire.Response) {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case r.Type == wire.ClientCount && a.counted < a.servers:
		a.counted++
		a.sockets += r.ClientCount
		a.Expect(r.ClientCount)
	case r.Type == wire.Ack && (a.answers < a.sockets || a.counted < a.servers):
		a.answers++
		a.Acknowledge(arrayOf(r.Value), r.Attachments)
	}
}

// arrayOf returns the JSON array with that one element, or none.
func arrayOf(value []byte) []byte {
	array := make([]byte, 0, len(value)+2)
	array = append(array, '[')
	array = append(array, value...)
	return append(array, ']')
}

// answerBroadcast emits another server's event and reports the answers. It says how many there will be in any case.
func (f *Fanout) answerBroadcast(r *wire.Request) {
	c := &answering{fanout: f, request: r, id: f.host.NextAckID(r.Namespace)}
	if f.answering.Add(1) > maxAnswering || r.Opts.Nobody {
		if !r.Opts.Nobody {
			f.metrics.Count(metrics.BusDropped, "broadcasts with acknowledgement")
		}
		f.answering.Add(-1)
		f.respond(r.Namespace, r, &wire.Response{ID: r.ID, Type: wire.ClientCount})
		return
	}
	timeout := answerTimeout
	if r.Opts.Timeout > 0 {
		timeout = min(time.Duration(min(r.Opts.Timeout, answerTimeoutMax.Milliseconds()))*time.Millisecond, answerTimeoutMax)
	}
	c.mu.Lock() // nothing ends before the timer is set
	c.timer = time.AfterFunc(timeout, c.end)
	c.mu.Unlock()

	sel, flags := selectorOf(r.Namespace, r.Opts)
	text := packet.Append(nil, &packet.Packet{
		Type: packet.Event, Namespace: r.Namespace, ID: c.id, HasID: true, Data: r.Data, Attachments: r.Attachments,
	})
	ctx, cancel := context.WithTimeout(f.ctx, shardWait)
	defer cancel()
	err := f.local.Emit(ctx, &shard.Envelope{
		Selector: sel, Text: text, Attachments: r.Attachments, Flags: flags, AckID: c.id, Acks: c,
	})
	if err != nil {
		// Some shards won't say how many sockets they reached.
		f.drop("shard is busy")
		c.settle()
	}
}

// answering collects what this process' sockets answer to another server's event. It implements
// shard.AckCollector.
type answering struct {
	fanout  *Fanout
	request *wire.Request
	id      uint64

	mu       sync.Mutex
	timer    *time.Timer
	shards   int
	visited  bool
	reported bool
	ended    bool
	expected int
	answered int      // or lost
	early    []func() // publish the answers that came before the count was reported
}

// update changes the count by f, and reports it when it is complete.
func (c *answering) update(change func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	change()
	if c.visited && c.shards == 0 && !c.reported {
		c.report()
	}
	if c.reported && c.answered >= c.expected && !c.ended {
		c.finish()
	}
}

// report says how many answers there will be, and then gives those that came already. c.mu is held.
func (c *answering) report() {
	c.reported = true
	count := &wire.Response{ID: c.request.ID, Type: wire.ClientCount, ClientCount: c.expected}
	c.fanout.later(func() { c.respond(count) })
	for _, answer := range c.early {
		c.fanout.later(answer)
	}
	c.early = nil
}

func (c *answering) respond(r *wire.Response) { c.fanout.respond(c.request.Namespace, c.request, r) }

// finish frees what c holds. c.mu is held.
func (c *answering) finish() {
	c.ended = true
	c.timer.Stop()
	c.fanout.answering.Add(-1)
}

// Visit implements shard.AckCollector.
func (c *answering) Visit(shards int) {
	c.update(func() { c.visited, c.shards = true, shards })
}

// Expect implements shard.AckCollector.
func (c *answering) Expect(sockets int) {
	c.update(func() { c.shards--; c.expected += sockets })
}

// settle reports the count as far as it is known.
func (c *answering) settle() { c.update(func() { c.visited, c.shards = true, 0 }) }

// Lost implements registry.Ack. The protocol has no word for it.
func (c *answering) Lost() { c.update(func() { c.answered++ }) }

// Acknowledge implements registry.Ack. Only the first argument travels (redis-adapter.md section 5).
func (c *answering) Acknowledge(data []byte, attachments [][]byte) {
	answer := func() {
		value, kept, err := firstArgument(data, attachments)
		if err != nil {
			c.fanout.refused(err)
			return
		}
		c.respond(&wire.Response{ID: c.request.ID, Type: wire.Ack, Value: value, Attachments: kept})
	}
	c.update(func() {
		c.answered++
		switch {
		case c.ended:
		case c.reported:
			c.fanout.later(answer)
		default:
			c.early = append(c.early, answer)
		}
	})
}

// firstArgument returns the first of a client's acknowledgement arguments with its attachments, nil if there is none.
func firstArgument(data []byte, attachments [][]byte) ([]byte, [][]byte, error) {
	args, err := (&packet.Packet{Data: data}).Args()
	if err != nil || len(args) == 0 {
		return nil, nil, err
	}
	// Encoded anew, so that placeholders are in the form and the order in which they go on.
	array, kept, err := packet.EncodeArgs(packet.Raw{JSON: json.RawMessage(args[0]), Attachments: attachments})
	if err != nil {
		return nil, nil, err
	}
	return array[1 : len(array)-1], kept, nil
}

// end stops waiting for clients that did not answer in time.
func (c *answering) end() {
	c.mu.Lock()
	already := c.ended
	if !already {
		c.finish()
	}
	c.mu.Unlock()
	if already {
		return
	}
	f := c.fanout
	f.errand(func() {
		// Of all sockets of the namespace: those that got the event may have changed rooms since.
		sel := shard.Selector{Namespace: c.request.Namespace}
		err := f.pool.Query(f.ctx, sel, func(v *shard.View) {
			v.Select(sel, func(t *registry.Socket) { v.ForgetAck(t, c.id) })
		})
		if err != nil && f.ctx.Err() == nil {
			f.log.Warn().Err(err).Msg("forgetting unanswered acknowledgements failed")
		}
	})
}

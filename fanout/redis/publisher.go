package redisfan

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"parley/internal/batch"
	"parley/metrics"
)

const (
	// publishBytes bounds what waits to be published.
	publishBytes = 64 << 20
	// batchBytes bounds one pipeline, in which a message counts as messageBytes more than it has.
	batchBytes   = 1 << 20
	messageBytes = 2 << 10
	// batchPatience is how long messages wait for as many as there were in the pipeline before (see [batch.Collector]).
	batchPatience = 2 * time.Millisecond
	// publishWait is how long a caller waits for room in a full queue while Redis answers.
	publishWait = time.Second
	// publishAge is how old a message may be that is published after an outage. Peers have not subscribed again when
	// older ones would arrive.
	publishAge = 2 * time.Second
	// pipelineTimeout bounds one pipeline.
	pipelineTimeout = 3 * time.Second
	// publishPause is the wait after a pipeline that failed, doubled up to publishPauseMax.
	publishPause    = 20 * time.Millisecond
	publishPauseMax = time.Second
	// tellEvery is how often others are told that they may have missed something while more goes on to be lost.
	tellEvery = 10 * time.Second
)

// publication is one message on its way to Redis.
type publication struct {
	channel string
	body    []byte
	queued  time.Time
	done    chan<- error // has room for the outcome; nil if nobody waits
	marker  bool         // nothing to be sent: it is done when what precedes it is
}

func (p *publication) finish(err error) {
	if p.done != nil {
		p.done <- err
	}
}

// publisher sends messages in the order they were handed in, as many at a time as wait.
type publisher struct {
	fanout *Fanout
	queue  chan publication
	bytes  atomic.Int64  // of what is in the queue
	away   atomic.Bool   // the last pipeline failed
	lost   atomic.Bool   // others were not told something, and do not know that yet
	told   time.Time     // when they were last told that; the goroutine's
	room   chan struct{} // gets an element when there may be room in the queue
	spread *spread       // for sharded channels of a Cluster
}

func newPublisher(f *Fanout) *publisher {
	p := &publisher{fanout: f, queue: make(chan publication, f.options.queue), room: make(chan struct{}, 1)}
	if cluster, ok := f.options.Client.(*redis.ClusterClient); ok && f.options.Sharded {
		p.spread = newSpread(f, cluster)
	}
	return p
}

// publish queues p. It waits for room at most publishWait, and not at all while Redis is away. An error means that
// the message was dropped and counted.
func (p *publisher) publish(ctx context.Context, m publication) error {
	f := p.fanout
	if len(m.body) > f.options.MaxMessage {
		f.metrics.Count(metrics.BusDropped, "too large to publish")
		return fmt.Errorf("message of %d bytes for other processes: %d are the limit", len(m.body), f.options.MaxMessage)
	}
	m.queued = time.Now()
	if p.offer(m) {
		return nil
	}
	if p.awaitRoom(ctx, m) {
		return nil
	}
	p.dropped()
	f.warning.Do(func() { f.log.Warn().Msg("events for other processes are being dropped: redis does not take them") })
	return ErrUnavailable
}

// awaitRoom waits until the queue takes m, within publishWait and as long as Redis answers.
func (p *publisher) awaitRoom(ctx context.Context, m publication) bool {
	timer := time.NewTimer(publishWait)
	defer timer.Stop()
	for !p.away.Load() {
		select {
		case <-p.room:
			if p.offer(m) {
				p.signal() // there may be room for another
				return true
			}
		case <-ctx.Done():
			return false
		case <-p.fanout.ctx.Done():
			return false
		case <-timer.C:
			return false
		}
	}
	return false
}

// signal wakes one who waits for room.
func (p *publisher) signal() {
	select {
	case p.room <- struct{}{}:
	default:
	}
}

// offer is publish without any waiting, for shards.
func (p *publisher) offer(m publication) bool {
	if p.fanout.ctx.Err() != nil || p.bytes.Load() > publishBytes {
		return false
	}
	p.bytes.Add(int64(len(m.body)))
	select {
	case p.queue <- m:
		return true
	default:
		p.bytes.Add(-int64(len(m.body)))
		return false
	}
}

// run publishes until the fan-out is closed.
func (p *publisher) run() {
	pause := publishPause
	collector := &batch.Collector[publication]{
		Queue: p.queue, Size: func(m publication) int { return messageBytes + len(m.body) }, Limit: batchBytes,
		Patience: batchPatience,
	}
	var messages []publication
	for {
		select {
		case first := <-p.queue:
			messages = collector.Collect(messages[:0], first)
		case <-p.fanout.ctx.Done():
			p.abandon()
			return
		}
		if p.send(messages) {
			pause = publishPause
			continue
		}
		p.fanout.links.trouble()
		select {
		case <-time.After(pause/2 + rand.N(pause/2)): //nolint:gosec // jitter is no secret
		case <-p.fanout.ctx.Done():
		}
		pause = min(2*pause, publishPauseMax)
	}
}

// send publishes a batch, and reports whether Redis answered as far as it was asked.
func (p *publisher) send(messages []publication) bool {
	f := p.fanout
	ctx, cancel := context.WithTimeout(f.ctx, pipelineTimeout)
	defer cancel()
	pipe, err := p.pipeline(ctx)
	away := p.away.Load()
	oldest := time.Now().Add(-publishAge)
	var sent []publication
	var replies []*redis.IntCmd
	for i := range messages {
		m := messages[i]
		messages[i] = publication{}
		p.bytes.Add(-int64(len(m.body)))
		p.signal()
		switch {
		case m.marker:
			defer m.finish(nil)
		case away && m.queued.Before(oldest):
			p.dropped()
			m.finish(ErrUnavailable)
		case err != nil:
			p.failed(&m, err)
		default:
			sent = append(sent, m)
			replies = append(replies, f.protocol.publish(ctx, pipe, m.channel, m.body))
		}
	}
	if len(sent) > 0 {
		_, err = pipe.Exec(ctx)
	}
	lossy := p.spread != nil && !p.spread.whole()
	for i := range sent {
		if failed := replies[i].Err(); failed != nil {
			lossy = true
			p.failed(&sent[i], failed)
		} else {
			sent[i].finish(nil)
		}
	}
	if err == nil && len(sent) == 0 || errors.Is(err, errNodeAway) {
		return true // nobody was asked
	}
	taken := answered(err)
	if p.away.Swap(!taken) != !taken {
		if taken {
			f.log.Info().Msg("redis takes events for other processes again")
		} else {
			f.log.Warn().Err(err).Msg("redis is away: events reach only this process until it is back")
		}
	}
	if taken && (!lossy || time.Since(p.told) >= tellEvery) && p.lost.Swap(false) {
		p.told = time.Now()
		f.signal(f.unpublished)
	}
	return taken
}

// dropped counts a message that others will not get. They are told so once Redis takes messages.
func (p *publisher) dropped() {
	p.lost.Store(true)
	p.fanout.metrics.Count(metrics.BusDropped, "not published")
}

func (p *publisher) failed(m *publication, err error) {
	p.dropped()
	m.finish(fmt.Errorf("%w: %w", ErrUnavailable, err))
}

// pipeline returns where to publish. Of a cluster that is always the same node, which passes messages on to the
// others: with several, the order of one sender's messages would be lost. Sharded channels live on one node each.
func (p *publisher) pipeline(ctx context.Context) (redis.Pipeliner, error) {
	if p.spread != nil {
		return p.spread, nil
	}
	cluster, ok := p.fanout.options.Client.(*redis.ClusterClient)
	if !ok {
		return p.fanout.options.Client.Pipeline(), nil
	}
	node, err := cluster.MasterForKey(ctx, p.fanout.options.Key)
	if err != nil {
		return nil, err
	}
	return node.Pipeline(), nil
}

// drain waits until what is queued has been published, at most d.
func (p *publisher) drain(d time.Duration) {
	done := make(chan error, 1)
	if p.away.Load() || !p.offer(publication{marker: true, done: done}) {
		return
	}
	select {
	case err := <-done:
		if err == nil {
			return
		}
	case <-time.After(d):
	}
	p.fanout.log.Warn().Msg("closing before all events for other processes were published")
}

// abandon gives up what is queued.
func (p *publisher) abandon() {
	for {
		select {
		case m := <-p.queue:
			p.fanout.metrics.Count(metrics.BusDropped, "not published")
			m.finish(ErrUnavailable)
		default:
			return
		}
	}
}

package socketio

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"parley/engineio"
	"parley/registry"
	"parley/shard"
	"parley/socketio/packet"
)

// ackCollector gathers the answers to one event. It implements shard.AckCollector.
type ackCollector struct {
	mu       sync.Mutex
	shards   int // shards that have not said yet how many sockets they reached; -1 before Visit
	expected int // sockets that will answer or be lost
	lost     int
	replies  []reply
	finished bool
	done     chan struct{}
}

// reply is an acknowledgement as it came: a JSON array, which the decoder has checked.
type reply struct {
	data        []byte
	attachments [][]byte
}

func newAckCollector() *ackCollector {
	return &ackCollector{shards: -1, done: make(chan struct{})}
}

func (a *ackCollector) update(f func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	f()
	if !a.finished && a.shards == 0 && len(a.replies)+a.lost == a.expected {
		a.finished = true
		close(a.done)
	}
}

func (a *ackCollector) Visit(shards int) { a.update(func() { a.shards = shards }) }
func (a *ackCollector) Lost()            { a.update(func() { a.lost++ }) }

func (a *ackCollector) Expect(sockets int) {
	a.update(func() { a.shards--; a.expected += sockets })
}

func (a *ackCollector) Acknowledge(data []byte, attachments [][]byte) {
	a.update(func() { a.replies = append(a.replies, reply{data, attachments}) })
}

// wait returns the answers when all are in, or those that came until ctx ended.
func (a *ackCollector) wait(ctx context.Context) ([]Args, error) {
	select {
	case <-a.done:
	case <-ctx.Done():
	}
	a.mu.Lock()
	replies, lost, finished := a.replies, a.lost, a.finished
	a.replies, a.finished = nil, true // answers that come later change nothing
	a.mu.Unlock()

	answers := make([]Args, 0, len(replies))
	for _, r := range replies {
		args, err := newArgs(r.data, r.attachments)
		if err != nil {
			return answers, fmt.Errorf("read acknowledgement: %w", err)
		}
		answers = append(answers, args)
	}
	switch {
	case finished && lost > 0:
		return answers, ErrDisconnected
	case finished:
		return answers, nil
	case errors.Is(ctx.Err(), context.Canceled):
		return answers, ctx.Err()
	}
	return answers, ErrTimeout
}

// ackContext bounds the wait for an answer by timeout, if that is set.
func ackContext(ctx context.Context, timeout time.Duration) (context.Context, context.CancelFunc, error) {
	if timeout > 0 {
		ctx, cancel := context.WithTimeout(ctx, timeout)
		return ctx, cancel, nil
	}
	if _, bounded := ctx.Deadline(); !bounded {
		return nil, nil, errors.New("emit with acknowledgement: set a Timeout, or a deadline on the context")
	}
	return ctx, func() {}, nil
}

// forgetAck stops waiting for the answers to a broadcast. It asks all sockets of the namespace: those that got
// the event may have changed rooms since.
func (n *Namespace) forgetAck(id uint64) {
	sel := shard.Selector{Namespace: n.name}
	err := n.server.pool.Query(n.server.ctx, sel, func(v *shard.View) {
		v.Select(sel, func(t *registry.Socket) { v.ForgetAck(t, id) })
	})
	if err != nil && !errors.Is(err, shard.ErrStopped) {
		n.server.log.Warn().Err(err).Str("ns", n.name).Msg("forgetting an unanswered acknowledgement failed")
	}
}

// ackPacket encodes the answer to the packet with that id.
func (n *Namespace) ackPacket(id uint64, args []any) (*engineio.Message, error) {
	p := &packet.Packet{Type: packet.Ack, ID: id, HasID: true, Namespace: n.name}
	return n.finish(packet.AppendEncoded(newBuffer(ackBytes), p, args...))
}

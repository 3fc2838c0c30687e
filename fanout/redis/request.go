package redisfan

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/redis/go-redis/v9"

	"parley/fanout"
	"parley/fanout/redis/wire"
	"parley/shard"
)

// pending are the requests of this process that others are still answering.
type pending struct {
	mu       sync.Mutex
	requests map[string]taker
	count    atomic.Int64
}

// taker takes the responses to one request, one at a time.
type taker interface{ take(*wire.Response) }

// any tells whether a response can be of interest.
func (p *pending) any() bool { return p.count.Load() > 0 }

func (p *pending) add(id string, t taker) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.requests == nil {
		p.requests = make(map[string]taker)
	}
	p.requests[id] = t
	p.count.Store(int64(len(p.requests)))
}

func (p *pending) remove(id string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.requests, id)
	p.count.Store(int64(len(p.requests)))
}

// take hands a response to whoever waits for it. Those to others' requests are ignored.
func (p *pending) take(r *wire.Response) {
	p.mu.Lock()
	t := p.requests[r.ID]
	p.mu.Unlock()
	if t != nil {
		t.take(r)
	}
}

// gathering collects one response of each other server.
type gathering struct {
	mu   sync.Mutex
	want int
	got  []*wire.Response
	done chan struct{}
}

func (g *gathering) take(r *wire.Response) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.got) == g.want {
		return
	}
	if g.got = append(g.got, r); len(g.got) == g.want {
		close(g.done)
	}
}

// others counts the other servers that will answer a request to the namespace. It first waits until this one is
// counted too, and hears answers.
func (f *Fanout) others(ctx context.Context, namespace string) (int, error) {
	if err := f.Wait(ctx, namespace); err != nil {
		return 0, err
	}
	n, err := f.protocol.servers(ctx, namespace)
	if err != nil {
		return 0, fmt.Errorf("%w: counting the servers: %w", ErrUnavailable, err)
	}
	return max(n-1, 0), nil
}

// ask sends a request to all other servers and gathers their responses. With an error it returns those that came.
func (f *Fanout) ask(ctx context.Context, namespace string, r *wire.Request) ([]*wire.Response, error) {
	ctx, cancel := context.WithTimeout(ctx, f.options.RequestTimeout)
	defer cancel()
	n, err := f.others(ctx, namespace)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrPartial, err)
	}
	if n == 0 {
		return nil, nil
	}
	g := &gathering{want: n, done: make(chan struct{})}
	r.UID, r.ID = f.space(namespace).uid, randomID(f.protocol.idLen())
	channel, body, err := f.protocol.request(namespace, r)
	if err != nil {
		return nil, err
	}
	f.pending.add(r.ID, g)
	defer f.pending.remove(r.ID)
	if !f.publish(ctx, channel, body) {
		return nil, fmt.Errorf("%w: %w", ErrPartial, ErrUnavailable)
	}
	select {
	case <-g.done:
	case <-ctx.Done():
		err = ctx.Err()
	case <-f.ctx.Done():
		err = ErrUnavailable
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.got) == n {
		return g.got, nil
	}
	return g.got[:len(g.got):len(g.got)], fmt.Errorf("%w: only %d of %d: %w", ErrPartial, len(g.got), n, err)
}

// Fetch implements fanout.Fanout. With ErrPartial it returns the sockets of those servers that answered.
func (f *Fanout) Fetch(ctx context.Context, sel shard.Selector) ([]fanout.Socket, error) {
	found, localErr := f.local.Fetch(ctx, sel)
	opts := optsOf(sel, 0)
	responses, err := f.ask(ctx, sel.Namespace, &wire.Request{Type: wire.RemoteFetch, Opts: &opts})
	for _, r := range responses {
		for _, s := range r.Sockets {
			found = append(found, fanout.Socket(s))
		}
	}
	return found, errors.Join(localErr, err)
}

// SocketIDs returns the ids of the sockets that are in any of rooms (all, if rooms is empty), of all servers.
func (f *Fanout) SocketIDs(ctx context.Context, namespace string, rooms []string) ([]string, error) {
	if f.options.Sharded {
		found, err := f.Fetch(ctx, shard.Selector{Namespace: namespace, Rooms: rooms})
		ids := make([]string, len(found))
		for i, s := range found {
			ids[i] = s.ID
		}
		return unique(ids), err
	}
	ids, localErr := f.localIDs(ctx, shard.Selector{Namespace: namespace, Rooms: rooms})
	responses, err := f.ask(ctx, namespace, &wire.Request{Type: wire.Sockets, Rooms: rooms})
	for _, r := range responses {
		ids = append(ids, r.SocketIDs...)
	}
	return unique(ids), errors.Join(localErr, err)
}

// AllRooms returns the rooms of a namespace that have members, on any server.
func (f *Fanout) AllRooms(ctx context.Context, namespace string) ([]string, error) {
	if f.options.Sharded {
		found, err := f.Fetch(ctx, shard.Selector{Namespace: namespace})
		var rooms []string
		for _, s := range found {
			rooms = append(rooms, s.Rooms...)
		}
		return unique(rooms), err
	}
	rooms, localErr := f.localRooms(ctx, namespace)
	responses, err := f.ask(ctx, namespace, &wire.Request{Type: wire.AllRooms})
	for _, r := range responses {
		rooms = append(rooms, r.Rooms...)
	}
	return unique(rooms), errors.Join(localErr, err)
}

// unique returns list without repeats.
func unique(list []string) []string {
	seen := make(map[string]struct{}, len(list))
	kept := list[:0]
	for _, s := range list {
		if _, known := seen[s]; !known {
			seen[s] = struct{}{}
			kept = append(kept, s)
		}
	}
	return kept
}

// ServerSideEmit implements fanout.Fanout.
func (f *Fanout) ServerSideEmit(ctx context.Context, namespace string, data []byte, attachments [][]byte) error {
	r := &wire.Request{UID: f.space(namespace).uid, Type: wire.ServerSideEmit}
	r.Data, r.Attachments = data, attachments
	channel, body, err := f.protocol.request(namespace, r)
	if err != nil {
		return fmt.Errorf("server-side emit: %w", err)
	}
	if !f.publish(ctx, channel, body) {
		return ErrUnavailable
	}
	return nil
}

// ServerSideEmitWithAck implements fanout.Fanout. With ErrPartial it returns the answers that came.
func (f *Fanout) ServerSideEmitWithAck(ctx context.Context, namespace string, data []byte, attachments [][]byte) ([]fanout.Answer, error) {
	r := &wire.Request{Type: wire.ServerSideEmit}
	r.Data, r.Attachments = data, attachments
	responses, err := f.ask(ctx, namespace, r)
	answers := make([]fanout.Answer, len(responses))
	for i, r := range responses {
		answers[i] = fanout.Answer{JSON: r.Value, Attachments: r.Attachments}
	}
	return answers, err
}

// sumOverMasters adds up what each node of a cluster says, or returns what the only one does.
func sumOverMasters(ctx context.Context, client redis.UniversalClient, ask func(context.Context, redis.Cmdable) (int64, error)) (int, error) {
	cluster, ok := client.(*redis.ClusterClient)
	if !ok {
		n, err := ask(ctx, client)
		return int(n), err
	}
	var sum atomic.Int64
	err := cluster.ForEachMaster(ctx, func(ctx context.Context, node *redis.Client) error {
		n, err := ask(ctx, node)
		sum.Add(n)
		return err
	})
	return int(sum.Load()), err
}

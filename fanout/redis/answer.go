package redisfan

import (
	"context"
	"sync/atomic"

	"parley/fanout"
	"parley/fanout/redis/wire"
	"parley/metrics"
	"parley/registry"
	"parley/shard"
)

const (
	// maxErrands bounds the requests that are answered at the same time, which reads many sockets.
	maxErrands = 32
	// serverSideQueue bounds the server-side events that wait for the host.
	serverSideQueue = 1024
	// replyQueue bounds what shards have to say to other servers.
	replyQueue = 16384
)

// answer does what another server asks. Whoever hears a request is counted on, so all are answered, also for
// namespaces that this process does not have. What changes rooms is done before the sender's next message is
// looked at; what only reads is done beside.
func (f *Fanout) answer(namespace string, r *wire.Request) {
	if f.spaces.isOwn(r.UID) {
		return
	}
	switch r.Type {
	case wire.RemoteJoin, wire.RemoteLeave, wire.RemoteDisconnect:
		f.change(namespace, r)
	case wire.ServerSideEmit:
		select {
		case f.serverSide <- serverEvent{namespace, r}:
		default:
			f.drop("server-side events")
		}
	case wire.BroadcastAck:
		if r.Namespace != namespace {
			f.reject("wrong channel")
			return
		}
		f.answerBroadcast(r)
	default:
		f.errand(func() { f.report(namespace, r) })
	}
}

// errand runs do beside the workers, unless too many are under way or the fan-out is closed.
func (f *Fanout) errand(do func()) {
	f.errandMu.Lock()
	defer f.errandMu.Unlock()
	if f.ctx.Err() != nil {
		return
	}
	select {
	case f.errands <- struct{}{}:
	default:
		f.metrics.Count(metrics.BusDropped, "requests")
		return
	}
	f.running.Go(func() {
		defer func() { <-f.errands }()
		f.contain("request", do)
	})
}

// change puts sockets into rooms, takes them out, or disconnects them.
func (f *Fanout) change(namespace string, r *wire.Request) {
	ctx, cancel := context.WithTimeout(f.ctx, f.options.RequestTimeout)
	defer cancel()
	rooms := r.Rooms
	var sel shard.Selector
	if r.Opts != nil {
		sel, _ = selectorOf(namespace, r.Opts)
		if r.Opts.Nobody || r.Nobody {
			return
		}
	} else { // the legacy form, for one socket
		sel, rooms = shard.Selector{Namespace: namespace, Rooms: []string{r.SID}}, []string{r.Room}
		ids, err := f.localIDs(ctx, sel)
		if err != nil || len(ids) == 0 {
			return
		}
		defer f.respond(namespace, r, &wire.Response{ID: r.ID})
	}
	var err error
	switch r.Type {
	case wire.RemoteJoin:
		err = f.local.Join(ctx, sel, rooms)
	case wire.RemoteLeave:
		err = f.local.Leave(ctx, sel, rooms)
	default:
		err = f.local.Disconnect(ctx, sel, r.Closing)
	}
	if err != nil {
		f.warning.Do(func() {
			f.log.Warn().Err(err).Str("ns", namespace).Msg("a request of another server was not carried out in full")
		})
	}
}

// report tells another server what there is here.
func (f *Fanout) report(namespace string, r *wire.Request) {
	ctx, cancel := context.WithTimeout(f.ctx, f.options.RequestTimeout)
	defer cancel()
	response := &wire.Response{ID: r.ID}
	var err error
	switch r.Type {
	case wire.Sockets:
		response.SocketIDs = []string{}
		if !r.Nobody {
			response.SocketIDs, err = f.localIDs(ctx, shard.Selector{Namespace: namespace, Rooms: r.Rooms})
		}
	case wire.AllRooms:
		response.Rooms, err = f.localRooms(ctx, namespace)
	case wire.RemoteFetch:
		response.Sockets = []wire.Socket{}
		var found []fanout.Socket
		if !r.Opts.Nobody {
			sel, _ := selectorOf(namespace, r.Opts)
			found, err = f.local.Fetch(ctx, sel)
		}
		for _, s := range found {
			response.Sockets = append(response.Sockets, wire.Socket(s))
		}
	}
	if err != nil {
		f.warning.Do(func() {
			f.log.Warn().Err(err).Str("ns", namespace).Msg("a request of another server was answered in part")
		})
	}
	f.respond(namespace, r, response)
}

// respond publishes a response; one without id is not wanted.
func (f *Fanout) respond(namespace string, to *wire.Request, r *wire.Response) {
	if r.ID == "" {
		return
	}
	channel, body, err := f.protocol.response(namespace, to, r)
	if err != nil {
		f.refused(err)
		return
	}
	f.publish(f.ctx, channel, body)
}

// localIDs returns the ids of sockets of this process, never nil.
func (f *Fanout) localIDs(ctx context.Context, sel shard.Selector) ([]string, error) {
	ids := []string{}
	err := f.pool.Query(ctx, sel, func(v *shard.View) {
		v.Select(sel, func(t *registry.Socket) { ids = append(ids, t.ID) })
	})
	return ids, err
}

// localRooms returns the rooms of this process' sockets, never nil.
func (f *Fanout) localRooms(ctx context.Context, namespace string) ([]string, error) {
	rooms := []string{}
	sel := shard.Selector{Namespace: namespace}
	err := f.pool.Query(ctx, sel, func(v *shard.View) {
		v.Select(sel, func(t *registry.Socket) { rooms = append(rooms, t.Rooms()...) })
	})
	return unique(rooms), err
}

// serverEvent is an event from server to server.
type serverEvent struct {
	namespace string
	request   *wire.Request
}

// runServerSide gives server-side events to the host, one after the other.
func (f *Fanout) runServerSide() {
	for {
		select {
		case e := <-f.serverSide:
			f.contain("server-side event", func() {
				f.host.ServerSide(e.namespace, e.request.Data, e.request.Attachments, f.serverSideAck(e))
			})
		case <-f.ctx.Done():
			return
		}
	}
}

// serverSideAck returns how to answer e, nil if no answer is wanted.
func (f *Fanout) serverSideAck(e serverEvent) func(fanout.Answer) {
	if e.request.ID == "" {
		return nil
	}
	var answered atomic.Bool
	return func(a fanout.Answer) {
		if answered.Swap(true) {
			return
		}
		if a.JSON == nil {
			a.JSON = []byte("null")
		}
		f.respond(e.namespace, e.request, &wire.Response{ID: e.request.ID, Type: wire.ServerSideEmit, Value: a.JSON, Attachments: a.Attachments})
	}
}

// runReplies does what shards have handed over.
func (f *Fanout) runReplies() {
	for {
		select {
		case do := <-f.replies:
			f.contain("reply", do)
		case <-f.ctx.Done():
			return
		}
	}
}

// later has do run outside of the shard that calls it.
func (f *Fanout) later(do func()) {
	select {
	case f.replies <- do:
	default:
		f.metrics.Count(metrics.BusDropped, "acknowledgements")
	}
}

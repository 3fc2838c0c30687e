package redisstore

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"parley/store"
)

// waits plays the replicas of a Cluster's master: it answers WAIT.
type waits struct {
	have  atomic.Int64 // how many replicas have everything
	asked atomic.Int64
	gone  atomic.Bool // the master dies before it answers
}

func (w *waits) DialHook(next redis.DialHook) redis.DialHook          { return next }
func (w *waits) ProcessHook(next redis.ProcessHook) redis.ProcessHook { return next }

func (w *waits) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		wait, ok := cmds[len(cmds)-1].(*redis.Cmd)
		if !ok || wait.Args()[0] != "WAIT" {
			return next(ctx, cmds)
		}
		w.asked.Add(1)
		if w.gone.Load() {
			wait.SetErr(errCut)
			return errCut
		}
		wait.SetVal(w.have.Load())
		return nil
	}
}

// TestReplicas has a message count as stored on a Cluster once a replica has it, and a master without replicas go on alone.
func TestReplicas(t *testing.T) {
	mini := miniredis.RunT(t) // also where there is a real one, whose replicas would answer
	o, err := Parse("redis://" + mini.Addr() + "?cluster=true")
	if err != nil {
		t.Fatal(err)
	}
	client := redis.NewClusterClient(o.Cluster())
	t.Cleanup(func() { client.Close() })
	w := &waits{}
	client.OnNewNode(func(c *redis.Client) { c.AddHook(w) })
	s := open(t, client, Options{Reconcile: -1})

	post(t, s, message("1", "alice", "bob")) // a master that never had replicas
	w.have.Store(1)
	post(t, s, message("2", "alice", "bob"))
	asked := w.asked.Load()
	if asked == 0 {
		t.Error("nobody was asked for replicas")
	}
	refused := func(id, why string) {
		t.Helper()
		if _, err := s.Append(t.Context(), message(id, "alice", "bob")); !errors.Is(err, store.ErrUnavailable) {
			t.Errorf("%s: %v", why, err)
		}
	}
	w.have.Store(0)
	refused("3", "the replica does not have it")
	if r := post(t, s, message("3", "alice", "bob")); !r.Duplicate || r.Offsets[1].Seq != 3 {
		t.Errorf("without a replica: %+v", r)
	}
	w.have.Store(1)
	post(t, s, message("4", "alice", "bob"))
	w.gone.Store(true)
	refused("5", "the master died")
	w.gone.Store(false)
	if r := post(t, s, message("5", "alice", "bob")); !r.Duplicate || r.Offsets[1].Seq != 5 {
		t.Errorf("once more: %+v", r)
	}
}

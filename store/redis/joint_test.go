package redisstore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"

	"parley/store"
)

// together runs calls so that they wait at the same time, and are sent in one pipeline.
func together(wire *line, calls ...func()) {
	hold := make(chan struct{})
	wire.hold.Store(&hold)
	var wait sync.WaitGroup
	wait.Go(calls[0])
	synctest.Wait() // it is on its way, and all others wait
	for _, call := range calls[1:] {
		wait.Go(call)
		synctest.Wait() // in their order
	}
	wire.hold.Store(nil)
	close(hold)
	wait.Wait()
}

// TestJointKeepsThemApart checks that in a call for many mailboxes a broken one fails by itself, that the others are done
// once each, and that the entries of a mailbox are in order.
func TestJointKeepsThemApart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mini, client := bubble(t)
		wire := &line{}
		s := open(t, client(wire), Options{Lease: time.Hour, Reconcile: -1})
		if err := mini.Set("{messages:bad}:info", "not a hash"); err != nil {
			t.Fatal(err)
		}
		post(t, s, message("first", "a", "b"))
		var calls []func()
		for i := range 50 {
			calls = append(calls, func() {
				to := "b"
				if i%10 == 5 {
					to = "bad"
				}
				m := message(fmt.Sprint("m", i), fmt.Sprint("from", i), to)
				_, err := s.Append(t.Context(), m)
				if to == "bad" != (err != nil) || err != nil && !errors.Is(err, store.ErrUnavailable) {
					t.Errorf("%d: %v", i, err)
				}
			})
		}
		sent := wire.record(func() { together(wire, calls...) })
		if n := len(sent); n > 20 { // one for 32 mailboxes, and one for each that fails
			t.Errorf("%d calls of scripts", n)
		}
		if !s.writes.joins.Load() {
			t.Error("calls for many mailboxes are not made any more")
		}
		var ids []string
		entries, err := s.After(t.Context(), store.Box{App: chatApp, User: "b"}, store.Offset{}, 100)
		if err != nil {
			t.Fatal(err)
		}
		for i, e := range entries {
			if ids = append(ids, e.ID); e.Seq != uint64(i+1) {
				t.Errorf("entry %d has number %d", i, e.Seq)
			}
		}
		want := []string{"first"}
		for i := range 50 {
			if i%10 != 5 {
				want = append(want, fmt.Sprint("m", i))
			}
		}
		same(t, "entries", ids, want)
		for i := range 50 {
			if tail, err := s.Tail(t.Context(), store.Box{App: chatApp, User: fmt.Sprint("from", i)}); err != nil || tail.Seq != 1 {
				t.Errorf("mailbox of sender %d ends at %v, %v", i, tail, err)
			}
		}
	})
}

// TestJointIsAppend checks that a call for many mailboxes does what one for each does, whatever is in the mailboxes.
func TestJointIsAppend(t *testing.T) {
	server := newServer(t)
	c := server.client(t)
	s := open(t, c, Options{Options: store.Options{MailboxLimit: 8}, Reconcile: -1})
	at := time.UnixMilli(1700000000000)
	round := func(user string, prepare func(list string), ids ...string) (receipts []store.Receipt) {
		t.Helper()
		list, _, _ := mailboxKeys(store.Box{App: chatApp, User: user})
		prepare(list)
		for _, id := range ids {
			m := message(id, "a", user)
			m.At = at
			m.To = m.To[1:]
			receipts = append(receipts, post(t, s, m))
		}
		return receipts
	}
	nothing := func(string) {}
	pushed := func(list string) {
		if err := c.RPush(t.Context(), list, `{"content":"n","from":"x","to":"y"}`).Err(); err != nil {
			t.Fatal(err)
		}
	}
	cut := func(list string) {
		if err := c.LTrim(t.Context(), list, 0, -2).Err(); err != nil {
			t.Fatal(err)
		}
	}
	gone := func(list string) {
		if err := c.Del(t.Context(), list).Err(); err != nil {
			t.Fatal(err)
		}
	}
	steps := []struct {
		prepare func(string)
		id      string
	}{
		{nothing, "1"}, {nothing, "2"}, {nothing, "1"}, {pushed, "3"}, {nothing, "4"}, {cut, "5"}, {nothing, "6"}, {gone, "7"},
		{nothing, "8"}, {nothing, "7"}, {pushed, "9"}, {nothing, "10"}, {nothing, "11"}, {nothing, "12"}, {nothing, "13"},
		{nothing, "14"}, {nothing, "15"}, {nothing, "16"}, {nothing, "17"},
	}
	type outcome struct {
		duplicate bool
		seq       uint64
	}
	of := func(r store.Receipt) outcome { return outcome{r.Duplicate, r.Offsets[0].Seq} }
	var alone, joint [][]outcome
	for _, step := range steps {
		var now, then []outcome
		s.writes.joins.Store(false)
		for _, user := range []string{"s0", "s1", "s2"} {
			now = append(now, of(round(user, step.prepare, step.id)[0]))
		}
		s.writes.joins.Store(true)
		m := message(step.id, "a", "")
		m.At, m.To = at, nil
		for _, user := range []string{"j0", "j1", "j2"} {
			list, _, _ := mailboxKeys(store.Box{App: chatApp, User: user})
			step.prepare(list)
			m.To = append(m.To, store.Delivery{Box: store.Box{App: chatApp, User: user}, Peer: "a"})
		}
		r := post(t, s, m)
		for _, offset := range r.Offsets {
			then = append(then, outcome{r.Duplicate, offset.Seq})
		}
		alone, joint = append(alone, now), append(joint, then)
	}
	same(t, "outcomes", joint, alone)
	// What is in them is the same but for the times of their incarnations, and of what was pushed.
	for i := range 3 {
		var found [2][]store.Entry
		for k, user := range []string{fmt.Sprint("s", i), fmt.Sprint("j", i)} {
			entries, err := s.After(t.Context(), store.Box{App: chatApp, User: user}, store.Offset{}, 100)
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range entries {
				e.Epoch, e.Data, e.At = 0, nil, time.Time{}
				if e.Origin == "" {
					e.ID = ""
				}
				found[k] = append(found[k], e)
			}
		}
		same(t, "entries", found[1], found[0])
	}
}

// proxy is a hook that answers as what is in front of several servers does.
type proxy struct {
	refuses atomic.Bool // a script with keys of several mailboxes
	apart   bool        // of the probe, it finds only the first key
	joints  atomic.Int64
}

func (p *proxy) DialHook(next redis.DialHook) redis.DialHook          { return next }
func (p *proxy) ProcessHook(next redis.ProcessHook) redis.ProcessHook { return next }

func (p *proxy) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		var rest []redis.Cmder
		for _, cmd := range cmds {
			args := cmd.Args()
			is := func(s *script) bool { return len(args) > 2 && (args[1] == s.sha || args[1] == s.text) }
			if is(scriptMany) {
				p.joints.Add(1)
			}
			switch {
			case p.refuses.Load() && is(scriptMany):
				cmd.SetErr(errCrossSlot)
			case p.apart && is(scriptProbe):
				cmd.(*redis.Cmd).SetVal(int64(0))
			default:
				rest = append(rest, cmd)
			}
		}
		if len(rest) == 0 {
			return nil
		}
		return next(ctx, rest)
	}
}

// crossSlot is an error that Redis has replied with.
type crossSlot struct{ error }

func (crossSlot) RedisError() {}

var errCrossSlot = crossSlot{errors.New("CROSSSLOT Keys in request don't hash to the same slot")}

// TestProxyRefusesJoints checks that nothing fails where a script may not have keys of several mailboxes, and that it is
// not tried again.
func TestProxyRefusesJoints(t *testing.T) {
	server := newServer(t)
	c := server.client(t)
	p := &proxy{}
	c.AddHook(p)
	s := open(t, c, Options{Reconcile: -1})
	if r := post(t, s, message("m1", "alice", "bob")); r.Duplicate || p.joints.Load() == 0 {
		t.Fatalf("%+v, %d calls for many mailboxes", r, p.joints.Load())
	}
	p.refuses.Store(true)
	before := p.joints.Load()
	for i := 2; i < 5; i++ {
		if r := post(t, s, message(fmt.Sprint("m", i), "alice", "bob")); r.Duplicate || r.Offsets[1].Seq != uint64(i) {
			t.Errorf("%+v", r)
		}
	}
	if n := p.joints.Load() - before; n != 1 {
		t.Errorf("it was tried %d times", n)
	}
}

// TestProbeFindsProxies checks that several servers behind one address are noticed at the start, also where they say
// nothing.
func TestProbeFindsProxies(t *testing.T) {
	server := newServer(t)
	c := server.client(t)
	p := &proxy{apart: true}
	c.AddHook(p)
	s := open(t, c, Options{Reconcile: -1})
	if r := post(t, s, message("m", "alice", "bob")); slices.ContainsFunc(r.Offsets, func(o store.Offset) bool { return o.Seq != 1 }) {
		t.Errorf("%+v", r)
	}
	if n := p.joints.Load(); n != 0 {
		t.Errorf("%d calls for many mailboxes", n)
	}
}

// TestJointReplyLost checks that an append whose reply was lost is done once, and those for whom Redis was not ready fail.
func TestJointReplyLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mini, client := bubble(t)
		wire := &line{}
		s := open(t, client(wire), Options{Lease: time.Hour, Reconcile: -1})
		post(t, s, message("first", "alice", "bob"))
		wire.lose.Store(true)
		if _, err := s.Append(t.Context(), message("m", "alice", "bob")); !errors.Is(err, store.ErrUnavailable) {
			t.Error(err)
		}
		if r := post(t, s, message("m", "alice", "bob")); !r.Duplicate || r.Offsets[0].Seq != 2 || r.Offsets[1].Seq != 2 {
			t.Errorf("%+v", r)
		}
		mini.SetError("LOADING Redis is loading the dataset in memory")
		if _, err := s.Append(t.Context(), message("n", "alice", "bob")); !errors.Is(err, store.ErrUnavailable) {
			t.Error(err)
		}
		mini.SetError("")
		if r := post(t, s, message("n", "alice", "bob")); r.Duplicate || r.Offsets[1].Seq != 3 || !s.writes.joins.Load() {
			t.Errorf("%+v", r)
		}
	})
}

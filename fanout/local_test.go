package fanout

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"

	"go.uber.org/goleak"

	"parley/engineio"
	"parley/registry"
	"parley/shard"
	"parley/store"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// app is a socket of the layer above and its connection.
type app struct {
	id string

	mu           sync.Mutex
	frames       int
	disconnected []bool // closing, for each call
}

func (a *app) Enqueue(*engineio.Message, engineio.Flags) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.frames++
	return true
}

func (a *app) Flush()                {}
func (a *app) Close(engineio.Reason) {}

func (a *app) Describe() Socket {
	return Socket{ID: a.id, Handshake: json.RawMessage(`{}`), Data: json.RawMessage(`{"of":"` + a.id + `"}`)}
}

func (a *app) Disconnect(closing bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.disconnected = append(a.disconnected, closing)
}

// local returns a fan-out over three shards with sockets s0 to s5 of as many users, each in its own room;
// the even ones are in "even" too.
func local(t *testing.T, maxRooms int) (*Local, *shard.Pool, []*app) {
	t.Helper()
	pool, err := shard.New(shard.Options{Shards: 3})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Stop)
	var apps []*app
	for i := range 6 {
		a := &app{id: fmt.Sprint("s", i)}
		s := &registry.Socket{ID: a.id, Namespace: "/", Key: a.id, Out: a, App: a}
		rooms := []string{a.id}
		if i%2 == 0 {
			rooms = append(rooms, "even")
		}
		if err := pool.Owner(s.Key).Register(t.Context(), s, rooms); err != nil {
			t.Fatal(err)
		}
		apps = append(apps, a)
	}
	return NewLocal(pool, maxRooms), pool, apps
}

func in(rooms ...string) shard.Selector { return shard.Selector{Namespace: "/", Rooms: rooms} }

// ids returns the sorted ids of the sockets that the selector names.
func ids(t *testing.T, l *Local, sel shard.Selector) []string {
	t.Helper()
	found, err := l.Fetch(t.Context(), sel)
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	for _, s := range found {
		ids = append(ids, s.ID)
	}
	slices.Sort(ids)
	return ids
}

func expect(t *testing.T, what string, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s: got %q, want %q", what, got, want)
	}
}

func TestFetch(t *testing.T) {
	l, _, _ := local(t, 0)
	expect(t, "all", ids(t, l, in()), "s0", "s1", "s2", "s3", "s4", "s5")
	expect(t, "room", ids(t, l, in("even")), "s0", "s2", "s4")
	expect(t, "except", ids(t, l, shard.Selector{Namespace: "/", Except: []string{"even", "s1"}}), "s3", "s5")
	expect(t, "another namespace", ids(t, l, shard.Selector{Namespace: "/other"}))

	found, err := l.Fetch(t.Context(), in("s2"))
	if err != nil || len(found) != 1 {
		t.Fatalf("found %v, %v", found, err)
	}
	if s := found[0]; !slices.Equal(s.Rooms, []string{"s2", "even"}) || string(s.Data) != `{"of":"s2"}` {
		t.Errorf("socket is described as %+v", s)
	}
}

func TestJoinAndLeave(t *testing.T) {
	l, _, _ := local(t, 3)
	ctx := t.Context()
	if err := l.Join(ctx, in("even", "s1"), []string{"new", "even"}); err != nil {
		t.Fatal(err)
	}
	expect(t, "new", ids(t, l, in("new")), "s0", "s1", "s2", "s4")
	expect(t, "even", ids(t, l, in("even")), "s0", "s1", "s2", "s4")
	// A selection by the room that it is about.
	if err := l.Leave(ctx, in("even"), []string{"even", "unknown"}); err != nil {
		t.Fatal(err)
	}
	expect(t, "left", ids(t, l, in("even")))
	expect(t, "new", ids(t, l, in("new")), "s0", "s1", "s2", "s4")

	if err := l.Join(ctx, in("s0"), []string{"third", "fourth"}); err == nil {
		t.Error("joined a fourth room of three")
	}
	expect(t, "within the limit", ids(t, l, in("third")), "s0")
	expect(t, "over the limit", ids(t, l, in("fourth")))
}

func TestDisconnect(t *testing.T) {
	l, _, apps := local(t, 0)
	if err := l.Disconnect(t.Context(), in("even"), true); err != nil {
		t.Fatal(err)
	}
	if err := l.Disconnect(t.Context(), in("s1"), false); err != nil {
		t.Fatal(err)
	}
	for i, a := range apps {
		want := []bool(nil)
		switch {
		case i%2 == 0:
			want = []bool{true}
		case i == 1:
			want = []bool{false}
		}
		if !slices.Equal(a.disconnected, want) {
			t.Errorf("%s was disconnected %v, want %v", a.id, a.disconnected, want)
		}
	}
}

func TestEmitAndDeliver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, pool, apps := local(t, 0)
		ctx := t.Context()
		if err := l.Emit(ctx, &shard.Envelope{Selector: in("even"), Text: []byte(`2["x"]`)}); err != nil {
			t.Fatal(err)
		}
		box := store.Box{App: "chat", User: "s1"}
		pool.HandleMail("chat", noMail{})
		var follower *registry.Socket
		err := pool.Owner("s1").Query(ctx, func(v *shard.View) { follower = v.Get("/", "s1") })
		if err != nil {
			t.Fatal(err)
		}
		if _, err := pool.Owner("s1").Follow(ctx, follower, box, store.Offset{}); err != nil {
			t.Fatal(err)
		}
		m := shard.Mail{Box: box, Offset: store.Offset{Epoch: 1, Seq: 1}, Message: engineio.NewMessage([]byte(`2["y"]`))}
		if err := l.Deliver(ctx, m); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		for i, a := range apps {
			want := 0
			if i%2 == 0 || i == 1 {
				want = 1
			}
			if a.frames != want {
				t.Errorf("%s got %d frames, want %d", a.id, a.frames, want)
			}
		}
	})
}

func TestStopped(t *testing.T) {
	l, pool, _ := local(t, 0)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	pool.Stop()
	found, err := l.Fetch(t.Context(), in())
	for what, err := range map[string]error{
		"Fetch": err, "Join": l.Join(t.Context(), in(), nil), "Leave": l.Leave(t.Context(), in(), nil),
		"Disconnect": l.Disconnect(t.Context(), in(), false),
		"Emit":       l.Emit(t.Context(), &shard.Envelope{Selector: in()}),
	} {
		if !errors.Is(err, shard.ErrStopped) {
			t.Errorf("%s after the pool stopped: %v", what, err)
		}
	}
	if len(found) != 0 {
		t.Errorf("found %d sockets", len(found))
	}
}

type noMail struct{}

func (noMail) Mail(context.Context, store.Box, store.Offset, int) ([]shard.Mail, error) {
	return nil, nil
}

var _ Fanout = (*Local)(nil)

package socketio_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"parley/metrics"
	"parley/socketio"
)

// member is a client and its socket.
type member struct {
	*client
	s *socketio.Socket
}

// members joins n clients to a namespace.
func members(f *fixture, namespace string, n int) []member {
	f.t.Helper()
	joined := sockets(f.Of(namespace))
	all := make([]member, n)
	for i := range all {
		all[i].client, _, _ = f.join(namespace)
		all[i].s = next(f.t, joined, "a socket")
	}
	return all
}

// reached wants exactly those members to have got the frame.
func reached(t *testing.T, all []member, text string, want ...int) {
	t.Helper()
	for i, m := range all {
		if slices.Contains(want, i) {
			m.want(text)
		}
		m.sync("/")
	}
}

func TestRooms(t *testing.T) {
	f := start(t, socketio.Options{Shards: 4})
	n := f.Of("/")
	m := members(f, "/", 4)
	check(t, m[0].s.Join("a", "b"))
	check(t, m[1].s.Join("b"))
	check(t, m[2].s.Join("c"))

	check(t, n.To("a").Emit("1"))
	reached(t, m, `42["1"]`, 0)
	check(t, n.To("a", "b").In("c").Emit("2")) // union, each once
	reached(t, m, `42["2"]`, 0, 1, 2)
	check(t, n.To("b").Except("a").Emit("3"))
	reached(t, m, `42["3"]`, 1)
	check(t, n.Except("b", "c").Emit("4"))
	reached(t, m, `42["4"]`, 3)
	check(t, n.Emit("5"))
	reached(t, m, `42["5"]`, 0, 1, 2, 3)
	check(t, n.To("nobody").Emit("6"))
	reached(t, m, "")

	// Of a socket: the same without itself.
	check(t, m[0].s.To("b").Emit("7"))
	reached(t, m, `42["7"]`, 1)
	check(t, m[0].s.In("a", "b", "c").Emit("8"))
	reached(t, m, `42["8"]`, 1, 2)
	check(t, m[0].s.Except("b").Emit("9"))
	reached(t, m, `42["9"]`, 2, 3)
	check(t, m[0].s.Broadcast().Emit("10"))
	reached(t, m, `42["10"]`, 1, 2, 3)
	check(t, m[0].s.Local().Emit("11"))
	reached(t, m, `42["11"]`, 1, 2, 3)

	// An operator is not changed by its use.
	op := n.To("a")
	op.To("c")
	op.Except("a")
	check(t, op.Emit("12"))
	reached(t, m, `42["12"]`, 0)

	// The room of its own.
	own := m[3].s.ID()
	check(t, n.To(own).Emit("13"))
	reached(t, m, `42["13"]`, 3)
	check(t, m[3].s.Leave(own))
	check(t, n.To(own).Emit("14"))
	reached(t, m, "")
	check(t, m[3].s.Emit("15"))
	reached(t, m, `42["15"]`, 3)
	if rooms := m[3].s.Rooms(); len(rooms) != 0 {
		t.Fatalf("rooms %v", rooms)
	}
	check(t, m[3].s.Join(m[0].s.ID())) // another's room is a room like any other
	check(t, n.To(m[0].s.ID()).Emit("16"))
	reached(t, m, `42["16"]`, 0, 3)

	check(t, m[0].s.Leave("a", "never joined"))
	if rooms := m[0].s.Rooms(); !slices.Equal(rooms, []string{m[0].s.ID(), "b"}) {
		t.Fatalf("rooms %v", rooms)
	}
	check(t, n.To("a").Emit("17"))
	reached(t, m, "")
}

func TestRoomsArePerNamespace(t *testing.T) {
	f := start(t, socketio.Options{})
	joined, joined2 := sockets(f.Of("/")), sockets(f.Of("/custom"))
	c, _, _ := f.join("/")
	c.connect("/custom")
	check(t, next(t, joined, "a socket").Join("r"))
	check(t, next(t, joined2, "a socket").Join("r"))
	check(t, f.Of("/custom").To("r").Emit("x"))
	c.want(`42/custom,["x"]`)
	c.sync("/")
}

func TestOperatorFlags(t *testing.T) {
	f := start(t, socketio.Options{})
	m := members(f, "/", 2)
	n := f.Of("/")
	check(t, n.Local().Compress(false).Compress(true).Emit("1"))
	reached(t, m, `42["1"]`, 0, 1)
	check(t, n.Volatile().Emit("2"))
	reached(t, m, `42["2"]`, 0, 1)
	check(t, m[0].s.Volatile().Compress(false).Emit("3"))
	reached(t, m, `42["3"]`, 0)
	check(t, m[0].s.Compress(true).Emit("4"))
	reached(t, m, `42["4"]`, 0)

	// A polling client without a GET is not ready for what is volatile.
	joined := sockets(f.Of("/custom"))
	p := f.poll()
	p.post("40/custom,")
	s := next(t, joined, "a socket")
	parseConnect(t, "/custom", p.packet())
	check(t, s.Volatile().Emit("lost"))
	f.wantCount(metrics.VolatileDropped, "slow", 1)
	check(t, s.Emit("kept"))
	p.want(`42/custom,["kept"]`)
}

func TestBroadcastWithAck(t *testing.T) {
	f := start(t, socketio.Options{Shards: 4})
	n := f.Of("/")
	m := members(f, "/", 3)
	type result struct {
		replies []socketio.Args
		err     error
	}
	ask := func(op *socketio.Operator, ctx context.Context) <-chan result {
		done := make(chan result, 1)
		go func() {
			replies, err := op.EmitWithAck(ctx, "ask")
			done <- result{replies, err}
		}()
		return done
	}
	values := func(r result) (got []int) {
		for _, args := range r.replies {
			var v int
			check(t, args.Decode(0, &v))
			got = append(got, v)
		}
		slices.Sort(got)
		return got
	}
	answer := func(i int) {
		id := m[i].match(`42(\d+)\["ask"\]`)[0]
		m[i].send("43" + id + "[" + string(rune('0'+i)) + "]")
	}

	done := ask(n.Timeout(patience), t.Context())
	for i := range m {
		answer(i)
	}
	if r := next(t, done, "the answers"); r.err != nil || !slices.Equal(values(r), []int{0, 1, 2}) {
		t.Fatalf("got %v, %v", values(r), r.err)
	}

	// Nobody to ask.
	if r := next(t, ask(n.To("nobody"), long(t)), "the answers"); r.err != nil || len(r.replies) != 0 {
		t.Fatalf("got %v", r)
	}

	// One never answers.
	done = ask(n.Timeout(300*time.Millisecond), t.Context())
	answer(0)
	answer(1)
	m[2].match(`42\d+\["ask"\]`)
	if r := next(t, done, "the answers"); !errors.Is(r.err, socketio.ErrTimeout) || !slices.Equal(values(r), []int{0, 1}) {
		t.Fatalf("got %v, %v", values(r), r.err)
	}

	// Nobody waits any more.
	ctx, cancel := context.WithCancel(t.Context())
	done = ask(n.Timeout(patience), ctx)
	answer(0)
	m[1].match(`42\d+\["ask"\]`)
	m[2].match(`42\d+\["ask"\]`)
	cancel()
	if r := next(t, done, "the answers"); !errors.Is(r.err, context.Canceled) {
		t.Fatalf("got %v", r.err)
	}

	// One goes away.
	done = ask(n.Timeout(patience), t.Context())
	answer(0)
	answer(1)
	m[2].match(`42\d+\["ask"\]`)
	m[2].drop()
	if r := next(t, done, "the answers"); !errors.Is(r.err, socketio.ErrDisconnected) || !slices.Equal(values(r), []int{0, 1}) {
		t.Fatalf("got %v, %v", values(r), r.err)
	}

	if _, err := n.EmitWithAck(context.Background(), "ask"); err == nil {
		t.Fatal("a wait without an end was begun")
	}
}

func TestSingleAck(t *testing.T) {
	f := start(t, socketio.Options{})
	m := members(f, "/", 1)
	c, s := m[0].client, m[0].s

	_, err := s.EmitWithAck(context.Background(), "ask")
	if err == nil {
		t.Fatal("a wait without an end was begun")
	}
	_, err = s.Timeout(20*time.Millisecond).EmitWithAck(t.Context(), "ask")
	wantError(t, err, socketio.ErrTimeout)
	id := c.match(`42(\d+)\["ask"\]`)[0]
	c.send("43" + id + `["late"]`)
	c.sync("/")

	// A binary question and a binary answer.
	done := make(chan []byte, 1)
	go func() {
		args, err := s.EmitWithAck(long(t), "ask", []byte{9})
		var b []byte
		check(t, errors.Join(err, args.Decode(0, &b)))
		done <- b
	}()
	id = c.match(`451-(\d+)\["ask",\{"_placeholder":true,"num":0\}\]`)[0]
	c.wantBinary([]byte{9})
	c.send("461-" + id + `[{"_placeholder":true,"num":0}]`)
	c.sendBinary([]byte{8, 7})
	if b := next(t, done, "the answer"); !slices.Equal(b, []byte{8, 7}) {
		t.Fatalf("got %v", b)
	}

	// The client goes away.
	failed := make(chan error, 1)
	go func() {
		_, err := s.EmitWithAck(long(t), "ask")
		failed <- err
	}()
	c.match(`42\d+\["ask"\]`)
	c.drop()
	wantError(t, next(t, failed, "the end of the wait"), socketio.ErrDisconnected)
	f.wantReason("transport close")
	_, err = s.EmitWithAck(long(t), "ask")
	wantError(t, err, socketio.ErrDisconnected)
	wantError(t, s.Emit("x"), socketio.ErrDisconnected)
}

func TestAckIsForgottenWhenItsSocketChangedRooms(t *testing.T) {
	f := start(t, socketio.Options{MaxPendingAcks: 1})
	m := members(f, "/", 1)
	s := m[0].s
	check(t, s.Join("r"))
	failed := make(chan error, 1)
	go func() {
		_, err := f.Of("/").To("r").Timeout(50*time.Millisecond).EmitWithAck(t.Context(), "ask")
		failed <- err
	}()
	m[0].match(`42\d+\["ask"\]`)
	check(t, s.Leave("r", s.ID()))
	wantError(t, next(t, failed, "the timeout"), socketio.ErrTimeout)
	_, err := s.EmitWithAck(short(t), "ask") // there is room for one again
	wantError(t, err, socketio.ErrTimeout)
	_, err = s.EmitWithAck(short(t), "ask")
	wantError(t, err, socketio.ErrTimeout)
}

func TestDeadlock(t *testing.T) {
	f := start(t, socketio.Options{})
	n := f.Of("/")
	asked := make(chan error, 1)
	n.OnEvent("deadlock", func(ctx context.Context, e *socketio.Event) error {
		ctx, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		_, err := e.Socket.EmitWithAck(ctx, "ask")
		asked <- err
		return nil
	})
	n.OnEvent("aside", func(_ context.Context, e *socketio.Event) error {
		go func() {
			_, err := e.Socket.Timeout(patience).EmitWithAck(t.Context(), "ask")
			asked <- err
		}()
		return nil
	})
	c, _, _ := f.join("/")
	c.send(`42["deadlock"]`)
	wantError(t, next(t, asked, "the error"), socketio.ErrDeadlock)
	c.send(`42["aside"]`)
	id := c.match(`42(\d+)\["ask"\]`)[0]
	c.send("43" + id + "[]")
	check(t, next(t, asked, "the answer"))
}

func TestSocketsJoinLeaveFetch(t *testing.T) {
	f := start(t, socketio.Options{Shards: 4})
	n := f.Of("/")
	m := members(f, "/", 3)
	check(t, m[0].s.Join("a"))
	check(t, m[1].s.Join("a"))
	check(t, n.To("a").SocketsJoin("b", "c"))
	check(t, n.To("b").Emit("1"))
	reached(t, m, `42["1"]`, 0, 1)
	check(t, n.To("a").Except(m[0].s.ID()).SocketsLeave("b", "a"))
	check(t, n.To("b").Emit("2"))
	reached(t, m, `42["2"]`, 0)
	check(t, m[0].s.Broadcast().SocketsJoin("others"))

	ids := func(op *socketio.Operator) (ids []string) {
		found, err := op.FetchSockets(long(t))
		check(t, err)
		for _, r := range found {
			ids = append(ids, r.ID)
			if !slices.Contains(r.Rooms, r.ID) || string(r.Data) != "{}" || len(r.Handshake) < 2 {
				t.Errorf("found %+v", r)
			}
		}
		slices.Sort(ids)
		return ids
	}
	sorted := func(of ...int) (ids []string) {
		for _, i := range of {
			ids = append(ids, m[i].s.ID())
		}
		slices.Sort(ids)
		return ids
	}
	for _, v := range []struct {
		op   *socketio.Operator
		want []string
	}{
		{n.Operator, sorted(0, 1, 2)}, {n.To("a", "b"), sorted(0)}, {n.To("others"), sorted(1, 2)},
		{n.To("others").Except("c"), sorted(2)}, {n.To("nobody"), nil},
	} {
		if got := ids(v.op); !slices.Equal(got, v.want) {
			t.Fatalf("fetched %v, want %v", got, v.want)
		}
	}
}

func TestDisconnectSockets(t *testing.T) {
	f := start(t, socketio.Options{Shards: 4})
	n := f.Of("/")
	m := members(f, "/", 3)
	m[1].connect("/custom")
	check(t, m[0].s.Join("out"))
	check(t, m[1].s.Join("out", "close"))

	check(t, n.To("out").Except("close").DisconnectSockets(false))
	m[0].want("41")
	f.wantReason(socketio.ReasonServerDisconnect)
	m[0].send(`42["message","crossed"]`) // is ignored
	m[0].connect("/")                    // on the same connection
	m[0].sync("/")

	check(t, n.To("close").DisconnectSockets(true))
	m[1].want("41", "41/custom,")
	m[1].wantClosed()
	f.wantReason(socketio.ReasonServerDisconnect)
	f.wantReason(socketio.ReasonServerDisconnect)
	m[2].sync("/")
}

package socketio_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"parley/metrics"
	"parley/socketio"
	"parley/store"
)

func TestMailRecovery(t *testing.T) {
	m := startMail(t, newStore(t), socketio.Options{Shards: 4})
	c, sid, pid := m.join("/", `{"user":"ann"}`)
	s := next(t, m.joined, "a socket")
	check(t, s.Join("r"))
	check(t, s.SetData("kept"))
	m.mail("ann", "", 1, 2)
	offset := c.wantMail(1, 2)
	c.drop()
	m.wantReason("transport close")
	m.mail("ann", "", 3)
	m.mail("ann", sid, 4) // its own
	m.mail("ann", "", 5)

	c = m.dial()
	c.send("40" + claim("ann", pid, offset))
	c.wantMail(3, 5)
	if sid2, pid2 := c.connected("/"); sid2 != sid || pid2 != pid {
		t.Fatal("the ids changed")
	}
	s = next(t, m.joined, "the socket")
	var data string
	if !s.Recovered() || s.Data(&data) != nil || data != "kept" || strings.Join(s.Rooms(), ",") != sid+",r" {
		t.Fatalf("recovered %v with data %q and rooms %v", s.Recovered(), data, s.Rooms())
	}
	m.mail("ann", "", 6)
	offset = c.wantMail(6)

	// The record was used up, and written again: it works once more, but not for two.
	c.drop()
	m.wantReason("transport close")
	m.mail("ann", "", 7)
	c = m.dial()
	c.send("40" + claim("ann", pid, offset))
	c.wantMail(7)
	c.connected("/")
}

func TestMailRecoveryInAnotherProcess(t *testing.T) {
	st := newStore(t)
	first := startMail(t, st, socketio.Options{})
	c, sid, pid := first.join("/", `{"user":"ann"}`)
	check(t, next(t, first.joined, "a socket").Join("r"))
	first.mail("ann", "", 1)
	offset := c.wantMail(1)
	first.shutdown()
	c.wantClosed()
	first.append("ann", "", "2", "2") // stored, and delivered to nobody

	second := startMail(t, st, socketio.Options{})
	c = second.dial()
	c.send("40" + claim("ann", pid, offset))
	c.wantMail(2)
	if sid2, pid2 := c.connected("/"); sid2 != sid || pid2 != pid {
		t.Fatal("the ids changed")
	}
	s := next(t, second.joined, "the socket")
	if !s.Recovered() || strings.Join(s.Rooms(), ",") != sid+",r" {
		t.Fatalf("recovered %v in rooms %v", s.Recovered(), s.Rooms())
	}
	second.mail("ann", "", 3)
	c.wantMail(3)
}

// TestMailRecoveryAfterCrash has a process that did not write what it should at the end.
func TestMailRecoveryAfterCrash(t *testing.T) {
	st := newStore(t)
	first := startMail(t, st, socketio.Options{})
	c, sid, pid := first.join("/", `{"user":"ann"}`)
	next(t, first.joined, "a socket")
	first.mail("ann", "", 1)
	offset := c.wantMail(1)

	second := startMail(t, st, socketio.Options{}) // the first one is as good as dead: nothing of it is asked
	second.mail("ann", "", 2)
	d := second.dial()
	d.send("40" + claim("ann", pid, offset))
	d.wantMail(2)
	if sid2, pid2 := d.connected("/"); sid2 != sid || pid2 != pid {
		t.Fatal("the ids changed")
	}
}

func TestMailRecoveryWithoutOffset(t *testing.T) {
	m := startMail(t, newStore(t), socketio.Options{})
	m.mail("ann", "", 1)
	c, sid, pid := m.join("/", `{"user":"ann"}`)
	next(t, m.joined, "a socket")
	c.drop()
	m.wantReason("transport close")
	m.mail("ann", "", 2, 3)
	c = m.dial()
	c.send("40" + claim("ann", pid, ""))
	c.wantMail(2, 3)
	if again, _ := c.connected("/"); again != sid {
		t.Fatal("not recovered")
	}
}

// TestMailRecoveryWithoutOffsetTwice has the client drop again before it got anything of what it missed.
func TestMailRecoveryWithoutOffsetTwice(t *testing.T) {
	m := startMail(t, newStore(t), socketio.Options{})
	c, sid, pid := m.join("/", `{"user":"ann"}`)
	next(t, m.joined, "a socket")
	c.drop()
	m.wantReason("transport close")
	m.mail("ann", "", 1, 2)
	for range 3 {
		c = m.dial()
		c.send("40" + claim("ann", pid, ""))
		c.wantMail(1, 2)
		if again, _ := c.connected("/"); again != sid {
			t.Fatal("not recovered")
		}
		next(t, m.joined, "a socket")
		c.drop()
		m.wantReason("transport close")
	}
}

// turns is a store that several processes might share: a record goes on under the next turn when it is taken.
type turns struct {
	store.Recoveries
	mu     sync.Mutex
	record store.Recovery
}

func (s *turns) SaveRecovery(_ context.Context, r store.Recovery, _ time.Duration) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.Turn >= s.record.Turn {
		s.record = r
	}
	return nil
}

func (s *turns) TakeRecovery(context.Context, string) (store.Recovery, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.record
	s.record.Turn++
	s.record.Disconnected = time.Time{}
	return r, nil
}

// TestMailRecoveryTwiceAtOnce has a client give up a connection that is just being taken back, and come back over
// another one: that one stays.
func TestMailRecoveryTwiceAtOnce(t *testing.T) {
	m := startMail(t, newStore(t), socketio.Options{}, func(r *socketio.Recovery) { r.Store = &turns{Recoveries: r.Store} })
	held, release := make(chan struct{}), make(chan struct{})
	m.n.Use(func(_ context.Context, s *socketio.Socket) error {
		if strings.Contains(string(s.Handshake().Auth), "hold") {
			close(held)
			<-release
		}
		return nil
	})
	c, sid, pid := m.join("/", `{"user":"ann"}`)
	next(t, m.joined, "a socket")
	m.mail("ann", "", 1)
	offset := c.wantMail(1)
	c.drop()
	m.wantReason("transport close")
	old := m.dial()
	old.send(fmt.Sprintf(`40{"user":"ann","pid":%q,"offset":%q,"hold":true}`, pid, offset))
	next(t, held, "the first connection")
	c = m.dial()
	c.send("40" + claim("ann", pid, offset))
	if again, _ := c.connected("/"); again != sid {
		t.Fatal("not recovered")
	}
	next(t, m.joined, "a socket")
	close(release)
	old.wantClosed()
	m.mail("ann", "", 2)
	c.wantMail(2)
}

// TestNoMailRecoveryWithoutSnapshot has a client drop before it got the snapshot that it would have to begin with: what
// came before that is in no mail to come.
func TestNoMailRecoveryWithoutSnapshot(t *testing.T) {
	m := startMail(t, newStore(t), socketio.Options{})
	m.mail("ann", "", 1)
	at, err := m.store.Tail(t.Context(), store.Box{App: app, User: "ann"})
	check(t, err)
	m.n.OnConnection(func(ctx context.Context, s *socketio.Socket) {
		if s.Recovered() {
			return
		}
		check(t, s.EmitAt(at, "snapshot"))
		// The record knows of it from here on.
		s.Reconnect()
	})
	_, _, pid := m.join("/", `{"user":"ann"}`)
	m.wantReason("forced close")
	c := m.dial()
	c.send("40" + claim("ann", pid, ""))
	if _, again := c.connected("/"); again == pid {
		t.Fatal("recovered")
	}
	m.wantCount(metrics.Recoveries, "no offset", 1)
}

// TestStringsBeforeFollowing has a client that is back hear an event which ends in a string before its welcome goes on:
// it stays where it is.
func TestStringsBeforeFollowing(t *testing.T) {
	m := startMail(t, newStore(t), socketio.Options{})
	before := func(s *socketio.Socket) { check(t, s.Emit("text", "hello")) }
	m.before.Store(&before)
	c := m.dial()
	sid, pid := c.connect("/", `{"user":"ann"}`)
	c.want(`42["text","hello",null]`)
	next(t, m.joined, "a socket")
	m.mail("ann", "", 1)
	offset := c.wantMail(1)
	for range 2 {
		c.drop()
		m.wantReason("transport close")
		c = m.dial()
		c.send("40" + claim("ann", pid, offset))
		if again, _ := c.connected("/"); again != sid {
			t.Fatal("not recovered")
		}
		c.want(`42["text","hello","` + offset + `"]`)
		next(t, m.joined, "a socket")
	}
}

func TestNoMailRecovery(t *testing.T) {
	for name, v := range map[string]struct {
		end     func(c *client, s *socketio.Socket)
		auth    func(pid, offset string) string
		change  func(*socketio.Recovery)
		outcome string
	}{
		"wrong offset":  {auth: func(pid, _ string) string { return claim("ann", pid, "1-1") }, outcome: "unknown offset"},
		"no offset":     {auth: func(pid, _ string) string { return claim("ann", pid, "hello") }, outcome: "unknown offset"},
		"future offset": {auth: func(pid, o string) string { return claim("ann", pid, o+"0") }, outcome: "unknown offset"},
		"wrong pid":     {auth: func(_, o string) string { return claim("ann", "00xxxxxxxxxxxxxxxxxx", o) }, outcome: "unknown pid"},
		"long pid":      {auth: func(_, o string) string { return claim("ann", strings.Repeat("x", 5000), o) }, outcome: "unknown pid"},
		"other user":    {auth: func(pid, o string) string { return claim("bob", pid, o) }, outcome: "other user"},
		"after 41":      {end: func(c *client, _ *socketio.Socket) { c.send("41") }, outcome: "unknown pid"},
		"disconnected":  {end: func(_ *client, s *socketio.Socket) { s.Disconnect(true) }, outcome: "unknown pid"},
		"parse error":   {end: func(c *client, _ *socketio.Socket) { c.send("x") }, outcome: "unknown pid"},
		"expired":       {change: func(r *socketio.Recovery) { r.MaxDisconnection = time.Nanosecond }, outcome: ""},
	} {
		t.Run(name, func(t *testing.T) {
			if v.change == nil {
				v.change = func(*socketio.Recovery) {}
			}
			m := startMail(t, newStore(t), socketio.Options{}, v.change)
			c, sid, pid := m.join("/", `{"user":"ann"}`)
			s := next(t, m.joined, "a socket")
			m.mail("ann", "", 1)
			offset := c.wantMail(1)
			if v.end != nil {
				v.end(c, s)
			} else {
				c.drop()
			}
			next(t, m.reasons, "the end")
			if v.auth == nil {
				v.auth = func(pid, o string) string { return claim("ann", pid, o) }
			}
			d := m.dial()
			sid2, pid2 := d.connect("/", v.auth(pid, offset))
			if sid2 == sid || pid2 == pid || pid2 == "" {
				t.Fatal("got the old ids")
			}
			s = next(t, m.joined, "a socket")
			var user string
			if s.Recovered() || s.Data(&user) != nil || user != s.User() || s.ID() != sid2 {
				t.Fatalf("recovered %v, data %q, user %q", s.Recovered(), user, s.User())
			}
			if v.outcome != "" {
				m.wantCount(metrics.Recoveries, v.outcome, 1)
			}
			if name == "other user" { // it is no use to another, and still there for its owner
				c = m.dial()
				if again, _ := c.connect("/", claim("ann", pid, offset)); again != sid {
					t.Fatal("the owner can't recover any more")
				}
			}
		})
	}
}

func TestRefusedClientRecoversLater(t *testing.T) {
	m := startMail(t, newStore(t), socketio.Options{})
	c, sid, pid := m.join("/", `{"user":"ann"}`)
	next(t, m.joined, "a socket")
	m.mail("ann", "", 1)
	offset := c.wantMail(1)
	c.drop()
	m.wantReason("transport close")
	m.mail("ann", "", 2)
	c = m.dial()
	c.send(`40{"user":"ann","token":"bad","pid":"` + pid + `","offset":"` + offset + `"}`)
	c.want(`44{"message":"bad token"}`)
	c.send("40" + claim("ann", pid, offset))
	c.wantMail(2)
	if again, _ := c.connected("/"); again != sid {
		t.Fatal("not recovered")
	}
}

// TestClaimThatFails has the application refuse a claim, and take the same client a moment later, as it may while keys are being
// exchanged: a new client would have lost what it missed.
func TestClaimThatFails(t *testing.T) {
	var refuse atomic.Bool
	m := startMail(t, newStore(t), socketio.Options{}, func(r *socketio.Recovery) {
		r.Claim = func(context.Context, *socketio.Socket) (string, error) {
			if refuse.Swap(false) {
				return "", errors.New("no such key yet")
			}
			return "ann", nil
		}
	})
	c, sid, pid := m.join("/", `{"user":"ann"}`)
	next(t, m.joined, "a socket")
	m.mail("ann", "", 1)
	offset := c.wantMail(1)
	c.drop()
	m.wantReason("transport close")
	m.mail("ann", "", 2)
	refuse.Store(true)
	c = m.dial()
	c.send("40" + claim("ann", pid, offset))
	c.wantClosed()
	c = m.dial()
	c.send("40" + claim("ann", pid, offset))
	c.wantMail(2)
	if again, _ := c.connected("/"); again != sid {
		t.Fatal("not recovered")
	}
}

// TestClientIsBackFirst has a client return while the server believes its old connection to be open.
func TestClientIsBackFirst(t *testing.T) {
	t.Run("mail", func(t *testing.T) {
		m := startMail(t, newStore(t), socketio.Options{})
		old, sid, pid := m.join("/", `{"user":"ann"}`)
		next(t, m.joined, "a socket")
		m.mail("ann", "", 1)
		offset := old.wantMail(1)
		m.mail("ann", "", 2) // goes to the old connection, and is lost with it
		old.wantMail(2)
		c := m.dial()
		c.send("40" + claim("ann", pid, offset))
		c.wantMail(2)
		if sid2, pid2 := c.connected("/"); sid2 != sid || pid2 != pid {
			t.Fatal("the ids changed")
		}
		old.wantClosed()
		m.wantReason("transport close")
		m.mail("ann", "", 3)
		c.wantMail(3)
	})
	t.Run("log", func(t *testing.T) {
		f := start(t, socketio.Options{})
		n := f.Of("/")
		n.UseRecovery(socketio.Recovery{SkipMiddlewares: true})
		old, sid, pid := f.join("/")
		old.sync("/") // its connect is done
		check(t, n.Emit("a"))
		offset := old.match(`42\["a","([^"]+)"\]`)[0]
		check(t, n.Emit("b"))
		old.match(`42\["b","([^"]+)"\]`)
		c := f.dial()
		c.send("40" + claim("", pid, offset))
		c.match(`42\["b","([^"]+)"\]`)
		if sid2, pid2 := c.connected("/"); sid2 != sid || pid2 != pid {
			t.Fatal("the ids changed")
		}
		old.wantClosed()
		f.wantReason("transport close")
	})
}

func TestLogRecoveryKeepsRoomsDataAndFilters(t *testing.T) {
	f := start(t, socketio.Options{Shards: 4})
	n := f.Of("/")
	n.UseRecovery(socketio.Recovery{SkipMiddlewares: true})
	joined := sockets(n)
	c, sid, pid := f.join("/")
	s := next(t, joined, "a socket")
	check(t, s.Join("r"))
	check(t, s.SetData(7))
	check(t, s.Emit("start"))
	offset := c.match(`42\["start","([^"]+)"\]`)[0]
	c.drop()
	f.wantReason("transport close")
	other, _, _ := f.join("/")
	o := next(t, joined, "another socket")

	check(t, n.To("r").Emit("room"))
	check(t, n.To("elsewhere").Emit("no"))
	check(t, n.Except("r").Emit("no"))
	check(t, n.Volatile().Emit("no"))
	check(t, n.To(sid).Emit("own", []byte{5}))
	check(t, o.Broadcast().Emit("broadcast"))
	// A socket that is away does not count among those who answer.
	replies, err := n.To("r").Timeout(patience).EmitWithAck(t.Context(), "no")
	if err != nil || len(replies) != 0 {
		t.Fatalf("got %v, %v", replies, err)
	}
	if found, err := n.FetchSockets(long(t)); err != nil || len(found) != 1 {
		t.Fatalf("found %v, %v", found, err)
	}

	c = f.dial()
	c.send("40" + claim("", pid, offset))
	c.match(`42\["room","[^"]+"\]`)
	c.match(`451-\["own",\{"_placeholder":true,"num":0\},"[^"]+"\]`)
	c.wantBinary([]byte{5})
	c.match(`42\["broadcast","[^"]+"\]`)
	c.connected("/")
	s = next(t, joined, "the socket")
	var data int
	if !s.Recovered() || s.Data(&data) != nil || data != 7 || strings.Join(s.Rooms(), ",") != sid+",r" {
		t.Fatalf("recovered %v with data %d and rooms %v", s.Recovered(), data, s.Rooms())
	}
	check(t, n.To("r").Emit("again"))
	c.match(`42\["again","[^"]+"\]`)
	other.match(`42\["no","[^"]+"\]`)
}

func TestTrailingStringsCarryTheOffset(t *testing.T) {
	m := startMail(t, newStore(t), socketio.Options{})
	c, _, _ := m.join("/", `{"user":"ann"}`)
	s := next(t, m.joined, "a socket")
	m.mail("ann", "", 1)
	offset := c.wantMail(1)
	check(t, m.n.Emit("text", "hello"))
	c.want(`42["text","hello","` + offset + `"]`)
	check(t, s.Emit("text", "hello"))
	c.want(`42["text","hello","` + offset + `"]`)
	check(t, m.n.Emit("name only"))
	c.want(`42["name only","` + offset + `"]`)
	check(t, m.n.Emit("number", 1))
	c.want(`42["number",1]`)
}

// TestShardDies has one shard panic under load: its clients lose their connections, come back, and have missed
// nothing.
func TestShardDies(t *testing.T) {
	const clients, mails = 24, 200 // enough that both shards own some
	m := startMail(t, newStore(t), socketio.Options{Shards: 2})
	type device struct {
		*client
		user, sid, pid, offset string
		got                    int
	}
	devices := make([]*device, clients)
	for i := range devices {
		d := &device{user: fmt.Sprintf("user%d", i)}
		d.client, d.sid, d.pid = m.join("/", `{"user":"`+d.user+`"}`)
		check(t, next(t, m.joined, "a socket").Join("kept"))
		m.mail(d.user, "", 1)
		d.offset, d.got = d.wantMail(1), 1
		devices[i] = d
	}
	died := m.DieAt(devices[0].user)
	for i := 2; i <= mails; i++ {
		for _, d := range devices {
			m.mail(d.user, "", i)
		}
		if i == mails/2 {
			died()
		}
	}
	m.wantCount(metrics.ShardPanics, "turn", 1)
	recovered := 0
	for _, d := range devices {
		for d.got < mails {
			if text, ok := d.tryText(); ok {
				var event []any
				if err := json.Unmarshal([]byte(strings.TrimPrefix(text, "42")), &event); err != nil || event[0] != "mail" {
					t.Fatalf("got %q", text)
				}
				d.got++
				if event[1] != float64(d.got) {
					t.Fatalf("%s got %v, want %d", d.user, event[1], d.got)
				}
				d.offset = event[2].(string)
				continue
			}
			// Back, with what was missed ahead of the CONNECT.
			recovered++
			d.client = m.dial()
			d.send("40" + claim(d.user, d.pid, d.offset))
			for {
				text := d.text()
				if strings.HasPrefix(text, "40") {
					if sid, pid := parseConnect(t, "/", text); sid != d.sid || pid != d.pid {
						t.Fatal("not recovered")
					}
					break
				}
				var event []any
				if err := json.Unmarshal([]byte(strings.TrimPrefix(text, "42")), &event); err != nil {
					t.Fatalf("got %q", text)
				}
				d.got++
				if event[1] != float64(d.got) {
					t.Fatalf("%s got %v, want %d", d.user, event[1], d.got)
				}
				d.offset = event[2].(string)
			}
		}
		d.sync("/")
	}
	if recovered == 0 || recovered == clients {
		t.Fatalf("%d of %d clients recovered: one shard of two was to die", recovered, clients)
	}
	check(t, m.n.To("kept").Emit("room", 1))
	for _, d := range devices {
		d.want(`42["room",1]`)
	}
}

// tryText reads a text frame, or returns false at the end of the connection.
func (c *client) tryText() (string, bool) {
	c.t.Helper()
	select {
	case fr := <-c.frames:
		return fr.text, true
	default:
	}
	select {
	case fr := <-c.frames:
		return fr.text, true
	case <-c.ended:
		select {
		case fr := <-c.frames:
			return fr.text, true
		default:
			return "", false
		}
	case <-time.After(patience):
		c.t.Fatal("no frame came")
		panic("unreachable")
	}
}

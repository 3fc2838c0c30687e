package socketio_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"parley/metrics"
	"parley/shard"
	"parley/socketio"
	"parley/store"
	"parley/store/memory"
)

const app = "test"

// mailServer is a server with a namespace "/" on which each user follows a mailbox. The store outlives it.
type mailServer struct {
	*fixture
	n      *socketio.Namespace
	store  *memory.Store
	joined <-chan *socketio.Socket
	before atomic.Pointer[func(*socketio.Socket)] // runs before a socket follows
}

func newStore(t *testing.T) *memory.Store {
	s := memory.New(store.Options{})
	t.Cleanup(func() { check(t, s.Close()) })
	return s
}

func startMail(t *testing.T, st *memory.Store, o socketio.Options, change ...func(*socketio.Recovery)) *mailServer {
	t.Helper()
	m := &mailServer{fixture: start(t, o), store: st}
	m.n = m.Of("/")
	m.n.Use(func(_ context.Context, s *socketio.Socket) error {
		var auth struct{ User, Token string }
		if err := json.Unmarshal(s.Handshake().Auth, &auth); err != nil {
			return err
		}
		if auth.Token == "bad" {
			return &socketio.Error{Message: "bad token"}
		}
		s.SetUser(auth.User)
		if s.Recovered() {
			return nil
		}
		return s.SetData(auth.User)
	})
	m.n.UseMail(socketio.Mail{App: app, Store: st, Event: func(e store.Entry) (string, []any, error) {
		switch string(e.Data) {
		case `"error"`:
			return "", nil, errors.New("unreadable")
		case `"panic"`:
			panic("unreadable")
		}
		return "mail", []any{json.RawMessage(e.Data)}, nil
	}})
	r := socketio.Recovery{Store: st}
	for _, c := range change {
		c(&r)
	}
	m.n.UseRecovery(r)
	joined := make(chan *socketio.Socket, 1000)
	m.n.OnConnection(func(ctx context.Context, s *socketio.Socket) {
		box, at := store.Box{App: app, User: s.User()}, s.ResumeAt()
		if before := m.before.Load(); before != nil {
			(*before)(s)
		}
		if !s.Recovered() {
			var err error
			if at, err = st.Tail(ctx, box); err != nil {
				t.Error(err)
			}
		}
		if err := s.Follow(ctx, box, at); err != nil && !errors.Is(err, shard.ErrGone) {
			s.Reconnect()
		}
		joined <- s
	})
	m.joined = joined
	return m
}

// append stores mail, and deliver hands it on.
func (m *mailServer) append(user, origin, id, data string) store.Entry {
	m.t.Helper()
	box := store.Box{App: app, User: user}
	post := store.Post{ID: id, Sender: "sender", Origin: origin, At: time.Now(), Data: []byte(data), To: []store.Delivery{{Box: box}}}
	r, err := m.store.Append(m.t.Context(), post)
	if err != nil {
		m.t.Fatal(err)
	}
	return store.Entry{Offset: r.Offsets[0], ID: id, At: r.At, Origin: origin, Data: post.Data}
}

func (m *mailServer) deliver(user string, entries ...store.Entry) {
	m.t.Helper()
	for _, e := range entries {
		check(m.t, m.n.Deliver(m.t.Context(), store.Box{App: app, User: user}, e))
	}
}

func (m *mailServer) mail(user, origin string, numbers ...int) (last store.Offset) {
	m.t.Helper()
	for _, i := range numbers {
		e := m.append(user, origin, fmt.Sprint(i), fmt.Sprint(i))
		m.deliver(user, e)
		last = e.Offset
	}
	return last
}

// wantMail reads mail with those numbers, and returns the last one's offset.
func (c *client) wantMail(numbers ...int) (offset string) {
	c.t.Helper()
	for _, i := range numbers {
		offset = c.match(fmt.Sprintf(`42\["mail",%d,"([0-9a-z]+-[0-9]+)"\]`, i))[0]
	}
	return offset
}

func claim(user, pid, offset string) string {
	auth := map[string]string{"user": user, "pid": pid}
	if offset != "" {
		auth["offset"] = offset
	}
	text, _ := json.Marshal(auth)
	return string(text)
}

func TestMailIsInOrderAndOnce(t *testing.T) {
	m := startMail(t, newStore(t), socketio.Options{Shards: 4})
	a, sidA, _ := m.join("/", `{"user":"ann"}`)
	b, _, _ := m.join("/", `{"user":"ann"}`)
	other, _, _ := m.join("/", `{"user":"bob"}`)
	for range 3 {
		next(t, m.joined, "a socket")
	}
	m.mail("ann", "", 1, 2)
	a.wantMail(1, 2)
	b.wantMail(1, 2)

	// Handed in out of order, twice, and not at all.
	var entries []store.Entry
	for i := 3; i <= 7; i++ {
		entries = append(entries, m.append("ann", "", fmt.Sprint(i), fmt.Sprint(i)))
	}
	m.deliver("ann", entries[4], entries[1], entries[0], entries[0], entries[1])
	a.wantMail(3, 4, 5, 6, 7)
	b.wantMail(3, 4, 5, 6, 7)

	// The sender is not given its own.
	m.mail("ann", sidA, 8)
	m.mail("ann", "", 9)
	a.wantMail(9)
	b.wantMail(8, 9)
	other.sync("/")
	a.sync("/")
	b.sync("/")
}

func TestMailThatCantBeAnEvent(t *testing.T) {
	m := startMail(t, newStore(t), socketio.Options{})
	c, _, pid := m.join("/", `{"user":"ann"}`)
	next(t, m.joined, "a socket")
	m.mail("ann", "", 1)
	offset := c.wantMail(1)
	for _, data := range []string{`"error"`, `"panic"`} {
		m.deliver("ann", m.append("ann", "", data, data))
		c.match(`42\["","[0-9a-z]+-[0-9]+"\]`)
	}
	m.mail("ann", "", 2)
	c.wantMail(2)
	m.fixture.wantCount(metrics.HandlerPanics, "mail", 1)
	c.drop()
	m.wantReason("transport close")
	c = m.dial()
	c.send("40" + claim("ann", pid, offset))
	c.match(`42\["","[0-9a-z]+-[0-9]+"\]`)
	c.match(`42\["","[0-9a-z]+-[0-9]+"\]`)
	c.wantMail(2)
	c.connected("/")
}

func TestFollow(t *testing.T) {
	st := newStore(t)
	m := startMail(t, st, socketio.Options{})
	box := store.Box{App: app, User: "ann"}
	n := m.Of("/plain")
	joined := sockets(n)
	n.Use(func(_ context.Context, s *socketio.Socket) error { s.SetUser("ann"); return nil })
	n.UseMail(socketio.Mail{App: "plain", Store: st, Event: func(e store.Entry) (string, []any, error) {
		return "plain", []any{json.RawMessage(e.Data)}, nil
	}})
	var first store.Offset
	for i := 1; i <= 1200; i++ { // more than one page
		at, err := st.Append(t.Context(), store.Post{
			ID: fmt.Sprint(i), Sender: "s", Data: []byte(fmt.Sprint(i)),
			To: []store.Delivery{{Box: store.Box{App: "plain", User: "ann"}}},
		})
		check(t, err)
		if i == 200 {
			first = at.Offsets[0]
		}
	}
	c, _, _ := m.join("/plain")
	s := next(t, joined, "a socket")
	d, _, _ := m.join("/plain")
	s2 := next(t, joined, "a socket")
	for what, err := range map[string]error{
		"another app":  s.Follow(t.Context(), box, store.Offset{}),
		"another user": s.Follow(t.Context(), store.Box{App: "plain", User: "bob"}, store.Offset{}),
	} {
		if err == nil {
			t.Fatalf("followed the box of %s", what)
		}
	}
	read := func(c *client, from int) {
		for i := from; i <= 1200; i++ {
			c.match(fmt.Sprintf(`42/plain,\["plain",%d,"[^"]+"\]`, i))
		}
	}
	plain := store.Box{App: "plain", User: "ann"}
	check(t, s.Follow(t.Context(), plain, store.Offset{}))
	read(c, 1)
	check(t, s2.Follow(t.Context(), plain, first)) // behind what the shard delivers
	read(d, 201)
	if s.Follow(t.Context(), plain, store.Offset{}) == nil {
		t.Fatal("followed twice")
	}
	check(t, n.Emit("end"))
	c.want(`42/plain,["end"]`)
	d.want(`42/plain,["end"]`)

	check(t, s.EmitAt(store.Offset{Epoch: 35, Seq: 7}, "snapshot", 1))
	c.want(`42/plain,["snapshot",1,"z-7"]`)
	wantError(t, s.EmitAt(store.Offset{}, "connect"), socketio.ErrReserved)
}

func TestMailNeedsWhatItNeeds(t *testing.T) {
	f := start(t, socketio.Options{})
	st := newStore(t)
	mail := socketio.Mail{App: app, Store: st}
	for what, use := range map[string]func(){
		"mail of a dynamic namespace": func() {
			f.OfFunc(func(string, json.RawMessage) bool { return false }).UseMail(mail)
		},
		"recovery without a store, first": func() {
			f.Of("/a").UseRecovery(socketio.Recovery{})
			f.Of("/a").UseMail(mail)
		},
		"recovery without a store, last": func() {
			f.Of("/b").UseMail(mail)
			f.Of("/b").UseRecovery(socketio.Recovery{})
		},
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s was taken", what)
				}
			}()
			use()
		}()
	}
}

func TestOutgoingHearsMailOnce(t *testing.T) {
	m := startMail(t, newStore(t), socketio.Options{})
	var heard atomic.Int32
	m.n.OnAnyOutgoing(func(event string, _ []any) {
		if event == "mail" {
			heard.Add(1)
		}
	})
	a, _, pid := m.join("/", `{"user":"ann"}`)
	b, _, _ := m.join("/", `{"user":"ann"}`)
	next(t, m.joined, "a socket")
	next(t, m.joined, "a socket")
	m.mail("ann", "", 1)
	offset := a.wantMail(1)
	b.wantMail(1)
	a.drop()
	m.wantReason("transport close")
	m.mail("ann", "", 2)
	a = m.dial()
	a.send("40" + claim("ann", pid, offset))
	a.wantMail(2)
	if n := heard.Load(); n != 2 {
		t.Fatalf("the listener heard %d events, want 2", n)
	}
}

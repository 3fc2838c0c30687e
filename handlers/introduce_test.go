package handlers_test

import (
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"parley/store"
)

// missed has a device that follows its user's mailbox, and appends messages to that of which nobody tells: the next one
// that is told of has them read from the store.
type missed struct {
	*fixture
	alice, bob, tab *device
	posted, seen    int
}

func newMissed(t *testing.T) *missed {
	f := start(t, func(s *setup) { s.chat.RosterLimit = 2 })
	m := &missed{fixture: f, alice: f.login("alice"), bob: f.login("bob")}
	crowd(t, f, 5)
	m.tab = f.tab(m.alice)
	f.drop(m.alice)
	m.tab.silent()
	return m
}

func (m *missed) post(t *testing.T, peer string) {
	t.Helper()
	m.posted++
	_, err := m.store.Store.Append(t.Context(), store.Post{
		ID: fmt.Sprint("i", m.posted), Sender: peer, At: time.Now(), Data: []byte(`{"content":"x","from":"` + peer + `","to":"a"}`),
		To: []store.Delivery{{Box: store.Box{App: "chat", User: m.alice.userID}, Peer: peer}},
	})
	if err != nil {
		t.Fatal(err)
	}
}

// told has bob write, and returns how many introductions come ahead of his message, which the others come ahead of in order.
func (m *missed) told(t *testing.T) (introductions int) {
	t.Helper()
	m.bob.say(m.alice.userID, "hello", "")
	for {
		frame := m.tab.next()
		switch {
		case strings.HasPrefix(frame, `42["user connected",{"userID":"ghost`):
			introductions++
		case !strings.HasPrefix(frame, `42["private message"`):
		case strings.Contains(frame, `"hello"`):
			if m.seen != m.posted {
				t.Errorf("%d messages of %d", m.seen, m.posted)
			}
			return introductions
		default:
			m.seen++
			if !strings.Contains(frame, fmt.Sprintf(`"id":"i%d"`, m.seen)) {
				t.Fatalf("%s as number %d", frame, m.seen)
			}
		}
	}
}

// TestMissedOfUnknown has messages come of whom the store does not know: they are looked up once.
func TestMissedOfUnknown(t *testing.T) {
	m := newMissed(t)
	for range 2 {
		before := m.store.count("UsersByID")
		for i := range 300 {
			m.post(t, fmt.Sprint("ghost", i%2))
		}
		m.told(t)
		if n := m.store.count("UsersByID") - before; n > 3 {
			t.Errorf("%d look-ups", n)
		}
	}
	before := m.store.count("UsersByID")
	m.post(t, "ghost1")
	m.told(t)
	if n := m.store.count("UsersByID") - before; n > 0 {
		t.Errorf("%d look-ups of those who were looked up", n)
	}
}

// TestMissedOfMany has more people write than a list has room for: each is introduced once.
func TestMissedOfMany(t *testing.T) {
	m := newMissed(t)
	const many = 100
	for i := range many {
		peer := fmt.Sprint("ghost", i)
		if err := m.store.SaveSession(t.Context(), store.Session{ID: peer, UserID: peer, Username: peer}); err != nil {
			t.Fatal(err)
		}
		m.post(t, peer)
		m.post(t, peer)
	}
	if n := m.told(t); n != many {
		t.Errorf("%d introductions of %d", n, many)
	}
}

// TestMissedWithoutRoster has the store say nothing of users: messages come without introductions.
func TestMissedWithoutRoster(t *testing.T) {
	m := newMissed(t)
	var asked atomic.Int32
	m.store.failWith(func(op string) error {
		if op == "UsersByID" && asked.Add(1) > 1 { // bob writes to somebody there is
			return errors.New("away")
		}
		return nil
	})
	m.post(t, "ghost")
	m.post(t, "ghost")
	if n := m.told(t); n > 0 {
		t.Errorf("%d introductions", n)
	}
}

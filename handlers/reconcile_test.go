package handlers_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"parley/fanout"
	"parley/handlers"
	"parley/internal/client"
	"parley/shard"
	"parley/socketio"
	"parley/store"
	"parley/store/memory"
)

// elsewhere is a process whose others are played by the test: they change the store, and their words come or not.
type elsewhere struct {
	t     *testing.T
	host  fanout.Host
	store *faulty
	chat  *handlers.Chat
	http  http.Handler

	mu   sync.Mutex
	said []string
}

// others calls play with a process within a bubble.
func others(t *testing.T, limit int, play func(*elsewhere)) {
	synctest.Test(t, func(t *testing.T) {
		e := &elsewhere{t: t, store: &faulty{Store: memory.New(store.Options{}), calls: make(map[string]int)}}
		server, err := socketio.NewServer(socketio.Options{
			Fanout: func(_ *shard.Pool, local *fanout.Local, host fanout.Host) (fanout.Fanout, error) {
				e.host = host
				return local, nil
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		n := server.Of("/")
		n.OnAnyOutgoing(func(event string, args []any) {
			e.mu.Lock()
			defer e.mu.Unlock()
			user, _, _ := strings.Cut(strings.Trim(fmt.Sprint(args[0]), "{"), " ") // the first field of an arrival
			e.said = append(e.said, strings.TrimPrefix(event, "user ")+" "+user)
		})
		chat := handlers.NewChat(n, handlers.ChatOptions{Store: e.store, Shared: true, RosterLimit: limit})
		e.chat, e.http = chat, server
		synctest.Wait()
		play(e)
		if err := server.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
		chat.Close()
		if err := e.store.Close(); err != nil {
			t.Error(err)
		}
	})
}

// come and leave change the store, as another process does.
func (e *elsewhere) come(user string) {
	e.t.Helper()
	_, err := e.store.Store.Connect(e.t.Context(), user, "s")
	err = errors.Join(err, e.store.Store.SaveSession(e.t.Context(), store.Session{ID: "s" + user, UserID: user, Username: user}))
	if err != nil {
		e.t.Fatal(err)
	}
}

func (e *elsewhere) leave(user string) {
	e.t.Helper()
	if _, err := e.store.Store.Disconnect(e.t.Context(), user, "s"); err != nil {
		e.t.Fatal(err)
	}
}

// announce has the words of another process arrive, and tells whether sockets get them.
func (e *elsewhere) announce(event, except string) (delivered bool) {
	_ = e.host.Emitted(shard.Selector{Namespace: "/", Except: []string{"s", except}}, []byte(event), func() error {
		delivered = true
		return nil
	})
	return delivered
}

// expect lets time pass and compares what the sockets here were told in that time.
func (e *elsewhere) expect(within time.Duration, want ...string) {
	e.t.Helper()
	time.Sleep(within)
	synctest.Wait()
	e.mu.Lock()
	defer e.mu.Unlock()
	if !slices.Equal(e.said, want) {
		e.t.Errorf("told %q, not %q", e.said, want)
	}
	e.said = nil
}

const (
	parley       = "announced by parley"
	connected    = `["user connected",{"userID":"u1","username":"u1","connected":true,"messages":[]}]`
	disconnected = `["user disconnected","u1"]`
)

// TestSettlePresence has the store tell of changes that were made without a socket: one that is over is somebody else's to
// announce.
func TestSettlePresence(t *testing.T) {
	others(t, 10, func(e *elsewhere) {
		e.come("u1")
		e.chat.SettlePresence("u1", false)
		e.expect(0)
		e.chat.SettlePresence("u1", true)
		e.expect(0, "connected u1")
		e.leave("u1")
		e.chat.SettlePresence("u1", true)
		e.expect(0)
		e.chat.SettlePresence("u1", false)
		e.expect(0, "disconnected u1")
	})
}

// TestLostAnnouncements has the announcements of other processes get lost: sockets are told within seconds, once.
func TestLostAnnouncements(t *testing.T) {
	others(t, 0, func(e *elsewhere) {
		e.come("u1")
		e.expect(7*time.Second, "connected u1")
		e.expect(time.Minute)
		e.leave("u1")
		e.expect(7*time.Second, "disconnected u1")
		e.come("u1")
		e.host.Resubscribed()
		e.expect(2100*time.Millisecond, "connected u1")
		e.expect(time.Minute)
		// A client learns of a user only by their coming.
		e.come("u2")
		e.leave("u2")
		e.expect(7*time.Second, "connected u2", "disconnected u2")
		e.expect(time.Minute)
	})
}

// enter connects a client, who leaves with the function that it returns.
func (e *elsewhere) enter(name string) (leave func()) {
	e.t.Helper()
	server := &http.Server{Handler: e.http}
	conns := make(pipes, 1)
	go func() { _ = server.Serve(conns) }()
	c, err := client.Connect(e.t.Context(), client.Options{
		URL: "http://pipe", Auth: map[string]string{"username": name},
		Dial: func(context.Context, string, string) (net.Conn, error) {
			ours, theirs := net.Pipe()
			conns <- theirs
			return ours, nil
		},
	})
	if err != nil {
		e.t.Fatal(err)
	}
	synctest.Wait()
	e.mu.Lock()
	e.said = nil
	e.mu.Unlock()
	return func() {
		close(conns) // the server waits for its listener
		_ = server.Close()
		c.Close()
		synctest.Wait()
	}
}

// pipes is a net.Listener of what is put into it.
type pipes chan net.Conn

func (p pipes) Accept() (net.Conn, error) {
	if c, ok := <-p; ok {
		return c, nil
	}
	return nil, net.ErrClosed
}

func (p pipes) Close() error   { return nil }
func (p pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipe"} }

// TestLostPastTheLimit has the announcements of users get lost whom nobody watches, past the roster limit: as long as a
// socket is there that was given all users, it is told.
func TestLostPastTheLimit(t *testing.T) {
	others(t, 2, func(e *elsewhere) {
		leave := e.enter("bob")
		var came []string
		for i := range 8 {
			user := fmt.Sprint("u", i)
			e.come(user)
			e.expect(7*time.Second, "connected "+user)
			came = append(came, user)
		}
		e.expect(time.Minute)
		for _, user := range came {
			e.leave(user)
			e.expect(7*time.Second, "disconnected "+user)
		}
		leave()
	})
}

// TestAnnouncementsUnderWay has announcements take a moment, or too long: nobody is told twice, or what is not so.
func TestAnnouncementsUnderWay(t *testing.T) {
	others(t, 0, func(e *elsewhere) {
		for range 20 {
			e.come("u1")
			e.host.Resubscribed()
			e.expect(1900 * time.Millisecond)
			if !e.announce(connected, parley) {
				t.Error("an announcement was kept back")
			}
			e.leave("u1")
			e.expect(1300 * time.Millisecond)
			if !e.announce(disconnected, parley) {
				t.Error("an announcement was kept back")
			}
		}
		e.expect(time.Minute)
		e.come("u1")
		e.expect(7*time.Second, "connected u1")
		if e.announce(connected, parley) {
			t.Error("a late announcement was told again")
		}
		if !e.announce(disconnected, parley) || !e.announce(connected, parley) {
			t.Error("later announcements were kept back")
		}
		e.expect(time.Minute)
		if !e.announce(`["user connected",1]`, parley) || !e.announce(`["user connected"]`, parley) ||
			!e.announce(`["user connectedly",1]`, parley) {
			t.Error("an event of another kind was kept back")
		}
	})
}

// TestNodeUsersAreLeftAlone: the store does not know who is connected to Node servers.
func TestNodeUsersAreLeftAlone(t *testing.T) {
	others(t, 0, func(e *elsewhere) {
		if !e.announce(connected, "other room") {
			t.Error("an announcement was kept back")
		}
		e.expect(time.Minute)
	})
}

// TestNoAnswerIsNoAnswer has the store be away: nobody is told anything until it is back.
func TestNoAnswerIsNoAnswer(t *testing.T) {
	others(t, 0, func(e *elsewhere) {
		e.come("u1")
		e.announce(connected, parley)
		e.leave("u1")
		e.store.failing("CountUsers", store.ErrUnavailable)
		e.expect(time.Minute)
		e.store.failWith(nil)
		e.expect(7*time.Second, "disconnected u1")
	})
}

// TestManyUsersAreComparedInTurns: past the limit only those who are in a list here are, and each tick looks at a part.
func TestManyUsersAreComparedInTurns(t *testing.T) {
	others(t, 2, func(e *elsewhere) {
		for i := range 8 {
			e.come(fmt.Sprint("u", i))
		}
		e.expect(time.Minute)
	})
}

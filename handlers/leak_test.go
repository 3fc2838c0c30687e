package handlers

import (
	"context"
	"fmt"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lxzan/gws"

	"parley/auth"
	"parley/socketio"
	"parley/store"
	"parley/store/memory"
)

// anybody lets everybody in for an hour, and "refused" not.
type anybody struct{}

func (anybody) Verify(_ context.Context, token string) (auth.Identity, error) {
	if token == "" || token == "refused" {
		return auth.Identity{}, auth.ErrInvalid
	}
	return auth.Identity{User: token, Name: token, Expires: time.Now().Add(time.Hour)}, nil
}

// TestC15 : what is kept of a socket goes with it, also of one that was refused on its way in.
func TestC15(t *testing.T) {
	s := memory.New(store.Options{})
	server, err := socketio.NewServer(socketio.Options{})
	if err != nil {
		t.Fatal(err)
	}
	chat := NewChat(server.Of("/"), ChatOptions{Store: s, Verifier: anybody{}, RosterLimit: 3})
	notify := NewNotify(server.Of("/socket"), NotifyOptions{Store: s, Verifier: anybody{}})
	server.Of("/").Use(func(_ context.Context, s *socketio.Socket) error {
		if s.User() == "late" {
			return &socketio.Error{Message: "refused after the token was found good"}
		}
		return nil
	})
	h := httptest.NewServer(server)
	var all sync.WaitGroup
	for i := range 20 {
		c, res, err := gws.NewClient(gws.BuiltinEventHandler{}, &gws.ClientOption{
			Addr: "ws" + strings.TrimPrefix(h.URL, "http") + "/socket.io/?EIO=4&transport=websocket",
		})
		if res != nil {
			defer res.Body.Close()
		}
		if err != nil {
			t.Fatal(err)
		}
		all.Go(func() {
			who := []string{"late", "refused", fmt.Sprint("user", i)}[i%3]
			for _, frame := range []string{
				`40{"token":"` + who + `"}`, `40/socket,{"token":"` + who + `"}`,
				`421["refresh",{"token":"` + who + `"}]`, `42["users:page",{}]`, `42["private message",{"content":1,"to":"user2"}]`,
			} {
				_ = c.WriteString(frame) // the server closes on those that have not joined
			}
		})
		all.Go(c.ReadLoop)
		defer c.NetConn().Close()
	}
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for end := time.After(10 * time.Second); len(chat.onlineSessions()) == 0; { // until some have come
		select {
		case <-tick.C:
		case <-end:
			t.Fatal("nobody came")
		}
	}
	if err := server.Shutdown(context.Background()); err != nil {
		t.Fatal(err)
	}
	chat.Close()
	h.Close()
	all.Wait()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	w := &chat.watchers
	if n := len(w.lists) + len(w.sockets.names) + len(w.users.names) + len(w.by) + len(w.owners) + len(w.all) + len(chat.online); n != 0 {
		t.Errorf("chat keeps %d things of sockets that left", n)
	}
	if n := len(chat.gate.expires) + len(notify.gate.expires); n != 0 {
		t.Errorf("%d timers wait for sockets that left", n)
	}
}

// slowTouch is a store that takes its time to touch a session.
type slowTouch struct{ store.Store }

func (s slowTouch) TouchSession(context.Context, string) error {
	time.Sleep(time.Second)
	return nil
}

// Close does not wait until all sessions have been kept from expiring.
func TestCloseWhileSessionsAreKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := slowTouch{memory.New(store.Options{})}
		server, err := socketio.NewServer(socketio.Options{})
		if err != nil {
			t.Fatal(err)
		}
		chat := NewChat(server.Of("/"), ChatOptions{Store: s, SessionTTL: 4 * time.Second})
		chat.mu.Lock()
		for i := range 100 {
			chat.online[fmt.Sprint("socket", i)] = fmt.Sprint("session", i)
		}
		chat.mu.Unlock()
		time.Sleep(1500 * time.Millisecond) // half a second into the first one
		if err := server.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
		begin := time.Now()
		chat.Close()
		if took := time.Since(begin); took > time.Second {
			t.Errorf("Close took %s", took)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
}

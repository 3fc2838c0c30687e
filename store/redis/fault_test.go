package redisstore

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
	"github.com/rs/zerolog"

	"parley/store"
)

// TestRedisGone checks that every call says so, soon, and that the store works again when Redis is back.
func TestRedisGone(t *testing.T) {
	mini := miniredis.RunT(t)
	server := &server{url: "redis://:hunter2@" + mini.Addr()}
	mini.RequireAuth("hunter2")
	s := open(t, server.client(t), Options{Lease: time.Hour})
	at := post(t, s, message("m", "alice", "bob"))
	mini.Close()
	ctx := t.Context()
	bob := store.Box{App: chatApp, User: "bob"}
	t.Run("gone", func(t *testing.T) {
		for name, call := range map[string]func() error{
			"append":  func() error { _, err := s.Append(ctx, message("n", "alice", "bob")); return err },
			"after":   func() error { _, err := s.After(ctx, bob, store.Offset{}, 1); return err },
			"session": func() error { _, err := s.Session(ctx, "s"); return err },
			"save":    func() error { return s.SaveSession(ctx, store.Session{ID: "s", UserID: "u"}) },
			"connect": func() error { _, err := s.Connect(ctx, "u", "1"); return err },
			"online":  func() error { _, err := s.Online(ctx, []string{"v"}); return err },
			"take":    func() error { _, err := s.TakeRecovery(ctx, "p"); return err },
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				start := time.Now()
				err := call()
				if !errors.Is(err, store.ErrUnavailable) || strings.Contains(err.Error(), "hunter2") {
					t.Error(err)
				}
				if took := time.Since(start); took > 2*pipelineTimeout {
					t.Errorf("it took %v", took)
				}
			})
		}
	})
	if err := mini.Restart(); err != nil {
		t.Fatal(err)
	}
	// The client notices within a second.
	for deadline := time.Now().Add(10 * time.Second); ; {
		again, err := s.Append(ctx, message("m", "alice", "bob"))
		if err != nil && time.Now().Before(deadline) {
			continue
		}
		if err != nil || !again.Duplicate || again.Offsets[1] != at.Offsets[1] {
			t.Errorf("retry %+v, %v", again, err)
		}
		return
	}
}

// TestRedisHangs checks that a call ends with its context, or else with its own deadline, and may have happened.
func TestRedisHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, client := bubble(t)
		wire := &line{}
		s := open(t, client(wire), Options{Lease: time.Hour, Reconcile: -1})
		post(t, s, message("first", "alice", "bob"))
		hold := make(chan struct{})
		wire.hold.Store(&hold)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := s.Append(ctx, message("m", "alice", "bob")); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		start := time.Now()
		if _, err := s.Append(t.Context(), message("m", "alice", "bob")); !errors.Is(err, store.ErrUnavailable) || errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		if took := time.Since(start); took > 2*pipelineTimeout {
			t.Errorf("it took %v", took)
		}
		wire.hold.Store(nil)
		wire.lose.Store(true)
		if _, err := s.Append(t.Context(), message("m", "alice", "bob")); !errors.Is(err, store.ErrUnavailable) {
			t.Error(err)
		}
		if r := post(t, s, message("m", "alice", "bob")); !r.Duplicate || r.Offsets[1].Seq != 2 {
			t.Errorf("retry %+v", r)
		}
	})
}

// TestScriptsAreLearnt checks that a Redis that forgot the scripts is told again.
func TestScriptsAreLearnt(t *testing.T) {
	server := newServer(t)
	c := server.client(t)
	s := open(t, c, Options{})
	for i, user := range []string{"a", "b", "c"} {
		post(t, s, message("m", user, "bob"))
		if err := c.ScriptFlush(t.Context()).Err(); err != nil {
			t.Fatal(err)
		}
		if tail, err := s.Tail(t.Context(), store.Box{App: chatApp, User: "bob"}); err != nil || tail.Seq != uint64(i+1) {
			t.Errorf("%v, %v", tail, err)
		}
	}
}

// TestCompletedPostHasOneTime checks that the list, too, has the time of the first post.
func TestCompletedPostHasOneTime(t *testing.T) {
	server := newServer(t)
	c := server.client(t)
	s := open(t, c, Options{})
	whole := message("m", "alice", "bob")
	part := whole
	part.At, whole.At = time.UnixMilli(1700000000000), time.UnixMilli(1700000099999)
	part.To = whole.To[:1]
	post(t, s, part)
	post(t, s, whole)
	for _, user := range []string{"alice", "bob"} {
		same(t, user, c.LRange(t.Context(), "messages:"+user, 0, -1).Val(),
			[]string{`{"content":"m","from":"alice","to":"bob","id":"m","seq":1,"at":1700000000000}`})
	}
	if r := post(t, s, whole); !r.Duplicate || !r.At.Equal(part.At) {
		t.Errorf("third %+v", r)
	}
}

// TestOpenWaits checks that Open waits for Redis, says so, and gives up with a clear sentence.
func TestOpenWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, client := bubble(t)
		wire := &line{}
		wire.cut.Store(true)
		var log bytes.Buffer
		start := time.Now()
		_, err := Open(t.Context(), client(wire), Options{Wait: 30 * time.Second, Logger: zerolog.New(&log)})
		if !errors.Is(err, store.ErrUnavailable) || !strings.Contains(err.Error(), "Redis at redis:6379, database 0 did not answer within 30s: start it, or correct REDIS_URL") {
			t.Error(err)
		}
		if took := time.Since(start); took < 30*time.Second || took > 35*time.Second {
			t.Errorf("it took %v", took)
		}
		if lines := strings.Count(log.String(), "waiting for it"); lines < 5 || lines > 12 {
			t.Errorf("%d lines in the log", lines)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := Open(ctx, client(wire), Options{Wait: time.Hour}); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		time.AfterFunc(10*time.Second, func() { wire.cut.Store(false) })
		open(t, client(wire), Options{Wait: 30 * time.Second})
	})
}

// TestOpenRefused checks that nobody waits where waiting does not help.
func TestOpenRefused(t *testing.T) {
	mini := miniredis.RunT(t)
	mini.RequireUserAuth("me", "right")
	for _, user := range []string{"", "me:hunter2@", ":hunter2@"} {
		server := &server{url: "redis://" + user + mini.Addr()}
		_, err := Open(t.Context(), server.client(t), Options{Wait: time.Hour})
		if err == nil || !strings.Contains(err.Error(), "refuses this program") || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%q: %v", user, err)
		}
	}
	old := &line{}
	server := &server{url: "redis://me:right@" + mini.Addr()}
	c := server.client(t)
	c.AddHook(old)
	mini.SetError("ERR unknown command `getdel`, with args beginning with: `parley:probe`, ")
	if _, err := Open(t.Context(), c, Options{Wait: time.Hour}); err == nil || !strings.Contains(err.Error(), "older than Redis 6.2") {
		t.Error(err)
	}
}

// TestNames checks what is said of where the store is.
func TestNames(t *testing.T) {
	for url, want := range map[string]string{
		"redis://:hunter2@a:1/2":                     "Redis at a:1, database 2",
		"redis://:hunter2@a,b":                       "Redis Cluster at a:6379, b:6379",
		"redis-sentinel://:hunter2@a,b/1?master=one": "Redis behind Sentinel, database 1",
	} {
		o, err := Parse(url)
		if err != nil {
			t.Fatal(err)
		}
		c := redis.NewUniversalClient(o)
		same(t, url, (&Store{client: c}).String(), want)
		c.Close()
	}
}

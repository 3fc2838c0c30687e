// Package storetest is the suite that every [store.Store] passes.
package storetest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"parley/store"
)

// New opens an empty store with those options for one test, and tells how to let its time pass. The options have no
// Now: a store that takes its time from the process can use a [Clock]. The suite closes the store.
type New func(t *testing.T, opts store.Options) (s store.Store, advance func(time.Duration))

// Run runs the suite.
func Run(t *testing.T, open New) {
	for _, part := range []struct {
		name  string
		tests map[string]func(*harness)
	}{
		{"mailboxes", mailboxTests},
		{"marks", markTests},
		{"sessions", sessionTests},
		{"presence", presenceTests},
		{"recoveries", recoveryTests},
		{"store", storeTests},
	} {
		t.Run(part.name, func(t *testing.T) {
			for name, test := range part.tests {
				t.Run(name, func(t *testing.T) { test(&harness{T: t, open: open}) })
			}
		})
	}
}

// Clock is a time that passes only when it is told to. It may be used from any number of goroutines.
type Clock struct {
	mu  sync.Mutex
	now time.Time
}

// NewClock returns a clock at some moment of the past.
func NewClock() *Clock { return &Clock{now: time.UnixMilli(1700000000000)} }

// Now returns the time.
func (c *Clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

// Advance lets time pass.
func (c *Clock) Advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// harness is what a test works with: a store, and checks that end the test.
type harness struct {
	*testing.T
	open    New
	advance func(time.Duration)
	store.Store
}

// String is ambiguous between the two; the store's is reached by its field.
func (h *harness) String() string { return h.Store.String() }

// Name is the test's.
func (h *harness) Name() string { return h.T.Name() }

func (h *harness) start(opts store.Options) {
	h.Helper()
	h.Store, h.advance = h.open(h.T, opts)
	s := h.Store
	h.Cleanup(func() {
		if err := s.Close(); err != nil {
			h.Errorf("close: %v", err)
		}
	})
}

func (h *harness) ctx() context.Context { return h.T.Context() }

// ok ends the test on an error.
func (h *harness) ok(err error) {
	h.Helper()
	if err != nil {
		h.Fatal(err)
	}
}

// is ends the test unless err is target.
func (h *harness) is(err, target error) {
	h.Helper()
	if !errors.Is(err, target) {
		h.Fatalf("got error %v, want %v", err, target)
	}
}

// same ends the test unless the two print the same.
func (h *harness) same(what string, got, want any) {
	h.Helper()
	if g, w := fmt.Sprintf("%+v", got), fmt.Sprintf("%+v", want); g != w {
		h.Fatalf("%s:\n got %s\nwant %s", what, g, w)
	}
}

// together runs f for 0 to n-1 at once, and ends the test if one fails.
func (h *harness) together(n int, f func(i int) error) {
	h.Helper()
	var wait sync.WaitGroup
	for i := range n {
		wait.Go(func() {
			if err := f(i); err != nil {
				h.Error(err)
			}
		})
	}
	wait.Wait()
	if h.Failed() {
		h.FailNow()
	}
}

// hostileIDs are ids that a careless key layout would mix up.
var hostileIDs = []string{
	"a", "A", "ab", "a\x00", "a\x00b", "\x00", "\x00\x00", "a/b", "/", "../../etc", "a:b", "{a}", "a b", " ", "\n", "%s",
	"*", "é", "e\u0301", "日本", "\U0001f600", "\xff", "\xff\xff\xff\xff\xff\xff\xff\xff\xff", "\xc3", "0", "00", "session:a",
	strings.Repeat("x", store.MaxIDBytes), strings.Repeat("x", store.MaxIDBytes-1), strings.Repeat("\x00", store.MaxIDBytes),
}

// badIDs cannot be stored.
var badIDs = []string{"", strings.Repeat("x", store.MaxIDBytes+1), strings.Repeat("x", 1<<20)}

// storeTests are about the store as a whole.
var storeTests = map[string]func(*harness){
	"name": func(h *harness) {
		h.start(store.Options{})
		if h.String() == "" {
			h.Fatal("the store has no name")
		}
	},

	"canceled": func(h *harness) {
		h.start(store.Options{})
		ctx, cancel := context.WithCancel(h.ctx())
		cancel()
		for name, err := range everyMethod(ctx, h.Store) {
			if !errors.Is(err, context.Canceled) {
				h.Errorf("%s: %v", name, err)
			}
		}
	},

	"closed": func(h *harness) {
		h.start(store.Options{})
		h.ok(h.Close())
		h.ok(h.Close())
		for name, err := range everyMethod(h.ctx(), h.Store) {
			if !errors.Is(err, store.ErrClosed) {
				h.Errorf("%s: %v", name, err)
			}
		}
	},

	// Close while everything is in use: each call either works or says that the store is closed.
	"closed under load": func(h *harness) {
		h.start(store.Options{})
		var users sync.WaitGroup
		started := make(chan struct{}, 8)
		for range cap(started) {
			users.Go(func() {
				for i := 0; ; i++ {
					over := false
					for name, err := range everyMethod(h.ctx(), h.Store) {
						switch {
						case errors.Is(err, store.ErrClosed):
							over = true
						case err != nil && !errors.Is(err, store.ErrNotFound):
							h.Errorf("%s: %v", name, err)
							over = true
						}
					}
					if i == 0 {
						started <- struct{}{}
					}
					if over {
						return
					}
				}
			})
		}
		for range cap(started) {
			<-started
		}
		h.ok(h.Close())
		users.Wait()
	},
}

// everyMethod calls each method once, with arguments that are fine, and returns the errors by name.
func everyMethod(ctx context.Context, s store.Store) map[string]error {
	errs := map[string]error{}
	box := store.Box{App: "chat", User: "u"}
	_, errs["Append"] = s.Append(ctx, store.Post{ID: "m", Sender: "u", To: []store.Delivery{{Box: box}}})
	_, errs["After"] = s.After(ctx, box, store.Offset{}, 1)
	_, errs["Tail"] = s.Tail(ctx, box)
	_, errs["Conversation"] = s.Conversation(ctx, box, "", 0, 1)
	_, errs["Overview"] = s.Overview(ctx, box, 1, 1)
	_, _, errs["Advance"] = s.Advance(ctx, box, "", store.Mark{})
	_, errs["Marks"] = s.Marks(ctx, box, []string{""}, 0)
	_, _, errs["Reach"] = s.Reach(ctx, box, "", 1)
	errs["SaveSession"] = s.SaveSession(ctx, store.Session{ID: "s", UserID: "u"})
	_, errs["Session"] = s.Session(ctx, "s")
	errs["TouchSession"] = s.TouchSession(ctx, "s")
	_, errs["Users"] = s.Users(ctx, 1)
	_, _, errs["UserPage"] = s.UserPage(ctx, "", 1)
	_, errs["UsersByID"] = s.UsersByID(ctx, []string{"u"})
	_, errs["SearchUsers"] = s.SearchUsers(ctx, "u", 1)
	_, errs["CountUsers"] = s.CountUsers(ctx)
	_, errs["Connect"] = s.Connect(ctx, "u", "x")
	_, errs["Disconnect"] = s.Disconnect(ctx, "u", "x")
	_, errs["Online"] = s.Online(ctx, []string{"u"})
	errs["SaveRecovery"] = s.SaveRecovery(ctx, store.Recovery{PID: "p"}, time.Minute)
	_, errs["TakeRecovery"] = s.TakeRecovery(ctx, "p")
	errs["DeleteRecovery"] = s.DeleteRecovery(ctx, "p")
	return errs
}

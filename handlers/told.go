package handlers

import (
	"hash/maphash"
	"sync"
)

// told is what the sockets of this process have been told of the users: who is connected. Words of other processes
// can be lost, so it is compared with the store (reconcile.go). A nil one keeps nothing: a process that is alone
// loses no words.
type told struct {
	limit   int // of users who are kept without anybody here watching them
	seed    maphash.Seed
	tellers [64]sync.Mutex // by user, held while sockets are told: what they hear last is what is noted last

	mu    sync.Mutex
	users map[string]*word
	clock uint64 // counts what was told
}

// word is the last word on a user.
type word struct {
	online bool
	mixed  bool   // a socket was given something else, or nothing
	ahead  bool   // it was found in the store before the announcement came, which may still do so
	at     uint64 // when, by the clock
}

func newTold(limit int) *told {
	return &told{limit: limit, seed: maphash.MakeSeed(), users: make(map[string]*word)}
}

func (t *told) teller(user string) *sync.Mutex {
	return &t.tellers[maphash.String(t.seed, user)%uint64(len(t.tellers))]
}

// say lets emit tell all sockets here who have the user in their list whether the user is online.
func (t *told) say(user string, online bool, emit func() error) error {
	if t == nil {
		return emit()
	}
	teller := t.teller(user)
	teller.Lock()
	defer teller.Unlock()
	return t.note(user, online, emit)
}

// relay is say for what another process says. It leaves out what all sockets know already, because it was found in the
// store before it came.
func (t *told) relay(user string, online bool, emit func() error) error {
	teller := t.teller(user)
	teller.Lock()
	defer teller.Unlock()
	if t.wasAhead(user, online) {
		return nil
	}
	return t.note(user, online, emit)
}

func (t *told) wasAhead(user string, online bool) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	w := t.users[user]
	if w == nil || !w.ahead || w.mixed || w.online != online {
		return false
	}
	w.ahead = false
	return true
}

// correct is say for what was found in the store, if nothing was said of the user since the clock was at.
func (t *told) correct(user string, online bool, at uint64, emit func() error) error {
	teller := t.teller(user)
	teller.Lock()
	defer teller.Unlock()
	if t.last(user) != at {
		return nil
	}
	err := t.note(user, online, emit)
	t.mu.Lock()
	defer t.mu.Unlock()
	if w := t.users[user]; w != nil {
		w.ahead = true
	}
	return err
}

// disclaim lets emit tell sockets something of a user about whom the store can't be asked.
func (t *told) disclaim(user string, emit func() error) error {
	teller := t.teller(user)
	teller.Lock()
	defer teller.Unlock()
	t.mu.Lock()
	delete(t.users, user)
	t.mu.Unlock()
	return emit()
}

// note calls emit. When that fails, the word is to be repeated. The user's teller is held.
func (t *told) note(user string, online bool, emit func() error) error {
	t.mu.Lock()
	t.clock++
	w := &word{online: online, at: t.clock}
	t.users[user] = w
	t.mu.Unlock()
	err := emit()
	if err != nil {
		t.mu.Lock()
		defer t.mu.Unlock()
		w.mixed = true
	}
	return err
}

// now is for gave: when the store was about to be read.
func (t *told) now() uint64 {
	if t == nil {
		return 0
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.clock
}

// gave notes that a socket was given a list of users, as the store had it when the clock was at since.
//
// hears tells that the socket gets what is announced too (say): whatever was said after since reaches it behind the list, and
// corrects it. Otherwise it may have come before, and the list has the last word. alone tells that, of users of whom nothing
// was said so far, no other socket here has been told anything else.
func (t *told) gave(users []rosterEntry, since uint64, hears, alone bool) {
	if t == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, u := range users {
		w := t.users[u.UserID]
		switch {
		case w == nil:
			t.clock++
			t.users[u.UserID] = &word{online: u.Connected, mixed: !alone, at: t.clock}
		case w.online != u.Connected && (w.at <= since || !hears):
			w.mixed = true
		}
	}
}

// last returns when something was last said of a user; 0 for never.
func (t *told) last(user string) uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	if w := t.users[user]; w != nil {
		return w.at
	}
	return 0
}

// len returns of how many users something was said.
func (t *told) len() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.users)
}

// list returns all users of whom something was said. When they are too many, those that may be are forgotten.
func (t *told) list(forget func(user string, online bool) bool) []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	crowded := len(t.users) > t.limit
	users := make([]string, 0, len(t.users))
	for user, w := range t.users {
		if crowded && forget(user, w.online) {
			delete(t.users, user)
			continue
		}
		users = append(users, user)
	}
	return users
}

// doubt is a user of whom the sockets here may believe what is not so.
type doubt struct {
	user   string
	online bool   // what is so
	at     uint64 // when something was last said
}

// doubts compares users with what is so.
func (t *told) doubts(users []string, online []bool) (found []doubt) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for i, user := range users {
		w := t.users[user]
		switch {
		case w == nil:
			found = append(found, doubt{user, online[i], 0})
		case w.mixed || w.online != online[i]:
			found = append(found, doubt{user, online[i], w.at})
		}
	}
	return found
}

// unheard returns those of users of whom nothing was ever said.
func (t *told) unheard(users []string) (unheard []string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, user := range users {
		if t.users[user] == nil {
			unheard = append(unheard, user)
		}
	}
	return unheard
}

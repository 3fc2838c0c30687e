package handlers

import (
	"sync"

	"parley/store"
)

// watchers knows, past the roster limit, which sockets have which user in their list, so that a presence
// change goes to those and not to everybody; and which have all, since before. Its zero value is empty.
type watchers struct {
	mu      sync.RWMutex
	lists   map[string]*watchList          // by socket id
	sockets map[string]map[string]struct{} // socket ids by the user that is watched
	owners  map[string]map[string]struct{} // socket ids by the user that watches
	all     map[string]struct{}            // the ids of sockets that were given all users
}

// watchList is the users that one socket watches.
type watchList struct {
	owner string
	users []string
}

// open makes a socket of owner one that watches, as yet nobody.
func (w *watchers) open(socket, owner string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.lists == nil {
		w.lists = make(map[string]*watchList)
		w.sockets, w.owners = make(map[string]map[string]struct{}), make(map[string]map[string]struct{})
	}
	delete(w.all, socket)
	w.lists[socket] = &watchList{owner: owner}
	insert(w.owners, owner, socket)
}

// openAll makes a socket one that has all users.
func (w *watchers) openAll(socket string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.all == nil {
		w.all = make(map[string]struct{})
	}
	w.all[socket] = struct{}{}
}

// anyAll tells whether a socket has all users.
func (w *watchers) anyAll() bool {
	w.mu.RLock()
	defer w.mu.RUnlock()
	return len(w.all) > 0
}

// close forgets a socket.
func (w *watchers) close(socket string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.all, socket)
	list := w.lists[socket]
	if list == nil {
		return
	}
	for _, user := range list.users {
		remove(w.sockets, user, socket)
	}
	remove(w.owners, list.owner, socket)
	delete(w.lists, socket)
}

// add lets a socket watch users, up to limit in all. It does nothing for a socket that is not open.
func (w *watchers) add(socket string, limit int, users ...store.User) {
	w.mu.Lock()
	defer w.mu.Unlock()
	list := w.lists[socket]
	if list == nil {
		return
	}
	for _, u := range users {
		if len(list.users) >= limit {
			return
		}
		if _, already := w.sockets[u.ID][socket]; !already {
			insert(w.sockets, u.ID, socket)
			list.users = append(list.users, u.ID)
		}
	}
}

// of returns the sockets that watch user.
func (w *watchers) of(user string) []string {
	w.mu.RLock()
	defer w.mu.RUnlock()
	sockets := make([]string, 0, len(w.sockets[user]))
	for socket := range w.sockets[user] {
		sockets = append(sockets, socket)
	}
	return sockets
}

// watches tells whether a socket is one that watches.
func (w *watchers) watches(socket string) bool {
	w.mu.RLock()
	defer w.mu.RUnlock()
	return w.lists[socket] != nil
}

// watched tells whether a socket watches user.
func (w *watchers) watched(user string) bool {
	w.mu.RLock()
	defer w.mu.RUnlock()
	return len(w.sockets[user]) > 0
}

// missing returns the sockets of owner that watch, but not user.
func (w *watchers) missing(owner, user string) (sockets []string) {
	w.mu.RLock()
	defer w.mu.RUnlock()
	for socket := range w.owners[owner] {
		if _, ok := w.sockets[user][socket]; !ok {
			sockets = append(sockets, socket)
		}
	}
	return sockets
}

func insert(sets map[string]map[string]struct{}, key, member string) {
	if sets[key] == nil {
		sets[key] = make(map[string]struct{})
	}
	sets[key][member] = struct{}{}
}

func remove(sets map[string]map[string]struct{}, key, member string) {
	delete(sets[key], member)
	if len(sets[key]) == 0 {
		delete(sets, key)
	}
}

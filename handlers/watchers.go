package handlers

import (
	"slices"
	"sync"
	"sync/atomic"

	"parley/store"
)

// watchers knows, past the roster limit, which sockets have which user in their list, so that a presence
// change goes to those and not to everybody; and which have all, since before. Its zero value is empty.
//
// There is a pair for each user in each list, a thousand for each socket. So sockets and users have numbers here, and a
// pair takes some bits.
type watchers struct {
	mu      sync.RWMutex
	sockets catalog
	lists   []watchList         // by the socket's number
	users   catalog             // those that are watched
	by      []numbers           // of the sockets that watch a user, by the user's number
	owners  map[string][]uint32 // numbers of sockets by the user that watches
	all     map[string]struct{} // the ids of sockets that were given all users
	any     atomic.Bool         // a socket watches, so that there may be users whom one does not
}

// watchList is the users that one socket watches.
type watchList struct {
	owner string
	users numbers
}

// open makes a socket of owner one that watches, as yet nobody.
func (w *watchers) open(socket, owner string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.all, socket)
	w.closeLocked(socket)
	w.any.Store(true)
	n := w.sockets.add(socket)
	if int(n) == len(w.lists) {
		w.lists = append(w.lists, watchList{})
	}
	w.lists[n].owner = owner
	if w.owners == nil {
		w.owners = make(map[string][]uint32)
	}
	w.owners[owner] = append(w.owners[owner], n)
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
	w.closeLocked(socket)
}

func (w *watchers) closeLocked(socket string) {
	n, ok := w.sockets.numbers[socket]
	if !ok {
		return
	}
	list := w.lists[n]
	w.lists[n] = watchList{}
	for user := range list.users.all() {
		w.unwatch(n, user)
	}
	if len(w.users.numbers) == 0 {
		w.by = nil
	}
	own := w.owners[list.owner]
	if own = slices.DeleteFunc(own, func(other uint32) bool { return other == n }); len(own) > 0 {
		w.owners[list.owner] = own
	} else {
		delete(w.owners, list.owner)
	}
	if w.sockets.remove(n); len(w.sockets.numbers) == 0 {
		w.lists, w.owners = nil, nil
		w.any.Store(false)
	}
}

// add lets a socket watch users, up to limit in all. It does nothing for a socket that is not open.
func (w *watchers) add(socket string, limit int, users ...store.User) {
	w.mu.Lock()
	defer w.mu.Unlock()
	n, ok := w.sockets.numbers[socket]
	if !ok {
		return
	}
	list := &w.lists[n]
	for _, u := range users {
		if list.users.size >= limit {
			return
		}
		w.watch(n, list, u.ID)
	}
}

// include lets sockets watch user, each of them in place of any other if it has limit already. Those that are not open it
// leaves out.
func (w *watchers) include(sockets []string, limit int, user string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, socket := range sockets {
		n, ok := w.sockets.numbers[socket]
		if !ok {
			continue
		}
		list := &w.lists[n]
		if kept := w.watch(n, list, user); list.users.size > limit {
			other := list.users.any(kept)
			list.users.remove(other)
			w.unwatch(n, other)
		}
	}
}

// watch puts a user into the list of a socket and returns the user's number.
func (w *watchers) watch(socket uint32, list *watchList, name string) (user uint32) {
	user = w.users.add(name)
	if int(user) == len(w.by) {
		w.by = append(w.by, numbers{})
	}
	if list.users.add(user) {
		w.by[user].add(socket)
	}
	return user
}

// unwatch forgets that a socket watched a user, who is no longer in its list.
func (w *watchers) unwatch(socket, user uint32) {
	if w.by[user].remove(socket); w.by[user].size == 0 {
		w.by[user] = numbers{}
		w.users.remove(user)
	}
}

// of returns the sockets that watch user.
func (w *watchers) of(user string) []string {
	w.mu.RLock()
	defer w.mu.RUnlock()
	n, ok := w.users.numbers[user]
	if !ok {
		return nil
	}
	sockets := make([]string, 0, w.by[n].size+1)
	for socket := range w.by[n].all() {
		sockets = append(sockets, w.sockets.names[socket])
	}
	return sockets
}

// watches tells whether a socket is one that watches.
func (w *watchers) watches(socket string) bool {
	w.mu.RLock()
	defer w.mu.RUnlock()
	_, ok := w.sockets.numbers[socket]
	return ok
}

// watched tells whether a socket watches user.
func (w *watchers) watched(user string) bool {
	w.mu.RLock()
	defer w.mu.RUnlock()
	_, ok := w.users.numbers[user]
	return ok
}

// lacks tells whether a socket of owner watches, but not user.
func (w *watchers) lacks(owner string, user []byte) bool {
	w.mu.RLock()
	defer w.mu.RUnlock()
	open := w.owners[owner]
	if len(open) == 0 {
		return false
	}
	n, watched := w.users.numbers[string(user)]
	return !watched || slices.ContainsFunc(open, func(socket uint32) bool { return !w.lists[socket].users.has(n) })
}

// missing returns the sockets of owner that watch, but not user.
func (w *watchers) missing(owner, user string) (sockets []string) {
	w.mu.RLock()
	defer w.mu.RUnlock()
	open := w.owners[owner]
	if len(open) == 0 {
		return nil
	}
	n, watched := w.users.numbers[user]
	for _, socket := range open {
		if !watched || !w.lists[socket].users.has(n) {
			sockets = append(sockets, w.sockets.names[socket])
		}
	}
	return sockets
}

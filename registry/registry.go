// Package registry holds the sockets of one shard, by namespace, id and room. It is plain maps without
// locks and does no I/O: a Registry and every Socket in it belong to the goroutine of the shard that owns
// them, and nothing here may be called from anywhere else.
package registry

import (
	"fmt"
	"slices"
)

// Registry is the socket state of one shard.
type Registry struct {
	spaces map[string]*space // by namespace; a space without sockets is removed
	mark   uint64            // the mark of the selection under way
}

// space is one namespace's part of a registry.
type space struct {
	sockets map[string]*Socket
	all     members
	rooms   map[string]*members // a room without members is removed
}

// New returns an empty registry.
func New() *Registry {
	return &Registry{spaces: make(map[string]*space)}
}

// Add puts s in, in no room. It fails if the namespace has a socket of that id already.
func (r *Registry) Add(s *Socket) error {
	sp := r.spaces[s.Namespace]
	if sp == nil {
		sp = &space{sockets: make(map[string]*Socket), rooms: make(map[string]*members)}
		r.spaces[s.Namespace] = sp
	}
	if _, taken := sp.sockets[s.ID]; taken {
		return fmt.Errorf("socket id %s is taken in namespace %s", s.ID, s.Namespace)
	}
	sp.sockets[s.ID] = s
	sp.all.add(s)
	s.in = r
	return nil
}

// Remove takes s out of its rooms and of the registry, and returns the rooms that are empty now. It does
// nothing if s is not in.
func (r *Registry) Remove(s *Socket) (emptied []string) {
	if !r.Has(s) {
		return nil
	}
	s.in = nil
	sp := r.spaces[s.Namespace]
	for _, room := range s.rooms {
		if sp.leave(s, room) {
			emptied = append(emptied, room)
		}
	}
	s.rooms = nil
	delete(sp.sockets, s.ID)
	sp.all.remove(s)
	if len(sp.sockets) == 0 {
		delete(r.spaces, s.Namespace)
	}
	return emptied
}

// Join puts s, which must be in the registry, into room. first tells that it is the room's only member.
func (r *Registry) Join(s *Socket, room string) (first bool) {
	if slices.Contains(s.rooms, room) {
		return false
	}
	sp := r.spaces[s.Namespace]
	m := sp.rooms[room]
	if m == nil {
		m = new(members)
		sp.rooms[room] = m
	}
	m.add(s)
	s.rooms = append(s.rooms, room)
	return m.len() == 1
}

// Leave takes s out of room. last tells that the room is empty now.
func (r *Registry) Leave(s *Socket, room string) (last bool) {
	i := slices.Index(s.rooms, room)
	if i < 0 {
		return false
	}
	s.rooms = slices.Delete(s.rooms, i, i+1)
	return r.spaces[s.Namespace].leave(s, room)
}

func (sp *space) leave(s *Socket, room string) (last bool) {
	m := sp.rooms[room]
	m.remove(s)
	if m.len() > 0 {
		return false
	}
	delete(sp.rooms, room)
	return true
}

// Has tells whether s is in.
func (r *Registry) Has(s *Socket) bool { return s.in == r }

// Get returns the socket with that id, or nil.
func (r *Registry) Get(namespace, id string) *Socket {
	if sp := r.spaces[namespace]; sp != nil {
		return sp.sockets[id]
	}
	return nil
}

// Select calls yield for each socket of a namespace that is in any of rooms (in the namespace, if rooms is
// empty) and in none of except, each once (socketio.md section 7). yield must not change the registry, nor
// select in it.
func (r *Registry) Select(namespace string, rooms, except []string, yield func(*Socket)) {
	sp := r.spaces[namespace]
	if sp == nil {
		return
	}
	r.mark++
	for _, room := range except {
		for _, s := range sp.rooms[room].slice() {
			s.mark = r.mark
		}
	}
	if len(rooms) == 0 {
		for _, s := range sp.all.slice() {
			if s.mark != r.mark {
				yield(s)
			}
		}
		return
	}
	for _, room := range rooms {
		for _, s := range sp.rooms[room].slice() {
			if s.mark != r.mark {
				s.mark = r.mark
				yield(s)
			}
		}
	}
}

// Each calls yield for every socket. yield must not change the registry.
func (r *Registry) Each(yield func(*Socket)) {
	for _, sp := range r.spaces {
		for _, s := range sp.all.slice() {
			yield(s)
		}
	}
}

// Count returns the number of sockets in a namespace.
func (r *Registry) Count(namespace string) int {
	if sp := r.spaces[namespace]; sp != nil {
		return len(sp.sockets)
	}
	return 0
}

// Len returns the number of sockets in all namespaces.
func (r *Registry) Len() int {
	n := 0
	for _, sp := range r.spaces {
		n += len(sp.sockets)
	}
	return n
}

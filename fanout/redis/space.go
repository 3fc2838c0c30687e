package redisfan

import (
	"crypto/rand"
	"maps"
	"sync"
	"sync/atomic"
)

// space is a namespace that this process takes part in.
type space struct {
	name     string
	uid      string   // names this namespace of this process to other servers
	channels []string // that are listened to as long as the namespace is open
}

// spaces are the open namespaces. Reading takes no lock: the reader of the subscriber connection does it for every
// message.
type spaces struct {
	mu     sync.Mutex // held to change them
	byName atomic.Pointer[map[string]*space]
	own    atomic.Pointer[map[string]string] // names by uid, also of namespaces that were shut
}

// load returns a set that may be nil.
func load[V any](p *atomic.Pointer[map[string]V]) map[string]V {
	if m := p.Load(); m != nil {
		return *m
	}
	return nil
}

// with returns a copy of m with one more entry.
func with[V any](m map[string]V, key string, v V) *map[string]V {
	c := make(map[string]V, len(m)+1)
	maps.Copy(c, m)
	c[key] = v
	return &c
}

func (s *spaces) get(name string) *space { return load(&s.byName)[name] }

// isOwn tells whether uid is this process.
func (s *spaces) isOwn(uid string) bool {
	_, own := load(&s.own)[uid]
	return own
}

// remove returns the namespace that it removed, nil if there was none.
func (s *spaces) remove(name string) *space {
	s.mu.Lock()
	defer s.mu.Unlock()
	gone := s.get(name)
	if gone == nil {
		return nil
	}
	rest := maps.Clone(load(&s.byName))
	delete(rest, name)
	s.byName.Store(&rest)
	// What it sent last may still be on its way back: its uid is forgotten when the next one is.
	own := maps.Clone(load(&s.own))
	for uid, of := range own {
		if rest[of] == nil && uid != gone.uid {
			delete(own, uid)
		}
	}
	s.own.Store(&own)
	return gone
}

// space returns a namespace, which it opens if it is not.
func (f *Fanout) space(name string) *space {
	if s := f.spaces.get(name); s != nil {
		return s
	}
	f.spaces.mu.Lock()
	defer f.spaces.mu.Unlock()
	if s := f.spaces.get(name); s != nil {
		return s
	}
	s := &space{name: name, uid: randomID(f.protocol.idLen())}
	s.channels = f.protocol.fixed(name, s.uid)
	f.spaces.byName.Store(with(load(&f.spaces.byName), name, s))
	f.spaces.own.Store(with(load(&f.spaces.own), s.uid, name))
	for _, channel := range s.channels {
		f.links.add(channel, true)
	}
	return s
}

// randomID returns n characters for a uid or a request's id. 16 are of those that are hexadecimal digits, as the
// sharded adapter's.
func randomID(n int) string {
	const alphabet = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-_"
	mask := byte(63)
	if n == shardedIDLen {
		mask = 15
	}
	b := make([]byte, n)
	rand.Read(b)
	for i := range b {
		b[i] = alphabet[b[i]&mask]
	}
	return string(b)
}

package shard

import (
	"hash/maphash"
	"math/bits"
	"sync"
)

// MaxShards is the largest number of shards of a pool: the width of a directory entry.
const MaxShards = 256

// directory tells which shards hold members of a room, so that an event visits only those. It is the one
// thing that shards share. A shard adds itself in its own turn when a room gets its first member there, and
// takes itself out when the last one leaves; whoever sends looks it up. Going to the shards straight, and
// not by way of a home shard, keeps what one sender sends to one socket in order whatever the rooms.
type directory struct {
	seed    maphash.Seed
	stripes [64]stripe

	// watch, if not nil, is told when a room of this process gets its first member or loses its last. It is
	// called under the stripe's lock, so that a room's changes come in order, and must not block.
	watch func(namespace, room string, present bool)
}

type stripe struct {
	mu    sync.RWMutex
	rooms map[roomKey]shardSet // a room that no shard has members of is removed
}

type roomKey struct{ namespace, room string }

// shardSet is a set of shard indexes.
type shardSet [MaxShards / 64]uint64

func newDirectory() *directory {
	d := &directory{seed: maphash.MakeSeed()}
	for i := range d.stripes {
		d.stripes[i].rooms = make(map[roomKey]shardSet)
	}
	return d
}

func (d *directory) stripe(room string) *stripe {
	return &d.stripes[maphash.String(d.seed, room)%uint64(len(d.stripes))]
}

func (d *directory) add(namespace, room string, shard int) {
	st := d.stripe(room)
	st.mu.Lock()
	defer st.mu.Unlock()
	key := roomKey{namespace, room}
	set, known := st.rooms[key]
	set.add(shard)
	st.rooms[key] = set
	if !known && d.watch != nil {
		d.watch(namespace, room, true)
	}
}

func (d *directory) remove(namespace, room string, shard int) {
	st := d.stripe(room)
	st.mu.Lock()
	defer st.mu.Unlock()
	d.takeOutLocked(st, roomKey{namespace, room}, shard)
}

// takeOutLocked takes a shard out of a room that it is in.
func (d *directory) takeOutLocked(st *stripe, key roomKey, shard int) {
	set, known := st.rooms[key]
	set.remove(shard)
	if set != (shardSet{}) {
		st.rooms[key] = set
		return
	}
	delete(st.rooms, key)
	if known && d.watch != nil {
		d.watch(key.namespace, key.room, false)
	}
}

// lookup adds the shards that hold members of room to set.
func (d *directory) lookup(namespace, room string, set *shardSet) {
	st := d.stripe(room)
	st.mu.RLock()
	defer st.mu.RUnlock()
	for i, word := range st.rooms[roomKey{namespace, room}] {
		set[i] |= word
	}
}

// forget takes a shard out of every room; its registry is gone.
func (d *directory) forget(shard int) {
	for i := range d.stripes {
		st := &d.stripes[i]
		st.mu.Lock()
		for key := range st.rooms {
			d.takeOutLocked(st, key, shard)
		}
		st.mu.Unlock()
	}
}

func (set *shardSet) add(i int)    { set[i/64] |= 1 << (i % 64) }
func (set *shardSet) remove(i int) { set[i/64] &^= 1 << (i % 64) }

func (set *shardSet) len() (n int) {
	for _, word := range set {
		n += bits.OnesCount64(word)
	}
	return n
}

// each calls f with the indexes in the set, ascending.
func (set *shardSet) each(f func(int)) {
	for i, word := range set {
		for ; word != 0; word &= word - 1 {
			f(i*64 + bits.TrailingZeros64(word))
		}
	}
}

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
	single  [MaxShards]shardSet // those of one shard, which nearly all rooms are on and share

	// watch, if not nil, is told when a room of this process gets its first member or loses its last. It is
	// called under the stripe's lock, so that a room's changes come in order, and must not block.
	watch func(namespace, room string, present bool)
}

type stripe struct {
	mu sync.RWMutex
	// rooms has the shards of each room, by namespace and room. The sets are never changed. A room that no shard has
	// members of is removed, and so is a namespace without rooms.
	rooms map[string]map[string]*shardSet
}

// shardSet is a set of shard indexes.
type shardSet [MaxShards / 64]uint64

func newDirectory() *directory {
	d := &directory{seed: maphash.MakeSeed()}
	for i := range d.stripes {
		d.stripes[i].rooms = make(map[string]map[string]*shardSet)
	}
	for i := range d.single {
		d.single[i].add(i)
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
	rooms := st.rooms[namespace]
	if rooms == nil {
		rooms = make(map[string]*shardSet)
		st.rooms[namespace] = rooms
	}
	known := rooms[room]
	if known == nil {
		rooms[room] = &d.single[shard]
		if d.watch != nil {
			d.watch(namespace, room, true)
		}
		return
	}
	set := *known
	set.add(shard)
	rooms[room] = &set
}

func (d *directory) remove(namespace, room string, shard int) {
	st := d.stripe(room)
	st.mu.Lock()
	defer st.mu.Unlock()
	d.takeOutLocked(st, namespace, room, shard)
}

// takeOutLocked takes a shard out of a room, which it need not be in.
func (d *directory) takeOutLocked(st *stripe, namespace, room string, shard int) {
	rooms := st.rooms[namespace]
	known := rooms[room]
	if known == nil {
		return
	}
	set := *known
	set.remove(shard)
	switch set.len() {
	case 0:
		if delete(rooms, room); len(rooms) == 0 {
			delete(st.rooms, namespace)
		}
		if d.watch != nil {
			d.watch(namespace, room, false)
		}
	case 1:
		set.each(func(left int) { rooms[room] = &d.single[left] })
	default:
		rooms[room] = &set
	}
}

// lookup adds the shards that hold members of room to set.
func (d *directory) lookup(namespace, room string, set *shardSet) {
	st := d.stripe(room)
	st.mu.RLock()
	defer st.mu.RUnlock()
	if found := st.rooms[namespace][room]; found != nil {
		for i, word := range found {
			set[i] |= word
		}
	}
}

// forget takes a shard out of every room; its registry is gone.
func (d *directory) forget(shard int) {
	for i := range d.stripes {
		st := &d.stripes[i]
		st.mu.Lock()
		for namespace, rooms := range st.rooms {
			for room := range rooms {
				d.takeOutLocked(st, namespace, room, shard)
			}
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

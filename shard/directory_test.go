package shard

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
)

func (set *shardSet) list() (list []int) {
	set.each(func(i int) { list = append(list, i) })
	return list
}

func TestShardSet(t *testing.T) {
	var set shardSet
	want := []int{0, 1, 63, 64, 130, MaxShards - 1}
	for _, i := range slices.Backward(want) {
		set.add(i)
		set.add(i)
	}
	if got := set.list(); !slices.Equal(got, want) || set.len() != len(want) {
		t.Errorf("set is %v of %d, want %v", got, set.len(), want)
	}
	for _, i := range want {
		set.remove(i)
	}
	if set != (shardSet{}) || set.len() != 0 {
		t.Error("an emptied set is not empty")
	}
}

type roomKey struct{ namespace, room string }

func TestDirectoryAgainstModel(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	d := newDirectory()
	model := map[roomKey]map[int]bool{}
	for step := range 20000 {
		key := roomKey{fmt.Sprint("/", rnd.IntN(2)), fmt.Sprint("room", rnd.IntN(100))}
		shard := rnd.IntN(MaxShards)
		switch n := rnd.IntN(1000); {
		case n == 0:
			d.forget(shard)
			for _, set := range model {
				delete(set, shard)
			}
		case n < 400:
			d.add(key.namespace, key.room, shard)
			if model[key] == nil {
				model[key] = map[int]bool{}
			}
			model[key][shard] = true
		case n < 800:
			d.remove(key.namespace, key.room, shard)
			delete(model[key], shard)
		default:
			other := roomKey{key.namespace, fmt.Sprint("room", rnd.IntN(100))}
			var set shardSet
			d.lookup(key.namespace, key.room, &set)
			d.lookup(other.namespace, other.room, &set)
			for i := range MaxShards {
				has := set[i/64]&(1<<(i%64)) != 0
				if has != (model[key][i] || model[other][i]) {
					t.Fatalf("step %d: shard %d in the set: %v", step, i, has)
				}
			}
		}
	}
	for i := range MaxShards {
		d.forget(i)
	}
	for i := range d.stripes {
		if n := len(d.stripes[i].rooms); n != 0 {
			t.Errorf("%d rooms without shards are kept", n)
		}
	}
}

func TestDirectoryConcurrently(t *testing.T) {
	d := newDirectory()
	var work sync.WaitGroup
	for shard := range 4 {
		work.Go(func() {
			for i := range 500 {
				room := fmt.Sprint(i % 20)
				d.add(ns, room, shard)
				var set shardSet
				if d.lookup(ns, room, &set); !slices.Contains(set.list(), shard) {
					t.Errorf("shard %d does not find itself", shard)
				}
				d.remove(ns, room, shard)
				if i%100 == 0 {
					d.forget(shard)
				}
			}
		})
	}
	work.Wait()
}

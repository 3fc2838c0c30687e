package handlers

import (
	"iter"
	"math/bits"
	"math/rand/v2"
	"slices"
)

// numbers is a set of small numbers. It takes about four bytes for each of them, and less where they are dense: then it is one
// bit for each number up to the largest. Its zero value is empty.
type numbers struct {
	list []uint32 // ascending
	bits []uint64 // if not nil, in place of list
	size int
}

// has tells whether n is in the set.
func (s *numbers) has(n uint32) bool {
	if s.bits != nil {
		return int(n/64) < len(s.bits) && s.bits[n/64]&(1<<(n%64)) != 0
	}
	_, found := slices.BinarySearch(s.list, n)
	return found
}

// add puts n in, and tells whether it was not in before.
func (s *numbers) add(n uint32) bool {
	if s.bits == nil {
		return s.addToList(n)
	}
	if s.has(n) {
		return false
	}
	if words := int(n/64) + 1; words > len(s.bits) {
		if words > s.size+1 { // twice what a list takes
			s.toList()
			return s.addToList(n)
		}
		s.bits = append(s.bits, make([]uint64, words-len(s.bits))...)
	}
	s.bits[n/64] |= 1 << (n % 64)
	s.size++
	return true
}

func (s *numbers) addToList(n uint32) bool {
	at, found := slices.BinarySearch(s.list, n)
	if found {
		return false
	}
	s.list = slices.Insert(s.list, at, n)
	s.size++
	if last := s.list[len(s.list)-1]; s.size >= 2*(int(last/64)+1) {
		s.toBits(last)
	}
	return true
}

// remove takes n out, and tells whether it was in.
func (s *numbers) remove(n uint32) bool {
	if !s.has(n) {
		return false
	}
	s.size--
	if s.bits != nil {
		s.bits[n/64] &^= 1 << (n % 64)
		if len(s.bits) > 2*s.size {
			s.toList()
		}
		return true
	}
	at, _ := slices.BinarySearch(s.list, n)
	s.list = slices.Delete(s.list, at, at+1)
	if cap(s.list) > 4*s.size+8 {
		s.list = append(make([]uint32, 0, s.size), s.list...)
	}
	return true
}

// all yields the numbers, ascending. The set must not change meanwhile.
func (s *numbers) all() iter.Seq[uint32] {
	if s.bits == nil {
		return slices.Values(s.list)
	}
	return func(yield func(uint32) bool) {
		for i, word := range s.bits {
			for ; word != 0; word &= word - 1 {
				if !yield(uint32(i*64 + bits.TrailingZeros64(word))) {
					return
				}
			}
		}
	}
}

// any returns one of at least two numbers, but not this one. It is chosen by chance: by a rule, two that take turns to come could
// take each other's place for ever.
func (s *numbers) any(but uint32) uint32 {
	left := rand.IntN(s.size - 1) //nolint:gosec // nobody gains by guessing it
	for n := range s.all() {
		if n == but {
			continue
		}
		if left == 0 {
			return n
		}
		left--
	}
	return but // not reached: but is one of them
}

func (s *numbers) toBits(last uint32) {
	s.bits = make([]uint64, last/64+1)
	for _, n := range s.list {
		s.bits[n/64] |= 1 << (n % 64)
	}
	s.list = nil
}

func (s *numbers) toList() {
	list := make([]uint32, 0, s.size+1)
	for n := range s.all() {
		list = append(list, n)
	}
	s.list, s.bits = list, nil
}

// catalog gives names numbers, the smallest that are free or next to be. Its zero value is empty.
type catalog struct {
	numbers map[string]uint32
	names   []string // by number
	free    []uint32 // numbers that no name has
}

// add returns the number of a name, which it is given if it has none.
func (c *catalog) add(name string) uint32 {
	if n, ok := c.numbers[name]; ok {
		return n
	}
	if c.numbers == nil {
		c.numbers = make(map[string]uint32)
	}
	n := uint32(len(c.names)) //nolint:gosec // names are held in memory: there are fewer
	if last := len(c.free) - 1; last >= 0 {
		n, c.free = c.free[last], c.free[:last]
		c.names[n] = name
	} else {
		c.names = append(c.names, name)
	}
	c.numbers[name] = n
	return n
}

// remove takes its number from a name that has one.
func (c *catalog) remove(n uint32) {
	delete(c.numbers, c.names[n])
	if len(c.numbers) == 0 {
		*c = catalog{} // with the memory of all that there were once
		return
	}
	c.names[n] = ""
	c.free = append(c.free, n)
}

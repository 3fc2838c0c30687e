// Package ordered has a map from byte strings to byte strings that is kept in the order of its keys.
package ordered

import (
	"bytes"
	"encoding/binary"
	"iter"
	"math/rand/v2"
)

// maxLevel suits some 4^16 keys: each level holds a quarter of the one below.
const maxLevel = 16

// Map is a skip list. Its zero value is empty and ready. It must not be changed by one goroutine while another uses it.
type Map struct {
	head [maxLevel]*node // the first node of each level
	len  int
}

type node struct {
	start      uint64 // what the key starts with: nearly always enough to tell what comes first, and at hand
	key, value []byte
	next       []*node // by level
}

// startOf returns the first eight bytes of a key as a number that is in the same order.
func startOf(key []byte) uint64 {
	if len(key) >= 8 {
		return binary.BigEndian.Uint64(key)
	}
	var b [8]byte
	copy(b[:], key)
	return binary.BigEndian.Uint64(b[:])
}

// find returns the first node whose key is not less than key. If before is not nil, it is set to the pointers that
// lead to that place at each level.
func (m *Map) find(key []byte, before *[maxLevel]**node) *node {
	next, start := m.head[:], startOf(key)
	var at *node
	for level := maxLevel - 1; level >= 0; level-- {
		at = next[level]
		for at != nil && (at.start < start || at.start == start && bytes.Compare(at.key, key) < 0) {
			next = at.next
			at = next[level]
		}
		if before != nil {
			before[level] = &next[level]
		}
	}
	return at
}

// Len returns the number of keys.
func (m *Map) Len() int { return m.len }

// Get returns the value of key, or nil. The value belongs to the map.
func (m *Map) Get(key []byte) []byte {
	if n := m.find(key, nil); n != nil && bytes.Equal(n.key, key) {
		return n.value
	}
	return nil
}

// Put sets the value of key. It copies both, and never fails.
func (m *Map) Put(key, value []byte) error {
	value = append(make([]byte, 0, len(value)), value...) // never nil: nil means missing
	var before [maxLevel]**node
	if n := m.find(key, &before); n != nil && bytes.Equal(n.key, key) {
		n.value = value
		return nil
	}
	levels := 1
	for levels < maxLevel && rand.Uint32()%4 == 0 { //nolint:gosec // decides on speed alone
		levels++
	}
	n := &node{start: startOf(key), key: bytes.Clone(key), value: value, next: make([]*node, levels)}
	for level := range n.next {
		n.next[level] = *before[level]
		*before[level] = n
	}
	m.len++
	return nil
}

// Delete removes key if it is there. It never fails.
func (m *Map) Delete(key []byte) error {
	var before [maxLevel]**node
	n := m.find(key, &before)
	if n == nil || !bytes.Equal(n.key, key) {
		return nil
	}
	for level := range n.next {
		*before[level] = n.next[level]
	}
	m.len--
	return nil
}

// Ascend walks the keys from <= key < to in order. The map must not change meanwhile; what is yielded belongs to it.
func (m *Map) Ascend(from, to []byte) iter.Seq2[[]byte, []byte] {
	return func(yield func(key, value []byte) bool) {
		for n := m.find(from, nil); n != nil && bytes.Compare(n.key, to) < 0; n = n.next[0] {
			if !yield(n.key, n.value) {
				return
			}
		}
	}
}

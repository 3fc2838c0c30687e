package ordered

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
)

// TestMap compares the map with a plain one under random changes.
func TestMap(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	var m Map
	want := map[string]string{}
	keyOf := func(n int) string { return "long beginning"[:n%4*4] + fmt.Sprint(n) }
	for i := range 20000 {
		key, value := keyOf(random.IntN(500)), fmt.Sprint(i)
		if random.IntN(3) == 0 {
			_ = m.Delete([]byte(key))
			delete(want, key)
		} else {
			_ = m.Put([]byte(key), []byte(value))
			want[key] = value
		}
	}
	if m.Len() != len(want) {
		t.Fatalf("%d keys, want %d", m.Len(), len(want))
	}
	for key, value := range want {
		if got := m.Get([]byte(key)); string(got) != value {
			t.Fatalf("%s is %q, want %q", key, got, value)
		}
	}
	if m.Get([]byte("none")) != nil {
		t.Fatal("found a key that is not there")
	}
	for range 100 {
		from, to := keyOf(random.IntN(500)), keyOf(random.IntN(500))
		var got, expected []string
		for key := range m.Ascend([]byte(from), []byte(to)) {
			got = append(got, string(key))
		}
		for _, key := range slices.Sorted(maps.Keys(want)) {
			if from <= key && key < to {
				expected = append(expected, key)
			}
		}
		if !slices.Equal(got, expected) {
			t.Fatalf("from %s to %s: %v, want %v", from, to, got, expected)
		}
	}
}

func TestEmptyValue(t *testing.T) {
	var m Map
	_ = m.Put([]byte("k"), nil)
	if v := m.Get([]byte("k")); v == nil {
		t.Fatal("an empty value reads as missing")
	}
	value := []byte("v")
	_ = m.Put([]byte("k"), value)
	value[0] = 'x'
	if v := m.Get([]byte("k")); string(v) != "v" {
		t.Fatalf("the map kept the caller's bytes: %q", v)
	}
}

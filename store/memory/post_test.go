package memory

import (
	"strings"
	"testing"

	"parley/store"
)

// What is put into one piece must come out of it again, at the limits too.
func TestPostKeepsItsParts(t *testing.T) {
	long := strings.Repeat("\x00\xff", store.MaxIDBytes/2)
	for _, p := range []store.Post{
		{ID: "a", Origin: "b", Data: []byte("c")},
		{ID: "a"},
		{ID: long, Origin: long, Data: []byte(strings.Repeat(long, 80))},
	} {
		for _, at := range []int64{0, 1, -1, 1 << 62} {
			kept := newPost(&p, at)
			id, origin, data := kept.parts()
			if kept.at() != at || id != p.ID || origin != p.Origin || data != string(p.Data) {
				t.Errorf("at %d, id %.20q, origin %.20q, data %.20q of %d, %.20q, %.20q, %.20q", kept.at(), id, origin, data, at, p.ID, p.Origin, p.Data)
			}
		}
	}
}

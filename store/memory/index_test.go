package memory

import (
	"math/rand/v2"
	"testing"
)

// TestIndex compares the index of a mailbox with a map while messages come and the oldest go, also where the lower halves of
// numbers begin again and where tags are alike.
func TestIndex(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 5))
	for _, first := range []uint64{1, 1<<32 - 500, 1<<40 - 3} {
		for _, tags := range []uint64{1 << 6, 1 << 62} {
			b := newMailbox(boxKey{}, 1)
			b.first = first
			want := map[messageKey]uint64{}
			for step := range 4000 {
				key := messageKey{random.Uint64N(tags) << 32, random.Uint64N(1 << 20)}
				if tags > 1<<30 {
					key[0] = random.Uint64()
				}
				seq, ok := b.index.find(b, key)
				if wanted, known := want[key]; ok != known || seq != wanted {
					t.Fatalf("step %d: %v is %d, %v, want %d, %v", step, key, seq, ok, wanted, known)
				}
				if !ok {
					b.messages = append(b.messages, message{key: key})
					b.index.add(key, b.last())
					want[key] = b.last()
				}
				for limit := 50 + step/4; len(b.messages) > limit || step%1000 > 950 && len(b.messages) > 0; {
					oldest := b.messages[0].key
					b.index.remove(oldest, b.first)
					delete(want, oldest)
					b.messages = b.messages[1:]
					b.first++
				}
				if b.index.used != len(want) {
					t.Fatalf("step %d: %d in use, want %d", step, b.index.used, len(want))
				}
			}
			for key, wanted := range want {
				if seq, ok := b.index.find(b, key); !ok || seq != wanted {
					t.Fatalf("%v is %d, %v, want %d", key, seq, ok, wanted)
				}
			}
		}
	}
}

package redisslot_test

import (
	"testing"

	"parley/internal/redisslot"
)

func TestSlots(t *testing.T) {
	for key, want := range map[string]int{
		"": 0, "123456789": 12739, "foo": 12182, "{foo}bar": 12182, "a{foo}{bar}": 12182, "foo{}": 5542, "{": 4092,
	} {
		if got := redisslot.Of(key); got != want {
			t.Errorf("slot of %q is %d, want %d", key, got, want)
		}
	}
}

func TestEverySlotHasAKey(t *testing.T) {
	for slot, key := range redisslot.Keys() {
		if key == "" || redisslot.Of(key) != slot {
			t.Fatalf("the key of slot %d is %q", slot, key)
		}
	}
}

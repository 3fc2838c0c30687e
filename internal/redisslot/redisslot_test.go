package redisslot_test

import (
	"testing"

	"parley/internal/redisslot"
)

func TestSlots(t *testing.T) {
	for key, want := range map[string]int{
		"": 0, "123456789": 12739, "foo": 12182, "{foo}bar": 12182, "a{foo}{bar}": 12182, "foo{}": 5542, "{": 4092,
		"{foo}": 12182, "a{foo}b}": 12182,
	} {
		if got := redisslot.Of(key); got != want {
			t.Errorf("slot of %q is %d, want %d", key, got, want)
		}
	}
	if redisslot.Of("{}foo") == 0 || redisslot.Of("{foo") == redisslot.Of("foo") {
		t.Error("what is no tag was taken for one")
	}
}

func TestEverySlotHasAKey(t *testing.T) {
	for slot, key := range redisslot.Keys() {
		if key == "" || redisslot.Of(key) != slot {
			t.Fatalf("the key of slot %d is %q", slot, key)
		}
	}
}

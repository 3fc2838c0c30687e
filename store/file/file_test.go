package file

import (
	"testing"
	"time"

	"parley/store"
	"parley/store/storetest"
)

func TestConformance(t *testing.T) {
	storetest.Run(t, func(t *testing.T, opts store.Options) (store.Store, func(time.Duration)) {
		clock := storetest.NewClock()
		opts.Now = clock.Now
		return open(t, t.TempDir(), Options{Options: opts}), clock.Advance
	})
}

func open(t testing.TB, dir string, opts Options) *Store {
	t.Helper()
	s, err := Open(dir, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

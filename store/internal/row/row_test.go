package row

import (
	"errors"
	"testing"
	"time"

	"parley/store"
)

func TestRoundTrip(t *testing.T) {
	at := time.UnixMilli(1700000000123)
	data := AppendUint(nil, 7)
	data = AppendString(data, "a\x00b")
	data = AppendTime(data, at)
	data = AppendTime(data, time.Time{})
	data = AppendString(data, []byte{})

	r := Read(data)
	if v := r.Uint(); v != 7 {
		t.Errorf("number: %d", v)
	}
	if s := r.String(); s != "a\x00b" {
		t.Errorf("string: %q", s)
	}
	if v := r.Time(); !v.Equal(at) {
		t.Errorf("time: %v", v)
	}
	if v := r.Time(); !v.IsZero() {
		t.Errorf("zero time: %v", v)
	}
	if s := r.String(); s != "" || r.More() || r.Err() != nil {
		t.Errorf("end: %q, more %v, %v", s, r.More(), r.Err())
	}
}

// FuzzReader checks that a damaged row never panics, and that the end of a row is always noticed.
func FuzzReader(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte("\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"))
	f.Add(AppendString(AppendUint(nil, 1), "text"))
	f.Fuzz(func(t *testing.T, data []byte) {
		r := Read(data)
		for range len(data) + 1 {
			r.Bytes()
			r.Uint()
			r.Raw(1)
		}
		if !errors.Is(r.Err(), ErrDamaged) || !errors.Is(r.Err(), store.ErrUnavailable) {
			t.Fatalf("read past the end: %v", r.Err())
		}
	})
}

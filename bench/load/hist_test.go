//go:build linux

package load

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

func TestHistogramQuantiles(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	var h Histogram
	var all []time.Duration
	for range 100_000 {
		d := time.Duration(rng.ExpFloat64() * 3e6)
		h.Add(d)
		all = append(all, d)
	}
	slices.Sort(all)
	for _, q := range []float64{0, 0.5, 0.9, 0.99, 0.999, 1} {
		want := all[min(int(q*float64(len(all))), len(all)-1)]
		got := h.Quantile(q)
		if diff := (got - want).Abs(); diff > want/50+time.Nanosecond*200 {
			t.Errorf("quantile %v is %v, want %v", q, got, want)
		}
	}
	if h.Max() != all[len(all)-1] || h.Quantile(1) > h.Max() {
		t.Errorf("max %v and quantile 1 %v, want %v", h.Max(), h.Quantile(1), all[len(all)-1])
	}
}

func TestHistogramEdges(t *testing.T) {
	var h, other Histogram
	if h.Quantile(0.5) != 0 {
		t.Error("an empty histogram has a median")
	}
	h.Add(-time.Second)
	h.Add(1<<63 - 1)
	if h.Quantile(0.5) != 0 || h.Quantile(1) < time.Hour {
		t.Errorf("median %v, last %v", h.Quantile(0.5), h.Quantile(1))
	}
	other.Add(5)
	other.Merge(&h)
	if other.Count() != 3 || other.Quantile(0.5) != 5 || other.Max() != h.Max() {
		t.Errorf("merged: %d, median %v, max %v", other.Count(), other.Quantile(0.5), other.Max())
	}
}

func TestBucketsAreOrderedAndNarrow(t *testing.T) {
	last := -1
	for v := uint64(0); v < 1<<20; v++ {
		b := bucket(v)
		if b < last || b > last+1 {
			t.Fatalf("%d is in bucket %d after %d", v, b, last)
		}
		last = b
		if m := uint64(middle(b)); m > v+v/64+1 || v > m+m/64+1 {
			t.Fatalf("%d is in a bucket around %d", v, m)
		}
	}
}

//go:build linux

package load

import (
	"math"
	"math/bits"
	"time"
)

// Histogram counts durations in buckets that are less than 2% wide. The zero value is ready.
type Histogram struct {
	counts [64 << histBits]uint32
	n      uint64
	max    time.Duration
}

const histBits = 6 // 64 buckets for each power of two

// Add counts one duration; a negative one counts as none.
func (h *Histogram) Add(d time.Duration) {
	d = max(d, 0)
	h.counts[bucket(uint64(d))]++
	h.n++
	h.max = max(h.max, d)
}

// Count is how many durations were added.
func (h *Histogram) Count() uint64 { return h.n }

// Quantile returns the smallest bucket's middle below which the share q of all durations lies; 0 without any.
func (h *Histogram) Quantile(q float64) time.Duration {
	if h.n == 0 {
		return 0
	}
	rank := max(uint64(math.Ceil(q*float64(h.n))), 1)
	var seen uint64
	for i, c := range h.counts {
		if seen += uint64(c); seen >= rank {
			return min(middle(i), h.max)
		}
	}
	return h.max
}

// Max is the longest duration.
func (h *Histogram) Max() time.Duration { return h.max }

// bucket is linear below 2^(histBits+1) and logarithmic with histBits of mantissa above.
func bucket(v uint64) int {
	exp := bits.Len64(v) - histBits - 1
	if exp <= 0 {
		return int(v)
	}
	return exp<<histBits + int(v>>exp)
}

func middle(i int) time.Duration {
	exp := i>>histBits - 1
	if exp <= 0 {
		return time.Duration(i)
	}
	low := uint64(i-exp<<histBits) << exp
	return time.Duration(low + uint64(1)<<exp/2)
}

// Merge adds another's durations.
func (h *Histogram) Merge(other *Histogram) {
	for i, c := range other.counts {
		h.counts[i] += c
	}
	h.n += other.n
	h.max = max(h.max, other.max)
}

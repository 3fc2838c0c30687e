//go:build linux

package load

import (
	"errors"
	"math/rand/v2"
	"time"
)

// Counts is what a traffic saw since it was reset.
type Counts struct {
	Sent, Done, Delivered uint64
	Latency               Histogram // from when a message was due to each of its deliveries
	AckLatency            Histogram // to its acknowledgement
	Last                  Histogram // to its last delivery, where a traffic has many
}

// Reset begins a new measurement.
func (c *Counts) Reset() { *c = Counts{} }

// Total returns the counts themselves.
func (c *Counts) Total() *Counts { return c }

var errLost = errors.New("lost")

// pace calls send when a message is due: at a mean rate, with random gaps (a Poisson process).
func (l *Loop) pace(rng *rand.Rand, perSecond float64, d time.Duration, send func(due int64)) error {
	end := l.Now() + int64(d)
	gap := func() int64 { return int64(rng.ExpFloat64() / perSecond * 1e9) }
	for due := l.Now() + gap(); due < end; {
		for now := l.Now(); due <= now; due += gap() {
			send(due)
		}
		if err := l.Flush(); err != nil {
			return err
		}
		if err := l.Wake(due); err != nil {
			return err
		}
		if err := l.Step(time.Second); err != nil {
			return err
		}
	}
	return nil
}

// drain steps until nothing is missing, and a moment longer: doubles come late.
func (l *Loop) drain(d time.Duration, missing func() error) error {
	end := l.Now() + int64(d)
	for {
		err := missing()
		if err == nil {
			return l.For(50 * time.Millisecond)
		}
		if l.Now() > end {
			return err
		}
		if err := l.For(20 * time.Millisecond); err != nil {
			return err
		}
	}
}

// firstNumber makes all numbers have eight digits, as long as there are fewer than 90 million.
const firstNumber = 10_000_000

func appendNumber(b []byte, m uint32) []byte {
	n := m + firstNumber
	b = append(b, "00000000"...)
	for i := len(b) - 1; i >= len(b)-8; i-- {
		b[i] = '0' + byte(n%10)
		n /= 10
	}
	return b
}

func parseNumber(b []byte) (m uint32, ok bool) {
	if len(b) < 8 {
		return 0, false
	}
	var n uint32
	for _, c := range b[:8] {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + uint32(c-'0')
	}
	return n - firstNumber, n >= firstNumber
}

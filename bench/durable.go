//go:build linux

package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"syscall"
	"time"
)

// durable is private messages of so many senders, each of whom waits for one acknowledgement at a time. Beside
// it, the disk's own rate: groups of as many records, each group appended and synced.
func durable(senders int) workload {
	name := "durable"
	inner := events(name, "chat", private(500, senders, true), phase{name: fmt.Sprint(senders, " senders"), inFlight: senders})
	return workload{name: name, run: func(ctx context.Context, b *bench, t target) ([]result, error) {
		all, err := inner.run(ctx, b, t)
		if err != nil || t.store != "file" {
			return all, err
		}
		rate, err := syncRate(b.data, senders, b.duration/2)
		if err != nil {
			return nil, err
		}
		for _, r := range all {
			r.values[syncsPerSec] = rate
			r.values[syncShare] = r.values[donePerSec] / (rate * float64(senders))
		}
		return all, nil
	}}
}

// recordBytes is about what the file store's journal takes for a private message of 64 bytes.
const recordBytes = 400

// syncRate measures how many groups of records a second a file can take when each is synced.
func syncRate(dir string, records int, d time.Duration) (float64, error) {
	f, err := os.CreateTemp(dir, "sync-")
	if err != nil {
		return 0, err
	}
	defer func() {
		_ = f.Close()
		_ = os.Remove(f.Name())
	}()
	group := bytes.Repeat([]byte{'x'}, records*recordBytes)
	begin, n := time.Now(), 0
	for time.Since(begin) < d {
		if _, err := f.Write(group); err != nil {
			return 0, err
		}
		if err := syscall.Fdatasync(int(f.Fd())); err != nil {
			return 0, fmt.Errorf("sync: %w", err)
		}
		n++
	}
	return float64(n) / time.Since(begin).Seconds(), nil
}

package main

import (
	"math"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

// ballastBytes is memory that is allocated and never touched, so that it costs address space alone. The garbage collector
// counts it as in use and lets as much garbage more gather before it runs: a small process under load would otherwise
// walk all its connections several times a second.
const ballastBytes = 24 << 20

// newBallast returns the ballast, or none where GOMEMLIMIT bounds what the process may use: it would count.
func newBallast() []byte {
	if debug.SetMemoryLimit(-1) != math.MaxInt64 {
		return nil
	}
	return make([]byte, ballastBytes)
}

// What makes a process give memory back: an idle one would keep what a burst of work has left for minutes, until its
// next garbage collection.
const (
	// memoryEvery is how often the process looks at what it holds.
	memoryEvery = 10 * time.Second
	// quietBytes is what a process that is idle, or nearly, allocates in that time at most.
	quietBytes = 32 << 20
	// wasteBytes, or a fourth of what is in use if that is more, is what has to be wasted to be worth the work.
	wasteBytes = 8 << 20
	// memoryLost is how many connections have to have gone, half of them at least, and memoryTimes how often memory is
	// given back then: what the last of them do when they leave takes some seconds.
	memoryLost  = 500
	memoryTimes = 4
)

// returnMemory gives memory back to the system when a burst of work is over or many connections have gone. It ends
// with stopped.
func returnMemory(connections func() int, ballast uint64, stopped <-chan struct{}) {
	ticker := time.NewTicker(memoryEvery)
	defer ticker.Stop()
	allocated := readHeap(ballast).allocated
	for most, times := 0, 0; ; {
		select {
		case <-stopped:
			return
		case <-ticker.C:
		}
		now := connections()
		most = max(most, now)
		if most-now >= memoryLost && now <= most/2 {
			most, times = now, memoryTimes
		}
		h := readHeap(ballast)
		quiet := h.allocated-allocated <= quietBytes
		allocated = h.allocated
		if times > 0 || quiet && h.waste() > max(wasteBytes, h.live/4) {
			times = max(times-1, 0)
			debug.FreeOSMemory()
		}
	}
}

// heap is what the Go runtime says of its heap, in bytes.
type heap struct {
	allocated uint64 // in all the time
	live      uint64 // found in use by the last garbage collection, without the ballast
	held      uint64 // resident, in use or not, without the ballast
}

// waste is what a garbage collection now might give back.
func (h heap) waste() uint64 { return h.held - min(h.live, h.held) }

func readHeap(ballast uint64) heap {
	samples := []metrics.Sample{
		{Name: "/gc/heap/allocs:bytes"},
		{Name: "/gc/heap/live:bytes"},
		{Name: "/memory/classes/heap/objects:bytes"},
		{Name: "/memory/classes/heap/unused:bytes"},
		{Name: "/memory/classes/heap/free:bytes"},
	}
	metrics.Read(samples)
	value := func(i int) uint64 { return samples[i].Value.Uint64() }
	held := value(2) + value(3) + value(4)
	return heap{value(0), value(1) - min(ballast, value(1)), held - min(ballast, held)}
}

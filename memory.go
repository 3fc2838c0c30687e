package main

import (
	"runtime/debug"
	"time"
)

// What makes a process give memory back: after many connections have gone, an idle one would keep what they
// used for minutes, until its next garbage collection.
const (
	memoryEvery = 10 * time.Second
	memoryLost  = 500 // connections
	// What the last of them do when they leave takes some seconds, so it is given back more than once.
	memoryTimes = 4
)

// returnMemory gives memory back to the system after many connections have gone. It ends with stopped.
func returnMemory(connections func() int, stopped <-chan struct{}) {
	ticker := time.NewTicker(memoryEvery)
	defer ticker.Stop()
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
		if times > 0 {
			times--
			debug.FreeOSMemory()
		}
	}
}

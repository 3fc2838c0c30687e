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
)

// returnMemory gives memory back to the system after many connections have gone. It ends with stopped.
func returnMemory(connections func() int, stopped <-chan struct{}) {
	ticker := time.NewTicker(memoryEvery)
	defer ticker.Stop()
	for most := 0; ; {
		select {
		case <-stopped:
			return
		case <-ticker.C:
		}
		now := connections()
		most = max(most, now)
		if most-now >= memoryLost && now <= most/2 {
			debug.FreeOSMemory()
			most = now
		}
	}
}

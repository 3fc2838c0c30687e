package shard

import (
	"time"

	"parley/engineio"
	"parley/registry"
)

// laterAfter is the least time between two writes of events that may wait: many that come within it cost each socket one
// write. The first after a pause leaves at once.
const laterAfter = 20 * time.Millisecond

// offerLater is offer for an event that may wait. It keeps its place among what the socket is sent: whatever has to leave at
// once takes it along.
func (s *Shard) offerLater(t *registry.Socket, m *engineio.Message, flags engineio.Flags) {
	if t.Out != nil && t.Out.Enqueue(m, flags) && !t.Waiting && !t.Touched {
		t.Waiting = true
		s.later = append(s.later, t)
	}
}

// flushLater writes what waited long enough, or else sets the alarm for that.
func (s *Shard) flushLater() {
	if len(s.later) == 0 {
		return
	}
	if next := s.left.Add(laterAfter); time.Now().Before(next) {
		s.wake(next)
		return
	}
	for i, t := range s.later {
		t.Waiting = false
		s.later[i] = nil
		if t.Out != nil {
			t.Out.Flush()
		}
	}
	s.later = s.later[:0]
	s.left = time.Now()
}

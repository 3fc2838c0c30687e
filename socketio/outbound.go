package socketio

import (
	"sync/atomic"
	"time"

	"parley/engineio"
)

// holdLimit bounds how long a welcome is held: a listener that takes longer, because it waits for a slow store, say,
// keeps its client waiting for what it does itself and no more.
const holdLimit = 20 * time.Millisecond

// outbound is the sending side of a connection, as shards see it. What is sent while a client is welcomed is held: it
// leaves with one write, and a client is not told that it is connected before the listeners have put it where others
// look for it, as in the Node server.
type outbound struct {
	*engineio.Conn

	held  atomic.Bool
	timer *time.Timer // of the hold; guarded by the client's turn, nil without one
}

// Enqueue implements registry.Outbound. What is volatile would be dropped behind what is held.
func (o *outbound) Enqueue(m *engineio.Message, flags engineio.Flags) bool {
	if flags&engineio.Volatile != 0 {
		o.end()
	}
	return o.Conn.Enqueue(m, flags)
}

// Flush implements registry.Outbound. What it leaves is written when the hold ends.
func (o *outbound) Flush() {
	if !o.held.Load() {
		o.Conn.Flush()
	}
}

// hold keeps back what is sent from now on, until release, but no longer than limit. The connection may write it
// sooner, if it gets too much.
func (o *outbound) hold(limit time.Duration) {
	o.held.Store(true)
	if o.timer != nil { // of an attempt to come back that failed
		o.timer.Reset(limit)
		return
	}
	o.timer = time.AfterFunc(limit, o.end)
}

// release ends the hold, if there is one.
func (o *outbound) release() {
	if o.timer != nil {
		o.timer.Stop()
		o.timer = nil
		o.end()
	}
}

func (o *outbound) end() {
	if o.held.Swap(false) {
		o.Conn.Flush()
	}
}

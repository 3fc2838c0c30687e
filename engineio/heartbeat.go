package engineio

import "time"

// The heartbeat, section 10 of the Engine.IO contract: the server pings PingInterval after the opening and
// after each pong, and closes the connection if no pong comes within PingTimeout. One timer for each
// connection serves both, and after Close the grace of polling.

// tick is called when the timer fires.
func (c *Conn) tick() {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.state == closing: // nobody came to fetch the news
		c.removeLocked()
		c.polling.answerLocked("1")
	case c.state == closed:
	case c.server.now() < c.due: // the timer was set again while we waited for mu
	case c.awaiting:
		c.failLocked(PingTimeout, "1")
	default:
		c.awaiting, c.extended = true, false
		timeout := c.server.opts.PingTimeout
		// The client counts from when the ping was due, so that a timer that was a little late must not make the
		// pong's time end later. After a long pause of the whole process it has to have its full time.
		if late := c.server.now() - c.due; late < timeout/2 {
			timeout -= late
		}
		c.setTimerLocked(timeout)
		c.out.trim()
		c.out.add(c.server.ping, 0)
		c.flushLocked()
	}
}

// aliveLocked notes that the client sent something. A pong starts the time to the next ping. Anything else
// that comes while a pong is due extends its time, once: the pong may be queued behind it.
func (c *Conn) aliveLocked(pong bool) {
	switch {
	case c.state != open:
	case pong:
		c.awaiting = false
		c.setTimerLocked(c.server.opts.PingInterval)
	case c.awaiting && !c.extended:
		c.extended = true
		c.setTimerLocked(c.server.opts.PingTimeout)
	}
}

// setTimerLocked makes the timer fire in d.
func (c *Conn) setTimerLocked(d time.Duration) {
	c.due = c.server.now() + d
	c.timer.Reset(d)
}

// expireLocked closes the connection if its pong is overdue and the timer has not come to say so.
func (c *Conn) expireLocked() {
	if c.state == open && c.awaiting && c.server.now() >= c.due {
		c.failLocked(PingTimeout, "1")
	}
}

// now is the time of the heartbeats.
func (s *Server) now() time.Duration {
	return time.Since(s.born)
}

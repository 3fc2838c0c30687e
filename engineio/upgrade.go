package engineio

import (
	"net/http"
	"time"

	"parley/engineio/packet"
)

// The upgrade from polling to WebSocket, section 11 of the Engine.IO contract. The client opens a WebSocket
// with the id of its connection, probes it with "2probe", is answered "3probe", stops polling, and says "5".
// Until then all traffic stays on polling; from then on it is on the WebSocket, beginning with what waits.

// noopInterval is how often a held GET is ended while a client probes, so that it can stop polling.
const noopInterval = 100 * time.Millisecond

// probe serves a WebSocket that wants to take over c. One that may not is opened and closed again, which is
// how the reference server does it; the connection isn't affected.
func (s *Server) probe(w http.ResponseWriter, r *http.Request, c *Conn) {
	if !s.begin() {
		s.refuse(w, r, shuttingDown())
		return
	}
	k, err := s.hijack(w, r, c)
	if err != nil {
		s.work.Done()
		s.refuse(w, r, badRequestShape())
		return
	}
	c.mu.Lock()
	if p := c.polling; c.state == open && p != nil && p.probe == nil && s.opts.upgrades() {
		deadline := time.Now().Add(s.opts.UpgradeTimeout)
		p.probe = k
		p.timer = time.AfterFunc(s.opts.UpgradeTimeout, func() { c.upgradeTick(k, deadline) })
		k.flushLocked()
	} else {
		s.reject("upgrade refused")
		k.closeLocked(closeFrame(0))
	}
	c.mu.Unlock()
	go k.begin() // ends when the client or closeLocked ends the connection
}

// probedLocked handles one packet of a WebSocket that may take over.
func (k *socket) probedLocked(p packet.Packet, err error) {
	c := k.conn
	switch {
	case err == nil && p.Type == packet.Ping && string(p.Data) == "probe":
		if k.out.full(&c.server.opts) {
			k.abortLocked()
			return
		}
		k.out.add(newPacket(packet.Pong, "probe"), NoCompress)
		k.flushLocked()
		if !k.probed { // only once: the timer is also what ends an upgrade that takes too long
			k.probed = true
			c.polling.timer.Reset(noopInterval)
		}
	case err == nil && p.Type == packet.Upgrade:
		c.switchLocked(k)
	default:
		c.server.reject("broken probe")
		c.polling.refuseLocked()
	}
}

// upgradeTick is called every noopInterval while k probes, and at its deadline.
func (c *Conn) upgradeTick(k *socket, deadline time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.polling
	if p == nil || p.probe != k {
		return
	}
	left := time.Until(deadline)
	if left <= 0 {
		c.server.reject("upgrade timeout")
		p.refuseLocked()
		return
	}
	if p.get != nil && p.out.empty() {
		p.out.add(c.server.noop, 0)
		p.flushLocked()
	}
	p.timer.Reset(min(noopInterval, left))
}

// switchLocked makes k the transport of the connection.
func (c *Conn) switchLocked(k *socket) {
	p := c.polling
	p.detachLocked()
	if g := p.get; g != nil {
		if c.server.now()-g.since < overtaking {
			g.late = badRequestShape()
		}
		p.answerLocked("1") // the client was to have none open
	}
	for _, e := range p.out.queue {
		k.out.add(e.message, e.flags)
	}
	p.out.clear()
	c.polling, c.ws, c.out = nil, k, &k.out
	// A ping that is out may have been lost with the old transport: begin anew.
	c.awaiting = false
	c.setTimerLocked(c.server.opts.PingInterval)
	k.flushLocked()
}

// refuseLocked closes the WebSocket that wants to take over, if there is one. Another may try.
func (p *polling) refuseLocked() {
	if k := p.probe; k != nil {
		p.detachLocked()
		k.closeLocked(closeFrame(0))
	}
}

// detachLocked forgets the WebSocket that wants to take over.
func (p *polling) detachLocked() {
	p.probe = nil
	p.timer.Stop()
}

package engineio

import (
	"errors"
	"net"
	"time"
)

// The writing half of a WebSocket. Whoever flushes writes as much as the kernel takes at once; the rest, if there is any, is
// left to a goroutine that exists for as long.

// flushLocked writes what waits, without blocking. What the kernel doesn't take is left to drain.
func (k *socket) flushLocked() {
	if k.draining || k.released {
		return
	}
	if !k.out.empty() {
		if k.raw == nil || !k.writeLocked() {
			k.draining = true
			k.conn.server.work.Add(1) // the goroutine that reads is still counted, or the caller is
			go k.drain()              // ends when the outbox is empty, or WriteTimeout has passed
			return
		}
	}
	k.drainedLocked()
}

// writeLocked writes until the outbox is empty and returns true, or until the kernel takes no more.
func (k *socket) writeLocked() bool {
	scratch := k.conn.server.scratches.Get().(*scratch)
	defer k.conn.server.scratches.Put(scratch)
	for !k.out.empty() {
		p := k.gatherLocked(scratch[:0])
		n, err := write(k.fd, p)
		if err != nil {
			k.brokenLocked()
			return true
		}
		k.sentLocked(n)
		if n < len(p) {
			return false
		}
	}
	return true
}

// drain writes what waits, and waits for the kernel to take it.
func (k *socket) drain() {
	c := k.conn
	defer c.server.work.Done()
	scratch := c.server.scratches.Get().(*scratch)
	defer c.server.scratches.Put(scratch)
	c.mu.Lock()
	defer c.mu.Unlock()
	for !k.out.empty() && !k.released {
		p := k.gatherLocked(scratch[:0])
		p = p[:min(len(p), scratchBytes)]
		c.mu.Unlock()
		_ = k.Conn.SetWriteDeadline(time.Now().Add(c.server.opts.WriteTimeout))
		n, err := k.Conn.Write(p)
		c.mu.Lock()
		if k.released {
			break
		}
		k.sentLocked(n)
		if err != nil {
			var timeout net.Error
			if errors.As(err, &timeout) && timeout.Timeout() && c.ws == k && c.state == open {
				c.slowLocked()
			} else {
				k.brokenLocked()
			}
		}
	}
	k.draining = false
	if !k.released {
		_ = k.Conn.SetWriteDeadline(time.Time{})
		k.drainedLocked()
	}
}

// frames are the bytes of a message that this client can read. They stay the same while the message waits.
func (k *socket) frames(e entry) []byte {
	switch {
	case k.deflate && !k.conn.base64 && e.flags&NoCompress == 0 && e.message.Size() >= k.conn.server.opts.CompressionThreshold:
		return e.message.deflatedFrames(&k.conn.server.deflaters)
	case k.conn.base64:
		return e.message.textFrames()
	default:
		return e.message.frames
	}
}

// gatherLocked returns the next bytes to write: those of the oldest message as they are, if it is large or
// nothing else waits, or else of as many messages as fit into scratch, joined there.
func (k *socket) gatherLocked(scratch []byte) []byte {
	first := k.frames(k.out.queue[0])[k.out.sent:]
	if len(k.out.queue) == 1 || len(first) >= cap(scratch)/2 {
		return first
	}
	scratch = append(scratch[:0], first...)
	for _, e := range k.out.queue[1:] {
		f := k.frames(e)
		if len(scratch)+len(f) > cap(scratch) {
			break
		}
		scratch = append(scratch, f...)
	}
	return scratch
}

// sentLocked notes that the next n bytes were written.
func (k *socket) sentLocked(n int) {
	done := 0
	for _, e := range k.out.queue {
		rest := len(k.frames(e)) - k.out.sent
		if n < rest {
			break
		}
		n -= rest
		k.out.sent = 0
		done++
	}
	if done > 0 {
		k.out.drop(done)
	}
	k.out.sent += n
}

// scratch is a pooled buffer in which what is written at once is joined.
type scratch [scratchBytes]byte

const scratchBytes = 64 << 10

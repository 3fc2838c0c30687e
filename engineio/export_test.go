package engineio

// Held reports whether the connection holds a GET.
func Held(c *Conn) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.polling != nil && c.polling.get != nil
}

// Posting reports whether a POST of the connection is being read or processed.
func Posting(c *Conn) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.polling != nil && c.polling.post != nil
}

// Probing reports whether a WebSocket wants to take over the connection.
func Probing(c *Conn) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.polling != nil && c.polling.probe != nil
}

// Draining reports whether a goroutine is writing what the kernel didn't take.
func Draining(c *Conn) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ws != nil && c.ws.draining
}

// Waiting is the number of messages in the outbox.
func Waiting(c *Conn) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.out.queue)
}

// Leaving is the number of WebSockets that are closing.
func Leaving(s *Server) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.leaving)
}

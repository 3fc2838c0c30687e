// Package engineio serves Engine.IO protocol 4: connections to clients that start on HTTP long-polling or on
// WebSocket, upgrade from the first to the second, and are watched by a heartbeat. The layer above sees one
// Conn for each client, whatever carries it, and exchanges messages with it.
//
//	server, err := engineio.NewServer(engineio.Options{}, func(c *engineio.Conn) engineio.Receiver {
//		return &echo{c} // echo.Receive calls c.Enqueue(engineio.NewMessage(data), 0) and c.Flush()
//	})
//	http.Handle("/engine.io/", server)
//
// # Receiving
//
// The accept function given to NewServer returns a Receiver for each connection. Its methods are called one
// at a time for each connection: Receive with each message in the order in which the client sent it, then
// Closed, last and once. Receive runs on the goroutine that reads the client, so it may block: that delays
// this client alone. A panic in it is contained and costs the connection.
//
// # Sending
//
// A Message is encoded once and shared by all connections that it is sent to. Conn.Enqueue puts a reference to
// it into the connection's outbox, and Conn.Flush writes all that waits there with one system call that never
// blocks. What the kernel doesn't take stays queued, and a goroutine that lives only until then writes it.
// So whoever sends to very many connections enqueues all it has for each and then flushes each once; nothing
// in between can block. On polling the outbox is the body of the client's next GET.
//
// The outbox is bounded in bytes and messages. A client that doesn't read what it is sent is closed with
// the reason SlowClient.
//
// # Promises
//
// Messages arrive in the order in which they were enqueued, each at most once, also across an upgrade. That
// the client got a message is not known here: the layer above asks for acknowledgements if it must know.
//
// # Around it
//
// The http.Server bounds what comes before a request is known: set its ReadHeaderTimeout and MaxHeaderBytes.
// Its ReadTimeout and WriteTimeout don't apply to what is served here, which has deadlines of its own. Front lets it
// serve handshakes by WebSocket with less than it would spend on them. Call Server.Shutdown first and
// http.Server.Shutdown then, because that waits for the GETs that are held.
//
// # Locks
//
// There are three, always taken in this order: Conn.recv, held while the Receiver runs; Conn.mu, which guards
// the state and the outbox of one connection, and under which nothing blocks; Server.mu, which guards the
// table of connections and under which nothing else is taken.
package engineio

// Command conformance serves what the official Engine.IO and Socket.IO protocol test suites expect: an
// Engine.IO echo under /engine.io/ and the Socket.IO fixture under /socket.io/, with their short heartbeat, on
// port 3000 of this machine. It is also the first example of the packages' public API.
package main

import (
	"context"
	"errors"
	"log"
	"net/http"
	"os"
	"os/signal"
	"time"

	"parley/engineio"
	"parley/socketio"
)

// engine is what both suites expect of the transports.
var engine = engineio.Options{
	PingInterval: 300 * time.Millisecond,
	PingTimeout:  200 * time.Millisecond,
	MaxPayload:   1_000_000,
	CORS:         &engineio.CORS{},
}

func main() {
	if err := run(); err != nil {
		log.Fatal(err)
	}
}

func run() error {
	echo, err := engineio.NewServer(engine, func(c *engineio.Conn) engineio.Receiver { return echo{c} })
	if err != nil {
		return err
	}
	fixture, err := socketio.NewServer(socketio.Options{Engine: engine, ConnectTimeout: time.Second})
	if err != nil {
		return err
	}
	for _, name := range []string{"/", "/custom"} {
		serve(fixture.Of(name))
	}
	mux := http.NewServeMux()
	mux.Handle("/engine.io/", echo)
	mux.Handle("/socket.io/", fixture)
	server := &http.Server{Addr: "localhost:3000", Handler: mux, ReadHeaderTimeout: 5 * time.Second}

	stop, cancel := signal.NotifyContext(context.Background(), os.Interrupt)
	defer cancel()
	failed := make(chan error, 1)
	go func() { failed <- server.ListenAndServe() }()
	log.Println("serving the protocol test suites on http://" + server.Addr)
	select {
	case err := <-failed:
		return err
	case <-stop.Done():
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	return errors.Join(echo.Shutdown(ctx), fixture.Shutdown(ctx), server.Shutdown(ctx))
}

// echo sends every message back.
type echo struct{ conn *engineio.Conn }

func (e echo) Receive(data []byte, binary bool) {
	m := engineio.NewMessage(data)
	if binary {
		m = engineio.NewBinary(data)
	}
	e.conn.Enqueue(m, 0)
	e.conn.Flush()
}

func (e echo) Closed(engineio.Reason) {}

// serve answers with what the Socket.IO suite sends.
func serve(n *socketio.Namespace) {
	n.OnConnection(func(_ context.Context, s *socketio.Socket) {
		report(s.Emit("auth", s.Handshake().Auth))
	})
	n.OnEvent("message", func(_ context.Context, e *socketio.Event) error {
		return e.Socket.Emit("message-back", e.Args.Raw()...)
	})
	n.OnEvent("message-with-ack", func(_ context.Context, e *socketio.Event) error {
		return e.Ack(e.Args.Raw()...)
	})
}

// report logs an emit that failed, which it does for a client that left.
func report(err error) {
	if err != nil {
		log.Print(err)
	}
}

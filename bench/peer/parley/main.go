// Command parley is the smallest server on package socketio that the benchmarks use: "broadcast" [data] from any
// socket makes "event" [data] to every socket.
package main

import (
	"cmp"
	"context"
	"log"
	"net/http"
	"os"
	"time"

	"parley/socketio"
)

func main() {
	sockets, err := socketio.NewServer(socketio.Options{})
	if err != nil {
		log.Fatal(err)
	}
	everyone := sockets.Of("/")
	everyone.OnEvent("broadcast", func(_ context.Context, e *socketio.Event) error {
		return everyone.Emit("event", e.Args.Raw()...)
	})
	server := &http.Server{
		Addr: "127.0.0.1:" + cmp.Or(os.Getenv("PORT"), "3000"), Handler: sockets, ReadHeaderTimeout: 10 * time.Second,
	}
	log.Fatal(server.ListenAndServe())
}

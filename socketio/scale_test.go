package socketio_test

import (
	"fmt"
	"runtime"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"parley/socketio"
)

// TestThousandSockets has many sockets connect, join rooms, and leave in each of the ways: nothing is left.
func TestThousandSockets(t *testing.T) {
	const clients = 1000
	before := goleak.IgnoreCurrent()
	f := start(t, socketio.Options{Shards: 4})
	n := f.Of("/")
	joined := sockets(n)
	// What a server itself needs, before it has clients.
	eventually(t, "the server has started", func() bool { return f.Len() == 0 })
	baseline := runtime.NumGoroutine()

	all := make([]*client, clients)
	var dialing sync.WaitGroup
	for worker := range 10 {
		dialing.Go(func() {
			for i := worker; i < clients; i += 10 {
				all[i], _, _ = f.join("/")
			}
		})
	}
	dialing.Wait()
	for i := range clients {
		s := next(t, joined, "a socket")
		check(t, s.Join("everybody", fmt.Sprintf("room %d", i%100)))
	}
	if f.Len() != clients {
		t.Fatalf("%d connections", f.Len())
	}
	check(t, n.To("everybody").Emit("hello", 1))
	for _, c := range all {
		c.want(`42["hello",1]`)
	}
	if found, err := n.To("room 7", "room 8").FetchSockets(long(t)); err != nil || len(found) != 20 {
		t.Fatalf("%d sockets in two rooms, %v", len(found), err)
	}

	for i, c := range all[:clients/2] {
		if i%2 == 0 {
			c.drop()
		} else {
			c.send("41")
		}
	}
	check(t, n.In("everybody").DisconnectSockets(true))
	for range clients {
		next(t, f.reasons, "a disconnect")
	}
	for _, c := range all {
		c.drop()
	}
	eventually(t, "all connections are closed", func() bool { return f.Len() == 0 })
	if found, err := n.FetchSockets(long(t)); err != nil || len(found) != 0 {
		t.Fatalf("%d sockets are left, %v", len(found), err)
	}
	eventually(t, "the goroutines of the connections have ended", func() bool { return runtime.NumGoroutine() <= baseline+1 })
	f.shutdown()
	f.http.Client().CloseIdleConnections()
	if err := goleak.Find(before); err != nil {
		t.Fatal(err)
	}
}

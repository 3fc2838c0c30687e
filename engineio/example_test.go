package engineio_test

import (
	"context"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"

	"parley/engineio"
)

// echo sends every message back.
type echo struct{ *engineio.Conn }

func (e echo) Receive(data []byte, binary bool) {
	m := engineio.NewMessage(data)
	if binary {
		m = engineio.NewBinary(data)
	}
	if e.Enqueue(m, 0) {
		e.Flush()
	}
}

func (e echo) Closed(reason engineio.Reason) {
	fmt.Println("closed:", reason)
}

func Example() {
	server, err := engineio.NewServer(engineio.Options{}, func(c *engineio.Conn) engineio.Receiver {
		fmt.Println("opened on", c.Transport())
		return echo{c}
	})
	if err != nil {
		log.Fatal(err)
	}
	listener := httptest.NewServer(server) // or an http.Server
	defer listener.Close()

	res, err := http.Get(listener.URL + "/engine.io/?EIO=4&transport=polling")
	if err != nil {
		log.Fatal(err)
	}
	open, _ := io.ReadAll(res.Body)
	res.Body.Close()
	fmt.Println("open packet has", len(open), "bytes")

	_ = server.Shutdown(context.Background())
	http.DefaultClient.CloseIdleConnections()

	// Output:
	// opened on polling
	// open packet has 118 bytes
	// closed: server shutting down
}

// members returns the connections of a room.
func members() []*engineio.Conn { return nil }

// Send to many connections with one system call for each, and none of them blocks.
func ExampleConn_Flush() {
	room := members()
	news := []*engineio.Message{
		engineio.NewMessage([]byte(`2["news","first"]`)),
		engineio.NewMessage([]byte(`2["news","second"]`)),
	}
	for _, m := range news {
		for _, c := range room {
			c.Enqueue(m, 0)
		}
	}
	for _, c := range room {
		c.Flush()
	}
}

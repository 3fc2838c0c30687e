package socketio_test

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"parley/socketio"
)

func TestPolling(t *testing.T) {
	f := start(t, socketio.Options{})
	joined := sockets(f.Of("/"))
	p := f.poll()
	p.post("40", `42["message",1,"2"]`)
	parseConnect(t, "/", p.packet())
	p.want(`42["message-back",1,"2"]`)

	// Binary both ways.
	p.post(`452-7["message-with-ack",{"_placeholder":true,"num":1},{"_placeholder":true,"num":0}]`, "bAQID", "bBAUG")
	p.want(`462-7[{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}]`, "bBAUG", "bAQID")

	s := next(t, joined, "a socket")
	s.Disconnect(true)
	f.wantReason(socketio.ReasonServerDisconnect)
	p.want("41")
	p.wantEnd()
}

func TestPollingViolation(t *testing.T) {
	f := start(t, socketio.Options{})
	p := f.poll()
	p.post("40", "4x", `42["message",1]`)
	f.wantReason("forced close")
	parseConnect(t, "/", p.packet())
	p.wantEnd()
}

func TestLargeBinary(t *testing.T) {
	f := start(t, socketio.Options{})
	c, _, _ := f.join("/")
	large := bytes.Repeat([]byte{0xfe}, 900_000)
	c.send(`452-1["message-with-ack",{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}]`)
	c.sendBinary(large, []byte{})
	c.want(`462-1[{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}]`)
	c.wantBinary(large, []byte{})
}

// TestUpgradeWhileEventsFlow moves a connection from polling to WebSocket while the server emits and the client
// sends without a pause: all arrives, in order.
func TestUpgradeWhileEventsFlow(t *testing.T) {
	const events = 2000
	f := start(t, socketio.Options{})
	n := f.Of("/")
	joined := sockets(n)
	received := make(chan int, 2*events)
	socketio.On(n, "up", func(_ context.Context, _ *socketio.Socket, i int) error {
		received <- i
		return nil
	})
	p := f.poll()
	p.post("40")
	parseConnect(t, "/", p.packet())
	s := next(t, joined, "a socket")

	var emitting sync.WaitGroup
	defer emitting.Wait()
	pace := make(chan struct{}, events) // so that some come before, while and after the upgrade
	emitting.Go(func() {
		for i := range events {
			<-pace
			if err := s.Emit("down", i); err != nil {
				t.Errorf("emit %d: %v", i, err)
				return
			}
		}
	})
	defer close(pace)
	release := func(n int) {
		for range n {
			pace <- struct{}{}
		}
	}
	got := 0
	take := func(packet string) {
		if packet == "6" {
			return
		}
		if want := fmt.Sprintf(`42["down",%d]`, got); packet != want {
			t.Fatalf("got %q, want %q", packet, want)
		}
		got++
	}
	sent := 0
	up := func(n int) []string {
		var packets []string
		for range n {
			packets = append(packets, fmt.Sprintf(`42["up",%d]`, sent))
			sent++
		}
		return packets
	}

	release(500)
	p.post(up(100)...)
	for got < 100 {
		take(p.packet())
	}
	ws := f.dialRaw("EIO=4&transport=websocket&sid=" + p.sid)
	ws.send("2probe")
	ws.want("3probe")
	release(500)
	p.post(up(100)...)
	for got < 300 {
		take(p.packet())
	}
	for _, packet := range p.wait {
		take(packet)
	}
	ws.send("5")
	release(events - 1000)
	for _, packet := range up(100) {
		ws.send(packet)
	}
	for got < events {
		take(ws.text())
	}
	ws.sync("/")
	close(received)
	var order []int
	for i := range received {
		order = append(order, i)
	}
	if len(order) != sent || !slices.IsSorted(order) {
		t.Fatalf("%d of %d arrived, in the order %v", len(order), sent, order)
	}
}

func TestBase64WebSocket(t *testing.T) {
	f := start(t, socketio.Options{})
	c := f.dial("&b64=1")
	c.connect("/")
	c.send(`451-["message",{"_placeholder":true,"num":0}]`, "bAQI=")
	c.want(`451-["message-back",{"_placeholder":true,"num":0}]`, "bAQI=")
}

func TestOtherPaths(t *testing.T) {
	f := start(t, socketio.Options{})
	res, err := f.http.Client().Get(f.http.URL + "/elsewhere")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if res.StatusCode != 404 || !strings.HasPrefix(res.Proto, "HTTP/") {
		t.Fatalf("got %s", res.Status)
	}
}

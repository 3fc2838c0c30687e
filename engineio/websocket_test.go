package engineio_test

import (
	"bufio"
	"bytes"
	"compress/flate"
	"encoding/binary"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"parley/engineio"
	"parley/metrics"
)

func TestWebSocketHandshake(t *testing.T) {
	f := start(t, engineio.Options{})
	w := f.dial("EIO=4&transport=websocket", header("Sec-WebSocket-Protocol", "chat, superchat"), header("Sec-WebSocket-Extensions", "permessage-deflate"))
	h := w.res.Header
	if w.res.StatusCode != 101 || h.Get("Sec-WebSocket-Accept") != "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" || h.Get("Sec-WebSocket-Protocol") != "chat" ||
		h.Get("Sec-WebSocket-Extensions") != "" || h.Get("Access-Control-Allow-Origin") != "" {
		t.Fatalf("%s %v", w.res.Status, h)
	}
	if open := w.text(); !strings.Contains(open, `"upgrades":[]`) {
		t.Errorf("open packet %s", open)
	}
	p := f.peer()
	if p.Transport() != engineio.WebSocket || f.Len() != 1 {
		t.Errorf("%s, %d connections", p.Transport(), f.Len())
	}
}

func TestMessagesOnWebSocket(t *testing.T) {
	f := start(t, engineio.Options{})
	w, p := f.wsHandshake()
	for _, n := range []int{0, 1, 124, 125, 126, 65534, 65535, 65536, 999_999} {
		text := "4" + strings.Repeat("x", n)
		w.send(text)
		w.want(text)
	}
	w.sendBinary([]byte{0, 1, 255})
	if _, op, data := w.next(); op != opBinary || string(data) != "\x00\x01\xff" {
		t.Errorf("got %d %q", op, data)
	}
	w.send("bAQIDBA==")
	if _, op, data := w.next(); op != opBinary || string(data) != "\x01\x02\x03\x04" {
		t.Errorf("got %d %q", op, data)
	}
	for _, ignored := range []string{"6", "5", "0", "3"} {
		w.send(ignored)
	}
	w.frame(opText, true, []byte("4in "))
	w.frame(opContinuation, true, []byte("three "))
	w.frame(0x80|opPing, true, []byte("between"))
	w.frame(0x80|opContinuation, true, []byte("parts"))
	if _, op, data := w.next(); op != opPong || string(data) != "between" {
		t.Errorf("got %d %q", op, data)
	}
	w.want("4in three parts")
	p.Enqueue(engineio.NewMessage([]byte("text"), []byte("one"), []byte("two")), 0)
	p.Flush()
	w.want("4text")
	for _, want := range []string{"one", "two"} {
		if _, op, data := w.next(); op != opBinary || string(data) != want {
			t.Errorf("got %d %q", op, data)
		}
	}
	p.wantOpen(t)
}

// TestBrokenFrames has what ends a WebSocket, the code that the client is told, and the reason.
func TestBrokenFrames(t *testing.T) {
	code := func(n uint16) []byte { return binary.BigEndian.AppendUint16(nil, n) }
	tests := []struct {
		name   string
		input  []byte
		code   uint16
		reason engineio.Reason
	}{
		{"unmasked", clientFrame(0x80|opText, false, []byte("4a")), 1002, engineio.TransportError},
		{"reserved bits", clientFrame(0xf0|opText, true, []byte("4a")), 1002, engineio.TransportError},
		{"unknown opcode", clientFrame(0x80|3, true, []byte("4a")), 1002, engineio.TransportError},
		{"continuation of nothing", clientFrame(0x80|opContinuation, true, []byte("4a")), 1002, engineio.TransportError},
		{"text within fragments", append(clientFrame(opText, true, []byte("4a")), clientFrame(opText, true, []byte("4a"))...), 1002, engineio.TransportError},
		{"fragmented ping", clientFrame(opPing, true, nil), 1002, engineio.TransportError},
		{"long ping", clientFrame(0x80|opPing, true, make([]byte, 126)), 1002, engineio.TransportError},
		{"invalid UTF-8", clientFrame(0x80|opText, true, []byte("4\xff")), 1007, engineio.TransportError},
		{"announces too much", clientFrame(0x80|opText, true, make([]byte, 1001))[:14], 1009, engineio.TransportError},
		{"fragments of too much", append(clientFrame(opText, true, make([]byte, 600)), clientFrame(opContinuation, true, make([]byte, 600))...), 1009, engineio.TransportError},
		{"negative length", []byte{0x80 | opText, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 2, 3, 4}, 1002, engineio.TransportError},
		{"close packet", clientFrame(0x80|opText, true, []byte("1")), 0, engineio.TransportClose},
		{"close frame", clientFrame(0x80|opClose, true, nil), 0, engineio.TransportClose},
		{"close frame with code", clientFrame(0x80|opClose, true, code(1001)), 1001, engineio.TransportClose},
		{"close frame with private code", clientFrame(0x80|opClose, true, append(code(4000), "bye"...)), 4000, engineio.TransportClose},
		{"close frame with bad code", clientFrame(0x80|opClose, true, code(1005)), 1002, engineio.TransportClose},
		{"close frame of one byte", clientFrame(0x80|opClose, true, []byte{1}), 1002, engineio.TransportClose},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := start(t, engineio.Options{MaxPayload: 1000})
			w, p := f.wsHandshake()
			if _, err := w.conn.Write(tt.input); err != nil {
				t.Fatal(err)
			}
			w.wantClose(tt.code)
			w.wantEnd()
			p.wantReason(t, tt.reason)
		})
	}
}

// A panic that any client can bring about says what it was, but does not fill the log.
func TestReadingPanicIsLoggedOnce(t *testing.T) {
	var log bytes.Buffer
	f := start(t, engineio.Options{Logger: zerolog.New(&log).Level(zerolog.ErrorLevel)})
	for range 3 {
		w, p := f.wsHandshake()
		if _, err := w.conn.Write([]byte{0x80 | opText, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 2, 3, 4}); err != nil {
			t.Fatal(err)
		}
		w.wantClose(1002)
		p.wantReason(t, engineio.TransportError)
	}
	if got := log.String(); strings.Count(got, "contained a panic") != 1 || !strings.Contains(got, `"panic":"runtime error: `) {
		t.Errorf("logged %s", got)
	}
}

func TestClientGoesAway(t *testing.T) {
	f := start(t, engineio.Options{})
	w, p := f.wsHandshake()
	w.conn.Close()
	p.wantReason(t, engineio.TransportClose)

	w, p = f.wsHandshake()
	_ = w.conn.(*net.TCPConn).SetLinger(0) // a reset
	w.conn.Close()
	p.wantReason(t, engineio.TransportClose)
	eventually(t, "the table is empty", func() bool { return f.Len() == 0 })
}

func TestServerCloses(t *testing.T) {
	f := start(t, engineio.Options{})
	w, p := f.wsHandshake()
	p.Enqueue(engineio.NewMessage([]byte("last")), 0)
	p.Close(engineio.ForcedServerClose)
	p.Close(engineio.ParseError)
	p.wantReason(t, engineio.ForcedServerClose)
	w.send("4ignored")
	w.want("4last")
	w.wantClose(0)
	if n := engineio.Leaving(f.Server); n != 1 {
		t.Errorf("%d WebSockets are leaving", n)
	}
	w.frame(0x80|opClose, true, nil)
	w.wantEnd()
	eventually(t, "TCP is closed", func() bool { return engineio.Leaving(f.Server) == 0 })

	// A client that doesn't answer is cut.
	w, p = f.wsHandshake()
	p.Close(engineio.ForcedClose)
	w.wantClose(0)
	w.wantEnd()
}

func TestFrameSentWithTheHandshake(t *testing.T) {
	f := start(t, engineio.Options{})
	conn, err := net.Dial("tcp", f.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	var b bytes.Buffer
	b.WriteString("GET /engine.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n" +
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
	long := "4" + strings.Repeat("x", 2000) // more than the small read buffer
	b.Write(clientFrame(0x80|opText, true, []byte("4early")))
	b.Write(clientFrame(0x80|opText, true, []byte(long)))
	if _, err := conn.Write(b.Bytes()); err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(conn)
	res, err := http.ReadResponse(r, nil) //nolint:bodyclose // conn is closed, and that is all
	if err != nil || res.StatusCode != 101 {
		t.Fatalf("%v, %v", res, err)
	}
	w := &ws{t: t, conn: conn, r: r}
	sidOf(t, w.text())
	w.want("4early")
	w.want(long)
}

func TestPanicsAreContained(t *testing.T) {
	m := metrics.New()
	f := start(t, engineio.Options{Metrics: m}, func(f *fixture) {
		f.react = func(p *peer, data []byte, binary bool) { panic("on purpose") }
	})
	w, p := f.wsHandshake()
	w.send("4a")
	w.wantClose(0)
	p.wantReason(t, engineio.ForcedClose)

	q := f.handshake()
	held := f.hold(q)
	f.post(q.ID(), "4a\x1e4b").want(t, 200, "ok")
	wait(t, held, "the held GET").want(t, 200, "1")
	q.wantReason(t, engineio.ForcedClose)
	if n := m.Value(metrics.InputRejected, "panic in receive"); n != 2 {
		t.Errorf("counted %v panics", n)
	}
}

func TestCloseWithinReceive(t *testing.T) {
	f := start(t, engineio.Options{}, func(f *fixture) {
		f.react = func(p *peer, data []byte, binary bool) {
			p.send("bye")
			p.Close(engineio.ForcedClose)
			p.Flush()
			if len(p.closed) != 0 {
				t.Error("Closed was called within Receive")
			}
			if string(data) != "a" {
				t.Errorf("received %q after Close", data)
			}
		}
	})
	w, p := f.wsHandshake()
	w.send("4a")
	w.send("4b")
	w.want("4bye")
	w.wantClose(0)
	p.wantReason(t, engineio.ForcedClose)

	q := f.handshake()
	f.post(q.ID(), "4a\x1e4b").want(t, 200, "ok")
	q.wantReason(t, engineio.ForcedClose)
	f.poll(q.ID()).want(t, 200, "4bye")
	f.poll(q.ID()).want(t, 200, "6\x1e1")
}

func TestPingFloodFromAClientThatDoesNotRead(t *testing.T) {
	f := start(t, engineio.Options{OutboundMessages: 100, OutboundBytes: 4096})
	w, p := f.wsHandshake()
	flood := bytes.Repeat(clientFrame(0x80|opPing, true, make([]byte, 125)), 1000)
	go func() {
		for {
			if _, err := w.conn.Write(flood); err != nil {
				return
			}
		}
	}()
	p.wantReason(t, engineio.SlowClient)
}

func TestPerMessageDeflate(t *testing.T) {
	f := start(t, engineio.Options{PerMessageDeflate: true})
	w := f.dial("EIO=4&transport=websocket", header("Sec-WebSocket-Extensions", "permessage-deflate; client_max_window_bits"))
	if got := w.res.Header.Get("Sec-WebSocket-Extensions"); got != "permessage-deflate; server_no_context_takeover; client_no_context_takeover" {
		t.Fatalf("extensions %q", got)
	}
	sidOf(t, w.text())
	p := f.peer()

	inflate := func(data []byte) string {
		t.Helper()
		b, err := io.ReadAll(flate.NewReader(io.MultiReader(bytes.NewReader(data), strings.NewReader("\x00\x00\xff\xff\x01\x00\x00\xff\xff"))))
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	long := strings.Repeat("the quick brown fox ", 100)
	m := engineio.NewMessage([]byte(long), []byte(long))
	for range 2 { // the second time it is there already
		p.Enqueue(m, 0)
		p.Flush()
		first, _, data := w.next()
		if first != 0x80|0x40|opText || len(data) > 500 || inflate(data) != "4"+long {
			t.Fatalf("first byte %x, %d bytes", first, len(data))
		}
		if first, _, data = w.next(); first != 0x80|0x40|opBinary || inflate(data) != long {
			t.Fatalf("first byte %x, %d bytes", first, len(data))
		}
	}
	p.Enqueue(engineio.NewMessage([]byte(long)), engineio.NoCompress)
	p.Flush()
	if first, _, data := w.next(); first != 0x80|opText || string(data) != "4"+long {
		t.Errorf("first byte %x, %d bytes", first, len(data))
	}

	// What the client compresses.
	var b bytes.Buffer
	z, _ := flate.NewWriter(&b, flate.BestSpeed)
	_, _ = z.Write([]byte("4short"))
	_ = z.Flush()
	w.frame(0x80|0x40|opText, true, bytes.TrimSuffix(b.Bytes(), []byte("\x00\x00\xff\xff")))
	w.want("4short")

	// A bomb.
	b.Reset()
	z.Reset(&b)
	_, _ = z.Write(bytes.Repeat([]byte{'4'}, 10_000_000))
	_ = z.Flush()
	w.frame(0x80|0x40|opText, true, bytes.TrimSuffix(b.Bytes(), []byte("\x00\x00\xff\xff")))
	if _, op, _ := w.next(); op != opClose {
		t.Errorf("got opcode %d", op)
	}
	p.wantReason(t, engineio.TransportError)

	// A smaller window than ours can't be had.
	w = f.dial("EIO=4&transport=websocket", header("Sec-WebSocket-Extensions", "permessage-deflate; server_max_window_bits=9"))
	if w.res.StatusCode != 101 || w.res.Header.Get("Sec-WebSocket-Extensions") != "" {
		t.Errorf("%s %v", w.res.Status, w.res.Header)
	}
}

// Handling a message takes a larger stack than waiting for the next, and is no reason to keep it.
func TestRestingConnectionsHaveSmallStacks(t *testing.T) {
	if engineio.RaceEnabled {
		t.Log("stacks are larger here")
		return
	}
	f := start(t, engineio.Options{}, func(f *fixture) {
		f.react = func(p *peer, _ []byte, _ bool) {
			var large [5 << 10]byte
			runtime.KeepAlive(&large)
			p.send("done")
		}
	})
	const conns = 300
	stacks := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.StackInuse
	}
	before := stacks()
	var clients []*ws
	for range conns {
		w, _ := f.wsHandshake()
		w.send("4a")
		w.want("4done")
		clients = append(clients, w)
	}
	eventually(t, "stacks are small", func() bool { return stacks() < before+conns*3<<10 })
	for _, w := range clients { // Shutdown would take its time for so many
		w.conn.Close()
	}
	eventually(t, "all are gone", func() bool { return f.Len() == 0 })
}

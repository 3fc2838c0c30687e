package relay

import (
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
)

// TestWebSocket has a connection that is no HTTP any more end from each side.
func TestWebSocket(t *testing.T) {
	r := miniredis.RunT(t)
	ended := make(chan error, 1)
	a := newProcess(t, r, Options{}, func(w http.ResponseWriter, r *http.Request) {
		c, buffered, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nhello\n")
		line, err := buffered.ReadString('\n')
		if line == "bye\n" {
			return
		}
		ended <- err
	})
	b := newProcess(t, r, Options{}, nobody)
	dial := func() net.Conn {
		t.Helper()
		c, err := net.Dial("tcp", b.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		_ = c.SetDeadline(time.Now().Add(patience))
		_, _ = io.WriteString(c, "GET /x HTTP/1.1\r\nHost: a\r\nNode: "+a.Node()+"\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")
		text := ""
		for buf := make([]byte, 1); !strings.HasSuffix(text, "hello\n"); {
			if _, err := c.Read(buf); err != nil {
				t.Fatalf("%v after %s", err, text)
			}
			text += string(buf)
		}
		return c
	}
	c := dial()
	_, _ = io.WriteString(c, "bye\n")
	if rest, err := io.ReadAll(c); len(rest) > 0 || err != nil {
		t.Errorf("after the other process ended: %q, %v", rest, err)
	}
	c.Close()

	dial().Close()
	if err := <-ended; !errors.Is(err, io.EOF) {
		t.Errorf("after the client ended: %v", err)
	}
	c = dial()
	defer c.Close()
	b.Drain(t.Context())
	if _, err := io.ReadAll(c); err != nil {
		t.Error(err)
	}
	if err := <-ended; err == nil {
		t.Error("the other process is not told that this one stops")
	}
	eventually(t, "nothing is forwarded", func() bool {
		b.mu.Lock()
		defer b.mu.Unlock()
		return len(b.forwards) == 0
	})
}

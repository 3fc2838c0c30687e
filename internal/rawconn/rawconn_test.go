package rawconn

import (
	"net"
	"path/filepath"
	"testing"
)

// wrapped is a connection that wants to see what passes through it.
type wrapped struct{ net.Conn }

func TestOf(t *testing.T) {
	for network, address := range map[string]string{"tcp": "127.0.0.1:0", "unix": filepath.Join(t.TempDir(), "socket")} {
		l, err := net.Listen(network, address)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		c, err := net.Dial(network, l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if Of(c) == nil {
			t.Errorf("%s: nil", network)
		}
		if Of(wrapped{c}) != nil {
			t.Errorf("%s: what wraps it is passed by", network)
		}
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
		if raw := Of(c); raw != nil && raw.Control(func(uintptr) {}) == nil {
			t.Errorf("%s: the descriptor of a closed connection is in use", network)
		}
	}
}

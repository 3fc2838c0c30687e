package quietconn

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// patience bounds every wait of a test.
const patience = 10 * time.Second

// pair returns both ends of a connection; the first is quiet where it can be.
func pair(t *testing.T, network string) (quiet, peer net.Conn) {
	t.Helper()
	addr := "127.0.0.1:0"
	if network == "unix" {
		addr = filepath.Join(t.TempDir(), "socket")
	}
	l, err := net.Listen(network, addr)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	quiet, err = Dialer((&net.Dialer{}).DialContext)(context.Background(), network, l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	if peer, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	for _, c := range []net.Conn{quiet, peer} {
		t.Cleanup(func() { _ = c.Close() })
		if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
			t.Fatal(err)
		}
	}
	return quiet, peer
}

func TestBothWays(t *testing.T) {
	for _, network := range []string{"tcp", "unix"} {
		t.Run(network, func(t *testing.T) {
			quiet, peer := pair(t, network)
			large := bytes.Repeat([]byte("0123456789"), 1<<20) // more than the kernel takes at once
			sent := make(chan error, 1)
			go func() {
				n, err := quiet.Write(large)
				if err == nil && n != len(large) {
					err = io.ErrShortWrite
				}
				sent <- err
			}()
			got := make([]byte, len(large))
			if _, err := io.ReadFull(peer, got); err != nil || !bytes.Equal(got, large) {
				t.Fatalf("what was written arrived altered: %v", err)
			}
			if err := <-sent; err != nil {
				t.Fatal(err)
			}
			go func() {
				_, err := peer.Write(large)
				_ = peer.Close()
				sent <- err
			}()
			if got, err := io.ReadAll(quiet); err != nil || !bytes.Equal(got, large) {
				t.Errorf("what was read is altered: %v", err)
			}
			if err := <-sent; err != nil {
				t.Error(err)
			}
		})
	}
}

func TestReadEndsWith(t *testing.T) {
	t.Run("a deadline", func(t *testing.T) {
		quiet, _ := pair(t, "tcp")
		_ = quiet.SetReadDeadline(time.Now().Add(time.Millisecond))
		_, err := quiet.Read(make([]byte, 1))
		var timeout net.Error
		if !errors.Is(err, os.ErrDeadlineExceeded) || !errors.As(err, &timeout) || !timeout.Timeout() {
			t.Errorf("got %v", err)
		}
	})
	t.Run("Close", func(t *testing.T) {
		quiet, _ := pair(t, "tcp")
		ended := make(chan error, 1)
		go func() {
			_, err := quiet.Read(make([]byte, 1))
			ended <- err
		}()
		_ = quiet.Close()
		if err := <-ended; !errors.Is(err, net.ErrClosed) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("a reset", func(t *testing.T) {
		quiet, peer := pair(t, "tcp")
		_ = peer.(*net.TCPConn).SetLinger(0)
		_ = peer.Close()
		if _, err := quiet.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("got %v", err)
		}
		if _, err := quiet.Write([]byte("x")); err == nil {
			t.Error("wrote to a connection that is gone")
		}
	})
}

// alive looks at a connection as a pool does.
func alive(t *testing.T, c net.Conn) (called bool, n int, err error) {
	t.Helper()
	raw, err := c.(syscall.Conn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	failure := raw.Read(func(fd uintptr) bool {
		called = true
		n, _, err = syscall.Recvfrom(int(fd), make([]byte, 1), syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		return true
	})
	return called, n, errors.Join(failure, err)
}

func TestPoolSeesWhatIsThere(t *testing.T) {
	quiet, peer := pair(t, "tcp")
	if called, _, err := alive(t, quiet); called && !errors.Is(err, syscall.EAGAIN) {
		t.Error("something was seen where nothing is")
	}
	if _, err := peer.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	arrived := func() bool { called, n, err := alive(t, quiet); return called && n == 1 && err == nil }
	for end := time.Now().Add(patience); !arrived(); {
		if time.Now().After(end) {
			t.Fatal("what has come is not seen")
		}
	}
	if n, err := quiet.Read(make([]byte, 2)); n != 1 || err != nil {
		t.Fatalf("read %d bytes, %v", n, err)
	}
	_ = peer.Close()
	ended := func() bool { called, n, err := alive(t, quiet); return called && n == 0 && err == nil }
	for end := time.Now().Add(patience); !ended(); {
		if time.Now().After(end) {
			t.Fatal("the end is not seen")
		}
	}
}

func TestDialFails(t *testing.T) {
	failure := errors.New("no")
	dial := Dialer(func(context.Context, string, string) (net.Conn, error) { return nil, failure })
	if c, err := dial(context.Background(), "tcp", ""); c != nil || !errors.Is(err, failure) {
		t.Errorf("got %v, %v", c, err)
	}
}

func TestOthersAreLeftAlone(t *testing.T) {
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	dial := Dialer(func(context.Context, string, string) (net.Conn, error) { return a, nil })
	if c, _ := dial(context.Background(), "", ""); c != a {
		t.Errorf("a pipe became %T", c)
	}
}

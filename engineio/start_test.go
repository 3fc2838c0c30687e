package engineio

import (
	"net/http"
	"net/http/httptest"
	"testing"
)

// witness is a Receiver that counts its end.
type witness struct{ closed int }

func (w *witness) Receive([]byte, bool) {}
func (w *witness) Closed(Reason)        { w.closed++ }

// A connection that opens while the server is shut down is closed as any other: once, and after it was accepted.
func TestOpeningDuringShutdown(t *testing.T) {
	var opened *witness
	s, err := NewServer(Options{}, func(*Conn) Receiver {
		opened = new(witness)
		return opened
	})
	if err != nil {
		t.Fatal(err)
	}
	r := httptest.NewRequest(http.MethodGet, "/engine.io/?EIO=4&transport=polling", nil)
	for range 2000 { // the goroutine that closes it is seldom the faster one
		c, refused := s.newConn(r, r.URL.Query())
		if refused != nil {
			t.Fatal(refused.message)
		}
		c.polling = &polling{}
		c.out = &c.polling.out
		s.stopping = true // as Shutdown does now
		c.start()
		s.work.Wait()
		s.stopping = false
		if opened.closed != 1 {
			t.Fatalf("closed %d times", opened.closed)
		}
	}
}

package relay

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/alicebob/miniredis/v2"
)

func TestSignature(t *testing.T) {
	r := miniredis.RunT(t)
	a := newProcess(t, r, Options{}, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, r.RemoteAddr) //nolint:gosec // read by this test alone
	})
	sign := func(header string) func(*http.Request) {
		return func(r *http.Request) { r.Header.Set("Parley-Relay", header) }
	}
	const uri = "/path?a=1&b=%20"
	good := a.sign("GET", uri, "192.0.2.1:5")
	a.want("GET", a.Node(), "", "200 192.0.2.1:5", sign(good))
	a.want("POST", a.Node(), "", "403 ", sign(good))
	a.want("GET", a.Node(), "", "403 ", sign(strings.Replace(good, "192.0.2.1", "192.0.2.2", 1)))
	a.want("GET", a.Node(), "", "403 ", sign(a.sign("GET", "/path", "192.0.2.1:5")))
	a.want("GET", a.Node(), "", "403 ", sign("x"))
	a.want("GET", a.Node(), "", "403 ", sign("1 a zz"))
	key, _ := a.keys.get()
	old := fmt.Sprintf("1 a %x", mac(key, "GET", uri, "1", "a"))
	a.want("GET", a.Node(), "", "403 The header Parley-Relay is for Parley's own processes: the signature is too old", sign(old))
	a.counted("signature", 6)

	// What was forwarded once is not again.
	b := newProcess(t, r, Options{}, nobody)
	a.want("GET", b.Node(), "", "400 unknown", sign(good))
	a.counted("misdirected", 1)

	// Redis loses the key: they agree on another, and take each other's until all know it.
	r.Del(keySecret)
	if err := b.agree(t.Context()); err != nil {
		t.Fatal(err)
	}
	if now, _ := b.keys.get(); now != key {
		t.Error("the key that is known was not given back to Redis")
	}
	if err := r.Set(keySecret, "another key"); err != nil {
		t.Fatal(err)
	}
	if err := a.agree(t.Context()); err != nil {
		t.Fatal(err)
	}
	a.want("GET", a.Node(), "", "200 192.0.2.1:5", sign(b.sign("GET", uri, "192.0.2.1:5")))
	a.want("GET", a.Node(), "", "200 192.0.2.1:5", sign(a.sign("GET", uri, "192.0.2.1:5")))
}

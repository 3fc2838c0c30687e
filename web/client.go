package web

import (
	"net/http"
	"os"
	"path"
	"strings"
	"time"
)

// clientCDN is where the official client of a version that fits is published.
const clientCDN = "https://cdn.socket.io/4.8.1/"

// clientFiles are the bundles of the official client, which existing pages load from their server
// (socketio.md section 12). Each has a .map beside it.
var clientFiles = []string{"socket.io.js", "socket.io.min.js", "socket.io.esm.min.js", "socket.io.msgpack.min.js"}

// clientTimeout is how long a client may take to send a request for a bundle, with a body that nobody wants, and to read it.
const clientTimeout = 30 * time.Second

// ClientHandler returns a handler that serves the official client's bundles by the last element of the path,
// from dir (the folder client-dist of the npm package socket.io), or without one by redirecting to the
// official CDN. All other requests go to next.
func ClientHandler(dir string, next http.Handler) http.Handler {
	published := make(map[string]string) // addresses by file name
	for _, name := range clientFiles {
		published[name], published[name+".map"] = clientCDN+name, clientCDN+name+".map"
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name := path.Base(r.URL.Path)
		address, known := published[name]
		if !known || r.Method != http.MethodGet && r.Method != http.MethodHead {
			next.ServeHTTP(w, r)
			return
		}
		until, c := time.Now().Add(clientTimeout), http.NewResponseController(w)
		_, _ = c.SetReadDeadline(until), c.SetWriteDeadline(until) // where none can be set, as in a test, there is none
		if dir == "" {
			http.Redirect(w, r, address, http.StatusFound)
			return
		}
		w.Header().Set("Content-Type", "application/javascript; charset=utf-8")
		if strings.HasSuffix(name, ".map") {
			w.Header().Set("Content-Type", "application/json")
		}
		w.Header().Set("Cache-Control", "public, max-age=0")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		http.ServeFileFS(w, r, os.DirFS(dir), name)
	})
}

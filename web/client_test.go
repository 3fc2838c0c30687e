package web_test

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"

	"parley/web"
)

func TestClientHandler(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "socket.io.js"), []byte("client"), 0o600); err != nil {
		t.Fatal(err)
	}
	next := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) })
	for _, c := range []struct {
		dir, method, path string
		status            int
		header, value     string
	}{
		{"", "GET", "/socket.io/socket.io.js", 302, "Location", "https://cdn.socket.io/4.8.1/socket.io.js"},
		{"", "GET", "/socket.io/socket.io.esm.min.js.map", 302, "Location", "https://cdn.socket.io/4.8.1/socket.io.esm.min.js.map"},
		{dir, "GET", "/socket.io/socket.io.js", 200, "Content-Type", "application/javascript; charset=utf-8"},
		{dir, "GET", "/socket.io/socket.io.min.js", 404, "", ""},
		{dir, "GET", "/socket.io/other.js", 418, "", ""},
		{dir, "GET", "/socket.io/", 418, "", ""},
		{dir, "POST", "/socket.io/socket.io.js", 418, "", ""},
	} {
		w := httptest.NewRecorder()
		web.ClientHandler(c.dir, next).ServeHTTP(w, httptest.NewRequest(c.method, c.path, nil))
		if w.Code != c.status || w.Header().Get(c.header) != c.value {
			t.Errorf("%s %s: %d, %s %q", c.method, c.path, w.Code, c.header, w.Header().Get(c.header))
		}
	}
}

package engineio_test

import (
	"net/http"
	"testing"
	"time"

	"parley/engineio"
)

func TestCORS(t *testing.T) {
	list := func(r *http.Request) bool { return r.Header.Get("Origin") == "http://a.example" }
	const preflightMethods = "GET,HEAD,PUT,PATCH,POST,DELETE"
	tests := []struct {
		name, method, origin string
		cors                 *engineio.CORS
		status               int
		allow, vary          string
		other                map[string]string
	}{
		{name: "off", method: "GET", origin: "http://a.example", status: 200},
		{name: "off, preflight", method: "OPTIONS", origin: "http://a.example", status: 400},
		{name: "any", method: "GET", origin: "http://a.example", cors: &engineio.CORS{}, status: 200, allow: "*"},
		{name: "any, error", method: "PUT", cors: &engineio.CORS{Origin: "*"}, status: 400, allow: "*"},
		{name: "fixed", method: "GET", origin: "http://b.example", cors: &engineio.CORS{Origin: "http://a.example"},
			status: 200, allow: "http://a.example", vary: "Origin"},
		{name: "listed", method: "GET", origin: "http://a.example", cors: &engineio.CORS{Allow: list, Credentials: true, ExposedHeaders: []string{"A", "B"}},
			status: 200, allow: "http://a.example", vary: "Origin",
			other: map[string]string{"Access-Control-Allow-Credentials": "true", "Access-Control-Expose-Headers": "A,B"}},
		{name: "not listed", method: "GET", origin: "http://b.example", cors: &engineio.CORS{Allow: list}, status: 200, vary: "Origin"},
		{name: "no origin", method: "GET", cors: &engineio.CORS{Allow: list}, status: 200, vary: "Origin"},
		{name: "preflight", method: "OPTIONS", origin: "http://a.example", cors: &engineio.CORS{Allow: list}, status: 204,
			allow: "http://a.example", vary: "Origin, Access-Control-Request-Headers",
			other: map[string]string{"Access-Control-Allow-Methods": preflightMethods, "Access-Control-Allow-Headers": "x-a,x-b", "Access-Control-Max-Age": ""}},
		{name: "preflight, any", method: "OPTIONS", cors: &engineio.CORS{}, status: 204, allow: "*", vary: "Access-Control-Request-Headers",
			other: map[string]string{"Access-Control-Allow-Methods": preflightMethods, "Access-Control-Allow-Headers": "x-a,x-b"}},
		{name: "preflight, configured", method: "OPTIONS", status: 204, allow: "*",
			cors:  &engineio.CORS{Methods: []string{"GET", "POST"}, AllowedHeaders: []string{"X-C"}, MaxAge: time.Minute},
			other: map[string]string{"Access-Control-Allow-Methods": "GET,POST", "Access-Control-Allow-Headers": "X-C", "Access-Control-Max-Age": "60"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := start(t, engineio.Options{CORS: tt.cors})
			r := f.request(tt.method, pollQuery, "", header("Access-Control-Request-Headers", "x-a,x-b"), func(r *http.Request) {
				if tt.origin != "" {
					r.Header.Set("Origin", tt.origin)
				}
			})
			got := []string{r.header.Get("Access-Control-Allow-Origin"), r.header.Get("Vary")}
			if r.status != tt.status || got[0] != tt.allow || got[1] != tt.vary {
				t.Errorf("got %d %q, want %d %q %q", r.status, got, tt.status, tt.allow, tt.vary)
			}
			for key, want := range tt.other {
				if got := r.header.Get(key); got != want {
					t.Errorf("%s: %q, want %q", key, got, want)
				}
			}
			if tt.status == 204 && r.body != "" {
				t.Errorf("body %q", r.body)
			}
			if tt.cors != nil && tt.method == "GET" {
				w := f.dial("EIO=4&transport=websocket", header("Origin", tt.origin))
				if w.res.StatusCode != 101 || w.res.Header.Get("Access-Control-Allow-Origin") != tt.allow {
					t.Errorf("WebSocket: %s %v", w.res.Status, w.res.Header)
				}
			}
		})
	}
}

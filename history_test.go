package main

import (
	"net/http"
	"strings"
	"testing"
)

// TestHistoryOverHTTP has a page of history asked for at the program, by its own page and by another's.
func TestHistoryOverHTTP(t *testing.T) {
	r := launch(t, "--store=memory", "--cors-origins=http://friend.example")
	alice := r.mustConnect(`40{"username":"alice"}`)
	session, id := alice.session()
	if err := alice.WriteString(`421["private message",{"content":"note","to":"` + id + `"}]`); err != nil {
		t.Fatal(err)
	}
	alice.until("431[")
	for origin, want := range map[string]int{"": 200, "http://friend.example": 200, "http://foe.example": 403} {
		h := http.Header{"Authorization": {"Bearer " + session}}
		if origin != "" {
			h.Set("Origin", origin)
		}
		status, body, header := r.request("/chat/history?with="+id, h)
		if status != want || status == 200 && !strings.Contains(body, `"content":"note"`) {
			t.Errorf("%s: %d %s", origin, status, body)
		}
		if got := header.Get("Access-Control-Allow-Origin"); (status == 200) != (got == origin) {
			t.Errorf("%s: allowed is %q", origin, got)
		}
	}
}

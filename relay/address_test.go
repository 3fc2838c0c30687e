package relay

import (
	"strings"
	"testing"
)

func TestURL(t *testing.T) {
	for listening, want := range map[string]string{
		"127.0.0.1:3000": "http://127.0.0.1:3000",
		"[::1]:3000":     "http://[::1]:3000",
		"10.1.2.3:80":    "http://10.1.2.3:80",
	} {
		if got, err := URL(address(listening)); got != want || err != nil {
			t.Errorf("%s: %s, %v", listening, got, err)
		}
	}
	for _, listening := range []string{"[::]:3000", "0.0.0.0:3000"} {
		if got, err := URL(address(listening)); err != nil || !strings.HasSuffix(got, ":3000") || strings.Contains(got, "[::]") || strings.Contains(got, "0.0.0.0") {
			t.Errorf("%s: %s, %v", listening, got, err)
		}
	}
	if _, err := URL(address("/tmp/socket")); err == nil {
		t.Error("a path was taken")
	}
}

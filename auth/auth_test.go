package auth_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"

	"go.uber.org/goleak"

	"parley/auth"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestToken(t *testing.T) {
	header := http.Header{"Authorization": {"Bearer from-header"}}
	query := url.Values{"token": {"from-query"}}
	for name, c := range map[string]struct {
		header http.Header
		query  url.Values
		auth   string
		want   string
	}{
		"auth first":         {header, query, `{"token":"from-auth"}`, "from-auth"},
		"then query":         {header, query, `{"other":1}`, "from-query"},
		"then header":        {header, nil, "", "from-header"},
		"scheme in any case": {http.Header{"Authorization": {"bEARER  x "}}, nil, "", "x"},
		"another scheme":     {http.Header{"Authorization": {"Basic x"}}, nil, "", ""},
		"scheme alone":       {http.Header{"Authorization": {"Bearer"}}, nil, "", ""},
		"not a text":         {nil, query, `{"token":7}`, "from-query"},
		"not an object":      {nil, query, `[1]`, "from-query"},
		"nothing":            {nil, nil, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			if got := auth.Token(c.header, c.query, json.RawMessage(c.auth)); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

func TestSameKey(t *testing.T) {
	for _, c := range []struct {
		given, wanted string
		want          bool
	}{{"k", "k", true}, {"k", "l", false}, {"", "k", false}, {"k", "", false}, {"", "", false}} {
		if got := auth.SameKey(c.given, c.wanted); got != c.want {
			t.Errorf("SameKey(%q, %q) = %v", c.given, c.wanted, got)
		}
	}
}

func TestOrigins(t *testing.T) {
	none := []string(nil)
	for name, c := range map[string]struct {
		list     []string
		loopback bool
		host     string
		origin   []string
		want     bool
	}{
		"no origin":                      {none, false, "chat.example", none, true},
		"same":                           {none, false, "chat.example:3000", []string{"http://chat.example:3000"}, true},
		"same, default port, http":       {none, false, "chat.example", []string{"http://chat.example"}, true},
		"same, TLS ended in front":       {none, false, "chat.example", []string{"https://chat.example"}, true},
		"same, port written out":         {none, false, "chat.example:443", []string{"https://chat.example"}, true},
		"same, other case":               {none, false, "Chat.Example", []string{"https://chat.example"}, true},
		"same, IPv6":                     {none, false, "[::1]:3000", []string{"http://[::1]:3000"}, true},
		"same host, other port":          {none, false, "chat.example:3000", []string{"http://chat.example:3001"}, false},
		"another site":                   {none, true, "localhost:3000", []string{"https://evil.example"}, false},
		"a name that begins alike":       {none, true, "localhost:3000", []string{"http://localhost.evil.example"}, false},
		"localhost when open":            {none, true, "127.0.0.1:3000", []string{"http://localhost:8080"}, true},
		"127.0.0.1 when open":            {none, true, "localhost:3000", []string{"http://127.0.0.1:8080"}, true},
		"[::1] when open":                {none, true, "localhost:3000", []string{"http://[::1]:8080"}, true},
		"other scheme of localhost":      {none, true, "localhost:3000", []string{"evil://localhost"}, false},
		"localhost when not open":        {none, false, "127.0.0.1:3000", []string{"http://localhost:8080"}, false},
		"listed":                         {[]string{"https://App.example"}, false, "chat.example", []string{"https://app.example"}, true},
		"listed, default port":           {[]string{"https://app.example:443"}, false, "chat.example", []string{"https://app.example"}, true},
		"listed, other scheme":           {[]string{"https://app.example"}, false, "chat.example", []string{"http://app.example"}, false},
		"listed, other port":             {[]string{"https://app.example"}, false, "chat.example", []string{"https://app.example:8443"}, false},
		"listed scheme of an app":        {[]string{"capacitor://localhost"}, false, "chat.example", []string{"capacitor://localhost"}, true},
		"all":                            {[]string{"*"}, false, "chat.example", []string{"https://any.example"}, true},
		"all, null":                      {[]string{"*"}, false, "chat.example", []string{"null"}, true},
		"null":                           {none, true, "localhost:3000", []string{"null"}, false},
		"empty":                          {none, true, "localhost:3000", []string{""}, false},
		"two":                            {[]string{"*"}, true, "localhost:3000", []string{"http://localhost", "http://localhost"}, false},
		"control character":              {[]string{"*"}, true, "localhost:3000", []string{"http://local\x00host"}, false},
		"not ASCII":                      {[]string{"*"}, true, "localhost:3000", []string{"http://exämple"}, false},
		"with a path":                    {none, true, "localhost:3000", []string{"http://localhost:3000/x"}, false},
		"with a user":                    {none, true, "localhost:3000", []string{"http://localhost@evil.example"}, false},
		"no host in the request either":  {none, false, "", []string{"http://"}, false},
		"a host that is none, a port is": {none, false, ":80", []string{"http://:80"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			o, err := auth.NewOrigins(c.list, c.loopback)
			if err != nil {
				t.Fatal(err)
			}
			r := httptest.NewRequest(http.MethodGet, "/socket.io/", nil)
			r.Host = c.host
			if c.origin != nil {
				r.Header["Origin"] = c.origin
			}
			if got := o.Allow(r); got != c.want {
				t.Errorf("Allow is %v", got)
			}
		})
	}
}

func TestOriginsRefusesWhatIsNone(t *testing.T) {
	for _, entry := range []string{"", "example.com", "https://example.com/", "https://*.example.com", "https://u@example.com", "https://", "http://x:", "http://x:y", "null", "http://a b"} {
		if _, err := auth.NewOrigins([]string{entry}, false); err == nil {
			t.Errorf("%q was taken for an origin", entry)
		}
	}
}

package web_test

import (
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path"
	"regexp"
	"strings"
	"testing"

	"parley/web"
)

// parts are the page's files by the path they are served under.
func parts(t *testing.T) map[string]string {
	t.Helper()
	m := map[string]string{}
	root := os.DirFS("static")
	err := fs.WalkDir(root, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		body, err := fs.ReadFile(root, name)
		m["/"+strings.TrimSuffix(name, "index.html")] = string(body)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func server(t *testing.T) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(web.Handler())
	t.Cleanup(s.Close)
	return s
}

// answer is a response that was read to its end.
type answer struct {
	status int
	header http.Header
	length int64
	body   string
}

func do(t *testing.T, s *httptest.Server, method, at, ifNoneMatch string) answer {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, s.URL+at, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("If-None-Match", ifNoneMatch)
	resp, err := s.Client().Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer{resp.StatusCode, resp.Header, resp.ContentLength, string(body)}
}

func TestEveryPartIsServed(t *testing.T) {
	s := server(t)
	types := map[string]string{
		"": "text/html; charset=utf-8", ".js": "text/javascript; charset=utf-8",
		".css": "text/css; charset=utf-8", ".svg": "image/svg+xml",
	}
	total := 0
	for at, source := range parts(t) {
		got := do(t, s, http.MethodGet, at, "")
		want := got.body
		if got.status != http.StatusOK || words(want) != words(code(source)) {
			t.Errorf("%s: status %d, %d bytes that differ from its source by more than comments and spaces", at, got.status, len(want))
		}
		total += len(want)
		if got := got.header.Get("Content-Type"); got != types[path.Ext(at)] || got == "" {
			t.Errorf("%s: content type %q", at, got)
		}

		etag := got.header.Get("ETag")
		if len(etag) < 18 || got.header.Get("Cache-Control") != "no-cache" {
			t.Errorf("%s: ETag %s, Cache-Control %q", at, etag, got.header.Get("Cache-Control"))
		}
		if got = do(t, s, http.MethodGet, at, etag); got.status != http.StatusNotModified || got.body != "" {
			t.Errorf("%s: known, but status %d with %d bytes", at, got.status, len(got.body))
		}
		if got = do(t, s, http.MethodGet, at, `"older"`); got.status != http.StatusOK {
			t.Errorf("%s: changed, but status %d", at, got.status)
		}
		if got = do(t, s, http.MethodHead, at, ""); got.status != http.StatusOK || got.body != "" || got.length != int64(len(want)) {
			t.Errorf("%s: HEAD gives status %d, length %d", at, got.status, got.length)
		}
	}
	if total >= 60_000 {
		t.Errorf("the page with all its parts weighs %d bytes", total)
	}
}

// code returns a source without the lines that are comments.
func code(source string) string {
	return regexp.MustCompile(`(?m)^\s*(?://|/\*|<!--).*$`).ReplaceAllString(source, "")
}

// words returns a source without spaces, and without the last semicolons of style rules.
func words(source string) string {
	return strings.ReplaceAll(strings.Join(strings.Fields(source), ""), ";}", "}")
}

// spacedText is a text in quotes with what would lose its spaces if it were code.
var spacedText = regexp.MustCompile("^[^\"`]*((\"[^\"]*\"|`[^`]*`)[^\"`]*)*(\"[^\"]* =>? [^\"]*\"|`[^`]* =>? [^`]*`)")

// TestSourcesCanBeServedLean checks what the server relies on when it leaves lines out.
func TestSourcesCanBeServedLean(t *testing.T) {
	for at, source := range parts(t) {
		for i, line := range strings.Split(source, "\n") {
			trimmed := strings.TrimSpace(line)
			for opening, closing := range map[string]string{"/*": "*/", "<!--": "-->"} {
				if strings.Contains(line, opening) && (!strings.HasPrefix(trimmed, opening) || !strings.HasSuffix(trimmed, closing)) {
					t.Errorf("%s:%d: a comment that is not one line of its own", at, i+1)
				}
			}
			if strings.Count(line, "`")%2 != 0 {
				t.Errorf("%s:%d: a text that spans lines", at, i+1)
			}
			if path.Ext(at) == ".js" && spacedText.MatchString(code(line)) {
				t.Errorf("%s:%d: a text that would lose spaces", at, i+1)
			}
		}
	}
}

func TestSecurityHeaders(t *testing.T) {
	s := server(t)
	for _, at := range []string{"/", "/page.js", "/nothing"} {
		header := do(t, s, http.MethodGet, at, "").header
		csp := header.Get("Content-Security-Policy")
		for _, want := range []string{"default-src 'none'", "script-src 'self'", "style-src 'self'", "connect-src 'self'", "base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'"} {
			if !strings.Contains(csp, want) {
				t.Errorf("%s: the policy lacks %s", at, want)
			}
		}
		if strings.Contains(csp, "unsafe") || strings.Contains(csp, "*") {
			t.Errorf("%s: the policy is loose: %s", at, csp)
		}
		for name, want := range map[string]string{
			"X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY", "Referrer-Policy": "no-referrer",
		} {
			if got := header.Get(name); got != want {
				t.Errorf("%s: %s is %q", at, name, got)
			}
		}
	}
}

func TestRefusals(t *testing.T) {
	s := server(t)
	for _, at := range []string{"/nothing", "/index.html", "/static/", "/static/page.js", "/page.js/", "/%2e%2e/web.go", "/..%2fweb.go"} {
		if got := do(t, s, http.MethodGet, at, ""); got.status != http.StatusNotFound {
			t.Errorf("%s: status %d", at, got.status)
		}
	}
	for _, method := range []string{http.MethodPost, http.MethodPut, http.MethodDelete, http.MethodOptions} {
		if got := do(t, s, method, "/", ""); got.status != http.StatusMethodNotAllowed || got.header.Get("Allow") != "GET, HEAD" {
			t.Errorf("%s: status %d, Allow %q", method, got.status, got.header.Get("Allow"))
		}
	}
}

// TestThePageKeepsItsRules reads the sources for what the policy would stop only in a browser.
func TestThePageKeepsItsRules(t *testing.T) {
	all := parts(t)
	for at, body := range all {
		for rule, pattern := range map[string]string{
			"markup made from text":     `innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|DOMParser`,
			"inline script or style":    `<script>|<style|\son[a-z]+="|\sstyle="|javascript:`,
			"another host":              `(?:src|href)="(?:https?:)?//|url\(|@import|from "https?:`,
			"secrets in an address":     `\.search = .*(?:ession|oken|pid)|searchParams\.(?:set|append)|[?&](?:sessionID|pid|token)=\$`,
			"a part that is not served": `(?:src|href)="/`,
		} {
			if found := regexp.MustCompile(pattern).FindString(body); found != "" {
				t.Errorf("%s has %s: %s", at, rule, found)
			}
		}
		for _, m := range regexp.MustCompile(`(?:src|href|from) ?=?"(?:\./)?([a-z]+\.(?:js|css|svg))"`).FindAllStringSubmatch(body, -1) {
			if _, ok := all["/"+m[1]]; !ok {
				t.Errorf("%s asks for %s, which is not there", at, m[1])
			}
		}
	}
}

// TestEveryElementIsThere checks the names by which the scripts find their elements.
func TestEveryElementIsThere(t *testing.T) {
	all := parts(t)
	found := 0
	for at, body := range all {
		var names []string
		for _, m := range regexp.MustCompile(`\bparts\.(\w+)|\bon\("(\w+)", "(?:click|submit|beforetoggle)"`).FindAllStringSubmatch(body, -1) {
			names = append(names, m[1]+m[2])
		}
		for _, m := range regexp.MustCompile(`const \{([^}]*)\} = parts;`).FindAllStringSubmatch(body, -1) {
			for name := range strings.SplitSeq(m[1], ",") {
				name, _, _ = strings.Cut(name, ":")
				names = append(names, strings.TrimSpace(name))
			}
		}
		for _, name := range names {
			found++
			if !strings.Contains(all["/"], ` id="`+name+`"`) {
				t.Errorf("%s: the page has no element %q", at, name)
			}
		}
	}
	if found < 50 {
		t.Errorf("the scripts name %d elements; this test does not see them", found)
	}
}

// TestTextsAreInOnePlace checks that what the page says is in texts.js: every text that is used is there, every one
// that is there is used, and the markup has none of its own.
func TestTextsAreInOnePlace(t *testing.T) {
	all := parts(t)
	used := map[string]bool{}
	for at, body := range all {
		if at == "/texts.js" {
			continue
		}
		for _, m := range regexp.MustCompile(`\bt\.(\w+)|data-(?:text|label)="(\w+)"`).FindAllStringSubmatch(body, -1) {
			used[m[1]+m[2]] = true
		}
	}
	there := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^  (\w+):`).FindAllStringSubmatch(all["/texts.js"], -1) {
		there[m[1]] = true
		if !used[m[1]] {
			t.Errorf("the text %s is not used", m[1])
		}
	}
	for name := range used {
		if !there[name] {
			t.Errorf("the text %s is missing", name)
		}
	}
	_, markup, _ := strings.Cut(all["/"], "</noscript>")
	markup = regexp.MustCompile(`<!--.*?-->|<[^>]*>`).ReplaceAllString(markup, "")
	if words := regexp.MustCompile(`\pL+`).FindAllString(markup, -1); len(words) > 0 {
		t.Errorf("the markup has texts of its own: %q", words)
	}
}

// Package web serves Parley's page: a chat for people, and a view of the notify application, with a small client of
// their own. Its files are part of the binary, need no build step, and ask no other host for anything. What only their
// readers need, comments and indentation, is left out of what is served.
package web

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"io/fs"
	"net/http"
	"path"
	"strings"
	"time"
)

//go:embed static
var static embed.FS

// policy lets the page run its own script and style and talk to its own server, and nothing else. Text that
// people write can't become script even by mistake: no sink takes a string (require-trusted-types-for).
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"

// file is one part of the page, ready to serve.
type file struct {
	body []byte
	mime string
	etag string
}

// Handler returns the handler for the page at "/" and its parts beside it. It is safe for concurrent use.
// Paths it does not know get 404, so it can stand behind every other handler.
func Handler() http.Handler {
	files := load()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", policy)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("X-Frame-Options", "DENY") // for browsers older than frame-ancestors
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")

		f, ok := files[r.URL.Path]
		if !ok {
			http.NotFound(w, r)
			return
		}
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			h.Set("Allow", "GET, HEAD")
			http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
			return
		}
		h.Set("Content-Type", f.mime)
		h.Set("ETag", f.etag)
		h.Set("Cache-Control", "no-cache") // kept, but asked for again: the parts must fit each other after an update
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(f.body))
	})
}

// load reads the embedded files by the path that each is served under.
func load() map[string]file {
	files := make(map[string]file)
	err := fs.WalkDir(static, "static", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		body, err := static.ReadFile(name)
		if err != nil {
			return err
		}
		body = lean(body, path.Ext(name))
		sum := sha256.Sum256(body)
		at := strings.TrimPrefix(name, "static")
		if at == "/index.html" {
			at = "/"
		}
		files[at] = file{body: body, mime: contentTypes[path.Ext(name)], etag: `"` + hex.EncodeToString(sum[:12]) + `"`}
		return nil
	})
	if err != nil {
		panic("web: read the embedded page: " + err.Error()) // the binary holds the files: this can't happen
	}
	return files
}

// spaces are those that say nothing, by extension.
var spaces = map[string]*strings.Replacer{
	".css": strings.NewReplacer(": ", ":", "; }", "}", "; ", ";", " { ", "{", " {", "{", " }", "}", ", ", ","),
	".js":  strings.NewReplacer(" = ", "=", " => ", "=>"),
}

// lean returns a file without blank lines, indentation, most spaces, and lines that are nothing but a comment. It knows
// no more of the languages than that: a text that spans lines, or a comment that does, has no place in the page, and
// neither has a text with a space that would be taken for one of the code.
func lean(body []byte, extension string) []byte {
	var b bytes.Buffer
	for line := range strings.Lines(string(body)) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "//") || strings.HasPrefix(line, "/*") || strings.HasPrefix(line, "<!--") {
			continue
		}
		if replacer := spaces[extension]; replacer != nil {
			line = replacer.Replace(line)
		}
		b.WriteString(line)
		if extension != ".css" {
			b.WriteByte('\n')
		}
	}
	return b.Bytes()
}

// contentTypes are what the files are, by extension. The tables of the machine may differ, or be missing.
var contentTypes = map[string]string{
	".css":  "text/css; charset=utf-8",
	".html": "text/html; charset=utf-8",
	".js":   "text/javascript; charset=utf-8",
	".svg":  "image/svg+xml",
}

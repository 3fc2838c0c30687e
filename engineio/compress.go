package engineio

import (
	"bytes"
	"compress/gzip"
	"compress/zlib"
	"io"
	"net/http"
	"strconv"
	"strings"
)

// acceptedEncoding is what a reply may be compressed with: "gzip", "deflate", or "" for not at all.
func acceptedEncoding(h http.Header) string {
	var gzip, deflate, others float64
	gzip, deflate = -1, -1
	for _, value := range h.Values("Accept-Encoding") {
		for item := range strings.SplitSeq(value, ",") {
			name, params, _ := strings.Cut(item, ";")
			q := 1.0
			if _, text, ok := strings.Cut(params, "="); ok {
				if parsed, err := strconv.ParseFloat(strings.TrimSpace(text), 64); err == nil {
					q = parsed
				}
			}
			switch strings.ToLower(strings.TrimSpace(name)) {
			case "gzip", "x-gzip":
				gzip = q
			case "deflate":
				deflate = q
			case "*":
				others = q
			}
		}
	}
	if gzip < 0 {
		gzip = others
	}
	if deflate < 0 {
		deflate = others
	}
	switch {
	case gzip > 0 && gzip >= deflate:
		return "gzip"
	case deflate > 0:
		return "deflate"
	default:
		return ""
	}
}

// compress writes data to dst, which can't fail, in an encoding that acceptedEncoding returned.
func (s *Server) compress(dst *bytes.Buffer, encoding string, data []byte) {
	var w interface {
		io.WriteCloser
		Reset(io.Writer)
	}
	if encoding == "gzip" {
		z := s.gzips.Get().(*gzip.Writer)
		defer s.gzips.Put(z)
		w = z
	} else {
		z := s.zlibs.Get().(*zlib.Writer)
		defer s.zlibs.Put(z)
		w = z
	}
	w.Reset(dst)
	_, _ = w.Write(data)
	_ = w.Close()
}

package engineio

import (
	"bufio"
	"bytes"
	"cmp"
	"fmt"
	"io"
	"log"
	"maps"
	"net"
	"net/http"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Front returns the listener that server should serve instead of l, whose handler serves Engine.IO at path:
//
//	server := &http.Server{Handler: handler, ReadHeaderTimeout: 10 * time.Second}
//	err := server.Serve(engineio.Front(l, "/engine.io/", server))
//
// A handshake by WebSocket that is the first request of its connection, and came in one piece, is then given to the
// handler without net/http in between. That saves its buffers, the goroutine that watches the connection, and a second one
// to read it. All else, which is also any request with something unusual about it, is left to server, untouched: Front
// only looks at what a connection begins with, and takes it from the kernel when it knows that it is a handshake.
//
// Of server it uses Handler, which must not be nil, the timeouts for reading, MaxHeaderBytes and ErrorLog. A connection
// has ReadHeaderTimeout for its first byte, and server gives it as much again for the rest. The context of a
// handshake's request is never done, and has no values. The listener's Close also closes connections that have
// not sent anything yet; the reply to a handshake that is refused then may be cut off.
func Front(l net.Listener, path string, server *http.Server) net.Listener {
	f := &front{
		Listener: l,
		server:   server,
		start:    []byte("GET " + strings.TrimSuffix(path, "/") + "/?"),
		accepted: make(chan accepted),
		done:     make(chan struct{}),
		silent:   make(map[net.Conn]struct{}),
	}
	f.firsts.New = func() any { return newFirst() }
	go f.accept() // ends with Close
	return f
}

// front is a listener that serves some connections itself.
type front struct {
	net.Listener
	server   *http.Server
	start    []byte        // how the requests begin that may be handshakes
	accepted chan accepted // what Accept returns
	firsts   sync.Pool     // *first

	mu     sync.Mutex
	closed bool
	done   chan struct{}         // closed with it
	silent map[net.Conn]struct{} // connections that have sent nothing yet
}

// accepted is what Accept returns.
type accepted struct {
	conn net.Conn
	err  error
}

// Accept returns the next connection that the http.Server has to serve.
func (f *front) Accept() (net.Conn, error) {
	select {
	case a := <-f.accepted:
		return a.conn, a.err
	case <-f.done:
		return nil, net.ErrClosed
	}
}

// Close ends the listener.
func (f *front) Close() error {
	f.mu.Lock()
	if f.closed {
		f.mu.Unlock()
		return nil
	}
	f.closed = true
	close(f.done)
	silent := slices.Collect(maps.Keys(f.silent))
	f.mu.Unlock()
	err := f.Listener.Close()
	for _, conn := range silent {
		_ = conn.Close() // waits for who reads it
	}
	return err
}

// accept accepts connections until Close. After an error it waits until the http.Server, which decides how long to
// pause, calls Accept again.
func (f *front) accept() {
	for {
		conn, err := f.Listener.Accept()
		if err != nil {
			f.give(accepted{nil, err})
		} else {
			go f.serve(conn) // ends when the connection is given away, refused, or closed as a WebSocket
		}
		select {
		case <-f.done:
			return
		default:
		}
	}
}

// give makes Accept return a.
func (f *front) give(a accepted) {
	select {
	case f.accepted <- a:
	case <-f.done:
		if a.conn != nil {
			_ = a.conn.Close()
		}
	}
}

// serve serves one connection. The frames of the handshake are off the stack when the WebSocket is read.
func (f *front) serve(conn net.Conn) {
	if k := f.welcome(conn); k != nil {
		k.run()
	}
}

// welcome looks at what conn begins with. It returns nil if it is no business of front any more, or else the WebSocket
// that is to be read.
func (f *front) welcome(conn net.Conn) *socket {
	a := &arrival{front: f, conn: conn}
	if raw := rawConn(conn); raw != nil && !a.await(raw) {
		return nil
	}
	if a.first == nil {
		f.give(accepted{conn, nil})
		return nil
	}
	growStack()
	r, size := a.first.handshake(f)
	if r == nil {
		f.recycle(a.first)
		f.give(accepted{conn, nil})
		return nil
	}
	_, err := io.ReadFull(conn, a.first.bytes[:size]) // is there: it was looked at
	f.recycle(a.first)
	if err != nil {
		_ = conn.Close()
		return nil
	}
	a.first = nil
	r.RemoteAddr = conn.RemoteAddr().String()
	a.serve(r)
	return a.socket
}

func (f *front) recycle(first *first) {
	first.source.Reset(nil)
	f.firsts.Put(first)
}

// await waits for the first bytes of the connection, and returns false if none came.
func (a *arrival) await(raw syscall.RawConn) bool {
	f := a.front
	f.mu.Lock()
	if f.closed {
		f.mu.Unlock()
		_ = a.conn.Close()
		return false
	}
	f.silent[a.conn] = struct{}{}
	f.mu.Unlock()
	if d := cmp.Or(f.server.ReadHeaderTimeout, f.server.ReadTimeout); d > 0 {
		_ = a.conn.SetReadDeadline(time.Now().Add(d))
		defer func() { _ = a.conn.SetReadDeadline(time.Time{}) }()
	}
	err := raw.Read(a.peek)
	f.mu.Lock()
	delete(f.silent, a.conn)
	f.mu.Unlock()
	if err != nil {
		_ = a.conn.Close()
	}
	return err == nil
}

// firstBytes is the size from which on a request is left to net/http.
const firstBytes = 8 << 10

// first is a pooled buffer for the first bytes of a connection, and what parses them.
type first struct {
	bytes  [firstBytes]byte
	n      int
	source bytes.Reader
	parser *bufio.Reader
}

func newFirst() *first {
	b := new(first)
	b.parser = bufio.NewReaderSize(&b.source, 512)
	return b
}

// handshake returns the request that the connection begins with, and its length, or nil if that is for net/http. To
// be in doubt is a reason: net/http will find what is wrong with a request, and how to say so.
func (b *first) handshake(f *front) (r *http.Request, size int) {
	head := b.bytes[:b.n]
	end := bytes.Index(head, []byte("\r\n\r\n"))
	if end < 0 || !bytes.HasPrefix(head, f.start) {
		return nil, 0
	}
	head = head[:end+4]
	line, _, _ := bytes.Cut(head[len(f.start):], []byte(" "))
	if !bytes.Contains(line, []byte("transport=websocket")) || f.server.MaxHeaderBytes > 0 && len(head) > f.server.MaxHeaderBytes {
		return nil, 0
	}
	b.source.Reset(head)
	b.parser.Reset(&b.source)
	r, err := http.ReadRequest(b.parser)
	if err != nil || b.parser.Buffered() > 0 || b.source.Len() > 0 || !plainHandshake(r) {
		return nil, 0
	}
	return r, len(head)
}

// plainHandshake says whether r is a handshake by WebSocket and net/http would pass it on as it is.
func plainHandshake(r *http.Request) bool {
	if r.Proto != "HTTP/1.1" || !validHost(r.Host) || r.Body != http.NoBody || r.Header["Expect"] != nil || !isUpgrade(r) {
		return false
	}
	for key, values := range r.Header {
		if !urlSafe(key) {
			return false
		}
		for _, v := range values {
			if strings.ContainsFunc(v, isControl) {
				return false
			}
		}
	}
	// What belongs to an open connection may be forwarded, and then someone has to notice when the client goes away.
	for pair := range strings.SplitSeq(r.URL.RawQuery, "&") {
		if key, _, _ := strings.Cut(pair, "="); key == "sid" || strings.ContainsAny(key, "%+") {
			return false
		}
	}
	return true
}

// validHost says whether a Host header is one, of the usual characters.
func validHost(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(c rune) bool {
		return (c < '0' || c > '9') && (c < 'A' || c > 'Z') && (c < 'a' || c > 'z') && !strings.ContainsRune("-._:[]", c)
	})
}

// isControl says whether a header's value must not have c.
func isControl(c rune) bool { return c < ' ' && c != '\t' || c == 0x7f }

// arrival is a connection that begins, and the http.ResponseWriter of its handshake.
type arrival struct {
	front *front
	conn  net.Conn
	first *first // what it begins with, if that is known

	header http.Header
	status int
	body   bytes.Buffer
	taken  bool    // by Hijack
	socket *socket // that it became
}

// serve gives the handshake to the handler.
func (a *arrival) serve(r *http.Request) {
	a.header = make(http.Header)
	defer func() {
		if p := recover(); p != nil && p != http.ErrAbortHandler {
			logf := log.Printf
			if l := a.front.server.ErrorLog; l != nil {
				logf = l.Printf
			}
			logf("http: panic serving %v: %v\n%s", r.RemoteAddr, p, debug.Stack())
		} else if p == nil && !a.taken {
			a.reply()
		}
		if !a.taken {
			_ = a.conn.Close()
		}
	}()
	a.front.server.Handler.ServeHTTP(a, r)
}

// Header implements http.ResponseWriter.
func (a *arrival) Header() http.Header { return a.header }

// WriteHeader implements http.ResponseWriter.
func (a *arrival) WriteHeader(status int) {
	if a.status == 0 {
		a.status = status
	}
}

// Write implements http.ResponseWriter.
func (a *arrival) Write(p []byte) (int, error) {
	if a.taken {
		return 0, http.ErrHijacked
	}
	a.WriteHeader(http.StatusOK)
	return a.body.Write(p)
}

// Hijack implements http.Hijacker.
func (a *arrival) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	if a.taken {
		return nil, nil, http.ErrHijacked
	}
	a.taken = true
	return a.conn, bufio.NewReadWriter(bufio.NewReaderSize(a.conn, 16), bufio.NewWriterSize(a.conn, 16)), nil
}

// reply sends the handler's reply as net/http would, and that it is the last on this connection.
func (a *arrival) reply() {
	a.WriteHeader(http.StatusOK)
	a.header.Set("Connection", "close")
	body := a.body.Bytes()
	var b bytes.Buffer
	fmt.Fprintf(&b, "HTTP/1.1 %03d %s\r\n", a.status, cmp.Or(http.StatusText(a.status), "status code "+strconv.Itoa(a.status)))
	sniff := len(body) > 0 && a.header["Content-Type"] == nil
	_ = a.header.Write(&b) // a Buffer takes everything
	b.WriteString("Date: " + time.Now().UTC().Format(http.TimeFormat) + "\r\n")
	if a.header["Content-Length"] == nil && a.status != http.StatusNoContent && a.status != http.StatusNotModified {
		b.WriteString("Content-Length: " + strconv.Itoa(len(body)) + "\r\n")
	}
	if sniff {
		b.WriteString("Content-Type: " + http.DetectContentType(body) + "\r\n")
	}
	b.WriteString("\r\n")
	b.Write(body)
	_ = a.conn.SetDeadline(time.Now().Add(linger))
	if _, err := b.WriteTo(a.conn); err != nil {
		return
	}
	if tcp, ok := a.conn.(interface{ CloseWrite() error }); ok && tcp.CloseWrite() == nil {
		// Closing while there is input would make the kernel discard the reply.
		_, _ = io.Copy(io.Discard, io.LimitReader(a.conn, 64<<10))
	}
}

package client

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/lxzan/gws"

	engine "parley/engineio/packet"
)

// transport carries Engine.IO packets. Heartbeats are its own business. All methods may be called from any
// goroutine, run once.
type transport interface {
	// run hands every packet to receive until the connection ends, and returns why: the error of receive, if
	// that was it.
	run(receive func(engine.Packet) error) error
	// write sends packets in order with nothing in between.
	write(packets ...engine.Packet) error
	close() // as the protocol says
	cut()   // without a word
}

// Bounds of a connection's input and of its waits.
const (
	maxMessage   = 64 << 20 // bytes
	writeTimeout = 10 * time.Second
	openTimeout  = 20 * time.Second
)

var (
	errServerClosed = errors.New("server closed the connection")
	errSilence      = errors.New("ping timeout")
)

// webSocket is the transport of that name, over gws.
type webSocket struct {
	gws.BuiltinEventHandler
	raw  net.Conn
	conn *gws.Conn

	mu sync.Mutex // held while a packet and its attachments are written

	// Owned by run.
	receive func(engine.Packet) error
	silence time.Duration
	err     error
}

// dialWebSocket opens a connection up to the WebSocket handshake.
func dialWebSocket(ctx context.Context, address *url.URL, o Options) (*webSocket, error) {
	w, err := openWebSocket(ctx, address, o, "")
	if err != nil {
		return nil, err
	}
	return w, w.conn.SetReadDeadline(time.Now().Add(openTimeout))
}

// openWebSocket dials for a new connection, or for the one named sid.
func openWebSocket(ctx context.Context, address *url.URL, o Options, sid string) (*webSocket, error) {
	target := requestURL(address, "websocket", sid)
	target.Scheme = map[string]string{"http": "ws", "https": "wss"}[address.Scheme]
	if target.Scheme != "ws" {
		return nil, fmt.Errorf("%s: WebSocket needs an http URL here", address.Scheme)
	}
	raw, err := o.Dial(ctx, "tcp", hostPort(address))
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = raw.Close() })
	defer stop()
	w := &webSocket{raw: raw}
	// gws writes to the header that it is given, and keeps what it finds there as it is.
	header := make(http.Header, len(o.Header))
	for k, v := range o.Header {
		header[k] = v
	}
	w.conn, _, err = gws.NewClientFromConn(w, &gws.ClientOption{ //nolint:bodyclose // what follows the header is the connection
		Addr: target.String(), RequestHeader: header,
		ReadMaxPayloadSize: maxMessage, CheckUtf8Enabled: true,
	}, raw)
	if err != nil {
		_ = raw.Close()
		return nil, fmt.Errorf("WebSocket handshake: %w", errors.Join(err, ctx.Err()))
	}
	return w, nil
}

func (w *webSocket) run(receive func(engine.Packet) error) error {
	w.receive = receive
	w.conn.ReadLoop()
	return w.err
}

// OnMessage implements gws.Event.
func (w *webSocket) OnMessage(_ *gws.Conn, m *gws.Message) {
	defer func() { _ = m.Close() }() // it never fails
	if w.err != nil {
		return
	}
	p := engine.Packet{Type: engine.Message, Data: m.Bytes(), Binary: true}
	var err error
	if m.Opcode == gws.OpcodeText {
		p, err = engine.Decode(m.Bytes())
	}
	if err == nil {
		err = w.take(p)
	}
	if err != nil {
		w.err = err
		w.cut() // which ends the read loop
	}
}

func (w *webSocket) take(p engine.Packet) error {
	switch p.Type {
	case engine.Open:
		h, err := parseHandshake(p.Data)
		if err != nil {
			return err
		}
		w.silence = h.silence()
	case engine.Ping:
		if err := w.write(engine.Packet{Type: engine.Pong, Data: p.Data}); err != nil {
			return err
		}
	case engine.Close:
		return errServerClosed
	}
	if w.silence > 0 {
		if err := w.conn.SetReadDeadline(time.Now().Add(w.silence)); err != nil {
			return err
		}
	}
	return w.receive(p)
}

// OnClose implements gws.Event.
func (w *webSocket) OnClose(_ *gws.Conn, err error) {
	if w.err != nil {
		return
	}
	var timeout net.Error
	var frame *gws.CloseError
	switch {
	case errors.As(err, &timeout) && timeout.Timeout():
		w.err = errSilence
	case errors.As(err, &frame):
		w.err = fmt.Errorf("%w: close frame %d", errServerClosed, frame.Code)
	default:
		w.err = fmt.Errorf("connection broke: %w", err)
	}
}

func (w *webSocket) write(packets ...engine.Packet) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.conn.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	for _, p := range packets {
		opcode, data := gws.OpcodeBinary, p.Data
		if !p.Binary {
			opcode, data = gws.OpcodeText, engine.Append(nil, p)
		}
		if err := w.conn.WriteMessage(opcode, data); err != nil {
			return fmt.Errorf("write: %w", err)
		}
	}
	return nil
}

// close sends a close frame; gws then closes the TCP connection, and with it the read loop.
func (w *webSocket) close() {
	_ = w.conn.SetWriteDeadline(time.Now().Add(writeTimeout)) // fails if it is closed already
	_ = w.conn.WriteClose(1000, nil)
	w.cut()
}

func (w *webSocket) cut() { _ = w.raw.Close() } // fails if it is closed already

// requestURL is the address of a request for a transport.
func requestURL(address *url.URL, transport, sid string) *url.URL {
	target := *address
	query := target.Query()
	query.Set("EIO", "4")
	query.Set("transport", transport)
	if sid != "" {
		query.Set("sid", sid)
	}
	target.RawQuery = query.Encode()
	return &target
}

func hostPort(address *url.URL) string {
	if address.Port() != "" {
		return address.Host
	}
	return net.JoinHostPort(address.Hostname(), "80")
}

package client

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"time"

	engine "parley/engineio/packet"
)

// polling is HTTP long-polling, which a WebSocket takes over from if that was asked for.
type polling struct {
	address *url.URL
	options Options
	http    *http.Client
	ctx     context.Context // ends with cut
	cancel  context.CancelFunc

	handshake handshake // set by run before anything else happens

	pause  chan struct{} // closed when the WebSocket is ready: the poll that is under way is the last
	paused chan struct{} // closed when there is no poll any more

	mu sync.Mutex // held during a POST, so that packets stay in order
	ws *webSocket // after the upgrade
}

func newPolling(address *url.URL, o Options) *polling {
	ctx, cancel := context.WithCancel(context.Background())
	return &polling{
		address: address, options: o, ctx: ctx, cancel: cancel,
		// On connections that are used again net/http would repeat a GET whose answer was lost, and what was in
		// it would be missing without anybody's notice.
		http:  &http.Client{Transport: &http.Transport{DialContext: o.Dial, DisableKeepAlives: true}},
		pause: make(chan struct{}), paused: make(chan struct{}),
	}
}

func (p *polling) run(receive func(engine.Packet) error) error {
	body, err := p.request(http.MethodGet, nil, openTimeout)
	if err != nil {
		return err
	}
	opened := false
	var upgraded chan error
	take := func(q engine.Packet) error {
		switch {
		case !opened:
			if q.Type != engine.Open {
				return fmt.Errorf("server began with %v instead of an open packet", q.Type)
			}
			if p.handshake, err = parseHandshake(q.Data); err != nil {
				return err
			}
			opened = true
			if p.options.Transport == Upgrade && slices.Contains(p.handshake.Upgrades, "websocket") {
				upgraded = make(chan error, 1)
				go func() { upgraded <- p.upgrade(receive) }()
			}
		case q.Type == engine.Ping:
			if err := p.write(engine.Packet{Type: engine.Pong, Data: q.Data}); err != nil {
				return err
			}
		case q.Type == engine.Close:
			return errServerClosed
		}
		return receive(q)
	}
	for {
		for q, err := range engine.Payload(body) {
			if err == nil {
				err = take(q)
			}
			if err != nil {
				return p.abort(err, upgraded)
			}
		}
		select {
		case <-p.pause:
			close(p.paused)
			return <-upgraded
		default:
		}
		if body, err = p.request(http.MethodGet, nil, p.handshake.silence()); err != nil {
			return p.abort(err, upgraded)
		}
	}
}

// abort ends the connection because of err, and the WebSocket that may be probing.
func (p *polling) abort(err error, upgraded <-chan error) error {
	p.cut()
	if upgraded == nil {
		return err
	}
	return cmp.Or(err, <-upgraded) // how the probe ends does not matter any more, only that it does
}

// upgrade probes a WebSocket, and if it works reads from it until the connection ends. A probe that fails
// leaves the connection as it is.
func (p *polling) upgrade(receive func(engine.Packet) error) error {
	ctx, cancel := context.WithTimeout(p.ctx, openTimeout)
	defer cancel()
	ws, err := openWebSocket(ctx, p.address, p.options, p.handshake.SID)
	if err != nil {
		return err
	}
	stop := context.AfterFunc(p.ctx, ws.cut)
	defer stop()
	ws.silence = p.handshake.silence()
	if err := ws.write(engine.Packet{Type: engine.Ping, Data: []byte("probe")}); err != nil {
		return err
	}
	probed := false
	return ws.run(func(q engine.Packet) error {
		if probed {
			return receive(q)
		}
		if q.Type != engine.Pong || string(q.Data) != "probe" {
			return fmt.Errorf("server answered the probe with %v", q.Type)
		}
		probed = true
		close(p.pause) // the server ends the poll that it holds
		select {
		case <-p.paused:
		case <-p.ctx.Done():
			return ErrClosed
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		p.ws = ws
		return ws.write(engine.Packet{Type: engine.Upgrade})
	})
}

func (p *polling) write(packets ...engine.Packet) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ws != nil {
		return p.ws.write(packets...)
	}
	var body []byte
	for i, q := range packets {
		if i > 0 {
			body = append(body, engine.Separator)
		}
		body = engine.Append(body, q)
	}
	_, err := p.request(http.MethodPost, body, writeTimeout)
	return err
}

// request makes one HTTP request of the connection and returns the body of a reply that is 200.
func (p *polling) request(method string, body []byte, within time.Duration) ([]byte, error) {
	ctx, cancel := context.WithTimeout(p.ctx, within)
	defer cancel()
	target := requestURL(p.address, string(Polling), p.handshake.SID)
	request, err := http.NewRequestWithContext(ctx, method, target.String(), bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	for k, v := range p.options.Header {
		request.Header[k] = v
	}
	if method == http.MethodPost {
		request.Header.Set("Content-Type", "text/plain;charset=UTF-8")
	}
	reply, err := p.http.Do(request)
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return nil, errSilence
	case err != nil:
		return nil, fmt.Errorf("connection broke: %w", err)
	}
	defer func() { _ = reply.Body.Close() }()
	answer, err := io.ReadAll(io.LimitReader(reply.Body, maxMessage))
	if err != nil {
		return nil, fmt.Errorf("connection broke: %w", err)
	}
	if reply.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("server answered %s with status %d: %.100s", method, reply.StatusCode, answer)
	}
	return answer, nil
}

func (p *polling) close() {
	p.mu.Lock()
	ws := p.ws
	p.mu.Unlock()
	if ws != nil {
		ws.close()
		return
	}
	_ = p.write(engine.Packet{Type: engine.Close}) // fails if it is closed already
	p.cut()
}

func (p *polling) cut() { p.cancel() }

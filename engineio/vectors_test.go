package engineio_test

import (
	"bytes"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"parley/engineio"
)

// socketIO reacts like the smallest Socket.IO server that the vectors can be read against: it answers a CONNECT
// and sends back what a "message" event carries.
func socketIO() func(*fixture) {
	text := map[*peer]string{}
	return func(f *fixture) {
		f.react = func(p *peer, data []byte, binary bool) {
			back := strings.Replace(string(data), `"message"`, `"message-back"`, 1)
			switch {
			case binary:
				p.Enqueue(engineio.NewMessage([]byte(text[p]), data), 0)
			case string(data) == "0":
				p.Enqueue(engineio.NewMessage([]byte(`0{"sid":"x"}`)), 0)
			case strings.HasPrefix(back, "51-"):
				text[p] = back
			default:
				p.Enqueue(engineio.NewMessage([]byte(back)), 0)
			}
			p.Flush()
		}
	}
}

// TestVectors is section 16 of the Engine.IO contract, against a real listener.
func TestVectors(t *testing.T) {
	const sid = "&sid="
	vectors := []struct {
		name string
		test func(*testing.T, *fixture)
	}{
		{"E1 handshake", func(t *testing.T, f *fixture) {
			r := f.request("GET", pollQuery, "")
			want := `^0{"sid":"[A-Za-z0-9_-]{20}","upgrades":\["websocket"\],"pingInterval":300000,"pingTimeout":20000,"maxPayload":1000000}$`
			if r.status != 200 || !regexp.MustCompile(want).MatchString(r.body) {
				t.Fatalf("%d %s", r.status, r.body)
			}
			if r.header.Get("Content-Type") != "text/plain; charset=UTF-8" || r.header.Get("Cache-Control") != "no-store" {
				t.Errorf("headers %v", r.header)
			}
		}},
		{"E2 transport unknown", func(t *testing.T, f *fixture) {
			f.request("GET", "EIO=4", "").want(t, 400, errorBody(0, "Transport unknown"))
			f.request("GET", "EIO=4&transport=abc", "").want(t, 400, errorBody(0, "Transport unknown"))
			f.request("GET", "EIO=4&transport=webtransport", "").want(t, 400, errorBody(0, "Transport unknown"))
		}},
		{"E3 session unknown", func(t *testing.T, f *fixture) {
			f.request("GET", pollQuery+sid+"zzz", "").want(t, 400, errorBody(1, "Session ID unknown"))
			f.request("GET", pollQuery+sid+"__proto__", "").want(t, 400, errorBody(1, "Session ID unknown"))
		}},
		{"E4 bad method", func(t *testing.T, f *fixture) {
			for _, method := range []string{"POST", "PUT", "OPTIONS", "DELETE"} {
				f.request(method, pollQuery, "").want(t, 400, errorBody(2, "Bad handshake method"))
			}
			f.request("HEAD", pollQuery, "").want(t, 400, "")
			f.request("POST", pollQuery+sid, "").want(t, 400, errorBody(2, "Bad handshake method"))
		}},
		{"E5 websocket without upgrade", func(t *testing.T, f *fixture) {
			r := f.request("GET", "EIO=4&transport=websocket", "")
			r.want(t, 400, errorBody(3, "Bad request"))
			if r.header.Get("Content-Type") != "application/json" || r.header.Get("Cache-Control") != "" {
				t.Errorf("headers %v", r.header)
			}
		}},
		{"E6 version", func(t *testing.T, f *fixture) {
			for _, q := range []string{"", "EIO=3&", "EIO=5&", "EIO=abc&"} {
				f.request("GET", q+"transport=polling", "").want(t, 400, errorBody(5, "Unsupported protocol version"))
			}
		}},
		{"E7 connect", func(t *testing.T, f *fixture) {
			p := f.handshake()
			f.post(p.ID(), "40").want(t, 200, "ok")
			f.poll(p.ID()).want(t, 200, `40{"sid":"x"}`)
		}},
		{"E8 text", func(t *testing.T, f *fixture) {
			p := f.handshake()
			f.post(p.ID(), "42[\"message\",\"a\"]\x1e42[\"message\",\"é\"]").want(t, 200, "ok")
			r := f.poll(p.ID())
			r.want(t, 200, "42[\"message-back\",\"a\"]\x1e42[\"message-back\",\"é\"]")
			if r.header.Get("Content-Length") != "46" {
				t.Errorf("Content-Length %s", r.header.Get("Content-Length"))
			}
		}},
		{"E9 binary", func(t *testing.T, f *fixture) {
			p := f.handshake()
			f.post(p.ID(), "451-[\"message\",{\"_placeholder\":true,\"num\":0}]\x1ebAQIDBA==").want(t, 200, "ok")
			f.poll(p.ID()).want(t, 200, "451-[\"message-back\",{\"_placeholder\":true,\"num\":0}]\x1ebAQIDBA==")
		}},
		{"E10 no packet", func(t *testing.T, f *fixture) {
			p := f.handshake()
			f.post(p.ID(), "abc").want(t, 400, "")
			f.poll(p.ID()).want(t, 400, errorBody(1, "Session ID unknown"))
			p.wantReason(t, engineio.ParseError)
		}},
		{"E11 overlapping GET", func(t *testing.T, f *fixture) {
			p := f.handshake()
			first := f.hold(p)
			f.poll(p.ID()).want(t, 400, "")
			wait(t, first, "the first reply").want(t, 200, "1")
			p.wantReason(t, engineio.TransportError)
		}},
		{"E12 close by POST", func(t *testing.T, f *fixture) {
			p := f.handshake()
			held := f.hold(p)
			f.post(p.ID(), "1").want(t, 200, "ok")
			wait(t, held, "the reply").want(t, 200, "6")
			f.poll(p.ID()).want(t, 400, errorBody(1, "Session ID unknown"))
			p.wantReason(t, engineio.TransportClose)
		}},
		{"E13 ping from the client", func(t *testing.T, f *fixture) {
			w, p := f.wsHandshake()
			w.send("2")
			w.wantClose(0)
			p.wantReason(t, engineio.TransportError)
		}},
		{"E14 no packet on WebSocket", func(t *testing.T, f *fixture) {
			for _, text := range []string{"abc", ""} {
				w, p := f.wsHandshake()
				w.send(text)
				w.wantClose(0)
				p.wantReason(t, engineio.ParseError)
			}
		}},
		{"E15 largest message", func(t *testing.T, f *fixture) {
			w, p := f.wsHandshake()
			large := bytes.Repeat([]byte{'4'}, 1_000_000)
			w.frame(0x80|opText, true, large)
			if got := w.text(); got != string(large) {
				t.Fatalf("got %d bytes", len(got))
			}
			w.frame(0x80|opText, true, append(large, '4'))
			w.wantClose(1009)
			p.wantReason(t, engineio.TransportError)
		}},
		{"E16 upgrade", func(t *testing.T, f *fixture) {
			p := f.handshake()
			held := f.hold(p)
			w := f.probe(p)
			w.send("2probe")
			w.want("3probe")
			start := time.Now()
			wait(t, held, "the noop").want(t, 200, "6")
			if took := time.Since(start); took < 50*time.Millisecond {
				t.Errorf("the noop came after %v", took)
			}
			p.send("1")
			w.send("5")
			w.want("41")
			p.send("2")
			w.want("42")
			f.poll(p.ID()).want(t, 400, errorBody(3, "Bad request"))
			if p.Transport() != engineio.WebSocket {
				t.Errorf("transport %s", p.Transport())
			}
		}},
		{"E17 second upgrade", func(t *testing.T, f *fixture) {
			p := f.handshake()
			w := f.probe(p)
			w.send("2probe")
			w.want("3probe")
			second := f.probe(p)
			second.wantClose(0)
			w.send("5")
			w.send("4hello")
			w.want("4hello")
			third := f.probe(p)
			third.wantClose(0)
			w.send("4still")
			w.want("4still")
		}},
		{"E18 probe that is none", func(t *testing.T, f *fixture) {
			p := f.handshake()
			w := f.probe(p)
			w.send("4hello")
			w.wantClose(0)
			f.post(p.ID(), "4alive").want(t, 200, "ok")
			f.poll(p.ID()).want(t, 200, "4alive")
			again := f.upgrade(p)
			again.send("4upgraded")
			again.want("4upgraded")
		}},
		{"E20 base64 on WebSocket", func(t *testing.T, f *fixture) {
			w, p := f.wsHandshake("&b64=1")
			text := `52-["bin",{"_placeholder":true,"num":0},{"a":{"_placeholder":true,"num":1}}]`
			p.Enqueue(engineio.NewMessage([]byte(text), []byte{1, 2, 3}, []byte{4}), 0)
			p.Flush()
			w.want("4" + text)
			w.want("bAQID")
			w.want("bBA==")
		}},
	}
	for _, v := range vectors {
		t.Run(v.name, func(t *testing.T) { v.test(t, start(t, engineio.Options{}, configureFor(v.name)...)) })
	}
}

func configureFor(name string) []func(*fixture) {
	switch name[:2] {
	case "E7", "E8", "E9":
		return []func(*fixture){socketIO()}
	}
	return nil
}

// E19 is about time, so it has a bubble of its own.
func TestVectorE19(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, dial, stop := startPipe(t, engineio.Options{PingInterval: 300 * time.Millisecond, PingTimeout: 200 * time.Millisecond})
		defer stop()
		w := dial("EIO=4&transport=websocket")
		sidOf(t, w.text())
		begin := time.Now()
		w.want("2")
		if at := time.Since(begin); at != 300*time.Millisecond {
			t.Errorf("ping at %v", at)
		}
		w.wantClose(0)
		if at := time.Since(begin); at != 500*time.Millisecond {
			t.Errorf("closed at %v", at)
		}
		w.conn.Close()
		f.peer().wantReason(t, engineio.PingTimeout)
	})
}

package engineio

import (
	"bytes"
	"net"
	"testing"
	"time"
)

func TestMessageForms(t *testing.T) {
	tests := []struct {
		name                   string
		message                *Message
		frames, packets, plain string
	}{
		{"text", NewMessage([]byte("hi")), "\x81\x034hi", "4hi", "\x81\x034hi"},
		{"no text", NewMessage(nil), "\x81\x014", "4", "\x81\x014"},
		{"binary", NewBinary([]byte{1, 2, 3, 4}), "\x82\x04\x01\x02\x03\x04", "bAQIDBA==", "\x81\x09bAQIDBA=="},
		{"attachments", NewMessage([]byte("x"), []byte{1}, nil), "\x81\x024x\x82\x01\x01\x82\x00", "4x\x1ebAQ==\x1eb", "\x81\x024x\x81\x05bAQ==\x81\x01b"},
		{"ping", newPacket('2', ""), "\x81\x012", "2", "\x81\x012"},
		{"raw", newRaw([]byte("raw")), "raw", "", "raw"},
	}
	for _, tt := range tests {
		for range 2 { // forms that are built when first needed stay the same
			if got := tt.message.frames; string(got) != tt.frames {
				t.Errorf("%s: frames %q, want %q", tt.name, got, tt.frames)
			}
			if got := tt.message.packets(); string(got) != tt.packets {
				t.Errorf("%s: packets %q, want %q", tt.name, got, tt.packets)
			}
			if got := tt.message.textFrames(); string(got) != tt.plain {
				t.Errorf("%s: text frames %q, want %q", tt.name, got, tt.plain)
			}
		}
		if tt.message.Size() != len(tt.frames) || cap(tt.message.frames) != len(tt.frames) {
			t.Errorf("%s: size %d, capacity %d, want %d", tt.name, tt.message.Size(), cap(tt.message.frames), len(tt.frames))
		}
	}
}

func TestMessageCopiesItsInput(t *testing.T) {
	text, attachment := []byte("abc"), []byte("def")
	m := NewMessage(text, attachment)
	copy(text, "xxx")
	copy(attachment, "xxx")
	if string(m.frames) != "\x81\x044abc\x82\x03def" {
		t.Errorf("frames %q", m.frames)
	}
}

func TestHeaders(t *testing.T) {
	for _, n := range []int{0, 125, 126, 65535, 65536} {
		if h := appendHeader(nil, frameText, n); len(h) != headerLen(n) {
			t.Errorf("%d: header %x", n, h)
		}
	}
	if h := appendHeader(nil, frameBinary, 65536); !bytes.Equal(h, []byte{0x82, 127, 0, 0, 0, 0, 0, 1, 0, 0}) {
		t.Errorf("header %x", h)
	}
}

func TestOutboxKeepsNoMessages(t *testing.T) {
	var o outbox
	m := NewMessage([]byte("a"))
	for range 600 {
		o.add(m, 0)
	}
	if o.bytes != 600*m.Size() {
		t.Errorf("%d bytes", o.bytes)
	}
	if o.inline[0].message != nil {
		t.Error("the inline queue keeps a message that has moved")
	}
	o.drop(550)
	for _, e := range o.queue[:600][50:] {
		if e.message != nil {
			t.Fatal("the queue keeps a message that is gone")
		}
	}
	o.drop(50)
	if o.queue != nil || o.bytes != 0 {
		t.Errorf("capacity %d, %d bytes", cap(o.queue), o.bytes)
	}
	o.add(m, 0)
	if cap(o.queue) != len(o.inline) {
		t.Errorf("capacity %d", cap(o.queue))
	}
}

// tcpConn returns a connection on WebSocket whose handshake has been left out, and its client's end.
func tcpConn(t *testing.T) (*Conn, net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	client, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	s, err := NewServer(Options{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	c := &Conn{server: s, handshake: new(Handshake), timer: time.NewTimer(time.Hour)}
	raw := rawConn(conn)
	c.ws = &socket{Conn: conn, conn: c, raw: raw, fd: descriptor(raw)}
	c.out = &c.ws.out
	s.work.Add(1)
	return c, client
}

func TestFailedWriteEndsTheConnection(t *testing.T) {
	for _, blocking := range []bool{false, true} {
		c, _ := tcpConn(t)
		closed := make(closedReceiver, 1)
		c.receiver = closed
		if blocking {
			c.ws.raw = nil
		}
		_ = c.ws.Conn.(*net.TCPConn).CloseWrite()
		c.Enqueue(NewMessage([]byte("a")), 0)
		c.Flush()
		if reason := <-closed; reason != TransportClose {
			t.Errorf("closed with %q", reason)
		}
		c.server.work.Wait()
		if c.Enqueue(NewMessage([]byte("a")), 0) || len(c.server.leaving) != 0 {
			t.Error("it is not over")
		}
	}
}

type closedReceiver chan Reason

func (closedReceiver) Receive([]byte, bool)   {}
func (c closedReceiver) Closed(reason Reason) { c <- reason }

// FuzzSent checks that messages that are written in pieces of any size arrive whole.
func FuzzSent(f *testing.F) {
	f.Add([]byte{1, 2, 3}, uint8(3))
	f.Add([]byte{0, 200, 7}, uint8(40))
	f.Fuzz(func(t *testing.T, pieces []byte, n uint8) {
		k := &socket{conn: &Conn{server: &Server{}}}
		var want, got []byte
		for i := range int(n) {
			m := NewMessage(bytes.Repeat([]byte{byte(i)}, i*7%300))
			want = append(want, m.frames...)
			k.out.add(m, 0)
		}
		scratch := make([]byte, 0, 256)
		for i := 0; !k.out.empty(); i++ {
			p := k.gatherLocked(scratch)
			size := len(p)
			if len(pieces) > 0 {
				size = min(size, 1+int(pieces[i%len(pieces)]))
			}
			got = append(got, p[:size]...)
			k.sentLocked(size)
		}
		if !bytes.Equal(got, want) || k.out.bytes != 0 || k.out.sent != 0 {
			t.Fatalf("got %d bytes, want %d; left: %d bytes, %d sent", len(got), len(want), k.out.bytes, k.out.sent)
		}
	})
}

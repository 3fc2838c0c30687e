// Command gws is the bare limit that the benchmarks compare with: it moves the frames that Parley moves, and
// does nothing else. There is a map from user to connections, no store, no rooms, no heartbeat. The frames of
// the reference clients are taken apart by searching bytes, so it serves the load generator and nobody else.
//
// Each frame is one direct write by the goroutine that read the message. With HANDOFF=1 a message is first
// handed to one of as many goroutines as there are cores.
package main

import (
	"bytes"
	"cmp"
	"crypto/rand"
	"encoding/hex"
	"log"
	"net/http"
	"os"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/lxzan/gws"
)

// user has all connections of one user and the number of their last message.
type user struct {
	id    string
	mu    sync.RWMutex
	conns []*gws.Conn
	seq   atomic.Uint64
}

// device is what a connection is: the leanest gws.SessionStorage there can be. Its reader alone writes it.
type device struct {
	gws.SessionStorage // none
	id                 string
	worker             chan job
	user               *user // nil until it joined
	serve              func(s *server, c *gws.Conn, d *device, packet []byte)
}

type server struct {
	gws.BuiltinEventHandler
	users     sync.Map // id -> *user
	next      atomic.Uint64
	work      []chan job
	everybody *user // with APP=broadcast, whose connections are all
}

type job struct {
	c      *gws.Conn
	d      *device
	packet *gws.Message
}

func main() {
	s := &server{}
	if os.Getenv("APP") == "broadcast" {
		s.everybody = &user{}
	}
	if os.Getenv("HANDOFF") != "" {
		for range runtime.GOMAXPROCS(0) {
			work := make(chan job, 1024)
			s.work = append(s.work, work)
			go func() {
				for j := range work {
					j.d.serve(s, j.c, j.d, j.packet.Bytes())
					_ = j.packet.Close()
				}
			}()
		}
	}
	upgrader := gws.NewUpgrader(s, &gws.ServerOption{NewSession: func() gws.SessionStorage { return new(device) }})
	handler := func(w http.ResponseWriter, r *http.Request) {
		c, err := upgrader.Upgrade(w, r)
		if err != nil {
			return
		}
		c.Session().(*device).id = r.URL.Query().Get("id")
		send(c, []byte(`0{"sid":"0123456789abcdefghij","upgrades":[],"pingInterval":25000,"pingTimeout":20000,"maxPayload":1000000}`))
		go c.ReadLoop() // not here, where it would keep net/http's buffers
	}
	listen := http.Server{
		Addr: "127.0.0.1:" + cmp.Or(os.Getenv("PORT"), "3000"), Handler: http.HandlerFunc(handler), ReadHeaderTimeout: 10 * time.Second,
	}
	log.Fatal(listen.ListenAndServe())
}

func send(c *gws.Conn, packet []byte) { _ = c.WriteMessage(gws.OpcodeText, packet) } // a closed one is noticed by its reader

// OnMessage implements gws.Event.
func (s *server) OnMessage(c *gws.Conn, m *gws.Message) {
	packet, d := m.Bytes(), c.Session().(*device)
	switch {
	case d.user == nil:
		s.join(c, d, packet)
	case packet[0] == '4' && d.worker != nil:
		d.worker <- job{c, d, m}
		return
	case packet[0] == '4':
		d.serve(s, c, d, packet)
	}
	_ = m.Close()
}

// OnClose implements gws.Event.
func (s *server) OnClose(c *gws.Conn, _ error) {
	u := c.Session().(*device).user
	if u == nil {
		return
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	for i, other := range u.conns {
		if other == c {
			u.conns = append(u.conns[:i:i], u.conns[i+1:]...)
			return
		}
	}
}

// join lets a connection in, as chat or as notify.
func (s *server) join(c *gws.Conn, d *device, packet []byte) {
	namespace, serve := "", (*server).chat
	id := string(between(packet, `"sessionID":"`))
	if bytes.HasPrefix(packet, []byte("40/socket,")) {
		namespace, serve, id = "/socket,", (*server).notify, d.id
	}
	if id == "" {
		var random [8]byte
		_, _ = rand.Read(random[:]) // never fails
		id = hex.EncodeToString(random[:])
	}
	if s.everybody != nil {
		d.user, d.serve = s.everybody, (*server).broadcast
	} else {
		found, _ := s.users.LoadOrStore(id, &user{id: id})
		d.user, d.serve = found.(*user), serve
	}
	d.user.mu.Lock()
	d.user.conns = append(d.user.conns, c)
	d.user.mu.Unlock()
	if len(s.work) > 0 { // one worker for all of a connection's messages, which keeps their order
		d.worker = s.work[s.next.Add(1)%uint64(len(s.work))]
	}
	send(c, []byte("40"+namespace+`{"sid":"0123456789abcdefghij","pid":"0123456789abcdefghij"}`))
	if namespace == "" && s.everybody == nil {
		send(c, []byte(`42["session",{"sessionID":"`+id+`","userID":"`+id+`"}]`))
		send(c, []byte(`42["users",[],"0-0"]`))
	}
}

// between returns what is between a mark and the next quote.
func between(b []byte, mark string) []byte {
	i := bytes.Index(b, []byte(mark))
	if i < 0 {
		return nil
	}
	b = b[i+len(mark):]
	return b[:max(bytes.IndexByte(b, '"'), 0)]
}

// ackID returns the digits between the packet's type and its payload.
func ackID(packet []byte) []byte { return packet[2:bytes.IndexByte(packet, '[')] }

// chat serves 42["private message",{"content":…,"to":"…"}].
func (s *server) chat(c *gws.Conn, d *device, packet []byte) {
	start := bytes.Index(packet, []byte(`"content":`)) + len(`"content":`)
	end := bytes.LastIndex(packet, []byte(`,"to":"`))
	if end < start {
		return
	}
	found, ok := s.users.Load(string(between(packet[end:], `"to":"`)))
	if !ok {
		return
	}
	to := found.(*user)
	content, at, id := packet[start:end], time.Now().UnixMilli(), s.next.Add(1)
	seq := s.deliver(to, nil, d.user, to, content, at, id)
	if d.user != to {
		seq = s.deliver(d.user, c, d.user, to, content, at, id)
	}
	if ack := ackID(packet); len(ack) > 0 {
		b := make([]byte, 0, 96)
		b = append(append(append(b, "43"...), ack...), `[{"id":"`...)
		b = strconv.AppendUint(appendID(b, id), seq, 10)
		b = append(strconv.AppendInt(append(b, `,"at":`...), at, 10), "}]"...)
		send(c, b)
	}
}

// appendID appends an id of 20 digits and what follows up to the number.
func appendID(b []byte, id uint64) []byte {
	b = strconv.AppendUint(b, 1e19+id, 10)
	return append(b, `","seq":`...)
}

// deliver writes a message to all connections of a user but one, and returns its number there.
func (s *server) deliver(u *user, except *gws.Conn, from, to *user, content []byte, at int64, id uint64) uint64 {
	seq := u.seq.Add(1)
	b := make([]byte, 0, 192+len(content))
	b = append(append(b, `42["private message",{"content":`...), content...)
	b = append(append(b, `,"from":"`...), from.id...)
	b = append(append(b, `","to":"`...), to.id...)
	b = strconv.AppendUint(appendID(append(b, `","id":"`...), id), seq, 10)
	b = append(strconv.AppendInt(append(b, `,"at":`...), at, 10), `},"dn0qn6wyhteg-`...)
	b = append(strconv.AppendUint(b, seq, 10), `"]`...)
	u.send(b, except)
	return seq
}

func (u *user) send(packet []byte, except *gws.Conn) {
	u.mu.RLock()
	defer u.mu.RUnlock()
	for _, c := range u.conns {
		if c != except {
			send(c, packet)
		}
	}
}

package redisfan

import (
	"context"
	"encoding/hex"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"

	"parley/fanout"
	"parley/fanout/redis/wire"
	"parley/metrics"
	"parley/shard"
	"parley/socketio/packet"
)

func all(namespace string) shard.Selector { return shard.Selector{Namespace: namespace} }

func TestRoomsOfOtherProcesses(t *testing.T) {
	_, a, b := two(t)
	here, there, spared := a.connect("/", "here", "r"), b.connect("/", "there", "r"), b.connect("/", "spared", "r")
	sel := shard.Selector{Namespace: "/", Rooms: []string{"r"}, Except: []string{"spared"}}
	must(t, a.Join(context.Background(), sel, []string{"x", "y"}))
	want := []string{"r", "x", "y"}
	eventually(t, "joined", func() bool {
		return slices.Equal(sorted(there.rooms()), sorted(append(want, "there"))) && slices.Equal(sorted(here.rooms()), sorted([]string{"r", "x", "y", "here"}))
	})
	if slices.Contains(spared.rooms(), "x") {
		t.Error("an excepted socket joined")
	}
	must(t, a.Leave(context.Background(), sel, []string{"r", "x"}))
	eventually(t, "left", func() bool { return slices.Equal(sorted(there.rooms()), []string{"there", "y"}) })
}

func TestSocketsOfOtherProcessesAreDisconnected(t *testing.T) {
	_, a, b := two(t)
	here, there := a.connect("/", "here", "r"), b.connect("/", "there", "r")
	must(t, a.Disconnect(context.Background(), shard.Selector{Namespace: "/", Rooms: []string{"r"}}, true))
	for _, d := range []*device{here, there} {
		eventually(t, "disconnected", func() bool {
			d.mu.Lock()
			defer d.mu.Unlock()
			return slices.Equal(d.ended, []bool{true})
		})
	}
}

func TestFetchAsksEveryProcess(t *testing.T) {
	mr, a, b := two(t)
	c := newServer(t, mr.Addr())
	a.connect("/", "one", "r")
	b.connect("/", "two", "r")
	c.connect("/", "three", "r")
	c.connect("/", "four")
	found, err := a.Fetch(bounded(t), shard.Selector{Namespace: "/", Rooms: []string{"r"}, Except: []string{"one"}})
	must(t, err)
	var ids []string
	for _, s := range found {
		ids = append(ids, s.ID)
		if string(s.Data) != `{"n":1}` || string(s.Handshake) != `{"headers":{"a":"b"}}` || !slices.Equal(sorted(s.Rooms), sorted([]string{s.ID, "r"})) {
			t.Errorf("%+v", s)
		}
	}
	if !slices.Equal(sorted(ids), []string{"three", "two"}) {
		t.Errorf("found %v", ids)
	}
	ids, err = a.SocketIDs(bounded(t), "/", []string{"r"})
	must(t, err)
	if !slices.Equal(sorted(ids), []string{"one", "three", "two"}) {
		t.Errorf("socket ids %v", ids)
	}
	rooms, err := a.AllRooms(bounded(t), "/")
	must(t, err)
	if !slices.Equal(sorted(rooms), []string{"four", "one", "r", "three", "two"}) {
		t.Errorf("rooms %v", rooms)
	}
}

// A server that is counted but says nothing costs its own answer and no more.
func TestSilentServer(t *testing.T) {
	mr, a, b := two(t, func(o *Options) { o.RequestTimeout = 200 * time.Millisecond })
	newPeer(t, mr.Addr()).listen("socket.io-request#/#")
	a.connect("/", "one")
	b.connect("/", "two")
	found, err := a.Fetch(bounded(t), all("/"))
	if !errors.Is(err, ErrPartial) || len(found) != 2 {
		t.Errorf("found %v, %v", found, err)
	}
	if _, err := a.Fetch(bounded(t), all("/chat")); err != nil {
		t.Errorf("another namespace's request: %v", err)
	}
	answered := make(chan struct{})
	go func() {
		defer close(answered)
		next(t, b.host.events).ack(fanout.Answer{JSON: []byte(`"b"`)})
	}()
	answers, err := a.ServerSideEmitWithAck(bounded(t), "/", []byte(`["ping"]`), nil)
	if !errors.Is(err, ErrPartial) || len(answers) != 1 || string(answers[0].JSON) != `"b"` {
		t.Errorf("answers %v, %v", answers, err)
	}
	<-answered
}

func TestServerSideEvents(t *testing.T) {
	mr, a, b := two(t)
	c := newServer(t, mr.Addr())
	must(t, a.ServerSideEmit(context.Background(), "/chat", []byte(`["hello",1]`), nil))
	for _, s := range []*server{b, c} {
		if got := next(t, s.host.events); got.namespace != "/chat" || got.data != `["hello",1]` || got.ack != nil {
			t.Errorf("got %+v", got)
		}
	}
	results := make(chan []fanout.Answer, 1)
	go func() {
		answers, err := a.ServerSideEmitWithAck(bounded(t), "/", []byte(`["ping",{"_placeholder":true,"num":0}]`), [][]byte{{1}})
		if err != nil {
			t.Error(err)
		}
		results <- answers
	}()
	call := next(t, b.host.events)
	call.ack(fanout.Answer{JSON: []byte(`{"pong":1}`)})
	call.ack(fanout.Answer{JSON: []byte(`"again"`)})
	next(t, c.host.events).ack(fanout.Answer{JSON: []byte(`{"_placeholder":true,"num":0}`), Attachments: [][]byte{{7}}})
	answers := next(t, results)
	slices.SortFunc(answers, func(x, y fanout.Answer) int { return len(x.JSON) - len(y.JSON) })
	if len(answers) != 2 || string(answers[0].JSON) != `{"pong":1}` || len(answers[1].Attachments) != 1 || answers[1].Attachments[0][0] != 7 {
		t.Errorf("answers %+v", answers)
	}
	select {
	case got := <-a.host.events:
		t.Errorf("the sender got its own event: %+v", got)
	default:
	}
	if err := a.ServerSideEmit(context.Background(), "/", []byte(`["connection"]`), nil); !errors.Is(err, wire.ErrEvent) {
		t.Errorf("an event that Node servers keep for themselves: %v", err)
	}
}

// collector is what socketio gathers answers with.
type collector struct {
	visited  chan int
	expected chan int
	answers  chan string
	lost     chan struct{}
}

func newCollector() *collector {
	return &collector{make(chan int, 1), make(chan int, 100), make(chan string, 100), make(chan struct{}, 100)}
}

func (c *collector) Visit(n int)                         { c.visited <- n }
func (c *collector) Expect(n int)                        { c.expected <- n }
func (c *collector) Acknowledge(data []byte, _ [][]byte) { c.answers <- string(data) }
func (c *collector) Lost()                               { c.lost <- struct{}{} }

func ask(rooms []string, id uint64, acks shard.AckCollector) *shard.Envelope {
	e := event("/", rooms, nil, "q", 1)
	e.Text = packet.Append(nil, &packet.Packet{Type: packet.Event, ID: id, HasID: true, Data: []byte(`["q",1]`)})
	e.AckID, e.Acks = id, acks
	return e
}

func TestAcknowledgementsOfOtherProcesses(t *testing.T) {
	mr, a, b := two(t)
	c := newServer(t, mr.Addr())
	here, there, third := a.connect("/", "here", "r"), b.connect("/", "there", "r"), b.connect("/", "third", "r")
	c.connect("/", "elsewhere")
	acks := newCollector()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	must(t, a.Emit(ctx, ask([]string{"r"}, 42, acks)))

	visits := next(t, acks.visited)
	f := here.next()
	if f.text != `242["q",1]` {
		t.Errorf("the local socket got %s", f.text)
	}
	here.ack(f, `["here"]`)
	f = there.next()
	if f.text == `242["q",1]` {
		t.Error("a receiver took over the sender's acknowledgement id")
	}
	there.ack(f, `["there",2]`)
	third.ack(third.next(), `[]`)
	sockets := 0
	for range visits {
		sockets += next(t, acks.expected)
	}
	if sockets != 3 {
		t.Errorf("%d sockets are expected to answer", sockets)
	}
	got := []string{next(t, acks.answers), next(t, acks.answers), next(t, acks.answers)}
	if want := []string{`["here"]`, `["there"]`, `[]`}; !slices.Equal(sorted(got), sorted(want)) {
		t.Errorf("answers %v", got)
	}
	cancel()
	eventually(t, "the request is forgotten", func() bool { return !a.pending.any() })
	eventually(t, "nobody waits any more", func() bool { return b.answering.Load() == 0 })
}

func TestUnansweredAcknowledgementsAreForgotten(t *testing.T) {
	mr := miniredis.RunT(t)
	b := newServer(t, mr.Addr())
	there := b.connect("/", "there")
	r := &wire.Request{UID: "AbCd12", ID: "req001", Type: wire.BroadcastAck, Opts: &wire.Opts{Timeout: 50}}
	r.Event = wire.Event{Namespace: "/", Data: []byte(`["q"]`)}
	body, err := r.Encode()
	must(t, err)
	newPeer(t, mr.Addr()).publish("socket.io-request#/#", string(body))
	there.next()
	eventually(t, "forgotten", func() bool {
		pending := 0
		must(t, b.pool.Owner("there").Query(context.Background(), func(*shard.View) { pending = len(there.socket.Acks) }))
		return pending == 0 && b.answering.Load() == 0
	})
}

// What a Node server or an emitter sends is answered in their form (redis-adapter.md section 5, vectors).
func TestRequestsOfNodePeers(t *testing.T) {
	mr := miniredis.RunT(t)
	a := newServer(t, mr.Addr())
	p := newPeer(t, mr.Addr())
	heard := p.listen("socket.io-response#/#")
	s := a.connect("/", "S", "room1")
	response := func(want string) {
		t.Helper()
		if got := next(t, heard).Payload; got != want {
			t.Errorf("response %q, want %q", got, want)
		}
	}
	p.publish("socket.io-request#/#", `{"requestId":"req001","type":0,"rooms":["room1"]}`)
	response(`{"requestId":"req001","sockets":["S"]}`)
	p.publish("socket.io-request#/#", `{"uid":"AbCd12","requestId":"req002","type":1}`)
	response(`{"requestId":"req002","rooms":["S","room1"]}`)
	p.publish("socket.io-request#/#", `{"uid":"AbCd12","requestId":"req003","type":5,"opts":{"rooms":["room1"],"except":[]}}`)
	response(`{"requestId":"req003","sockets":[{"id":"S","handshake":{"headers":{"a":"b"}},"rooms":["S","room1"],"data":{"n":1}}]}`)
	p.publish("socket.io-request#/#", `{"uid":"AbCd12","type":2,"opts":{"rooms":["room1"],"except":[]},"rooms":["r2","r3"]}`)
	eventually(t, "joined", func() bool { return slices.Equal(sorted(s.rooms()), []string{"S", "r2", "r3", "room1"}) })
	p.publish("socket.io-request#/#", `{"type":3,"opts":{"rooms":["room1"],"except":[]},"rooms":["r3"]}`)
	eventually(t, "left", func() bool { return slices.Equal(sorted(s.rooms()), []string{"S", "r2", "room1"}) })
	p.publish("socket.io-request#/#", `{"requestId":"legacy","type":2,"sid":"S","room":"old"}`)
	eventually(t, "joined in the legacy form", func() bool { return slices.Contains(s.rooms(), "old") })
	response(`{"requestId":"legacy"}`)
	p.publish("socket.io-request#/#", `{"uid":"emitter","type":6,"data":["ping",1]}`)
	if call := next(t, a.host.events); call.data != `["ping",1]` || call.ack != nil {
		t.Errorf("got %+v", call)
	}
	p.publish("socket.io-request#/#", `{"uid":"AbCd12","requestId":"req005","type":6,"data":["ping",1]}`)
	next(t, a.host.events).ack(fanout.Answer{JSON: []byte(`{"pong":1}`)})
	response(`{"type":6,"requestId":"req005","data":{"pong":1}}`)

	type7, err := hex.DecodeString("85a3756964a6416243643132a9726571756573744964a6726571303034a47479706507a67061636b657483a47479706502a46461746192a17101a36e7370a12fa46f70747383a5726f6f6d7390a665786365707490a5666c61677381a774696d656f7574cd01f4")
	must(t, err)
	p.publish("socket.io-request#/#", string(type7))
	s.ack(s.next(), `["A",2]`)
	response(`{"type":8,"requestId":"req004","clientCount":1}`)
	response("\x83\xa4type\x09\xa9requestId\xa6req004\xa6packet\xa1A")
	p.publish("socket.io-request#/#", `{"uid":"AbCd12","type":4,"opts":{"rooms":["r2"],"except":[]},"close":false}`)
	eventually(t, "disconnected", func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return slices.Equal(s.ended, []bool{false})
	})
}

// Everything of redis-adapter.md section 8 and more is counted, and nothing else happens.
func TestMalformedMessagesAreCounted(t *testing.T) {
	mr, a, _ := two(t)
	p := newPeer(t, mr.Addr())
	d := a.connect("/", "S", "room1")
	uid := "\xa6AbCd12"
	good := "\x83\xa4type\x02\xa4data\x91\xa1x\xa3nsp\xa1/"
	opts := "\x83\xa5rooms\x90\xa6except\x90\xa5flags\x80"
	broadcasts := []string{
		"", "{}", `["AbCd12",{"type":2,"data":["x"]},{}]`, "\x93", "\x93" + uid, "\x93" + uid + good + opts + "\x00", "\x92" + uid + good,
		"\x93" + uid + good + "\xc0", "\x93" + uid + good + "\x81\xa5rooms\x05", "\x80", "\xc0", "\x93" + uid + "\xc0" + opts,
		"\x93" + uid + "\x83\xa4type\x02\xa4data\x91\xa1x\xa3nsp\xa2/x" + opts, "\x93" + uid + "\x82\xa4type\x02\xa3nsp\xa1/" + opts,
		"\x93" + uid + "\x83\xa4type\x01\xa4data\x91\xa1x\xa3nsp\xa1/" + opts, "\x93" + uid + "\x83\xa4type\x05\xa4data\x91\xa1x\xa3nsp\xa1/" + opts,
		"\x93" + uid + "\x83\xa4type\x02\xa4data\x91\xa7connect\xa3nsp\xa1/" + opts, "\x93" + uid + "\x83\xa4type\x02\xa4data\x91\xc0\xa3nsp\xa1/" + opts,
		"\x93" + uid + "\x83\xa4type\x02\xa4data\x91\xa1x\xa3nsp\xa5/chat" + opts, "\x93\xc0" + good + opts, "\xdd\xff\xff\xff\xff", "\xc1",
		"\x93" + uid + "\x83\xa4type\x02\xa4data\x92\xa1x" + strings.Repeat("\x91", 10000) + "\xc0\xa3nsp\xa1/" + opts,
	}
	for _, body := range broadcasts {
		p.publish("socket.io#/#", body)
	}
	requests := []string{
		"", "{", "null", "\xc0", "{}", `{"type":5}`, `{"type":7}`, `{"type":3,"opts":{}}`, `{"type":0}`, `{"type":2}`, `{"type":6}`, `{"type":99}`, `[]`,
		`{"type":6,"data":[]}`, `{"requestId":"a","type":7,"opts":{},"packet":{"type":2,"data":["x"],"nsp":"/chat"}}`,
	}
	for _, body := range requests {
		p.publish("socket.io-request#/#", body)
	}
	counted := func() (n float64) {
		for _, reason := range []string{
			"malformed", "trailing bytes", "nested too deep", "unexpected shape", "packet is no event", "bad event name", "unknown namespace", "wrong channel",
			"request: malformed", "request: trailing bytes", "request: unexpected shape", "request: unknown request type",
		} {
			n += a.metrics.Value(metrics.BusRejected, reason)
		}
		return n
	}
	eventually(t, "all are counted", func() bool { return counted() == float64(len(broadcasts)+len(requests)) })

	// Responses are looked at only while there is a request.
	p.listen("socket.io-request#/chat#")
	done := make(chan error, 1)
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		_, err := a.Fetch(ctx, all("/chat"))
		done <- err
	}()
	eventually(t, "a request is pending", a.pending.any)
	responses := []string{"", "{", "null", "\xc0", `{}`, `{"requestId":5}`, `{"requestId":"unknown","sockets":[]}`, `{"requestId":"a","sockets":[5]}`}
	for _, body := range responses {
		p.publish("socket.io-response#/#", body)
	}
	eventually(t, "responses are counted", func() bool {
		return a.metrics.Value(metrics.BusRejected, "response: malformed")+a.metrics.Value(metrics.BusRejected, "response: trailing bytes")+a.metrics.Value(metrics.BusRejected, "response: unexpected shape") == float64(len(responses)-1)
	})
	cancel()
	if err := next(t, done); !errors.Is(err, context.Canceled) {
		t.Errorf("a request that was given up: %v", err)
	}

	p.publish("socket.io#/#", "\x93"+uid+good+opts)
	d.expect(`2["x"]`)
	if n := a.metrics.Value(metrics.BusPanics, "message"); n > 0 {
		t.Errorf("%v panics", n)
	}
}

package redisfan

import (
	"bytes"
	"context"
	"encoding/hex"
	"fmt"
	"strings"
	"testing"

	"github.com/alicebob/miniredis/v2"

	"parley/engineio"
	"parley/fanout/redis/wire"
	"parley/metrics"
	"parley/shard"
	"parley/store"
)

func TestEventsReachOtherProcesses(t *testing.T) {
	mr, a, b := two(t)
	c := newServer(t, mr.Addr())
	ctx := context.Background()
	here, there, far := a.connect("/", "here", "r1"), b.connect("/", "there", "r1", "r2"), c.connect("/", "far")
	chat := b.connect("/chat", "chat", "r1")

	must(t, a.Emit(ctx, event("/", nil, nil, "all", 1)))
	must(t, a.Emit(ctx, event("/", []string{"r1"}, nil, "room", "é")))
	must(t, a.Emit(ctx, event("/", []string{"r1", "r2"}, nil, "two rooms")))
	must(t, a.Emit(ctx, event("/", []string{"r1"}, []string{"there"}, "except")))
	must(t, a.Emit(ctx, event("/", []string{"far"}, nil, "id")))
	must(t, a.Emit(ctx, event("/chat", []string{"r1"}, nil, "chat")))
	local := event("/", nil, nil, "local")
	local.Local = true
	must(t, a.Emit(ctx, local))
	must(t, a.Emit(ctx, event("/", nil, nil, "end")))
	must(t, a.Emit(ctx, event("/chat", nil, nil, "end")))

	here.expect(`2["all",1]`, `2["room","é"]`, `2["two rooms"]`, `2["except"]`, `2["local"]`, `2["end"]`)
	there.expect(`2["all",1]`, `2["room","é"]`, `2["two rooms"]`, `2["end"]`)
	far.expect(`2["all",1]`, `2["id"]`, `2["end"]`)
	chat.expect(`2/chat,["chat"]`, `2/chat,["end"]`)
}

func TestAttachmentsAndFlagsTravel(t *testing.T) {
	_, a, b := two(t)
	there := b.connect("/", "there")
	e := event("/", nil, nil, "bin", []byte{1, 2, 3}, map[string]any{"x": []byte{4}})
	e.Flags = engineio.Volatile | engineio.NoCompress
	must(t, a.Emit(context.Background(), e))
	got := there.next()
	if want := `52-["bin",{"_placeholder":true,"num":0},{"x":{"_placeholder":true,"num":1}}]`; got.text != want {
		t.Errorf("got %s", got.text)
	}
	if len(got.attachments) != 2 || !bytes.Equal(got.attachments[0], []byte{1, 2, 3}) || !bytes.Equal(got.attachments[1], []byte{4}) {
		t.Errorf("attachments %v", got.attachments)
	}
	if got.flags != engineio.Volatile|engineio.NoCompress {
		t.Errorf("flags %v", got.flags)
	}
}

// The bytes are those of a Node server, save the uid (redis-adapter.md section 4).
func TestPublishedBytes(t *testing.T) {
	mr, a, _ := two(t)
	heard := newPeer(t, mr.Addr()).listen("socket.io#/#", "socket.io#/#room1#", "socket.io#/chat#lobby#")
	tests := []struct {
		e             *shard.Envelope
		channel, want string
	}{
		{event("/", nil, nil, "hello", 1), "socket.io#/#",
			"93a641624364313283a47479706502a46461746192a568656c6c6f01a36e7370a12f83a5726f6f6d7390a665786365707490a5666c61677380"},
		{event("/", []string{"room1"}, nil, "hello", map[string]int{"a": 1}), "socket.io#/#room1#",
			"93a641624364313283a47479706502a46461746192a568656c6c6f81a16101a36e7370a12f83a5726f6f6d7391a5726f6f6d31a665786365707490a5666c61677380"},
		{event("/", []string{"room1", "room2"}, nil, "hello"), "socket.io#/#",
			"93a641624364313283a47479706502a46461746191a568656c6c6fa36e7370a12f83a5726f6f6d7392a5726f6f6d31a5726f6f6d32a665786365707490a5666c61677380"},
		{event("/chat", []string{"lobby"}, nil, "hello"), "socket.io#/chat#lobby#",
			"93a641624364313283a47479706502a46461746191a568656c6c6fa36e7370a52f6368617483a5726f6f6d7391a56c6f626279a665786365707490a5666c61677380"},
	}
	for _, tt := range tests {
		must(t, a.Emit(context.Background(), tt.e))
		m := next(t, heard)
		uid := a.spaces.get(tt.e.Namespace).uid
		got := strings.Replace(m.Payload, uid, "AbCd12", 1)
		if m.Channel != tt.channel || hex.EncodeToString([]byte(got)) != tt.want {
			t.Errorf("published %x on %s, want %s on %s", got, m.Channel, tt.want, tt.channel)
		}
		if len(uid) != 6 {
			t.Errorf("uid is %q", uid)
		}
	}
}

func TestHarmfulEventsStayHere(t *testing.T) {
	mr, a, _ := two(t)
	heard := newPeer(t, mr.Addr()).listen("socket.io#/#")
	here := a.connect("/", "here")
	for _, text := range []string{`2["disconnect"]`, `2`, `2[]`, `2[{}]`, `2["a"`, `1`} {
		must(t, a.Emit(context.Background(), &shard.Envelope{Selector: shard.Selector{Namespace: "/"}, Text: []byte(text)}))
	}
	must(t, a.Emit(context.Background(), event("/", nil, nil, "end")))
	if m := next(t, heard); !strings.Contains(m.Payload, "end") {
		t.Errorf("published %q", m.Payload)
	}
	for here.next().text != `2["end"]` {
	}
	if n := a.metrics.Value(metrics.BusRefused, "bad event name"); n < 3 {
		t.Errorf("%v refused events were counted", n)
	}
}

// An event of another process gets the offset that this process says it does.
func TestReceiverDecidesAboutOffsets(t *testing.T) {
	_, a, b := two(t)
	there := b.connect("/", "there")
	b.host.mode.Store(int32(shard.LogOffset))
	e := event("/", nil, nil, "x")
	e.Offset = shard.LogOffset
	must(t, a.Emit(context.Background(), e))
	if got := there.next().text; !strings.HasPrefix(got, `2["x","`) {
		t.Errorf("got %s", got)
	}
}

func TestMailReachesFollowersWithItsOffset(t *testing.T) {
	mr, a, b := two(t)
	ctx := context.Background()
	box := store.Box{App: "chat", User: "user"}
	b.pool.HandleMail("chat", noMail{})
	tab := b.connect("/", "tab", "user")
	plain := b.connect("/", "plain")
	_, err := b.pool.Owner("user").Follow(ctx, follower(b, tab, "user"), box, store.Offset{Epoch: 5, Seq: 6})
	must(t, err)
	heard := newPeer(t, mr.Addr()).listen("socket.io#/#user#")
	must(t, a.Deliver(ctx, shard.Mail{
		Box: box, Offset: store.Offset{Epoch: 5, Seq: 7}, Origin: "sender", Namespace: "/", Text: []byte(`2["private message",{"n":1}]`),
		Message: engineio.NewMessage([]byte(`2["private message",{"n":1},"5-7"]`)),
	}))
	m := next(t, heard)
	got, err := wire.Decoder{}.Broadcast(m.Payload)
	must(t, err)
	if string(got.Data) != `["private message",{"n":1}]` || fmt.Sprint(got.Rooms, got.Except) != "[user] [sender]" {
		t.Errorf("node peers get %s for %v except %v", got.Data, got.Rooms, got.Except)
	}
	must(t, a.Emit(ctx, event("/", nil, nil, "end")))
	tab.expect(`2["private message",{"n":1},"5-7"]`, `2["end"]`)
	plain.expect(`2["end"]`)
}

// Mail that the reader delivers by itself does not overtake what its sender published before, and is not overtaken.
func TestMailAndEventsOfOneSenderStayInOrder(t *testing.T) {
	for name, options := range map[string]func(*Options){
		"classic": func(o *Options) { o.Workers = 4 },
		"sharded": func(o *Options) { o.Workers = 4; useSharded(o) },
	} {
		t.Run(name, func(t *testing.T) {
			_, a, b := two(t, options)
			ctx := context.Background()
			box := store.Box{App: "chat", User: "user"}
			b.pool.HandleMail("chat", noMail{})
			there := b.connect("/", "there", "user")
			_, err := b.pool.Owner("user").Follow(ctx, follower(b, there, "user"), box, store.Offset{Epoch: 5})
			must(t, err)
			const n = 1000
			for i := range n {
				must(t, a.Deliver(ctx, shard.Mail{
					Box: box, Offset: store.Offset{Epoch: 5, Seq: uint64(i + 1)}, Namespace: "/", Text: fmt.Appendf(nil, `2["mail",%d]`, i),
					Message: engineio.NewMessage([]byte("not for others")),
				}))
				if i%7 == 0 {
					must(t, a.Emit(ctx, event("/", []string{"user"}, nil, "n", i)))
				}
				if i%100 == 99 { // mail goes to a reader that has nothing to do, and to one that has
					there.expectMail(i-99, i+1)
				}
			}
		})
	}
}

// expectMail checks that the device is sent what the test above sends.
func (d *device) expectMail(from, to int) {
	d.t.Helper()
	for i := from; i < to; i++ {
		d.expect(fmt.Sprintf(`2["mail",%d,"5-%d"]`, i, i+1))
		if i%7 == 0 {
			d.expect(fmt.Sprintf(`2["n",%d]`, i))
		}
	}
}

// What a message costs in memory on its way out, and in, beside what the client of Redis needs.
func TestAllocations(t *testing.T) {
	f := newServer(t, miniredis.RunT(t).Addr())
	mail := shard.Mail{
		Box: store.Box{App: "chat", User: "user"}, Offset: store.Offset{Epoch: 1763705145000000123, Seq: 7}, Origin: "0123456789abcdefghij",
		Namespace: "/", Text: []byte(`2["private message",{"content":"hello","from":"somebody","to":"user"}]`),
	}
	_, body, err := f.protocol.broadcast(f.broadcastOf(&mail))
	must(t, err)
	b, err := f.decoder.Broadcast(string(body))
	must(t, err)
	if got := testing.AllocsPerRun(1000, func() { _, _, _ = f.protocol.broadcast(f.broadcastOf(&mail)) }); got > 5 {
		t.Errorf("encoding mail allocates %v times", got)
	}
	if got := testing.AllocsPerRun(1000, func() { _ = mailOf(b) }); got > 3 {
		t.Errorf("making mail of a broadcast allocates %v times", got)
	}
	echo := string(body)
	if got := testing.AllocsPerRun(1000, func() { f.inbox.sort("socket.io#/#user#", echo, true) }); got > 0 {
		t.Errorf("an echo allocates %v times", got)
	}
}

type noMail struct{}

func (noMail) Mail(context.Context, store.Box, store.Offset, int) ([]shard.Mail, error) {
	return nil, nil
}

func TestOneSendersEventsStayInOrder(t *testing.T) {
	_, a, b := two(t, func(o *Options) { o.Workers = 4 })
	there := b.connect("/", "there", "r0", "r1", "r2")
	const n = 3000
	for i := range n {
		rooms := []string{fmt.Sprintf("r%d", i%3)}
		if i%5 == 0 {
			rooms = nil
		}
		must(t, a.Emit(context.Background(), event("/", rooms, nil, "n", i)))
	}
	for i := range n {
		there.expect(fmt.Sprintf(`2["n",%d]`, i))
	}
}

func TestRequestsAndEventsOfOneSenderStayInOrder(t *testing.T) {
	_, a, b := two(t, func(o *Options) { o.Workers = 4 })
	there := b.connect("/", "there", "r")
	ctx := context.Background()
	for i := range 100 {
		must(t, a.Leave(ctx, shard.Selector{Namespace: "/", Rooms: []string{"there"}}, []string{"r"}))
		must(t, a.Emit(ctx, event("/", []string{"r", "nobody"}, nil, "not for you", i)))
		must(t, a.Join(ctx, shard.Selector{Namespace: "/", Rooms: []string{"there"}}, []string{"r"}))
		must(t, a.Emit(ctx, event("/", []string{"r", "nobody"}, nil, "n", i)))
	}
	for i := range 100 {
		there.expect(fmt.Sprintf(`2["n",%d]`, i))
	}
}

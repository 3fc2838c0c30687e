package redisfan

import (
	"context"
	"encoding/binary"
	"fmt"
	"strings"
	"testing"

	"parley/engineio"
	"parley/shard"
	"parley/store"
)

// mailAt returns mail whose event has its number in it, so many times.
func mailAt(times int) func(store.Offset) shard.Mail {
	return func(at store.Offset) shard.Mail {
		text := `2["private message"` + strings.Repeat(fmt.Sprintf(`,{"seq":%d,"n":"`+"\u00cf"+`"}`, at.Seq), times) + "]"
		return shard.Mail{
			Box: store.Box{App: "chat", User: "user"}, Offset: at, Origin: "sender", Namespace: "/", Text: []byte(text),
			Message: engineio.NewMessage([]byte(text[:len(text)-1] + `,"` + at.String() + `"]`)),
		}
	}
}

// TestAnnouncement checks that a message which the store completes is what Deliver sends.
func TestAnnouncement(t *testing.T) {
	mr, a, b := two(t)
	ctx := context.Background()
	b.pool.HandleMail("chat", noMail{})
	tab := b.connect("/", "tab", "user")
	_, err := b.pool.Owner("user").Follow(ctx, follower(b, tab, "user"), store.Box{App: "chat", User: "user"}, store.Offset{Epoch: 5, Seq: 6})
	must(t, err)
	m := a.Announcement(mailAt(1))
	if m == nil || m.Channel != "socket.io#/#user#" {
		t.Fatalf("got %+v", m)
	}
	number := func(n uint64) string { return string(binary.BigEndian.AppendUint64([]byte{0xcf}, n)) }
	newPeer(t, mr.Addr()).publish(m.Channel, m.Parts[0]+number(7)+m.Parts[1]+number(5)+m.Parts[2]+number(7)+m.Parts[3])
	tab.expect(`2["private message",{"seq":7,"n":"Ï"},"5-7"]`)
	must(t, a.Deliver(ctx, mailAt(1)(store.Offset{Epoch: 5, Seq: 8})))
	tab.expect(`2["private message",{"seq":8,"n":"Ï"},"5-8"]`)
}

// TestNoAnnouncement checks for what Deliver has to be used.
func TestNoAnnouncement(t *testing.T) {
	mr, a, _ := two(t)
	for what, mail := range map[string]func(store.Offset) shard.Mail{
		"not for others":     func(store.Offset) shard.Mail { return shard.Mail{} },
		"without the number": mailAt(0),
		"with several":       mailAt(2),
		"with it as a text": func(at store.Offset) shard.Mail {
			m := mailAt(1)(at)
			m.Text = append(m.Text[:len(m.Text)-1], `,"`+at.String()+`"]`...)
			return m
		},
		"that no client gets": func(store.Offset) shard.Mail { return shard.Mail{Namespace: "/", Text: []byte(`2[]`)} },
	} {
		if m := a.Announcement(mail); m != nil {
			t.Errorf("%s: %+v", what, m)
		}
	}
	if m := a.Announcement(mailAt(1)); m == nil {
		t.Error("none for an event with its number")
	}
	// What waits to be published must not be overtaken.
	mr.SetError("LOADING")
	must(t, a.Emit(context.Background(), event("/", []string{"room"}, nil, "before")))
	if m := a.Announcement(mailAt(1)); m != nil {
		t.Error("one that overtakes what was emitted before")
	}
	mr.SetError("")
	eventually(t, "nothing waits", func() bool { return a.Announcement(mailAt(1)) != nil })
}

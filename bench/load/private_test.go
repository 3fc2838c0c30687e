//go:build linux

package load

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

// three returns a traffic of three users with two devices, of whom user 0's first device has written two
// messages to user 1, who is its only partner.
func three(t *testing.T) *Private {
	l, err := NewLoop()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.CloseAll)
	p := &Private{Users: 3, Devices: 2, Partners: 1, ContentBytes: 20, Acks: true}
	p.Prepare(l, 1)
	for i := range p.conns {
		p.conns[i] = &Conn{User: int32(i / 2), Device: int8(i % 2), state: closed}
	}
	for i := range p.ids {
		p.ids[i] = fmt.Sprintf("%016d", i)
	}
	p.partners[0] = 1
	p.send(0, 0)
	p.send(0, 0)
	return p
}

func text(m, from, to int) []byte {
	return fmt.Appendf(nil, `42["private message",{"content":"%sxxxxxxxxxxxx","from":"%016d","to":"%016d","id":"x","seq":1},"1-1"]`,
		appendNumber(nil, uint32(m)), from, to)
}

func ackOf(m int) []byte { return fmt.Appendf(nil, `43%s[{}]`, appendNumber(nil, uint32(m))) }

// The devices that are to get a message of connection 0 to user 1 are 1, 2 and 3.
func TestPrivateAcceptsWhatIsRight(t *testing.T) {
	p := three(t)
	for _, m := range []int{1, 2} {
		for _, conn := range []int{2, 1, 3} {
			if err := p.receive(p.conns[conn], text(m, 0, 1)); err != nil {
				t.Fatal(err)
			}
		}
		if err := p.receive(p.conns[0], ackOf(m)); err != nil {
			t.Fatal(err)
		}
	}
	if p.Sent != 2 || p.Done != 2 || p.Delivered != 6 || p.Latency.Count() != 6 || p.AckLatency.Count() != 2 {
		t.Errorf("sent %d, done %d, delivered %d", p.Sent, p.Done, p.Delivered)
	}
	if err := p.Drain(0); err != nil {
		t.Error(err)
	}
}

func TestPrivateCatches(t *testing.T) {
	type got struct {
		conn   int
		packet []byte
	}
	altered := text(1, 0, 1)
	altered[len(privatePrefix)+19] = 'y'
	for name, c := range map[string]struct {
		want string
		got  []got
	}{
		"double":               {"twice", []got{{2, text(1, 0, 1)}, {2, text(1, 0, 1)}}},
		"order":                {"before the one before it", []got{{2, text(2, 0, 1)}}},
		"another user":         {"wrong recipient", []got{{4, text(1, 0, 1)}}},
		"the sending device":   {"wrong recipient", []got{{0, text(1, 0, 1)}}},
		"never sent":           {"never sent", []got{{2, text(3, 0, 1)}}},
		"altered":              {"altered", []got{{2, altered}}},
		"another sender":       {"altered", []got{{2, text(1, 2, 1)}}},
		"cut short":            {"altered", []got{{2, text(1, 0, 1)[:50]}}},
		"second ack":           {"acknowledged twice", []got{{0, ackOf(1)}, {0, ackOf(1)}}},
		"ack of another's":     {"acknowledgement of nothing", []got{{2, ackOf(1)}}},
		"ack of what was not":  {"acknowledgement of nothing", []got{{0, ackOf(9)}}},
		"refusal":              {"refused", []got{{0, fmt.Appendf(nil, `43%s[{"error":{}}]`, appendNumber(nil, 1))}}},
		"order on one's other": {"before the one before it", []got{{1, text(2, 0, 1)}}},
	} {
		t.Run(name, func(t *testing.T) {
			p := three(t)
			var err error
			for i, g := range c.got {
				if err != nil {
					t.Fatalf("packet %d: %v", i, err)
				}
				err = p.receive(p.conns[g.conn], g.packet)
			}
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want one that says %q", err, c.want)
			}
		})
	}
}

func TestPrivateMissesWhatIsLost(t *testing.T) {
	p := three(t)
	for _, conn := range []int{1, 2, 3} {
		if err := p.receive(p.conns[conn], text(1, 0, 1)); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.Drain(time.Millisecond); !errors.Is(err, errLost) {
		t.Errorf("an acknowledgement and a message are missing, but the error is %v", err)
	}
}

// What Acquaint has not sent yet goes out as messages are done, each way once.
func TestPrivateAcquaintsAll(t *testing.T) {
	p := three(t)
	p.messages, p.last = p.messages[:1], make([]uint32, len(p.last))
	if err := p.Acquaint(1, 0); !errors.Is(err, errLost) {
		t.Fatalf("nobody answered: %v", err)
	}
	p.unused = []int{4, 0} // what is left while the first message is on its way
	for m := 1; m <= 3; m++ {
		if len(p.messages) != m+1 {
			t.Fatalf("%d messages, want %d", len(p.messages)-1, m)
		}
		msg := &p.messages[m]
		from, to := int(msg.sender), int(msg.to)
		for _, conn := range []int{from ^ 1, 2 * to, 2*to + 1} {
			if err := p.receive(p.conns[conn], text(m, from/2, to)); err != nil {
				t.Fatal(err)
			}
		}
		if err := p.receive(p.conns[from], ackOf(m)); err != nil {
			t.Fatal(err)
		}
	}
	if len(p.messages) != 4 || p.messages[2].sender != 0 || p.messages[3].sender != 4 || len(p.unused) > 0 {
		t.Errorf("%d messages, by %d and %d", len(p.messages)-1, p.messages[2].sender, p.messages[3].sender)
	}
}

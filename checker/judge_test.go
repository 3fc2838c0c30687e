package main

import (
	"slices"
	"strings"
	"testing"
)

// The messages of the hand-made history. Alice has two devices, Bob one.
var (
	one   = Message{ID: "m1", From: "alice", To: "bob", Content: "one", At: 11}
	two   = Message{ID: "m2", From: "bob", To: "alice", Content: "two", At: 12}
	three = Message{ID: "m3", From: "alice", To: "alice", Content: "three", At: 13}
	four  = Message{ID: "m4", From: "alice", To: "bob", Content: "four", At: 14}
)

func sent(m Message, seq uint64) *Send {
	return &Send{ID: m.ID, From: m.From, To: m.To, Content: m.Content, Acked: true, Seq: seq, At: m.At}
}

func live(seq uint64, m Message) Step { return Live{given(seq, m)} }

// goodHistory is one in which all is well, with what looks suspicious and is not.
func goodHistory() *History {
	return &History{
		Devices: []*DeviceHistory{
			{
				Name: "alice.0", User: "alice",
				Sends: map[string]*Send{"m1": sent(one, 1), "m4": sent(four, 4)},
				Steps: []Step{
					Connected{SID: "s1"}, Snapshot{},
					Tried{"m1", "s1"}, Acked{"m1", 1, 11},
					live(2, two),
					Connected{SID: "s1", Recovered: true}, live(3, three), Snapshot{Tail: 3},
					// The first try was stored, but the connection broke before the ack. The new socket is not
					// the one that sent it, and gets it.
					Tried{"m4", "s1"}, Connected{SID: "s5"}, Snapshot{Tail: 3}, live(4, four),
					Tried{"m4", "s5"}, Acked{"m4", 4, 14}, Acked{"m4", 4, 14},
				},
			},
			{
				Name: "alice.1", User: "alice",
				Sends: map[string]*Send{"m3": sent(three, 3)},
				Steps: []Step{
					Connected{SID: "s2"}, Snapshot{},
					live(1, one),
					Tried{"m3", "s2"}, Acked{"m3", 3, 13},
					// A new connection whose roster has the newest messages only.
					Connected{SID: "s3"}, Snapshot{Tail: 4, Messages: []Given{given(4, four)}},
					Page{[]Given{given(1, one), given(2, two)}},
				},
			},
			{
				Name: "bob.0", User: "bob",
				Sends: map[string]*Send{"m2": sent(two, 2)},
				Steps: []Step{
					// The roster of the first connection was lost with it, the recovered one's is the first to come.
					Connected{SID: "s4"}, Connected{SID: "s4", Recovered: true},
					Snapshot{Tail: 1, Messages: []Given{given(1, one)}},
					Tried{"m2", "s4"},
					// What it sent itself is left out, acked or not yet.
					live(3, four), Acked{"m2", 2, 12},
					Connected{SID: "s4", Recovered: true},
					Snapshot{Tail: 3, Messages: []Given{given(1, one), given(2, two), given(3, four)}},
				},
			},
		},
		Mailboxes: map[string][]Given{
			"alice": {given(1, one), given(2, two), given(3, three), given(4, four)},
			"bob":   {given(1, one), given(2, two), given(3, four)},
		},
	}
}

func TestJudgeFindsNothing(t *testing.T) {
	if found := judge(goodHistory()); len(found) > 0 {
		t.Errorf("found %v", found)
	}
}

// remove takes the i-th step out of a device's history.
func (d *DeviceHistory) remove(i int) { d.Steps = slices.Delete(d.Steps, i, i+1) }

// insert puts steps before the i-th.
func (d *DeviceHistory) insert(i int, steps ...Step) { d.Steps = slices.Insert(d.Steps, i, steps...) }

func TestJudgeFinds(t *testing.T) {
	changed := func(m Message, change func(*Message)) Message {
		change(&m)
		return m
	}
	stranger := Message{ID: "m9", From: "carol", To: "dave", Content: "secret", At: 19}
	for _, test := range []struct {
		name string
		want []Rule
		do   func(h *History, alice0, alice1, bob *DeviceHistory)
	}{
		{"an acked message that is nowhere", []Rule{RuleLost}, func(h *History, _, alice1, _ *DeviceHistory) {
			m := Message{ID: "m5", From: "alice", To: "bob", Content: "five", At: 15}
			alice1.Sends["m5"] = sent(m, 5)
		}},
		{"an acked message that the recipient lacks", []Rule{RuleLost}, func(h *History, _, _, bob *DeviceHistory) {
			h.Mailboxes["bob"] = h.Mailboxes["bob"][:2]
			bob.remove(4)
			bob.Steps[len(bob.Steps)-1] = Snapshot{Tail: 2}
		}},
		{"a message that was delivered and is not stored", []Rule{RuleForged, RuleLost}, func(_ *History, _, _, bob *DeviceHistory) {
			bob.insert(len(bob.Steps), live(4, Message{ID: "m6", From: "alice", To: "bob"}))
		}},
		{"a message that is stored twice", []Rule{RuleDoubled}, func(h *History, alice0, alice1, _ *DeviceHistory) {
			h.Mailboxes["alice"] = append(h.Mailboxes["alice"], given(5, one))
			alice0.insert(len(alice0.Steps), live(5, one))
			alice1.insert(len(alice1.Steps), live(5, one))
		}},
		{"a gap in the numbers", []Rule{RuleNumbers, RuleMissed}, func(h *History, alice0, alice1, _ *DeviceHistory) {
			m := Message{ID: "m7", From: "bob", To: "alice", Content: "seven", At: 17}
			h.Devices[2].Sends["m7"] = sent(m, 4)
			h.Mailboxes["alice"] = append(h.Mailboxes["alice"], given(6, m))
			h.Mailboxes["bob"] = append(h.Mailboxes["bob"], given(4, m))
			alice0.insert(len(alice0.Steps), live(6, m))
			alice1.insert(len(alice1.Steps), live(6, m))
			h.Devices[2].insert(len(h.Devices[2].Steps), Tried{"m7", "s4"}, Acked{"m7", 4, 17})
		}},
		{"a number that is there twice", []Rule{RuleNumbers, RuleAck}, func(h *History, _, _, bob *DeviceHistory) {
			h.Mailboxes["bob"][1] = given(1, two)
			h.Mailboxes["bob"][2] = given(2, four)
			bob.Steps = []Step{
				Connected{SID: "s4"}, Snapshot{Tail: 2, Messages: []Given{given(2, four)}}, Page{[]Given{given(1, two)}},
			}
		}},
		{"an ack with another number", []Rule{RuleAck}, func(_ *History, _, _, bob *DeviceHistory) {
			bob.Sends["m2"].Seq = 3
			bob.Steps[5] = Acked{"m2", 3, 12}
			bob.insert(6, Page{[]Given{given(2, two)}})
		}},
		{"an ack with another time", []Rule{RuleAck}, func(h *History, alice0, alice1, _ *DeviceHistory) {
			alice1.Sends["m3"].At = 99
			alice1.Steps[4] = Acked{"m3", 3, 99}
			h.Devices = []*DeviceHistory{alice1, {User: "nobody", Sends: alice0.Sends}, {User: "nobody", Sends: h.Devices[2].Sends}}
		}},
		{"two acks that disagree", []Rule{RuleAck}, func(_ *History, alice0, _, _ *DeviceHistory) {
			alice0.Steps[len(alice0.Steps)-1] = Acked{"m4", 3, 14}
		}},
		{"a message that was never acked", []Rule{RuleUnacked}, func(_ *History, alice0, _, _ *DeviceHistory) {
			alice0.Sends["m8"] = &Send{ID: "m8", From: "alice", To: "bob"}
		}},
		{"an event twice", []Rule{RuleDoubled}, func(_ *History, _, alice1, _ *DeviceHistory) {
			alice1.insert(3, live(1, one))
		}},
		{"an event of what the roster had", []Rule{RuleOrder}, func(_ *History, _, alice1, _ *DeviceHistory) {
			alice1.insert(len(alice1.Steps), live(2, two))
		}},
		{"events in the wrong order", []Rule{RuleGap, RuleOrder}, func(_ *History, alice0, _, _ *DeviceHistory) {
			alice0.remove(4)
			alice0.insert(5, live(3, three), live(2, two))
			alice0.remove(7)
		}},
		{"an event left out", []Rule{RuleGap, RuleMissed}, func(_ *History, alice0, _, _ *DeviceHistory) {
			alice0.remove(4)
		}},
		{"an event left out that history brought later", []Rule{RuleGap}, func(_ *History, alice0, _, _ *DeviceHistory) {
			alice0.remove(4)
			alice0.insert(len(alice0.Steps), Page{[]Given{given(2, two)}})
		}},
		{"a recovery that left something out", []Rule{RuleRecovered, RuleMissed}, func(_ *History, alice0, _, _ *DeviceHistory) {
			alice0.remove(6)
		}},
		{"the newest message never came", []Rule{RuleMissed}, func(_ *History, _, _, bob *DeviceHistory) {
			bob.remove(4)
			bob.Steps = bob.Steps[:5]
		}},
		{"a part of history that can't be read", []Rule{RuleMissed}, func(_ *History, _, alice1, _ *DeviceHistory) {
			alice1.Steps[len(alice1.Steps)-1] = Page{[]Given{given(1, one)}}
		}},
		{"an echo", []Rule{RuleEcho}, func(_ *History, alice0, _, _ *DeviceHistory) {
			alice0.insert(4, live(1, one))
		}},
		{"a roster that goes back in time", []Rule{RuleSnapshot}, func(_ *History, _, _, bob *DeviceHistory) {
			bob.Steps[len(bob.Steps)-1] = Snapshot{Tail: 2}
		}},
		{"a roster with more than it says", []Rule{RuleSnapshot}, func(_ *History, _, _, bob *DeviceHistory) {
			bob.Steps[2] = Snapshot{Tail: 1, Messages: []Given{given(1, one), given(2, two)}}
		}},
		{"someone else's message as an event", []Rule{RuleStranger, RuleForged, RuleLost}, func(_ *History, _, _, bob *DeviceHistory) {
			bob.insert(len(bob.Steps), live(4, stranger))
		}},
		{"someone else's message in a roster", []Rule{RuleStranger, RuleForged, RuleLost}, func(_ *History, _, _, bob *DeviceHistory) {
			bob.Steps[2] = Snapshot{Tail: 1, Messages: []Given{given(1, one), given(0, stranger)}}
		}},
		{"someone else's message in the mailbox", []Rule{RuleStranger, RuleForged}, func(h *History, _, _, bob *DeviceHistory) {
			h.Mailboxes["bob"] = append(h.Mailboxes["bob"], given(4, stranger))
			bob.insert(len(bob.Steps), Page{[]Given{given(4, stranger)}})
		}},
		{"other content as an event", []Rule{RuleForged}, func(_ *History, alice0, _, _ *DeviceHistory) {
			alice0.Steps[4] = live(2, changed(two, func(m *Message) { m.Content = "tow" }))
		}},
		{"other content in the mailbox", []Rule{RuleForged}, func(h *History, _, _, bob *DeviceHistory) {
			other := changed(four, func(m *Message) { m.Content = "fuor" })
			h.Mailboxes["bob"][2] = given(3, other)
			h.Devices = []*DeviceHistory{h.Devices[0], h.Devices[1], {User: "nobody", Sends: bob.Sends}}
		}},
		{"another recipient", []Rule{RuleForged, RuleStranger}, func(_ *History, alice0, _, _ *DeviceHistory) {
			alice0.Steps[4] = live(2, changed(two, func(m *Message) { m.To = "carol"; m.From = "bob" }))
		}},
		{"another number than in the mailbox", []Rule{RuleForged, RuleGap}, func(_ *History, alice0, _, _ *DeviceHistory) {
			alice0.Steps[4] = live(3, two)
			alice0.remove(6)
			alice0.insert(len(alice0.Steps), Page{[]Given{given(2, two), given(3, three)}})
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			h := goodHistory()
			test.do(h, h.Devices[0], h.Devices[1], h.Devices[2])
			var rules []Rule
			found := judge(h)
			for _, v := range found {
				rules = append(rules, v.Rule)
			}
			for _, want := range test.want {
				if !slices.Contains(rules, want) {
					t.Errorf("%s was not found", want)
				}
			}
			for _, v := range found {
				// Nothing is reported that the change does not explain.
				if !slices.Contains(test.want, v.Rule) {
					t.Errorf("also found: %v", v)
				}
			}
		})
	}
}

func TestInventory(t *testing.T) {
	var i inventory
	for _, seq := range []uint64{3, 1, 1, 5, 2, 3} {
		i.add(seq)
	}
	if i.complete != 3 || len(i.beyond) != 1 {
		t.Errorf("complete up to %d, %d beyond", i.complete, len(i.beyond))
	}
	i.add(4)
	if i.complete != 5 || len(i.beyond) != 0 {
		t.Errorf("complete up to %d, %d beyond", i.complete, len(i.beyond))
	}
}

func TestRecorder(t *testing.T) {
	r := newRecorder("alice.0", "alice")
	r.tried(Send{ID: "m1", Content: "one"}, "s1")
	r.tried(Send{ID: "m1", Content: "one"}, "s2")
	r.acked(Acked{"m1", 7, 70})
	r.acked(Acked{"m1", 8, 80})
	h := r.finished()
	if s := h.Sends["m1"]; len(h.Sends) != 1 || !s.Acked || s.Seq != 7 || s.At != 70 || s.Content != "one" {
		t.Errorf("recorded %+v", s)
	}
	if len(h.Steps) != 4 {
		t.Errorf("recorded %v", h.Steps)
	}
}

func TestBadFlags(t *testing.T) {
	for _, args := range [][]string{
		{"--scenario=none"}, {"--seed=x"}, {"--users=1"}, {"--devices=0"}, {"--rate=0"}, {"--kills=0"}, {"--sockets=1"},
		{"--duration=1ms"}, {"--transports=pigeon"}, {"rest"}, {"--what"},
		{"--processes=-1"}, {"--processes=2"}, {"--redis", "--processes=2", "--scenario=churn"}, {"--scenario=rolling", "--processes=1"},
	} {
		var out, errs strings.Builder
		if code := check(args, &out, &errs); code != 2 || errs.Len() == 0 || out.Len() > 0 {
			t.Errorf("%q: code %d, %q", args, code, errs.String())
		}
	}
	var out, errs strings.Builder
	if code := check([]string{"--help"}, &out, &errs); code != 0 || !strings.Contains(errs.String(), "durable") {
		t.Errorf("--help: code %d, %q", code, errs.String())
	}
}

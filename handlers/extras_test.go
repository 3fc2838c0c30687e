package handlers_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"parley/store"
)

// extras is a welcomed device that gets the extra events.
func (f *fixture) extras(username string) *device {
	f.t.Helper()
	d, _ := f.enterExtras(map[string]any{"username": username, "extras": true})
	return d
}

// extrasTab is a further device of the same user that gets the extra events.
func (f *fixture) extrasTab(of *device) *device {
	f.t.Helper()
	d, _ := f.enterExtras(map[string]any{"sessionID": of.sessionID, "extras": true})
	return d
}

func (f *fixture) enterExtras(auth map[string]any) (*device, map[string]extrasUser) {
	f.t.Helper()
	d := f.web().enter(auth)
	return d, d.extrasRoster()
}

// extrasUser is a user in the roster of a device with extras.
type extrasUser struct {
	user
	Unread, Read *int
	Receipt      *struct{ Received, Read int64 }
	LastSeen     *int64
	Messages     any
}

func (u extrasUser) String() string {
	if u.Unread == nil || u.Read == nil || u.Receipt == nil || u.LastSeen == nil {
		return "without extras"
	}
	return fmt.Sprintf("unread %d read %d receipt %d %d", *u.Unread, *u.Read, u.Receipt.Received, u.Receipt.Read)
}

// extrasRoster is the users event.
func (d *device) extrasRoster() map[string]extrasUser {
	d.t.Helper()
	var args []json.RawMessage
	frame := d.until(`42["users",`)
	if err := json.Unmarshal([]byte(frame[2:]), &args); err != nil || len(args) != 3 {
		d.t.Fatalf("%.1000s: %v", frame, err)
	}
	return readExtras(d.t, args[1])
}

func readExtras(t *testing.T, list json.RawMessage) map[string]extrasUser {
	t.Helper()
	var users []extrasUser
	if err := json.Unmarshal(list, &users); err != nil {
		t.Fatalf("%.1000s: %v", list, err)
	}
	byID := make(map[string]extrasUser)
	for _, u := range users {
		byID[u.UserID] = u
	}
	return byID
}

// mark has a device mark a conversation.
func (d *device) mark(with string, seq uint64, read bool) string {
	d.t.Helper()
	answer, _ := d.askRaw("/", "mark", fmt.Sprintf(`{"with":%q,"seq":%d,"read":%v}`, with, seq, read))
	return answer
}

// got is the next private message, past all other frames.
func (d *device) got() message {
	d.t.Helper()
	return readMessage(d.t, d.until(`42["private message",`))
}

func readMessage(t *testing.T, frame string) message {
	t.Helper()
	var args []json.RawMessage
	var m message
	if err := json.Unmarshal([]byte(frame[2:]), &args); err != nil {
		t.Fatalf("%s: %v", frame, err)
	}
	if err := json.Unmarshal(args[1], &m); err != nil {
		t.Fatalf("%s: %v", frame, err)
	}
	return m
}

// quiet proves that a device without anything on its way gets nothing: what it asks for is answered next.
func quiet(devices ...*device) {
	for _, d := range devices {
		d.t.Helper()
		d.silent()
	}
}

// TestTyping has what somebody writes shown on the devices of the peer that want it, and on no others.
func TestTyping(t *testing.T) {
	f := start(t)
	alice, bob := f.extras("alice"), f.extras("bob")
	aliceTab, bobTab, bobPlain, alicePlain := f.extrasTab(alice), f.extrasTab(bob), f.tab(bob), f.tab(alice)
	carol := f.extras("carol")
	for _, d := range []*device{alice, bob, aliceTab, bobTab, bobPlain, alicePlain} {
		d.ask("/", "history", map[string]any{}) // past the others' coming
	}
	for _, typing := range []bool{true, false} {
		alice.send(fmt.Sprintf(`42["typing",{"to":%q,"typing":%v}]`, bob.userID, typing))
		want := fmt.Sprintf(`42["typing",{"from":%q,"typing":%v}]`, alice.userID, typing)
		bob.expect(want)
		bobTab.expect(want)
	}
	answer, before := alice.askRaw("/", "typing", `{"to":"nobody","typing":true}`)
	if answer != "" || len(before) > 0 {
		t.Errorf("answered %q after %q", answer, before)
	}
	quiet(alice, aliceTab, alicePlain, bob, bobTab, bobPlain, carol)
}

// TestMark has a reader's other devices and the sender's told what was received and read, once.
func TestMark(t *testing.T) {
	f := start(t)
	alice, bob := f.extras("alice"), f.extras("bob")
	aliceTab, bobTab, bobPlain, alicePlain := f.extrasTab(alice), f.extrasTab(bob), f.tab(bob), f.tab(alice)
	// The numbers of the two mailboxes differ.
	alice.say(alice.userID, "note", "")
	alice.say(alice.userID, "note", "")
	aliceTab.got()
	aliceTab.got()
	var got []message
	for i := range 3 {
		sent := alice.say(bob.userID, fmt.Sprint("message ", i), "")
		// The sender's other devices get it with the number that it has in the sender's mailbox.
		if own := aliceTab.got(); own.Seq != sent.Seq || own.ID != sent.ID || own.At != sent.At {
			t.Errorf("the sender's other device got %+v, the sender %+v", own, sent)
		}
		m := bob.got()
		if m.Seq == sent.Seq || m.At != sent.At {
			t.Errorf("the peer got %+v, the sender %+v", m, sent)
		}
		got = append(got, m)
		bobTab.got()
		eventually(t, "the next message has a later time", func() bool { return time.Now().UnixMilli() > m.At })
	}
	for _, d := range []*device{alice, aliceTab, alicePlain, bob, bobTab, bobPlain} {
		d.ask("/", "history", map[string]any{})
	}
	receipt := func(received, read int64) string {
		return fmt.Sprintf(`42["receipt",{"from":%q,"received":%d,"read":%d}]`, bob.userID, received, read)
	}
	marked := func(read uint64, unread int) string {
		return fmt.Sprintf(`42["marked",{"with":%q,"read":%d,"unread":%d}]`, alice.userID, read, unread)
	}
	check := func(answer, want string) {
		t.Helper()
		if answer != want {
			t.Errorf("answered %s, want %s", answer, want)
		}
	}
	check(bob.mark(alice.userID, got[1].Seq, false), `{"read":0,"unread":3}`)
	for _, d := range []*device{alice, aliceTab} {
		d.expect(receipt(got[1].At, 0))
	}
	quiet(bobTab, bobPlain, alicePlain)

	check(bob.mark(alice.userID, got[1].Seq, true), `{"read":2,"unread":1}`)
	bobTab.expect(marked(2, 1))
	alice.expect(receipt(got[1].At, got[1].At))
	aliceTab.expect(receipt(got[1].At, got[1].At))

	// Again, and back: nothing moves and nobody is told.
	for _, seq := range []uint64{got[1].Seq, got[0].Seq} {
		check(bob.mark(alice.userID, seq, true), `{"read":2,"unread":1}`)
		check(bobTab.mark(alice.userID, seq, false), `{"read":2,"unread":1}`)
	}
	quiet(alice, aliceTab, alicePlain, bob, bobTab, bobPlain)

	// What one device has received, another reads.
	check(bob.mark(alice.userID, got[2].Seq, false), `{"read":2,"unread":1}`)
	alice.expect(receipt(got[2].At, got[1].At))
	check(bobTab.mark(alice.userID, got[2].Seq, true), `{"read":3,"unread":0}`)
	bob.expect(marked(3, 0))
	alice.expect(receipt(got[2].At, got[2].At))

	// A message of one's own stands for what came before it, and says nothing of itself.
	reply := bob.say(alice.userID, "reply", "")
	bobTab.got()
	check(bob.mark(alice.userID, reply.Seq, true), fmt.Sprintf(`{"read":%d,"unread":0}`, reply.Seq))
	bobTab.expect(marked(reply.Seq, 0))
	alice.got()
	alice.silent()

	// A note to oneself is never unread; that it was seen is for the other devices alone.
	note := alice.say(alice.userID, "note", "")
	check(alice.mark(alice.userID, note.Seq, true), fmt.Sprintf(`{"read":%d,"unread":0}`, note.Seq))
	aliceTab.until(fmt.Sprintf(`42["marked",{"with":%q,"read":%d,"unread":0}]`, alice.userID, note.Seq))
	quiet(alice, aliceTab, bob)
}

// TestRosterMarks has a device that comes back find what its user has read and not, and how far the peers are.
func TestRosterMarks(t *testing.T) {
	f := start(t)
	alice, bob := f.extras("alice"), f.extras("bob")
	look := func(of *device, peer string) extrasUser {
		t.Helper()
		_, roster := f.enterExtras(map[string]any{"sessionID": of.sessionID, "extras": true})
		return roster[peer]
	}
	check := func(of, peer *device, want string) {
		t.Helper()
		if got := look(of, peer.userID).String(); got != want {
			t.Errorf("the roster says %s, want %s", got, want)
		}
		for _, ask := range []struct{ event, arg string }{{"users:page", `{}`}, {"users:search", `{"prefix":""}`}} {
			var page struct{ Users json.RawMessage }
			decode(t, of, ask.event, ask.arg, &page)
			if got := readExtras(t, page.Users)[peer.userID].String(); got != want {
				t.Errorf("%s says %s, want %s", ask.event, got, want)
			}
		}
	}
	check(alice, bob, "unread 0 read 0 receipt 0 0")
	if seen := *look(alice, bob.userID).LastSeen; time.Since(time.UnixMilli(seen)) > time.Minute {
		t.Errorf("last seen at %d", seen)
	}
	var sent []receipt
	for i := range 130 {
		sent = append(sent, bob.say(alice.userID, fmt.Sprint(i), ""))
		switch i {
		case 0:
			check(alice, bob, "unread 1 read 0 receipt 0 0")
			// To answer is not to read, and one's own messages are not unread.
			alice.say(bob.userID, "answer", "")
			check(alice, bob, "unread 1 read 0 receipt 0 0")
			check(bob, alice, "unread 1 read 0 receipt 0 0")
		case 48, 49, 50, 98:
			check(alice, bob, fmt.Sprintf("unread %d read 0 receipt 0 0", i+1))
		case 99, 100, 129:
			check(alice, bob, "unread 100 read 0 receipt 0 0")
		}
	}
	// Of bob's messages, all but the first have the same number with alice: her answer is between them.
	last := sent[len(sent)-1]
	if answer := alice.mark(bob.userID, last.Seq-99, true); answer != fmt.Sprintf(`{"read":%d,"unread":99}`, last.Seq-99) {
		t.Errorf("answered %s", answer)
	}
	check(alice, bob, fmt.Sprintf("unread 99 read %d receipt 0 0", last.Seq-99))
	at := sent[len(sent)-100].At
	check(bob, alice, fmt.Sprintf("unread 1 read 0 receipt %d %d", at, at))
	alice.mark(bob.userID, last.Seq, true)
	check(alice, bob, fmt.Sprintf("unread 0 read %d receipt 0 0", last.Seq))
	check(bob, alice, fmt.Sprintf("unread 1 read 0 receipt %d %d", last.At, last.At))
	// Many of one's own after it.
	for i := range 60 {
		alice.say(bob.userID, fmt.Sprint("mine ", i), "")
	}
	check(alice, bob, fmt.Sprintf("unread 0 read %d receipt 0 0", last.Seq))
	bob.say(alice.userID, "one more", "")
	check(alice, bob, fmt.Sprintf("unread 1 read %d receipt 0 0", last.Seq))
	alice.say(alice.userID, "note", "")
	check(alice, alice, "unread 0 read 0 receipt 0 0")
}

// TestPlainRoster checks that a client of the plain contract is told nothing of the extra events, whatever others do.
func TestPlainRoster(t *testing.T) {
	f := start(t)
	bob := f.extras("bob")
	for _, claim := range []any{nil, false, "true", 1, map[string]bool{"extras": true}} {
		auth := map[string]any{"username": "alice"}
		if claim != nil {
			auth["extras"] = claim
		}
		alice := f.web().enter(auth)
		frame := alice.until(`42["users",`)
		for _, member := range []string{"unread", "receipt", "lastSeen", `"read"`} {
			if strings.Contains(frame, member) {
				t.Errorf("%v: the roster has %s: %.500s", claim, member, frame)
			}
		}
		bob.say(alice.userID, "hello", "")
		m := alice.got()
		alice.mark(bob.userID, m.Seq, true) // who does not get the events may send them
		bob.until(fmt.Sprintf(`42["receipt",{"from":%q`, alice.userID))
		other := f.tab(alice)
		bob.send(fmt.Sprintf(`42["typing",{"to":%q,"typing":true}]`, alice.userID))
		alice.mark(bob.userID, m.Seq, true)
		quiet(bob, alice, other)
		f.drop(alice)
		f.drop(other)
		bob.until(`42["user disconnected",`)
	}
}

// TestExtrasRecovery has a device that was away come back to the extra events, with what moved meanwhile.
func TestExtrasRecovery(t *testing.T) {
	f := start(t)
	alice, bob := f.extras("alice"), f.extras("bob")
	tab := f.extrasTab(alice)
	sent := alice.say(bob.userID, "hello", "")
	bob.got()
	tab.until(`42["private message",`)
	bob.say(alice.userID, "back", "")
	frame := tab.until(`42["private message",`)
	var args []json.RawMessage
	var offset string
	if err := errors.Join(json.Unmarshal([]byte(frame[2:]), &args), json.Unmarshal(args[2], &offset)); err != nil {
		t.Fatal(err)
	}
	f.drop(tab)
	alice.mark(bob.userID, readMessage(t, frame).Seq, true)
	bob.mark(alice.userID, 1, true)

	for _, more := range []string{`"extras":true`, `"username":"alice"`} {
		again := f.web()
		again.send(fmt.Sprintf(`40{"pid":%q,"offset":%q,%s}`, tab.pid, offset, more))
		again.until(fmt.Sprintf(`40{"sid":%q`, tab.sid))
		if got, want := again.extrasRoster()[bob.userID].String(), fmt.Sprintf("unread 0 read 2 receipt %d %d", sent.At, sent.At); got != want {
			t.Errorf("with %s the roster says %s, want %s", more, got, want)
		}
		bob.send(fmt.Sprintf(`42["typing",{"to":%q,"typing":true}]`, alice.userID))
		again.until(`42["typing",`)
		f.drop(again)
	}
	// It may change its mind.
	again := f.web()
	again.send(fmt.Sprintf(`40{"pid":%q,"offset":%q,"extras":false}`, tab.pid, offset))
	again.until(fmt.Sprintf(`40{"sid":%q`, tab.sid))
	if frame := again.until(`42["users",`); strings.Contains(frame, "unread") {
		t.Errorf("the roster has extras: %s", frame)
	}
	bob.send(fmt.Sprintf(`42["typing",{"to":%q,"typing":true}]`, alice.userID))
	bob.silent()
	again.silent()
}

// TestExtrasHostile sends what no client should.
func TestExtrasHostile(t *testing.T) {
	f := start(t)
	alice, bob := f.extras("alice"), f.extras("bob")
	bob.say(alice.userID, "hello", "")
	seq := alice.got().Seq
	long := strings.Repeat("x", store.MaxIDBytes+1)
	for event, args := range map[string][]string{
		"typing": {
			`null`, `1`, `"to"`, `[]`, `{}`, `{"to":""}`, `{"to":1}`, `{"to":null}`, `{"to":["a"],"typing":true}`, `{"to":{}}`,
			`{"to":"` + long + `"}`, `{"to":"a","typing":"yes"}`, `{"to":"a","typing":1}`,
		},
		"mark": {
			`null`, `1`, `[]`, `{}`, `{"with":"","seq":1}`, `{"with":1,"seq":1}`, `{"with":"` + long + `","seq":1}`,
			`{"with":"` + bob.userID + `"}`, `{"with":"` + bob.userID + `","seq":0}`, `{"with":"` + bob.userID + `","seq":-1}`,
			`{"with":"` + bob.userID + `","seq":1.5}`, `{"with":"` + bob.userID + `","seq":"1"}`, `{"with":"` + bob.userID + `","seq":1e3}`,
			`{"with":"` + bob.userID + `","seq":2}`, `{"with":"` + bob.userID + `","seq":9007199254740993}`,
			`{"with":"` + bob.userID + `","seq":18446744073709551615}`, `{"with":"` + bob.userID + `","seq":18446744073709551616}`,
			`{"with":"nobody","seq":1}`, `{"with":"` + alice.userID + `","seq":1}`, `{"with":"` + bob.userID + `","seq":1,"read":"yes"}`,
			`{"with":"` + bob.userID + `","seq":[1]}`,
		},
	} {
		for _, arg := range args {
			if answer, before := alice.askRaw("/", event, arg); !strings.HasPrefix(answer, `{"error":{"code":"bad_argument"`) || len(before) > 0 {
				t.Errorf("%s %.200s: answered %.200s after %q", event, arg, answer, before)
			}
		}
		alice.send(`42["` + event + `"]`)
		alice.send(`421["` + event + `"]`)
		alice.match(`431\[\{"error":\{"code":"bad_argument".*`)
	}
	quiet(alice, bob)
	if answer := alice.mark(bob.userID, seq, true); answer != `{"read":1,"unread":0}` {
		t.Errorf("answered %s", answer)
	}
}

// TestMarkFails has the store fail at each of the calls: the device is told to try again, and that completes it.
func TestMarkFails(t *testing.T) {
	for _, op := range []string{"Reach", "Advance", "Advance peer", "Marks"} {
		f := start(t)
		alice, bob := f.extras("alice"), f.extras("bob")
		bob.say(alice.userID, "hello", "")
		seq := alice.got().Seq
		f.store.failing(op, fmt.Errorf("disk: %w", store.ErrUnavailable))
		read := op != "Marks"
		if answer := alice.mark(bob.userID, seq, read); !strings.HasPrefix(answer, `{"error":{"code":"unavailable"`) {
			t.Errorf("%s: answered %s", op, answer)
		}
		f.store.failWith(nil)
		bob.silent()
		alice.mark(bob.userID, seq, read)
		bob.until(fmt.Sprintf(`42["receipt",{"from":%q`, alice.userID))
	}
}

func (s *faulty) Advance(ctx context.Context, b store.Box, peer string, to store.Mark) (store.Mark, bool, error) {
	op := "Advance"
	if to.Read.IsZero() {
		op = "Advance peer"
	}
	if err := s.before(op); err != nil {
		return store.Mark{}, false, err
	}
	return s.Store.Advance(ctx, b, peer, to)
}

func (s *faulty) Marks(ctx context.Context, b store.Box, peers []string, before uint64) ([]store.Mark, error) {
	err := s.before("Marks")
	if err != nil {
		return nil, err
	}
	marks, err := s.Store.Marks(ctx, b, peers, before)
	if err == nil {
		err = s.before("Marks answered")
	}
	return marks, err
}

func (s *faulty) Reach(ctx context.Context, b store.Box, peer string, seq uint64) (store.Offset, time.Time, error) {
	if err := s.before("Reach"); err != nil {
		return store.Offset{}, time.Time{}, err
	}
	return s.Store.Reach(ctx, b, peer, seq)
}

// TestMarksWhileWelcomed has marks move while a device is on its way in: it is told of them after the roster.
func TestMarksWhileWelcomed(t *testing.T) {
	f := start(t)
	alice, bob := f.extras("alice"), f.extras("bob")
	sent := alice.say(bob.userID, "hello", "")
	bob.got()
	bob.say(alice.userID, "back", "")
	back := alice.got()
	moved := false
	f.store.failWith(func(op string) error {
		if op == "Marks answered" && !moved {
			moved = true
			boxes := func(user string) store.Box { return store.Box{App: "chat", User: user} }
			tail, err := f.store.Store.Tail(context.Background(), boxes(alice.userID))
			if err != nil {
				return err
			}
			_, _, err = f.store.Store.Advance(context.Background(), boxes(alice.userID), bob.userID, store.Mark{
				Read: store.Offset{Epoch: tail.Epoch, Seq: back.Seq}, Received: time.UnixMilli(sent.At),
			})
			return err
		}
		return nil
	})
	tab, roster := f.enterExtras(map[string]any{"sessionID": alice.sessionID, "extras": true})
	if got := roster[bob.userID].String(); got != "unread 1 read 0 receipt 0 0" {
		t.Errorf("the roster says %s", got)
	}
	tab.expect(fmt.Sprintf(`42["marked",{"with":%q,"read":%d,"unread":0}]`, bob.userID, back.Seq))
	tab.expect(fmt.Sprintf(`42["receipt",{"from":%q,"received":%d,"read":0}]`, bob.userID, sent.At))
	tab.silent()
}

// TestTypingIsLimited checks that typing counts as any other event does.
func TestTypingIsLimited(t *testing.T) {
	f := start(t, func(s *setup) { s.socketio.EventRate = 3 })
	alice := f.extras("alice")
	for range 1000 {
		answer, _ := alice.askRaw("/", "typing", `{"to":"nobody","typing":true}`)
		if strings.Contains(answer, `"rate_limited"`) {
			return
		}
	}
	t.Error("a thousand events in a row were taken")
}

// TestCountingReadsNoMessages has a client whose mailbox is full of its own messages ask for what needs counting, over
// and over: no message is read for that, and the count is exact.
func TestCountingReadsNoMessages(t *testing.T) {
	f := start(t)
	alice, bob := f.extras("alice"), f.extras("bob")
	at := bob.say(alice.userID, "hello", "").At
	seq := alice.got().Seq
	for i := range 2000 {
		_, err := f.store.Append(t.Context(), store.Post{ID: fmt.Sprint(i), Sender: alice.userID, Data: []byte("{}"), To: []store.Delivery{
			{Box: store.Box{App: "chat", User: alice.userID}, Peer: bob.userID, Sent: true},
		}})
		if err != nil {
			t.Fatal(err)
		}
	}
	f.store.failWith(func(op string) error {
		if op == "Conversation" || op == "Overview" {
			return errors.New("messages were read")
		}
		return nil
	})
	counted := func(want int) {
		t.Helper()
		for _, ask := range []string{"users:page", "users:search"} {
			answer, _ := alice.askRaw("/", ask, `{"prefix":"bob"}`)
			var reply struct{ Users json.RawMessage }
			if err := json.Unmarshal([]byte(answer), &reply); err != nil || reply.Users == nil {
				t.Fatalf("%s: answered %s", ask, answer)
			}
			if got := readExtras(t, reply.Users)[bob.userID].Unread; got == nil || *got != want {
				t.Errorf("%s: answered %s", ask, answer)
			}
		}
	}
	counted(1)
	for _, want := range []string{`{"read":0,"unread":1}`, `{"read":2001,"unread":0}`} {
		if answer := alice.mark(bob.userID, seq+2000, !strings.Contains(want, `"read":0`)); answer != want {
			t.Errorf("answered %s, want %s", answer, want)
		}
	}
	counted(0)
	bob.until(fmt.Sprintf(`42["receipt",{"from":%q,"received":%d,"read":0}`, alice.userID, at))
	bob.until(fmt.Sprintf(`42["receipt",{"from":%q,"received":%d,"read":%d}`, alice.userID, at, at))
}

// TestMarkTrimmed has a reader mark what its sender's mailbox has let go of, and what one's own has.
func TestMarkTrimmed(t *testing.T) {
	f := start(t, func(s *setup) { s.store.MailboxLimit = 5 })
	alice, bob := f.extras("alice"), f.extras("bob")
	alice.say(bob.userID, "hello", "")
	seq := bob.got().Seq
	for i := range 5 {
		alice.say(alice.userID, fmt.Sprint("note ", i), "")
	}
	if answer := bob.mark(alice.userID, seq, true); answer != `{"read":1,"unread":0}` {
		t.Errorf("answered %s", answer)
	}
	alice.silent()
	for i := range 5 {
		bob.say(bob.userID, fmt.Sprint("note ", i), "")
	}
	if answer := bob.mark(alice.userID, seq, true); !strings.HasPrefix(answer, `{"error":{"code":"bad_argument"`) {
		t.Errorf("answered %s", answer)
	}
}

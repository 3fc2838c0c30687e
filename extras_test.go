package main

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
)

// extras connects a device that gets chat's extra events, and waits for the end of its welcome.
func (r *running) extras(who string) (d *device, session, user, roster string) {
	r.t.Helper()
	d = r.mustConnect(`40{"extras":true,` + who + `}`)
	session, user = d.session()
	roster = d.until(`42["users",`)
	d.ask(`"history",{"with":"nobody"}`)
	return d, session, user, roster
}

// ask sends an event and returns its acknowledgement.
func (d *device) ask(event string) string {
	d.t.Helper()
	if err := d.WriteString(`429[` + event + `]`); err != nil {
		d.t.Fatal(err)
	}
	return strings.TrimSuffix(strings.TrimPrefix(d.until(`439[`), `439[`), `]`)
}

// say sends a message and returns its number and time.
func (d *device) say(to, content string) (seq, at int64) {
	d.t.Helper()
	var ack struct{ Seq, At int64 }
	answer := d.ask(fmt.Sprintf(`"private message",{"content":%q,"to":%q}`, content, to))
	if err := json.Unmarshal([]byte(answer), &ack); err != nil || ack.Seq == 0 {
		d.t.Fatalf("answered %s", answer)
	}
	return ack.Seq, ack.At
}

// marks is what a roster says of a user to a device with extras.
func marks(t *testing.T, roster, user string) string {
	t.Helper()
	_, entry, ok := strings.Cut(roster, fmt.Sprintf(`{"userID":%q`, user))
	_, entry, ok2 := strings.Cut(entry, `],"unread":`)
	entry, _, ok3 := strings.Cut(entry, `,"lastSeen":`)
	if !ok || !ok2 || !ok3 {
		t.Fatalf("%s is not in %s", user, roster)
	}
	return `"unread":` + entry
}

// TestClusterExtras has the extra events reach the devices on other processes.
func TestClusterExtras(t *testing.T) {
	_, p := pair(t)
	alice, session, aliceID, _ := p[0].extras(`"username":"alice"`)
	aliceTab, _, _, _ := p[1].extras(fmt.Sprintf(`"sessionID":%q`, session))
	bob, bobSession, bobID, _ := p[1].extras(`"username":"bob"`)
	bobTab, _, _, _ := p[0].extras(fmt.Sprintf(`"sessionID":%q`, bobSession))

	if answer := alice.ask(fmt.Sprintf(`"typing",{"to":%q,"typing":true}`, bobID)); answer != "" {
		t.Errorf("answered %s", answer)
	}
	for _, d := range []*device{bob, bobTab} {
		d.until(fmt.Sprintf(`42["typing",{"from":%q,"typing":true}]`, aliceID))
	}
	alice.say(aliceID, "note")
	seq, at := alice.say(bobID, "hello")
	if seq != 2 {
		t.Errorf("number %d of the sender's mailbox", seq)
	}
	aliceTab.until(`42["private message",{"content":"hello"`)
	for _, d := range []*device{bob, bobTab} {
		d.until(`42["private message",`)
	}
	if answer := bob.ask(fmt.Sprintf(`"mark",{"with":%q,"seq":1,"read":false}`, aliceID)); answer != `{"read":0,"unread":1}` {
		t.Errorf("answered %s", answer)
	}
	for _, d := range []*device{alice, aliceTab} { // what two processes tell at once may come in either order
		d.until(fmt.Sprintf(`42["receipt",{"from":%q,"received":%d,"read":0}]`, bobID, at))
	}
	if answer := bobTab.ask(fmt.Sprintf(`"mark",{"with":%q,"seq":1,"read":true}`, aliceID)); answer != `{"read":1,"unread":0}` {
		t.Errorf("answered %s", answer)
	}
	bob.until(fmt.Sprintf(`42["marked",{"with":%q,"read":1,"unread":0}]`, aliceID))
	for _, d := range []*device{alice, aliceTab} {
		d.until(fmt.Sprintf(`42["receipt",{"from":%q,"received":%d,"read":%d}]`, bobID, at, at))
	}
	for i, r := range p {
		_, _, _, roster := r.extras(fmt.Sprintf(`"sessionID":%q`, session))
		if got, want := marks(t, roster, bobID), fmt.Sprintf(`"unread":0,"read":0,"receipt":{"received":%d,"read":%d}`, at, at); got != want {
			t.Errorf("process %d says %s, want %s", i, got, want)
		}
	}
}

// TestRestartExtras checks that what was read is read after a restart.
func TestRestartExtras(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	first := launch(t, "--data-dir="+dir)
	alice, aliceSession, aliceID, _ := first.extras(`"username":"alice"`)
	bob, bobSession, bobID, _ := first.extras(`"username":"bob"`)
	_, at := alice.say(bobID, "read")
	alice.say(bobID, "unread")
	bob.ask(fmt.Sprintf(`"mark",{"with":%q,"seq":1,"read":true}`, aliceID))
	if err := first.stop(); err != nil {
		t.Fatal(err)
	}
	again := launch(t, "--data-dir="+dir)
	_, _, _, roster := again.extras(fmt.Sprintf(`"sessionID":%q`, bobSession))
	if got, want := marks(t, roster, aliceID), `"unread":1,"read":1,"receipt":{"received":0,"read":0}`; got != want {
		t.Errorf("bob is told %s, want %s", got, want)
	}
	_, _, _, roster = again.extras(fmt.Sprintf(`"sessionID":%q`, aliceSession))
	if got, want := marks(t, roster, bobID), fmt.Sprintf(`"unread":0,"read":0,"receipt":{"received":%d,"read":%d}`, at, at); got != want {
		t.Errorf("alice is told %s, want %s", got, want)
	}
}

package main

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unique"
)

// Rule names what must hold.
type Rule string

// The rules. Each has a hand-made history in the tests that breaks it.
const (
	RuleNumbers   Rule = "numbers"   // a mailbox numbers its messages from one, without gaps or repeats
	RuleStranger  Rule = "stranger"  // nobody is given a message that is not from or to them
	RuleForged    Rule = "forged"    // a message is what its sender sent, and is the same whoever reads it
	RuleDoubled   Rule = "doubled"   // a mailbox holds a message once; a device is given it as an event at most once
	RuleLost      Rule = "lost"      // an acked message is in the mailboxes of both users
	RuleAck       Rule = "ack"       // an ack says the number and time that the message has in its sender's mailbox
	RuleUnacked   Rule = "unacked"   // in the end every message was acked: a retry succeeds when the faults are over
	RuleOrder     Rule = "order"     // a device is given events in ascending order
	RuleGap       Rule = "gap"       // an event's number follows that of the one before
	RuleRecovered Rule = "recovered" // a recovered client has been given all that came before its new roster
	RuleMissed    Rule = "missed"    // in the end a device has every message of its user
	RuleEcho      Rule = "echo"      // the socket that sent a message is not given it as an event
	RuleSnapshot  Rule = "snapshot"  // a roster is not older than what the device was given before
	RuleRefused   Rule = "refused"   // nothing that a good client asks for is refused for good
	RulePresence  Rule = "presence"  // in the end exactly those with an open device are connected
	RuleProcess   Rule = "process"   // a process ends only when it is told to, starts again, and does not panic
)

// Violation is one thing that is wrong.
type Violation struct {
	Rule Rule
	Text string
}

func (v Violation) String() string { return fmt.Sprintf("%-9s %s", v.Rule, v.Text) }

// key identifies a message: ids are chosen by clients and count for each sender.
type key struct{ from, id string }

// judge finds what is wrong with a history.
func judge(h *History) []Violation {
	j := &jury{
		boxes: make(map[string]*mailbox, len(h.Mailboxes)),
		sends: make(map[key]*Send),
	}
	for _, d := range h.Devices {
		for _, s := range d.Sends {
			j.sends[key{s.From, s.ID}] = s
		}
	}
	users := make([]string, 0, len(h.Mailboxes))
	for user := range h.Mailboxes {
		users = append(users, user)
	}
	slices.Sort(users)
	for _, user := range users {
		j.boxes[user] = j.judgeMailbox(user, h.Mailboxes[user])
	}
	for _, d := range h.Devices {
		ids := make([]string, 0, len(d.Sends))
		for id := range d.Sends {
			ids = append(ids, id)
		}
		slices.Sort(ids)
		for _, id := range ids {
			j.judgeSend(d, d.Sends[id])
		}
	}
	for _, d := range h.Devices {
		j.judgeDevice(d)
	}
	return j.found
}

// jury is a judgement on its way.
type jury struct {
	found []Violation
	boxes map[string]*mailbox
	sends map[key]*Send
}

// mailbox is what a user's messages are in the end. It is taken for the truth that devices are held against.
type mailbox struct {
	bySeq map[uint64]Message
	byKey map[key]uint64
	last  uint64
}

func (j *jury) report(rule Rule, format string, args ...any) {
	j.found = append(j.found, Violation{rule, fmt.Sprintf(format, args...)})
}

func (j *jury) judgeMailbox(user string, messages []Given) *mailbox {
	messages = slices.Clone(messages)
	slices.SortStableFunc(messages, func(a, b Given) int { return cmp.Compare(a.Seq, b.Seq) })
	box := &mailbox{bySeq: make(map[uint64]Message, len(messages)), byKey: make(map[key]uint64, len(messages))}
	for _, g := range messages {
		m := g.Message.Value()
		j.judgeMessage("the mailbox", user, g.Seq, m)
		if g.Seq != box.last+1 {
			j.report(RuleNumbers, "mailbox of %s: number %d follows %d", user, g.Seq, box.last)
		}
		box.last = g.Seq
		box.bySeq[g.Seq] = m
		k := key{m.From, m.ID}
		if seq, twice := box.byKey[k]; twice {
			j.report(RuleDoubled, "mailbox of %s: message %s of %s is there as %d and as %d", user, m.ID, m.From, seq, g.Seq)
		} else {
			box.byKey[k] = g.Seq
		}
	}
	return box
}

// judgeMessage holds one message against what was sent, wherever it turned up.
func (j *jury) judgeMessage(where, user string, seq uint64, m Message) {
	if m.From != user && m.To != user {
		j.report(RuleStranger, "%s of %s: number %d is from %s to %s", where, user, seq, m.From, m.To)
	}
	s := j.sends[key{m.From, m.ID}]
	switch {
	case s == nil:
		j.report(RuleForged, "%s of %s: number %d, %s from %s, was never sent", where, user, seq, m.ID, m.From)
	case s.To != m.To || s.Content != m.Content:
		j.report(RuleForged, "%s of %s: number %d, %s from %s, is to %s and says %.60q, but was sent to %s and said %.60q",
			where, user, seq, m.ID, m.From, m.To, m.Content, s.To, s.Content)
	case s.Acked && s.At != m.At:
		j.report(RuleAck, "%s of %s: number %d, %s from %s, has time %d, but its ack said %d", where, user, seq, m.ID, m.From, m.At, s.At)
	}
}

func (j *jury) judgeSend(d *DeviceHistory, s *Send) {
	if !s.Acked {
		j.report(RuleUnacked, "%s: %s to %s", d.Name, s.ID, s.To)
		return
	}
	k := key{s.From, s.ID}
	for _, user := range []string{s.From, s.To} {
		box := j.boxes[user]
		if box == nil {
			continue // not read: the scenario does not look at it
		}
		seq, ok := box.byKey[k]
		switch {
		case !ok:
			j.report(RuleLost, "%s: %s from %s to %s was acked as %d, and is not in the mailbox of %s", d.Name, s.ID, s.From, s.To, s.Seq, user)
		case user == s.From && seq != s.Seq:
			j.report(RuleAck, "%s: %s was acked as %d, and is %d in its sender's mailbox", d.Name, s.ID, s.Seq, seq)
		}
	}
}

// deviceState is how far a device is while its steps are walked through.
type deviceState struct {
	*DeviceHistory
	box       *mailbox
	had       map[uint64]bool            // numbers that it was given in whatever way
	live      map[uint64]bool            // numbers that it was given as events
	tried     map[string]map[string]bool // the socket ids over which it tried to send an id
	sid       string
	recovered bool
	snapshots int
	cursor    uint64 // the last event's number, or the last snapshot's tail
}

func (j *jury) judgeDevice(d *DeviceHistory) {
	box := j.boxes[d.User]
	if box == nil {
		return
	}
	s := &deviceState{
		DeviceHistory: d, box: box,
		had: make(map[uint64]bool), live: make(map[uint64]bool), tried: make(map[string]map[string]bool),
	}
	for _, step := range d.Steps {
		switch step := step.(type) {
		case Connected:
			s.sid, s.recovered = step.SID, step.Recovered
		case Tried:
			if s.tried[step.ID] == nil {
				s.tried[step.ID] = make(map[string]bool, 1)
			}
			s.tried[step.ID][step.SID] = true
		case Acked:
			j.judgeAcked(s, step)
		case Snapshot:
			j.judgeSnapshot(s, step)
		case Page:
			for _, g := range step.Messages {
				j.judgeGiven(s, "a history page", g)
				s.had[g.Seq] = true
			}
		case Live:
			j.judgeLive(s, step.Given)
		}
	}
	var missed []string
	for seq := uint64(1); seq <= box.last; seq++ {
		if !s.had[seq] {
			missed = append(missed, fmt.Sprint(seq))
		}
	}
	if len(missed) > 0 {
		j.report(RuleMissed, "%s of %s: %d of %d, numbers %s", s.Name, s.User, len(missed), box.last, strings.Join(missed[:min(len(missed), 10)], " "))
	}
}

func (j *jury) judgeAcked(s *deviceState, a Acked) {
	send := s.Sends[a.ID]
	if send.Seq != a.Seq || send.At != a.At {
		j.report(RuleAck, "%s: %s was acked as %d at %d, and then as %d at %d", s.Name, a.ID, send.Seq, send.At, a.Seq, a.At)
	}
	s.had[a.Seq] = true
}

// judgeGiven holds a message that a device was given against its user's mailbox.
func (j *jury) judgeGiven(s *deviceState, where string, g Given) {
	m := g.Message.Value()
	where = s.Name + ", " + where
	j.judgeMessage(where, s.User, g.Seq, m)
	if in, ok := s.box.bySeq[g.Seq]; !ok {
		j.report(RuleLost, "%s: was given number %d, %s from %s, which is not in the mailbox", where, g.Seq, m.ID, m.From)
	} else if in != m {
		j.report(RuleForged, "%s: was given %s from %s as number %d, which is %s from %s in the mailbox", where, m.ID, m.From, g.Seq, in.ID, in.From)
	}
}

func (j *jury) judgeLive(s *deviceState, g Given) {
	j.judgeGiven(s, "an event", g)
	switch {
	case s.live[g.Seq]:
		j.report(RuleDoubled, "%s: number %d came as an event twice", s.Name, g.Seq)
	case g.Seq <= s.cursor:
		j.report(RuleOrder, "%s: number %d came after %d", s.Name, g.Seq, s.cursor)
	default:
		j.judgeGap(s, RuleGap, g.Seq)
		s.cursor = g.Seq
	}
	if m := g.Message.Value(); m.From == s.User {
		if over := s.tried[m.ID]; len(over) == 1 && over[s.sid] {
			j.report(RuleEcho, "%s: number %d is its own", s.Name, g.Seq)
		}
	}
	s.live[g.Seq], s.had[g.Seq] = true, true
}

// judgeGap looks at the numbers between the last event and the one before: only what this socket itself sent
// is left out.
func (j *jury) judgeGap(s *deviceState, rule Rule, next uint64) {
	for seq := s.cursor + 1; seq < next; seq++ {
		m, ok := s.box.bySeq[seq]
		if !ok {
			continue // reported with the mailbox
		}
		if m.From != s.User || !s.tried[m.ID][s.sid] {
			j.report(rule, "%s: number %d, %s from %s, was left out before %d on socket %s (recovered: %t)%s",
				s.Name, seq, m.ID, m.From, next, s.sid, s.recovered, s.triedOver(m))
		}
	}
}

// triedOver says over which sockets the device tried to send a message, if it did.
func (s *deviceState) triedOver(m Message) string {
	over := slices.Sorted(maps.Keys(s.tried[m.ID]))
	if m.From != s.User || len(over) == 0 {
		return ""
	}
	return ", and was sent over " + strings.Join(over, ", ")
}

func (j *jury) judgeSnapshot(s *deviceState, step Snapshot) {
	for _, g := range step.Messages {
		j.judgeGiven(s, "a roster", g)
		if g.Seq > step.Tail {
			j.report(RuleSnapshot, "%s: a roster up to %d has number %d", s.Name, step.Tail, g.Seq)
		}
	}
	if step.Tail < s.cursor {
		j.report(RuleSnapshot, "%s: a roster goes up to %d only, after %d had come", s.Name, step.Tail, s.cursor)
		return
	}
	// A client that never got a roster has nothing that could be added to, recovered or not.
	if s.recovered && s.snapshots > 0 {
		j.judgeGap(s, RuleRecovered, step.Tail+1)
	} else {
		for _, g := range step.Messages {
			s.had[g.Seq] = true
		}
	}
	s.snapshots++
	s.cursor = step.Tail
}

// given makes a Given.
func given(seq uint64, m Message) Given { return Given{seq, unique.Make(m)} }

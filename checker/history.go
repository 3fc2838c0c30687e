package main

import (
	"sync"
	"unique"
)

// Message is what one message says, apart from its number, which differs from mailbox to mailbox.
type Message struct {
	ID, From, To string
	Content      string
	At           int64 // milliseconds since 1970
}

// Given is a message as a client was given it, with its number in the mailbox of the client's user.
type Given struct {
	Seq     uint64
	Message unique.Handle[Message] // the same message is given many times
}

// Send is one message that a device wanted sent, over however many attempts.
type Send struct {
	ID, From, To string
	Content      string
	Acked        bool
	Seq          uint64 // from the ack
	At           int64  // from the ack
}

// Step is something that happened to a device.
type Step interface{ step() }

// The steps, in the order in which they happened to the device.
type (
	// Connected begins a connection.
	Connected struct {
		SID       string
		Recovered bool
	}
	// Snapshot is a roster: all there was up to Tail, of each conversation the newest messages.
	Snapshot struct {
		Tail     uint64
		Messages []Given
	}
	// Page is a page of history.
	Page struct{ Messages []Given }
	// Live is a message that was delivered as an event.
	Live struct{ Given }
	// Tried is an attempt to send, over the socket SID; the first one makes the Send.
	Tried struct{ ID, SID string }
	// Acked is a positive acknowledgement of a Send.
	Acked struct {
		ID  string
		Seq uint64
		At  int64
	}
)

func (Connected) step() {}
func (Snapshot) step()  {}
func (Page) step()      {}
func (Live) step()      {}
func (Tried) step()     {}
func (Acked) step()     {}

// DeviceHistory is all that happened to one device.
type DeviceHistory struct {
	Name string
	User string
	// Steps in order.
	Steps []Step
	// Sends by id.
	Sends map[string]*Send
}

// History is what the judge judges.
type History struct {
	Devices []*DeviceHistory
	// Mailboxes is what fresh clients read at the end: all messages of each user.
	Mailboxes map[string][]Given
}

// recorder writes a DeviceHistory. Its methods may be called from any goroutine.
type recorder struct {
	mu      sync.Mutex
	history DeviceHistory // guarded by mu
}

func newRecorder(name, user string) *recorder {
	return &recorder{history: DeviceHistory{Name: name, User: user, Sends: make(map[string]*Send)}}
}

func (r *recorder) add(s Step) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.history.Steps = append(r.history.Steps, s)
}

// tried records an attempt to send, before it is made.
func (r *recorder) tried(s Send, sid string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.history.Sends[s.ID] == nil {
		r.history.Sends[s.ID] = &s
	}
	r.history.Steps = append(r.history.Steps, Tried{s.ID, sid})
}

func (r *recorder) acked(a Acked) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.history.Steps = append(r.history.Steps, a)
	s := r.history.Sends[a.ID]
	if !s.Acked {
		s.Acked, s.Seq, s.At = true, a.Seq, a.At
	}
}

// connections is how often the device connected.
func (r *recorder) connections() (n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, step := range r.history.Steps {
		if _, ok := step.(Connected); ok {
			n++
		}
	}
	return n
}

// finished returns the history, which must not be written to any more.
func (r *recorder) finished() *DeviceHistory {
	r.mu.Lock()
	defer r.mu.Unlock()
	return &r.history
}

package redisfan

import (
	"errors"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// echoHead begins the messages by which a process finds out whether it hears what it publishes.
const echoHead = "parley:echo:"

// errElsewhere means that a link's server is not the one where messages are published now. A primary that Sentinel has
// replaced, but that lives, goes on to answer its subscribers.
var errElsewhere = errors.New("what is published does not arrive: another server is in charge now")

// echo asks, on one connection, for what this process publishes to itself, on a channel that nobody else listens to. Once
// Redis has taken a message, a PING is sent, and what is not there when it is answered does not come.
type echo struct {
	link  *link
	heard atomic.Int64 // the number of the last that arrived

	// Owned by the writer.
	number int64
	taken  chan error // how the publishing ended; nil: nothing is under way
}

// next publishes a message if none is under way. It returns what a PING is to ask for, if anything.
func (e *echo) next() (question []string) {
	if e.taken != nil {
		select {
		case err := <-e.taken:
			e.taken = nil
			if err == nil {
				question = []string{strconv.FormatInt(e.number, 10)}
			}
		default:
			return nil
		}
	}
	f := e.link.fanout
	s := f.spaces.get("/")
	if s == nil {
		return question
	}
	channel := s.channels[len(s.channels)-1] // for answers to this process alone
	if !e.link.hears(channel) {
		return question
	}
	e.number = f.echoes.Add(1)
	taken := make(chan error, 1)
	body := strconv.AppendInt([]byte(echoHead), e.number, 10)
	if f.publisher.offer(publication{channel: channel, body: body, queued: time.Now(), done: taken}) {
		e.taken = taken
	}
	return question
}

// take tells whether a message is an echo, which is nothing for anybody else.
func (e *echo) take(body string) bool {
	text, ok := strings.CutPrefix(body, echoHead)
	if !ok {
		return false
	}
	if n, err := strconv.ParseInt(text, 10, 64); err == nil {
		e.heard.Store(n)
	}
	return true
}

// missing tells, when a PING is answered, whether what it asked for has not come.
func (e *echo) missing(question string) bool {
	n, err := strconv.ParseInt(question, 10, 64)
	return err == nil && e.heard.Load() < n
}

// hears tells whether Redis has confirmed the subscription to a channel that is to be heard here.
func (l *link) hears(channel string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.subs[channel]
	return s != nil && s.users > 0 && s.state == confirmed
}

package relay

import (
	"container/list"
	"errors"
	"io"
	"net/http"
	"sync"
	"time"
)

// bodies is what clients have sent that is not passed on yet. A request takes part in nothing else before its body is
// complete, so that one that comes slowly, or stops, costs nobody anything but its share of this memory; and when that
// is used up, the one that has been on its way for longest makes room.
type bodies struct {
	max int // bytes of all bodies, about

	mu       sync.Mutex
	held     int
	incoming list.List // of *body, the one that began first in front
}

// body is what a client sends with one request.
type body struct {
	all     *bodies
	control *http.ResponseController
	data    []byte

	held    int           // bytes that it has of all; guarded by all.mu
	place   *list.Element // in all.incoming, until it is complete; guarded by all.mu
	evicted bool          // it had to make room; guarded by all.mu
}

// Why a body was not read.
var (
	errTooLarge = errors.New("the body is larger than any payload may be")
	errNoRoom   = errors.New("the bodies of other requests take all the memory that there is for them")
)

// read reads the body of a request, which has at most limit bytes. The read deadline that is set bounds it, and is taken
// away in the end. The memory is the caller's until release.
func (all *bodies) read(control *http.ResponseController, req *http.Request, limit int) (b *body, err error) {
	b = &body{all: all, control: control}
	if req.Body == nil || req.Body == http.NoBody {
		// A deadline that was set for reading the request would look like the client's going away.
		_ = control.SetReadDeadline(time.Time{})
		return b, nil
	}
	if req.ContentLength > int64(limit) {
		return b, errTooLarge
	}
	all.mu.Lock()
	b.place = all.incoming.PushBack(b)
	all.mu.Unlock()
	for {
		if len(b.data) == cap(b.data) && !b.grow(limit+1) {
			return b, errNoRoom
		}
		n, err := req.Body.Read(b.data[len(b.data):cap(b.data)])
		b.data = b.data[:len(b.data)+n]
		switch {
		case len(b.data) > limit:
			return b, errTooLarge
		case err == nil:
		case !b.complete():
			return b, errNoRoom
		case errors.Is(err, io.EOF):
			_ = control.SetReadDeadline(time.Time{})
			return b, nil
		default:
			return b, err
		}
	}
}

// grow makes room for more of the body, up to limit bytes, or reports that there is none.
func (b *body) grow(limit int) bool {
	size := min(max(2*cap(b.data), 1<<10), limit)
	if !b.reserve(size - cap(b.data)) {
		return false
	}
	b.data = append(make([]byte, 0, size), b.data...)
	return true
}

// reserve takes n bytes, and has others make room for them if need be. One that was chosen for that gets nothing.
func (b *body) reserve(n int) bool {
	all := b.all
	all.mu.Lock()
	defer all.mu.Unlock()
	if b.evicted {
		return false
	}
	b.held += n
	all.held += n
	for all.held > all.max && all.incoming.Len() > 0 {
		oldest := all.incoming.Front().Value.(*body)
		oldest.evicted = true
		oldest.releaseLocked()
		_ = oldest.control.SetReadDeadline(time.Unix(1, 0)) // wakes who reads
	}
	if all.held > all.max { // others are complete, and wait to be passed on
		b.releaseLocked()
	}
	return b.held > 0
}

// complete ends the reading. It returns false if the body had to make room.
func (b *body) complete() bool {
	b.all.mu.Lock()
	defer b.all.mu.Unlock()
	b.leaveLocked()
	return !b.evicted
}

// release gives the memory back.
func (b *body) release() {
	b.all.mu.Lock()
	defer b.all.mu.Unlock()
	b.releaseLocked()
}

func (b *body) releaseLocked() {
	b.leaveLocked()
	b.all.held -= b.held
	b.held = 0
}

func (b *body) leaveLocked() {
	if b.place != nil {
		b.all.incoming.Remove(b.place)
		b.place = nil
	}
}

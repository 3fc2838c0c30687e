package relay

import (
	"context"
	"io"
	"net/http"
	"strconv"
	"sync"
	"time"

	"parley/engineio/packet"
)

// A poll may be held for as long as the ping interval, and what it brings is gone from the connection when its
// process has begun to answer. So when this process stops, it can't just end the polls that it forwards: it asks the
// process that holds a poll to answer it with a noop, unless that has answered it already. What comes is passed on to the
// client, who polls again, through a process that stays. Nothing is lost, and the connection goes on.

// methodRelease is the HTTP method by which a process is asked to let go of a poll. It is signed, as all that is
// forwarded, and has the URL of the poll.
const methodRelease = "RELEASE"

const (
	// releaseEvery is how often a process is asked: it may not have had the poll yet.
	releaseEvery = 50 * time.Millisecond
	// releaseAtOnce is how many polls one process is asked for at the same time, and releaseTimeout how long it has.
	releaseAtOnce  = 32
	releaseTimeout = time.Second
)

// isPoll tells whether a request is a poll.
func isPoll(req *http.Request, upgrade bool) bool {
	return req.Method == http.MethodGet && !upgrade && req.URL.Query().Get("transport") == "polling"
}

// mayRelease prepares the release of a poll.
func (r *Relay) mayRelease(f *forward, poll *http.Request) {
	u := *poll.URL
	u.Scheme, u.Host = f.to.Scheme, f.to.Host
	release := &http.Request{Method: methodRelease, URL: &u, Host: poll.Host, Header: make(http.Header), RemoteAddr: poll.RemoteAddr}
	r.mu.Lock()
	defer r.mu.Unlock()
	f.release = release
}

// releasePolls has all polls released, and returns when none is left, or with ctx. No process waits for another.
func (r *Relay) releasePolls(ctx context.Context) {
	nodes := make(map[string]bool)
	r.mu.Lock()
	for f := range r.forwards {
		if f.poll {
			nodes[f.node] = true
		}
	}
	r.mu.Unlock()
	var wait sync.WaitGroup
	for node := range nodes {
		wait.Go(func() {
			for held := r.polls(node); len(held) > 0 && ctx.Err() == nil; held = r.polls(node) {
				r.releaseAll(ctx, held)
				_ = pause(ctx, releaseEvery)
			}
		})
	}
	wait.Wait()
}

// polls returns the polls that are forwarded to a process.
func (r *Relay) polls(node string) (held []*forward) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for f := range r.forwards {
		if f.poll && f.node == node {
			held = append(held, f)
		}
	}
	return held
}

func (r *Relay) releaseAll(ctx context.Context, held []*forward) {
	room := make(chan struct{}, releaseAtOnce)
	var wait sync.WaitGroup
	for _, f := range held {
		r.mu.Lock()
		release := f.release
		r.mu.Unlock()
		if release == nil {
			continue // it is still being found out where it goes
		}
		room <- struct{}{}
		wait.Go(func() {
			defer func() { <-room }()
			r.release(ctx, release)
		})
	}
	wait.Wait()
}

// release asks once. Whether the poll ends is seen by that alone.
func (r *Relay) release(ctx context.Context, release *http.Request) {
	ctx, cancel := context.WithTimeout(ctx, releaseTimeout)
	defer cancel()
	req := release.Clone(ctx)
	req.Header.Set(header, r.sign(req.Method, req.URL.RequestURI(), req.RemoteAddr))
	res, err := r.transport.RoundTrip(req)
	if err != nil {
		r.opts.Log.Debug().Err(err).Msg("a process could not be asked to let go of a poll")
		return
	}
	_, _ = io.Copy(io.Discard, io.LimitReader(res.Body, copyBytes)) // so that the connection can be used again
	_ = res.Body.Close()
}

// again answers a poll that came when this process was stopping: its client polls again, over another TCP connection.
func (r *Relay) again(w http.ResponseWriter) {
	noop := packet.Append(nil, packet.Packet{Type: packet.Noop})
	h := w.Header()
	h.Set("Cache-Control", "no-store")
	h.Set("Connection", "close")
	h.Set("Content-Type", "text/plain; charset=UTF-8")
	h.Set("Content-Length", strconv.Itoa(len(noop)))
	_, _ = w.Write(noop) // who asked may be gone
}

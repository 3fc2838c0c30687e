package redisstore

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"parley/store"
)

// mailbox is what the scripts of a mailbox are given.
type mailbox struct {
	list, info  string // keys; the others are made of info
	user        string
	life, limit string // as text; those of all mailboxes of a store
	shared      bool
}

func (s *Store) mailbox(b store.Box) mailbox {
	list, info, shared := mailboxKeys(b)
	return mailbox{list, info, b.User, s.life, s.limit, shared}
}

func (m mailbox) keys() []string { return m.appendKeys(make([]string, 0, 4)) }

func (m mailbox) appendKeys(keys []string) []string {
	base := strings.TrimSuffix(m.info, "info")
	return append(keys, m.list, m.info, base+"places", base+"peers")
}

func (m mailbox) args() []any { return []any{m.life, m.limit, m.user} }

// run returns a call of one of the mailbox's scripts.
func (m mailbox) run(script *script, args ...any) *command {
	return script.run(m.keys(), append(m.args(), args...)...)
}

const (
	// window is how many entries are asked for at once. A script may give fewer, to stay short.
	window = 512
	// maxAdopt bounds how often a reader helps to adopt what others pushed; each time is up to 512 entries.
	maxAdopt = 1000
	// maxBefore is more than any number that a script can count to.
	maxBefore = 1 << 50
)

// After implements [store.Mailboxes].
func (s *Store) After(ctx context.Context, box store.Box, offset store.Offset, limit int) ([]store.Entry, error) {
	if err := s.readable(ctx, box); err != nil {
		return nil, err
	}
	m := s.mailbox(box)
	var entries []store.Entry
	for range maxAdopt {
		epoch := ""
		if !offset.IsZero() {
			epoch = strconv.FormatUint(offset.Epoch, 10)
		}
		c := m.run(scriptAfter, epoch, strconv.FormatUint(min(offset.Seq, maxBefore), 10), min(max(limit-len(entries), 0), window))
		if err := s.reads.do(ctx, m.list, c); err != nil {
			return nil, fmt.Errorf("read mailbox: %w", err)
		}
		reply := c.list()
		if len(reply) == 0 {
			if len(entries) > 0 || offset.IsZero() {
				return entries, nil
			}
			return nil, fmt.Errorf("offset %v: no mailbox: %w", offset, store.ErrUnknownOffset)
		}
		now, ok0 := number(reply, 0)
		oldest, ok1 := number(reply, 1)
		last, ok2 := number(reply, 2)
		if !ok0 || !ok1 || !ok2 || len(reply) < 4 {
			return nil, errReply
		}
		switch text(reply, 3) {
		case "unknown":
			if len(entries) > 0 {
				return entries, nil // it was trimmed while we read: what we have is right
			}
			return nil, fmt.Errorf("offset %v: mailbox has %d to %d of %v: %w", offset, oldest, last,
				store.Offset{Epoch: now}, store.ErrUnknownOffset)
		case "more":
			continue
		}
		found, err := readEntries(reply[4:], now, m.shared)
		if err != nil {
			return nil, err
		}
		entries = append(entries, found...)
		if len(found) == 0 || len(entries) >= limit || found[len(found)-1].Seq == last {
			return entries, nil
		}
		offset = found[len(found)-1].Offset
	}
	return nil, errAdopt
}

var errAdopt = fmt.Errorf("redis: a mailbox is pushed to faster than it can be read: %w", store.ErrUnavailable)

// readEntries reads a sequence of number, item, facts.
func readEntries(reply []any, epoch uint64, shared bool) ([]store.Entry, error) {
	entries := make([]store.Entry, 0, len(reply)/3)
	for ; len(reply) >= 3; reply = reply[3:] {
		seq, ok := number(reply, 0)
		if !ok {
			return nil, errReply
		}
		entries = append(entries, entry(store.Offset{Epoch: epoch, Seq: seq}, text(reply, 1), text(reply, 2), shared))
	}
	return entries, nil
}

func (s *Store) readable(ctx context.Context, box store.Box) error {
	if err := box.Validate(); err != nil {
		return err
	}
	return s.usable(ctx)
}

// Tail implements [store.Mailboxes].
func (s *Store) Tail(ctx context.Context, box store.Box) (store.Offset, error) {
	if err := s.readable(ctx, box); err != nil {
		return store.Offset{}, err
	}
	m := s.mailbox(box)
	c := m.run(scriptTail)
	if err := s.reads.do(ctx, m.list, c); err != nil {
		return store.Offset{}, fmt.Errorf("read mailbox: %w", err)
	}
	reply := c.list()
	if len(reply) == 0 {
		return store.Offset{}, nil
	}
	epoch, ok0 := number(reply, 0)
	seq, ok1 := number(reply, 1)
	if !ok0 || !ok1 {
		return store.Offset{}, errReply
	}
	return store.Offset{Epoch: epoch, Seq: seq}, nil
}

// pages is the reply of the script of that name.
type pages struct {
	tail  store.Offset
	peers []string
	pages []page // of the first of the peers
}

// page is a part of a conversation.
type page struct {
	entries  []store.Entry // the newest first
	complete bool
}

// pages asks for pages of the newest peers, or if that is "" of those named. It returns nil if there is no mailbox.
func (s *Store) pages(ctx context.Context, m mailbox, before uint64, limit int, newest string, peers ...string) (*pages, error) {
	below := ""
	if before != 0 && before < maxBefore {
		below = strconv.FormatUint(before, 10)
	}
	args := []any{below, min(limit, math.MaxInt32), newest}
	for _, peer := range peers {
		args = append(args, peer)
	}
	for range maxAdopt {
		c := m.run(scriptPages, args...)
		if err := s.reads.do(ctx, m.list, c); err != nil {
			return nil, fmt.Errorf("read mailbox: %w", err)
		}
		reply := c.list()
		if len(reply) == 0 {
			return nil, nil
		}
		if text(reply, 2) == "more" {
			continue
		}
		return readPages(reply, m.shared)
	}
	return nil, errAdopt
}

func readPages(reply []any, shared bool) (*pages, error) {
	epoch, ok0 := number(reply, 0)
	seq, ok1 := number(reply, 1)
	if !ok0 || !ok1 || len(reply) < 4 {
		return nil, errReply
	}
	p := &pages{tail: store.Offset{Epoch: epoch, Seq: seq}}
	names, _ := reply[3].([]any)
	for i := range names {
		p.peers = append(p.peers, text(names, i))
	}
	for _, item := range reply[4:] {
		list, _ := item.([]any)
		complete, ok := number(list, 0)
		if !ok {
			return nil, errReply
		}
		entries, err := readEntries(list[1:], epoch, shared)
		if err != nil {
			return nil, err
		}
		p.pages = append(p.pages, page{entries, complete == 1})
	}
	return p, nil
}

// Conversation implements [store.Mailboxes].
func (s *Store) Conversation(ctx context.Context, box store.Box, peer string, before uint64, limit int) ([]store.Entry, error) {
	if err := s.readable(ctx, box); err != nil {
		return nil, err
	}
	if limit <= 0 || len(peer) > store.MaxIDBytes {
		return nil, nil
	}
	entries, _, err := s.conversation(ctx, s.mailbox(box), peer, before, limit)
	slices.Reverse(entries)
	return entries, err
}

// conversation reads the newest entries of a peer below before, the newest first, and tells the epoch of the mailbox; 0
// if there is none.
func (s *Store) conversation(ctx context.Context, m mailbox, peer string, before uint64, limit int) (entries []store.Entry, epoch uint64, err error) {
	for {
		p, err := s.pages(ctx, m, before, limit-len(entries), "", peer)
		switch {
		case err != nil:
			return nil, 0, err
		case p == nil || epoch != 0 && p.tail.Epoch != epoch:
			return entries, epoch, nil // it ended while we read
		case len(p.pages) != 1:
			return nil, 0, errReply
		}
		epoch = p.tail.Epoch
		found := p.pages[0].entries
		entries = append(entries, found...)
		if p.pages[0].complete || len(found) == 0 || len(entries) >= limit {
			return entries, epoch, nil
		}
		before = found[len(found)-1].Seq
	}
}

// overviewTries is how often Overview starts again because the mailbox ended while it was read.
const overviewTries = 3

// Overview implements [store.Mailboxes]. A large one is read in several steps; what is added meanwhile is left out.
func (s *Store) Overview(ctx context.Context, box store.Box, peers, perPeer int) (store.Overview, error) {
	if err := s.readable(ctx, box); err != nil {
		return store.Overview{}, err
	}
	m := s.mailbox(box)
	for range overviewTries {
		overview, ok, err := s.overview(ctx, m, max(peers, 0), max(perPeer, 0))
		if ok || err != nil {
			return overview, err
		}
	}
	return store.Overview{}, fmt.Errorf("redis: a mailbox was replaced again and again: %w", store.ErrUnavailable)
}

func (s *Store) overview(ctx context.Context, m mailbox, peers, perPeer int) (o store.Overview, ok bool, err error) {
	p, err := s.pages(ctx, m, 0, perPeer, strconv.Itoa(min(peers, math.MaxInt32)))
	if err != nil || p == nil {
		return o, true, err
	}
	o.Tail = p.tail
	names, found := p.peers, p.pages
	for len(names) > 0 {
		for i, page := range found {
			peer := names[i]
			if !page.complete && len(page.entries) > 0 {
				rest, epoch, err := s.conversation(ctx, m, peer, page.entries[len(page.entries)-1].Seq, perPeer-len(page.entries))
				if err != nil || epoch != o.Tail.Epoch {
					return o, false, err
				}
				page.entries = append(page.entries, rest...)
			}
			if len(page.entries) == 0 && perPeer > 0 {
				continue // trimmed meanwhile
			}
			slices.Reverse(page.entries)
			o.Conversations = append(o.Conversations, store.Conversation{Peer: peer, Entries: page.entries})
		}
		if names = names[min(len(found), len(names)):]; len(names) == 0 {
			break
		}
		more, err := s.pages(ctx, m, o.Tail.Seq+1, perPeer, "", names[:min(len(names), window)]...)
		if err != nil || more == nil || more.tail.Epoch != o.Tail.Epoch || len(more.pages) == 0 {
			return o, false, err
		}
		found = more.pages
	}
	return o, true, nil
}

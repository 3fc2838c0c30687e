package main

import (
	"context"
	"fmt"
	"maps"
	"strconv"
	"strings"

	"parley/internal/client"
)

// wireMessage is a message as the server sends it (contracts.md A4, and what Parley adds).
type wireMessage struct {
	Content, From, To, ID string
	Seq                   uint64
	At                    int64
}

func (m wireMessage) given() Given {
	return given(m.Seq, Message{ID: m.ID, From: m.From, To: m.To, Content: m.Content, At: m.At})
}

// rosterUser is an element of the users event (contracts.md A3).
type rosterUser struct {
	UserID    string
	Username  string
	Connected bool
	Messages  []wireMessage
}

// event implements client.Options.OnEvent.
func (d *device) event(c *client.Client, e client.Event) {
	d.adopt(c)
	var err error
	switch e.Name {
	case "session":
		var s struct{ SessionID, UserID string }
		if err = e.Decode(0, &s); err == nil {
			err = d.user.introduced(s.UserID, s.SessionID)
		}
	case "users":
		err = d.roster(c, e)
	case "private message":
		err = d.message(e)
	case "user connected":
		var u rosterUser
		if err = e.Decode(0, &u); err == nil {
			d.hear(u.UserID, true)
		}
	case "user disconnected":
		var id string
		if err = e.Decode(0, &id); err == nil {
			d.hear(id, false)
		}
	}
	if err != nil {
		d.trouble.report(RuleForged, "%s: event %q: %v", d.name, e.Name, err)
	}
}

func (d *device) hear(user string, connected bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.stats.presences.Add(1)
	if was, known := d.presence[user]; known && was == connected {
		d.stats.repeated.Add(1)
	}
	d.presence[user] = connected
	if d.watcher != nil {
		d.watcher(user, connected)
	}
}

// watch has announcements of presence told to f as well; nil ends that.
func (d *device) watch(f func(user string, connected bool)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.watcher = f
}

// offsetNumber returns the number in an event's offset, its last argument.
func offsetNumber(e client.Event) (uint64, error) {
	var offset string
	if err := e.Decode(len(e.Values)-1, &offset); err != nil {
		return 0, fmt.Errorf("no offset: %w", err)
	}
	_, number, ok := strings.Cut(offset, "-")
	seq, err := strconv.ParseUint(number, 10, 64)
	if !ok || err != nil {
		return 0, fmt.Errorf("bad offset %q", offset)
	}
	return seq, nil
}

func (d *device) message(e client.Event) error {
	var m wireMessage
	if err := e.Decode(0, &m); err != nil {
		return err
	}
	offset, err := offsetNumber(e)
	if err != nil {
		return err
	}
	if offset != m.Seq {
		return fmt.Errorf("number %d has offset %d", m.Seq, offset)
	}
	g := m.given()
	d.stats.deliveries.Add(1)
	d.recorder.add(Live{g})
	d.has(m.Seq)
	if d.onLive != nil {
		d.onLive(g)
	}
	return nil
}

// has takes note that the device has number seq.
func (d *device) has(seq uint64) {
	d.user.saw(seq)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.inventory.add(seq)
}

// roster takes a users event for a snapshot, unless the connection was recovered, and reads what is older.
func (d *device) roster(c *client.Client, e client.Event) error {
	var users []rosterUser
	if err := e.Decode(0, &users); err != nil {
		return err
	}
	tail, err := offsetNumber(e)
	if err != nil && !strings.Contains(err.Error(), "bad offset") { // a mailbox that is empty has none
		return err
	}
	step := Snapshot{Tail: tail}
	d.mu.Lock()
	fresh := !c.Recovered() || !d.rostered
	d.rostered = true
	d.presence = make(map[string]bool, len(users))
	for _, u := range users {
		d.presence[u.UserID] = u.Connected
		for _, m := range u.Messages {
			step.Messages = append(step.Messages, m.given())
			if fresh {
				d.inventory.add(m.Seq)
			}
		}
	}
	if fresh {
		clear(d.gaps)
		for _, u := range users {
			if len(u.Messages) >= historyLimit && u.Messages[0].Seq > d.complete+1 {
				d.gaps[u.UserID] = gap{u.Messages[0].Seq, d.complete}
			}
		}
	}
	d.mu.Unlock()
	d.user.saw(tail)
	d.recorder.add(step)
	d.work.Go(func() { d.readHistory(c) })
	return nil
}

// readHistory closes the gaps, as far as the connection lasts.
func (d *device) readHistory(c *client.Client) {
	for c.Err() == nil {
		d.mu.Lock()
		var peer string
		for peer = range maps.Keys(d.gaps) {
			break
		}
		g, ok := d.gaps[peer]
		d.mu.Unlock()
		if !ok {
			return
		}
		page, more, err := history(c, peer, g.before)
		if err != nil {
			pause(context.Background(), firstBackoff)
			continue
		}
		d.stats.pages.Add(1)
		d.recorder.add(Page{page})
		d.mu.Lock()
		for _, m := range page {
			d.inventory.add(m.Seq)
		}
		if now, ok := d.gaps[peer]; ok && now == g {
			if !more || len(page) == 0 || page[0].Seq <= g.floor+1 {
				delete(d.gaps, peer)
			} else {
				d.gaps[peer] = gap{page[0].Seq, g.floor}
			}
		}
		d.mu.Unlock()
	}
}

// history reads the page of a conversation before a number, 0 for the newest.
func history(c *client.Client, peer string, before uint64) (page []Given, more bool, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), ackWithin)
	defer cancel()
	args, err := c.EmitWithAck(ctx, "history", map[string]any{"with": peer, "before": before, "limit": pageLimit})
	if err != nil {
		return nil, false, err
	}
	var reply struct {
		Messages []wireMessage
		More     bool
		Error    *struct{ Code, Message string }
	}
	if err := args.Decode(0, &reply); err != nil {
		return nil, false, err
	}
	if reply.Error != nil {
		return nil, false, fmt.Errorf("history: %s: %s", reply.Error.Code, reply.Error.Message)
	}
	for _, m := range reply.Messages {
		page = append(page, m.given())
	}
	return page, reply.More, nil
}

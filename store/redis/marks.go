package redisstore

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"parley/store"
	"parley/store/internal/row"
)

// Advance implements [store.Marks]. It is as durable as everything in Redis when it returns.
func (s *Store) Advance(ctx context.Context, box store.Box, peer string, to store.Mark) (now store.Mark, moved bool, err error) {
	if err := store.CheckMarks(box, peer); err != nil {
		return store.Mark{}, false, err
	}
	epoch := ""
	if to.Read.Epoch != 0 {
		epoch = strconv.FormatUint(to.Read.Epoch, 10)
	}
	reply, err := s.ask(ctx, s.writes, box, scriptAdvance,
		peer, epoch, min(to.Read.Seq, maxBefore), max(row.Millis(to.Received), 0), max(row.Millis(to.Seen), 0))
	if err != nil {
		return store.Mark{}, false, fmt.Errorf("move mark: %w", err)
	}
	if len(reply) == 0 {
		return store.Mark{}, false, fmt.Errorf("mark: no such conversation: %w", store.ErrNotFound)
	}
	of, ok0 := number(reply, 0)
	seq, ok1 := number(reply, 1)
	changed, ok2 := number(reply, 3)
	unread, ok3 := number(reply, 4)
	if !ok0 || !ok1 || !ok2 || !ok3 {
		return store.Mark{}, false, errReply
	}
	return readMark(of, seq, text(reply, 2), unread), changed == 1, nil
}

// Marks implements [store.Marks].
func (s *Store) Marks(ctx context.Context, box store.Box, peers []string, before uint64) ([]store.Mark, error) {
	if err := store.CheckMarks(box, peers...); err != nil {
		return nil, err
	}
	below := ""
	if before != 0 && before < maxBefore {
		below = strconv.FormatUint(before, 10)
	}
	marks := make([]store.Mark, 0, len(peers))
	for len(peers) > 0 {
		asked := peers[:min(len(peers), window)]
		peers = peers[len(asked):]
		args := make([]any, 1, 1+len(asked))
		args[0] = below
		for _, peer := range asked {
			args = append(args, peer)
		}
		reply, err := s.ask(ctx, s.reads, box, scriptMarks, args...)
		if err != nil {
			return nil, fmt.Errorf("read marks: %w", err)
		}
		epoch, _ := number(reply, 0) // none: there is no mailbox
		for i := range asked {
			var mark store.Mark
			if newest, ok := number(reply, 2+3*i); ok {
				unread, _ := number(reply, 4+3*i)
				mark = readMark(epoch, newest, text(reply, 3+3*i), unread)
			}
			marks = append(marks, mark)
		}
	}
	return marks, nil
}

// Reach implements [store.Marks].
func (s *Store) Reach(ctx context.Context, box store.Box, peer string, seq uint64) (at store.Offset, until time.Time, err error) {
	if err := store.CheckMarks(box, peer); err != nil {
		return store.Offset{}, time.Time{}, err
	}
	reply, err := s.ask(ctx, s.reads, box, scriptReach, peer, min(seq, maxBefore), store.MarkSpan)
	if err != nil {
		return store.Offset{}, time.Time{}, fmt.Errorf("read mark: %w", err)
	}
	if len(reply) == 0 {
		return store.Offset{}, time.Time{}, fmt.Errorf("mark: the conversation has no number %d: %w", seq, store.ErrNotFound)
	}
	epoch, ok0 := number(reply, 0)
	millis, ok1 := number(reply, 2)
	if !ok0 || !ok1 {
		return store.Offset{}, time.Time{}, errReply
	}
	return store.Offset{Epoch: epoch, Seq: seq}, row.Time(int64(millis)), nil
}

// ask runs a script of a mailbox, until it has adopted everything.
func (s *Store) ask(ctx context.Context, lanes *lanes, box store.Box, script *script, args ...any) ([]any, error) {
	if err := s.usable(ctx); err != nil {
		return nil, err
	}
	m := s.mailbox(box)
	for range maxAdopt {
		c := m.run(script, args...)
		if err := lanes.do(ctx, m.list, c); err != nil {
			return nil, err
		}
		if reply := c.list(); text(reply, 1) != "more" {
			return reply, nil
		}
	}
	return nil, errAdopt
}

// readMark reads "read received seen". What is not written so is as if it were not there: it was lost, or is somebody
// else's.
func readMark(epoch, newest uint64, value string, unread uint64) store.Mark {
	mark := store.Mark{
		Newest: store.Offset{Epoch: epoch, Seq: newest}, Unread: int(min(max(int64(unread), 0), store.MaxUnread)),
	}
	fields := strings.Fields(value)
	if len(fields) != 3 {
		return mark
	}
	seq, err0 := strconv.ParseUint(fields[0], 10, 63)
	received, err1 := strconv.ParseInt(fields[1], 10, 64)
	seen, err2 := strconv.ParseInt(fields[2], 10, 64)
	if err0 != nil || err1 != nil || err2 != nil {
		return mark
	}
	if seq > 0 {
		mark.Read = store.Offset{Epoch: epoch, Seq: seq}
	}
	mark.Received, mark.Seen = row.Time(received), row.Time(seen)
	return mark
}

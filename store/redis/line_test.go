package redisstore

import (
	"context"
	"errors"
	"net"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/redis/go-redis/v9"
)

// line is what is between a client and Redis: it can be cut, and it can lose replies. It counts what goes through.
type line struct {
	cut      atomic.Bool
	lose     atomic.Bool                   // the next change of presence or of a mailbox is done, but its reply is lost
	hold     atomic.Pointer[chan struct{}] // pipelines wait until it is closed
	trips    atomic.Int64
	mu       sync.Mutex
	commands []string // guarded by mu: the names of commands, while it is not nil
}

// losable are the scripts whose replies can be lost.
var losable = []any{
	scriptEnter.sha, scriptEnter.text, scriptLeave.sha, scriptLeave.text, scriptAppend.sha, scriptAppend.text,
	scriptMany.sha, scriptMany.text,
}

var errCut = errors.New("the line is cut")

func (l *line) DialHook(next redis.DialHook) redis.DialHook {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		if l.cut.Load() {
			return nil, errCut
		}
		return next(ctx, network, addr)
	}
}

func (l *line) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if l.cut.Load() {
			cmd.SetErr(errCut)
			return errCut
		}
		l.note(cmd)
		return next(ctx, cmd)
	}
}

func (l *line) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		if l.cut.Load() {
			for _, cmd := range cmds {
				cmd.SetErr(errCut)
			}
			return errCut
		}
		if hold := l.hold.Load(); hold != nil {
			select {
			case <-*hold:
			case <-ctx.Done():
				for _, cmd := range cmds {
					cmd.SetErr(ctx.Err())
				}
				return ctx.Err()
			}
		}
		l.note(cmds...)
		err := next(ctx, cmds)
		counts := slices.ContainsFunc(cmds, func(cmd redis.Cmder) bool {
			args := cmd.Args()
			return len(args) > 1 && slices.Contains(losable, args[1])
		})
		if err == nil && counts && l.lose.CompareAndSwap(true, false) {
			err = errCut
			for _, cmd := range cmds {
				cmd.SetErr(err)
			}
		}
		return err
	}
}

func (l *line) note(cmds ...redis.Cmder) {
	l.trips.Add(1)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.commands != nil {
		for _, cmd := range cmds {
			l.commands = append(l.commands, cmd.Name())
		}
	}
}

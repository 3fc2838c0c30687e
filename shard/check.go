package shard

import (
	"context"
	"slices"
	"time"

	"parley/metrics"
	"parley/store"
)

// checkPage is how many mailboxes Check asks a source about at once.
const checkPage = 256

// Tailer is what a Source implements whose mail may be appended by other processes: it tells where mailboxes
// end now.
type Tailer interface {
	// Tails returns the offset of each box's newest entry, in the order of boxes; zero for one without entries.
	Tails(ctx context.Context, boxes []store.Box) ([]store.Offset, error)
}

// Check compares every followed mailbox with where it ends in the store, and reads what was missed: pub/sub
// between processes may lose anything. Where the store has lost entries that were delivered, as a replica that takes
// over may, their numbers are given again to others: the followers connect anew and get what the store has now.
// It returns the first error, having checked what it could. Several checks may run at once.
func (p *Pool) Check(ctx context.Context) error {
	var first error
	failed := func(err error) {
		if first == nil {
			first = err
		}
	}
	for _, s := range p.shards {
		byApp := make(map[string][]position)
		err := s.do(ctx, func(s *Shard) {
			for box, st := range s.streams {
				byApp[box.App] = append(byApp[box.App], position{st, st.at})
			}
		})
		if err != nil {
			failed(err)
			continue
		}
		for app, all := range byApp {
			for page := range slices.Chunk(all, checkPage) {
				if err := s.check(ctx, app, page); err != nil {
					failed(err)
				}
			}
		}
	}
	return first
}

// position is where a stream was before its source was asked.
type position struct {
	stream *stream
	at     store.Offset
}

// check has the streams read that are behind, and ends those whose entries the store has lost.
func (s *Shard) check(ctx context.Context, app string, streams []position) error {
	tailer, ok := s.pool.source(app).(Tailer)
	if !ok {
		return nil
	}
	boxes := make([]store.Box, len(streams))
	for i, was := range streams {
		boxes[i] = was.stream.box
	}
	tails, err := tailer.Tails(ctx, boxes)
	if err != nil {
		return err
	}
	return s.do(ctx, func(s *Shard) {
		for i, was := range streams {
			st, tail := was.stream, tails[i]
			switch {
			case s.streams[st.box] != st: // nobody follows it any more
			case !tail.IsZero() && tail.Before(was.at):
				s.pool.metrics.Count(metrics.MailGaps, "lost by the store")
				s.pool.failing.Do(func() {
					s.log.Error().Str("app", app).Msg("the store has lost messages that were delivered: the devices of their users connect anew; if Redis has just failed over, its replica had not got them yet")
				})
				s.abandon(st)
			case st.at.Before(tail):
				if tail.Epoch > st.at.Epoch {
					st.restart(tail.Epoch)
				}
				// Those that are only on their way get the grace of any gap before the store is asked again.
				s.pool.metrics.Count(metrics.MailGaps, "found by a check")
				st.newest = max(st.newest, tail.Seq)
				s.settle(st)
			}
		}
	})
}

// retriesIn is how many times sooner than usual a check is made again that failed: what was missed while the store was away
// is wanted soon after it is back.
const retriesIn = 10

// Watch runs Check every so often, and once for each value on now, in a goroutine that ends when the pool stops. One that
// fails is reported to failed, and made again a tenth of that time later.
func (p *Pool) Watch(every time.Duration, now <-chan struct{}, failed func(error)) {
	p.running.Go(func() {
		ticker := time.NewTicker(every)
		defer ticker.Stop()
		for {
			select {
			case <-p.ctx.Done():
				return
			case <-ticker.C:
			case <-now:
			}
			next := every
			if err := p.Check(p.ctx); err != nil && p.ctx.Err() == nil {
				failed(err)
				next /= retriesIn
			}
			ticker.Reset(next)
		}
	})
}

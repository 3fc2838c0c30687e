package shard

import (
	"context"
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
// between processes may lose anything. It returns the first error, having checked what it could. Several
// checks may run at once.
func (p *Pool) Check(ctx context.Context) error {
	var first error
	for _, s := range p.shards {
		byApp := make(map[string][]store.Box)
		err := s.do(ctx, func(s *Shard) {
			for box := range s.streams {
				byApp[box.App] = append(byApp[box.App], box)
			}
		})
		if err != nil {
			return err
		}
		for app, boxes := range byApp {
			for len(boxes) > 0 {
				page := boxes[:min(len(boxes), checkPage)]
				boxes = boxes[len(page):]
				if err := s.check(ctx, app, page); err != nil && first == nil {
					first = err
				}
			}
		}
	}
	return first
}

// check has the streams of boxes read that are behind.
func (s *Shard) check(ctx context.Context, app string, boxes []store.Box) error {
	tailer, ok := s.pool.source(app).(Tailer)
	if !ok {
		return nil
	}
	tails, err := tailer.Tails(ctx, boxes)
	if err != nil {
		return err
	}
	return s.do(ctx, func(s *Shard) {
		for i, box := range boxes {
			st := s.streams[box]
			if st == nil || tails[i].Epoch < st.at.Epoch || tails[i].Epoch == st.at.Epoch && tails[i].Seq <= st.at.Seq {
				continue
			}
			if tails[i].Epoch > st.at.Epoch {
				st.restart(tails[i].Epoch)
			}
			// Those that are only on their way get the grace of any gap before the store is asked again.
			s.pool.metrics.Count(metrics.MailGaps, "found by a check")
			st.newest = max(st.newest, tails[i].Seq)
			s.settle(st)
		}
	})
}

// Watch runs Check every so often, and once for each value on now, in a goroutine that ends when the pool stops.
// It reports what fails to failed.
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
			if err := p.Check(p.ctx); err != nil && p.ctx.Err() == nil {
				failed(err)
			}
		}
	})
}

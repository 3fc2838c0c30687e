//go:build linux

package main

import (
	"context"
	"fmt"
	"time"

	"parley/bench/load"
)

// stormRounds is how often a storm comes over the same server.
const stormRounds = 3

// storm is connections to the notify namespace, all at once.
func storm(conns int) workload {
	return workload{name: "storm", run: func(ctx context.Context, b *bench, t target) (all []result, err error) {
		err = b.with(ctx, t, "chat", func(s *session) error {
			var dials []*load.Dial
			for i := range conns {
				dials = append(dials, load.NotifyDial(s.ports[i%len(s.ports)], [4]byte{}, fmt.Appendf(nil, "user%08d", i)))
			}
			v, err := s.storms(dials, conns, nil)
			all = append(all, result{workload: "storm", phase: fmt.Sprint("notify ", conns, " at once"), target: t, values: v})
			return err
		})
		return all, err
	}}
}

// stormChat is the users of a chat who all lost their connections and come back at once: each is sent the roster,
// and the others are told of each.
func stormChat(users int) workload {
	return workload{name: "storm-chat", run: func(ctx context.Context, b *bench, t target) (all []result, err error) {
		err = b.with(ctx, t, "chat", func(s *session) error {
			p := &load.Private{Users: users, Devices: 1, Partners: 1, ContentBytes: 8}
			p.Prepare(s.loop, 1)
			if err := p.Connect(s.ports, 8, connectLimit); err != nil {
				return err
			}
			p.Leave()
			if err := s.loop.For(2 * time.Second); err != nil {
				return err
			}
			var dials []*load.Dial
			for u := range users {
				dials = append(dials, p.Again(u))
			}
			v, err := s.storms(dials, users, load.ChatWelcome)
			all = append(all, result{workload: "storm-chat", phase: fmt.Sprint(users, " users at once"), target: t, values: v})
			return err
		})
		return all, err
	}}
}

// storms has the same connections made several times, and gone in between, which does not count.
func (s *session) storms(dials []*load.Dial, atOnce int, welcome []byte) (values, error) {
	var total cost
	var elapsed time.Duration
	var took load.Histogram
	failed := 0
	for range stormRounds {
		before, err := s.cost()
		if err != nil {
			return nil, err
		}
		st, err := s.loop.Storm(dials, atOnce, welcome, connectLimit)
		if err != nil {
			return nil, err
		}
		elapsed += time.Since(before.at)
		if err := s.loop.For(300 * time.Millisecond); err != nil { // what a welcome leaves to be done
			return nil, err
		}
		after, err := s.cost()
		if err != nil {
			return nil, err
		}
		c := after.since(before)
		total.servers += c.servers
		total.self += c.self
		took.Merge(&st.Took)
		failed += st.Failed
		if st.First != nil {
			return nil, fmt.Errorf("%d of %d connects failed, the first: %w", st.Failed, len(dials), st.First)
		}
		for _, c := range st.Conns {
			s.loop.Close(c)
		}
		if err := s.loop.For(2 * time.Second); err != nil {
			return nil, err
		}
	}
	n := float64(stormRounds * len(dials))
	return values{
		cpuPerConnect: micros(total.servers) / n, connectsPerSec: n / elapsed.Seconds(), failures: float64(failed),
		connectP50: took.Quantile(0.5).Seconds() * 1e3, connectMax: took.Max().Seconds() * 1e3,
		generatorShare: total.self.Seconds() / elapsed.Seconds() * 100,
	}, nil
}

// roster is further devices of users that connect, one after the other, while all users are online.
func roster(users int) workload {
	return workload{name: "roster", run: func(ctx context.Context, b *bench, t target) (all []result, err error) {
		err = b.with(ctx, t, "chat", func(s *session) error {
			p := &load.Private{Users: users, Devices: 1, Partners: 1, ContentBytes: 8}
			p.Prepare(s.loop, 1)
			if err := p.Connect(s.ports, 8, connectLimit); err != nil {
				return err
			}
			var dials []*load.Dial
			for u := range 200 {
				dials = append(dials, p.Again(u%users))
			}
			v, err := s.storms(dials, 1, load.ChatWelcome)
			all = append(all, result{workload: "roster", phase: fmt.Sprint(users, " users"), target: t, values: v})
			return err
		})
		return all, err
	}}
}

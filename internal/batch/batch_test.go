package batch_test

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"parley/internal/batch"
)

const patience = 2 * time.Millisecond

func collector(queue <-chan int) *batch.Collector[int] {
	return &batch.Collector[int]{Queue: queue, Size: func(n int) int { return n }, Limit: 1000, Patience: patience}
}

// take returns the next batch and how long it took since the first was there.
func take(c *batch.Collector[int]) ([]int, time.Duration) {
	first := <-c.Queue
	start := time.Now()
	return c.Collect(nil, first), time.Since(start)
}

func TestCollect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		queue := make(chan int, 100)
		c := collector(queue)
		expect := func(what string, took time.Duration, want ...int) {
			t.Helper()
			if got, d := take(c); !slices.Equal(got, want) || d != took {
				t.Errorf("%s: %v after %v, want %v after %v", what, got, d, want, took)
			}
		}
		put := func(all ...int) {
			for _, n := range all {
				queue <- n
			}
		}
		put(1)
		expect("the first", 0, 1)
		put(2)
		expect("one at a time", 0, 2)
		put(3, 4, 5)
		expect("what waits", 0, 3, 4, 5)

		go func() {
			put(6)
			time.Sleep(patience / 4)
			put(7)
			time.Sleep(patience / 4)
			put(8, 9)
		}()
		expect("as many as before", patience/2, 6, 7, 8, 9)
		put(10, 11)
		expect("fewer than before", patience, 10, 11)
		put(12, 13)
		expect("as few", 0, 12, 13)

		put(999, 1, 14)
		expect("no more than the limit", 0, 999, 1)
		expect("the rest", patience, 14)

		put(15, 16)
		expect("more", 0, 15, 16)
		put(17)
		close(queue)
		expect("the end", 0, 17)
	})
}

func TestCollectAppends(t *testing.T) {
	queue := make(chan int, 2)
	c := collector(queue)
	queue <- 2
	if got := c.Collect([]int{0}, 1); !slices.Equal(got, []int{0, 1, 2}) {
		t.Errorf("%v", got)
	}
}

package deadline

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

func want(t *testing.T, ctx context.Context, err error) {
	t.Helper()
	if got := ctx.Err(); !errors.Is(got, err) || (got == nil) != (err == nil) {
		t.Errorf("the context says %v, want %v", got, err)
	}
}

func TestTimeRunsOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		unwatched, cancel := Context(context.Background(), time.Second)
		defer cancel()
		watched, cancel := Context(context.Background(), time.Second)
		defer cancel()
		start := time.Now()
		want(t, unwatched, nil)
		if at, ok := unwatched.Deadline(); !ok || !at.Equal(start.Add(time.Second)) {
			t.Errorf("deadline %v, %v", at, ok)
		}
		<-watched.Done()
		if took := time.Since(start); took != time.Second {
			t.Errorf("took %v", took)
		}
		want(t, watched, context.DeadlineExceeded)
		want(t, unwatched, context.DeadlineExceeded)
		<-unwatched.Done() // asked for late
	})
}

func TestCancel(t *testing.T) {
	unwatched, cancel := Context(context.Background(), time.Hour)
	cancel()
	cancel()
	want(t, unwatched, context.Canceled)
	<-unwatched.Done()

	watched, cancel := Context(context.Background(), time.Hour)
	done := watched.Done()
	cancel()
	<-done
	want(t, watched, context.Canceled)
}

func TestParent(t *testing.T) {
	parent, end := context.WithTimeout(context.Background(), time.Minute)
	unwatched, cancel := Context(parent, time.Hour)
	defer cancel()
	watched, cancel := Context(parent, time.Hour)
	defer cancel()
	done := watched.Done()
	first, _ := parent.Deadline()
	if at, ok := watched.Deadline(); !ok || !at.Equal(first) {
		t.Errorf("deadline %v, %v, want the parent's", at, ok)
	}
	child, cancelChild := context.WithCancel(unwatched)
	defer cancelChild()
	end()
	<-done
	want(t, watched, context.Canceled)
	want(t, unwatched, context.Canceled)
	<-child.Done()
}

func TestAllocations(t *testing.T) {
	parent := context.Background()
	if n := testing.AllocsPerRun(100, func() {
		ctx, cancel := Context(parent, time.Hour)
		if ctx.Err() != nil {
			t.Error("over too soon")
		}
		cancel()
	}); n > 2 {
		t.Errorf("%v allocations", n)
	}
}

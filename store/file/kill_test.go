package file

import (
	"bufio"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"parley/store"
)

// childDir tells the test binary to be the child of TestKill, and where to write.
const childDir = "PARLEY_FILE_TEST_CHILD_DIR"

func TestMain(m *testing.M) {
	if dir := os.Getenv(childDir); dir != "" {
		fmt.Fprintln(os.Stderr, child(dir))
		os.Exit(1)
	}
	goleak.VerifyTestMain(m)
}

const childSenders = 20

// child has its senders append as fast as acks allow, and prints each message that was acked, with its number, until
// the process is killed.
func child(dir string) error {
	s, err := Open(dir, Options{})
	if err != nil {
		return err
	}
	run := os.Getpid()
	failed := make(chan error)
	var mu sync.Mutex
	for sender := range childSenders {
		go func() {
			for i := 0; ; i++ {
				id := fmt.Sprintf("%d-%d-%d", run, sender, i)
				r, err := s.Append(context.Background(), message(id, fmt.Sprint("sender", sender), "bob"))
				if err != nil {
					failed <- err
					return
				}
				mu.Lock()
				_, err = os.Stdout.WriteString(id + " " + strconv.FormatUint(r.Offsets[1].Seq, 10) + "\n")
				mu.Unlock()
				if err != nil {
					failed <- err
					return
				}
			}
		}()
	}
	return <-failed
}

// TestKill kills a process that appends, over and over, and checks that whatever it acked is there, once, under the
// number that it said.
func TestKill(t *testing.T) {
	dir := t.TempDir()
	acked := map[string]uint64{}
	random := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 1))
	const rounds = 25
	for range rounds {
		kill(t, dir, 1+random.IntN(400), acked)
	}
	s := open(t, dir, Options{Options: store.Options{MailboxLimit: 1 << 30}})
	entries, err := s.After(t.Context(), store.Box{App: "chat", User: "bob"}, store.Offset{}, 1<<30)
	if err != nil {
		t.Fatal(err)
	}
	numbers := map[string]uint64{}
	for i, e := range entries {
		if e.Seq != uint64(i+1) {
			t.Fatalf("number %d at place %d", e.Seq, i+1)
		}
		if numbers[e.ID] != 0 {
			t.Errorf("%s is there twice", e.ID)
		}
		numbers[e.ID] = e.Seq
	}
	for id, seq := range acked {
		if numbers[id] != seq {
			t.Errorf("%s was acked as number %d, and is there as %d", id, seq, numbers[id])
		}
	}
	own := 0
	for sender := range childSenders {
		entries, err := s.After(t.Context(), store.Box{App: "chat", User: fmt.Sprint("sender", sender)}, store.Offset{}, 1<<30)
		if err != nil {
			t.Fatal(err)
		}
		own += len(entries)
	}
	// A post to two mailboxes may be cut in two by the kill: at most one for each sender and round.
	if own < len(acked) || own-len(entries) > rounds*childSenders {
		t.Errorf("%d entries with the senders, %d with bob, %d acked", own, len(entries), len(acked))
	}
	t.Logf("%d acked, %d stored, in %d lives", len(acked), len(entries), rounds)
}

// kill starts a child and kills it after some acks, which it adds to acked.
func kill(t *testing.T, dir string, acks int, acked map[string]uint64) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0]) //nolint:gosec // this test itself
	cmd.Env = append(os.Environ(), childDir+"="+dir)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	n := 0
	for lines.Scan() {
		var id string
		var seq uint64
		// The lines are whole: a write of that size to a pipe is.
		if _, err := fmt.Sscanf(lines.Text(), "%s %d", &id, &seq); err != nil {
			t.Fatal(err)
		}
		acked[id] = seq
		if n++; n == acks {
			if err := cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := cmd.Wait(); err == nil || n < acks {
		t.Fatalf("the child ended by itself after %d acks: %v", n, err)
	}
}

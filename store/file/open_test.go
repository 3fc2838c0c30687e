package file

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"parley/store"
)

func message(id, from, to string) store.Post {
	return store.Post{
		ID: id, Sender: from, Data: []byte(`"` + id + `"`),
		To: []store.Delivery{{Box: store.Box{App: "chat", User: from}, Peer: to, Sent: true}, {Box: store.Box{App: "chat", User: to}, Peer: from}},
	}
}

func post(t testing.TB, s store.Store, p store.Post) store.Receipt {
	t.Helper()
	r, err := s.Append(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// fill has 20 senders put something of everything into the store.
func fill(t *testing.T, s store.Store) {
	t.Helper()
	var wait sync.WaitGroup
	for sender := range 20 {
		wait.Go(func() {
			for i := sender; i < 2000; i += 20 {
				if _, err := s.Append(t.Context(), message(fmt.Sprint(i), fmt.Sprint("user", i%10), fmt.Sprint("user", i%7))); err != nil {
					t.Error(err)
				}
			}
			for i := sender; i < 100; i += 20 {
				session := store.Session{ID: fmt.Sprint(i), UserID: fmt.Sprint(i % 50), Username: "name"}
				if err := s.SaveSession(t.Context(), session); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wait.Wait()
}

// filled makes a data directory with something of everything, and returns what a reader sees of it.
func filled(t *testing.T, dir string) string {
	t.Helper()
	s := open(t, dir, Options{})
	fill(t, s)
	if err := s.SaveRecovery(t.Context(), store.Recovery{PID: "p", Rooms: []string{"r"}}, time.Hour); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Connect(t.Context(), "user1", "socket"); err != nil {
		t.Fatal(err)
	}
	seen := view(t, s)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return seen
}

// view prints what a reader sees.
func view(t *testing.T, s store.Store) string {
	t.Helper()
	var b strings.Builder
	show := func(v any, err error) {
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&b, "%+v\n", v)
	}
	for i := range 10 {
		box := store.Box{App: "chat", User: fmt.Sprint("user", i)}
		show(s.After(t.Context(), box, store.Offset{}, 1e6))
		show(s.Overview(t.Context(), box, 100, 100))
		show(s.Conversation(t.Context(), box, "user1", 100, 20))
	}
	show(s.Users(t.Context(), 1000))
	show(s.SearchUsers(t.Context(), "NA", 1000))
	show(s.CountUsers(t.Context()))
	show(s.Session(t.Context(), "20"))
	return b.String()
}

func TestReopen(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "some", "where")
	want := filled(t, dir)
	for path, mode := range map[string]os.FileMode{dir: 0o700, filepath.Join(dir, fileName): 0o600} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != mode {
			t.Errorf("%s: %v, %v", path, info.Mode(), err)
		}
	}
	s := open(t, dir, Options{})
	if got := view(t, s); got != want {
		t.Error("what was there before differs from what is there now")
	}
	if r := post(t, s, message("1999", "user9", "user4")); !r.Duplicate {
		t.Errorf("a retry after the restart was stored again: %+v", r)
	}
	if r, err := s.TakeRecovery(t.Context(), "p"); err != nil || len(r.Rooms) != 1 {
		t.Errorf("recovery: %+v, %v", r, err)
	}
	if online, err := s.Online(t.Context(), []string{"user1"}); err != nil || online[0] {
		t.Errorf("somebody is connected: %v, %v", online, err)
	}
}

// refused checks that the directory is refused with a sentence that has all the words, and that nothing in it changes.
func refused(t *testing.T, dir string, words ...string) {
	t.Helper()
	before := contents(t, dir)
	s, err := Open(dir, Options{LockTimeout: 20 * time.Millisecond})
	if err == nil {
		s.Close()
		t.Fatal("opened")
	}
	for _, word := range append(words, dir) {
		if !strings.Contains(err.Error(), word) {
			t.Errorf("the error %q lacks %q", err, word)
		}
	}
	if !bytes.Equal(before, contents(t, dir)) {
		t.Error("the directory was changed")
	}
}

// contents returns the names and bytes of all files.
func contents(t *testing.T, dir string) []byte {
	t.Helper()
	var all []byte
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		all = append(append(all, path...), d.Type().String()...)
		if d.Type().IsRegular() {
			b, err := os.ReadFile(path) //nolint:gosec // a directory of this test
			all = append(all, b...)
			return err
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func write(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestInUse(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, Options{})
	heal := noRoom(s) // it would fold its journal meanwhile
	refused(t, dir, "in use by another process")
	post(t, s, message("m", "alice", "bob"))
	refused(t, dir, "in use by another process")
	heal()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	open(t, dir, Options{})
}

func TestNewerVersion(t *testing.T) {
	dir := t.TempDir()
	filled(t, dir)
	change(t, dir, func(tx *bbolt.Tx) error {
		return tx.Bucket(metaBucket).Put(versionKey, []byte("2"))
	})
	refused(t, dir, "newer version", "format 2")
}

// change changes the data file behind the back of a store that is closed.
func change(t *testing.T, dir string, f func(tx *bbolt.Tx) error) {
	t.Helper()
	db, err := bbolt.Open(filepath.Join(dir, fileName), 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(db.Update(f), db.Close()); err != nil {
		t.Fatal(err)
	}
}

func TestForeignFiles(t *testing.T) {
	for name, data := range map[string][]byte{
		"text":  []byte("this is my diary"),
		"long":  bytes.Repeat([]byte("this is my diary\n"), 10000),
		"zeros": make([]byte, 1<<20),
		"byte":  {0},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			write(t, filepath.Join(dir, fileName), data)
			refused(t, dir, "damaged, or not one of Parley", "nothing was changed")
		})
	}
	t.Run("directory", func(t *testing.T) {
		dir := t.TempDir()
		if err := os.Mkdir(filepath.Join(dir, fileName), 0o700); err != nil {
			t.Fatal(err)
		}
		refused(t, dir, "damaged, or not one of Parley")
	})
	t.Run("other program", func(t *testing.T) {
		dir := t.TempDir()
		change(t, dir, func(tx *bbolt.Tx) error {
			_, err := tx.CreateBucket([]byte("theirs"))
			return err
		})
		refused(t, dir, "damaged, or not one of Parley", "no format version")
	})
	t.Run("bucket missing", func(t *testing.T) {
		dir := t.TempDir()
		filled(t, dir)
		change(t, dir, func(tx *bbolt.Tx) error { return tx.DeleteBucket(mailBucket) })
		refused(t, dir, "damaged", "mail")
	})
}

// TestNewFiles has what is left by a process that was killed while it made the file.
func TestNewFiles(t *testing.T) {
	t.Run("empty", func(t *testing.T) {
		dir := t.TempDir()
		write(t, filepath.Join(dir, fileName), nil)
		filled(t, dir)
	})
	t.Run("no buckets", func(t *testing.T) {
		dir := t.TempDir()
		change(t, dir, func(*bbolt.Tx) error { return nil })
		filled(t, dir)
	})
}

// TestTablesLost has a journal without the tables that it continues.
func TestTablesLost(t *testing.T) {
	dir := t.TempDir()
	filled(t, dir)
	path := filepath.Join(dir, fileName)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	refused(t, dir, "damaged", "it has a journal")
	write(t, path, nil)
	refused(t, dir, "damaged", "it has a journal")
}

// TestJournalLost has tables that were folded from a journal which is not there any more.
func TestJournalLost(t *testing.T) {
	for turn := range uint64(2) {
		dir := t.TempDir()
		filled(t, dir)
		if err := os.Remove(filepath.Join(dir, journalName(turn))); err != nil {
			t.Fatal(err)
		}
		refused(t, dir, "damaged", journalName(turn)+" is missing")
	}
}

func TestTruncated(t *testing.T) {
	dir := t.TempDir()
	filled(t, dir)
	path := filepath.Join(dir, fileName)
	whole := read(t, path)
	m, err := findMeta(bytes.NewReader(whole))
	if err != nil {
		t.Fatal(err)
	}
	used := int(m.pages * m.pageSize)
	for _, size := range []int{1, 100, 4095, 4096, 4097, 8191, 8192, 16384, used / 2, used - 4096, used - 1} {
		write(t, path, whole[:size])
		refused(t, dir, "damaged", "nothing was changed")
	}
	write(t, path, whole[:used])
	open(t, dir, Options{})
}

// TestOverwritten damages the file at random places. Each is either noticed at once, or harmless, or costs no more than
// errors; the process survives all of them.
func TestOverwritten(t *testing.T) {
	dir := t.TempDir()
	filled(t, dir)
	path := filepath.Join(dir, fileName)
	whole := read(t, path)
	m, err := findMeta(bytes.NewReader(whole))
	if err != nil {
		t.Fatal(err)
	}
	whole = whole[:m.pages*m.pageSize]
	random := rand.New(rand.NewPCG(1, 2))
	found := 0
	for round := range 60 {
		data := bytes.Clone(whole)
		switch at := random.IntN(len(data) - 64); round % 3 {
		case 0: // a page that was never written, or lost
			at -= at % int(m.pageSize)
			clear(data[at : at+int(m.pageSize)])
		case 1: // the header of a page
			at -= at % int(m.pageSize)
			for i := range pageHeaderBytes + 4*elementBytes {
				data[at+i] ^= byte(random.Uint32())
			}
		default:
			data[at] ^= byte(1 << random.IntN(8))
		}
		write(t, path, data)
		s, err := Open(dir, Options{})
		if err != nil {
			found++
			if !strings.Contains(err.Error(), "damaged") {
				t.Errorf("round %d: %v", round, err)
			}
			if !bytes.Equal(data, read(t, path)) {
				t.Errorf("round %d: the file was changed", round)
			}
			continue
		}
		for i := range 10 {
			box := store.Box{App: "chat", User: fmt.Sprint("user", i)}
			_, _ = s.After(t.Context(), box, store.Offset{}, 1e6)
			_, _ = s.Overview(t.Context(), box, 100, 100)
			_, _ = s.Append(t.Context(), message("new", box.User, "user1"))
		}
		_, _ = s.Users(t.Context(), 1000)
		_, _ = s.SearchUsers(t.Context(), "", 1000)
		s.Close()
	}
	if found < 20 {
		t.Errorf("only %d of 60 damages were found", found)
	}
}

func TestPlaces(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	write(t, file, nil)
	refused(t, file, "is not a directory")
	if _, err := Open(filepath.Join(file, "sub"), Options{}); err == nil || !strings.Contains(err.Error(), "choose another place") {
		t.Errorf("below a file: %v", err)
	}
}

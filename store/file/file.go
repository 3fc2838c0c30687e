// Package file keeps everything in a directory, in a bbolt file and a journal. What it acknowledges is on disk.
//
// # How it works
//
// Appends go to the journal first. One goroutine, the appender, takes all that wait, gives them their numbers, writes
// them one after the other to the end of the journal, syncs once, and answers them all: many concurrent senders share a
// sync, and the disk gets one short write however many mailboxes there are. Every few seconds, another goroutine, the
// writer, folds what the journal has into the tables of the bbolt file, in bounded steps, while the appender goes on in
// the other of two journal files. Until then the entries are also in memory, and readers see both: a snapshot of the
// tables and the few entries beyond it. Open folds what the journal has after a crash, or after a Close that had no time
// to finish.
//
// The writer also takes all other changes, in groups with one transaction and sync each. Marks alone wait in memory until
// the next second, and are lost in a crash. Presence is not kept on disk: when the process starts nobody is connected.
//
// Going through the tables at once would cost each append some five pages at random places per mailbox; the
// journal makes it ten times as fast on disks that mind.
//
// # Layout
//
// The tables are buckets of parley.db. Numbers are 8 bytes, big-endian; ^ is the complement, so that the latest comes
// first; "string" is length and bytes. Rows of one mailbox stand together.
//
//	meta     version               the format of the directory, decimal
//	         epoch                 the latest epoch given to a mailbox
//	         folded                the latest turn of the journal that is in the tables
//	boxes    app string, user      epoch of the mailbox
//	mail     epoch 0               first number, last number, time of the newest entry
//	         epoch 1 ^number       peer            (the newest entry of each conversation, newest first)
//	         epoch 2 peer string ^number   1 if the owner has sent it, or empty   (a conversation, newest first)
//	         epoch 3 number        time, message key, id string, peer string, origin string, data
//	         epoch 4 message key   number          (the key is a hash of sender and id)
//	         epoch 5 peer          read, received, seen   (how far a conversation has come)
//	expiry   time, epoch           app string, user (when to see whether the mailbox has expired)
//	records  see package records
//
// A mailbox that has expired loses its row in boxes first, and its rows in mail little by little. The journal is in
// parley.log.0 and parley.log.1; see journal.go for its format.
//
// # When the disk fails
//
// What cannot be written fails with [store.ErrUnavailable]. When the disk is full or over quota, the next group is tried
// as usual. After any other failure, and whenever a sync of the journal fails, it is unknown what the disk holds, so the
// store refuses all writes until the process starts again and reads what is there. A row that turns out to be damaged
// fails the requests that need it and no others.
package file

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"
	"go.etcd.io/bbolt"
	bberrors "go.etcd.io/bbolt/errors"

	"parley/store"
	"parley/store/internal/row"
	"parley/store/memory"
)

// Options are the settings of a [Store]. The zero value is ready for use.
type Options struct {
	store.Options
	// LockTimeout is how long Open waits for another process to leave the directory. Default 1 s.
	LockTimeout time.Duration
	// Logger is told about failures of the disk that no caller waits for.
	Logger zerolog.Logger
}

// Store is a [store.Store] in a file. Make one with [Open].
type Store struct {
	*memory.Presence

	// Fixed after construction.
	opts     Options
	path     string
	db       *bbolt.DB
	commit   func(*bbolt.Tx) error // replaced by tests
	closeFor time.Duration         // closeTime, replaced by tests
	postings chan *posting         // for the appender
	queue    chan *request         // for the writer
	journal  *journal              // the appender's
	marks    marks
	spare    sync.Pool    // of *posting
	close    func() error // once

	closing sync.RWMutex // held for reading while sending to a queue, and to close them
	closed  bool         // guarded by closing

	// numbering is held by the appender while it has looked up mailboxes for a group that it has not published.
	numbering sync.Mutex

	mu      sync.RWMutex // held by the appender to change these two and what is in them
	active  *generation  // of the turn that is being written
	folding *generation  // of the turn before, while it is not in the tables; or nil

	broken            atomic.Pointer[error] // why nothing can be written any more
	warned            atomic.Int64          // when the log was last told of trouble, unix nanoseconds
	groups, grouped   atomic.Int64          // groups of messages that were written, and messages in them; for benchmarks
	appending, tables sync.WaitGroup        // the appender and the writer
}

var _ store.Store = (*Store)(nil)

const (
	fileName           = "parley.db"
	defaultLockTimeout = time.Second
	// queueLength bounds what waits while a group is written. Those beyond it wait their turn.
	queueLength = 1024
	// closeTime is how long Close goes on folding. What is left then is for the next Open.
	closeTime = 5 * time.Second
)

// The buckets of the file.
var (
	metaBucket    = []byte("meta")
	boxesBucket   = []byte("boxes")
	mailBucket    = []byte("mail")
	expiryBucket  = []byte("expiry")
	recordsBucket = []byte("records")

	buckets = [][]byte{metaBucket, boxesBucket, mailBucket, expiryBucket, recordsBucket}

	versionKey = []byte("version")
	epochKey   = []byte("epoch")
	foldedKey  = []byte("folded")
)

// version is the format that this package writes.
const version = 1

// Open opens the store in a directory, which is made if it is missing. Only one process can have it open. The error
// says what is wrong with the directory and what to do; nothing in it has been changed then.
//
// Open reads all of it once to be sure that it is sound, which takes a second or so per gigabyte.
func Open(dir string, opts Options) (*Store, error) {
	opts.Options = opts.WithDefaults()
	if opts.LockTimeout <= 0 {
		opts.LockTimeout = defaultLockTimeout
	}
	if err := makeDir(dir); err != nil {
		return nil, err
	}
	path := filepath.Join(dir, fileName)
	if err := inspect(path, opts.LockTimeout); err != nil {
		return nil, openError(path, err)
	}
	db, err := openBolt(path, opts.LockTimeout)
	if err != nil {
		return nil, openError(path, err)
	}
	s := &Store{
		Presence: memory.NewPresence(),
		opts:     opts,
		path:     path,
		db:       db,
		commit:   (*bbolt.Tx).Commit,
		closeFor: closeTime,
		postings: make(chan *posting, queueLength),
		queue:    make(chan *request, queueLength),
		marks:    marks{seed: maphash.MakeSeed(), waiting: map[markPlace]waitingMark{}},
	}
	a, err := s.resume(dir)
	if err != nil {
		return nil, openError(path, errors.Join(err, db.Close()))
	}
	s.close = sync.OnceValue(s.shut)
	s.tables.Go(s.write)
	s.appending.Go(a.run)
	return s, nil
}

// resume folds what the journal has after a crash, and returns the appender, ready to go on.
func (s *Store) resume(dir string) (a *appender, err error) {
	defer recovered(&err)
	defer faultsPanic()()
	folded, epoch := uint64(0), uint64(0)
	readMeta := func() error {
		return s.db.View(func(tx *bbolt.Tx) error {
			meta := tx.Bucket(metaBucket)
			var errs [2]error
			folded, errs[0] = readNumber(meta.Get(foldedKey))
			epoch, errs[1] = readNumber(meta.Get(epochKey))
			return errors.Join(errs[:]...)
		})
	}
	if err := readMeta(); err != nil {
		return nil, err
	}
	turns, err := readJournal(dir, folded)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(s.replay(turns), readMeta()); err != nil {
		return nil, err
	}
	if s.journal, err = openJournal(dir, folded+1); err != nil {
		return nil, err
	}
	s.active = newGeneration(s.journal.turn, 0)
	return newAppender(s, epoch), nil
}

// makeDir makes the directory if it is missing, for this user alone.
func makeDir(dir string) error {
	info, err := os.Stat(dir)
	switch {
	case err == nil && !info.IsDir():
		return fmt.Errorf("data directory %s is not a directory: choose another place", dir)
	case err == nil:
		return nil
	case !errors.Is(err, os.ErrNotExist):
		return fmt.Errorf("data directory %s cannot be used: choose another place, or change who may use it: %w", dir, err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("data directory %s cannot be made: choose another place, or change who may write there: %w", dir, err)
	}
	return syncDir(filepath.Dir(dir))
}

// syncDir makes the names in a directory durable.
func syncDir(dir string) error {
	if runtime.GOOS == "windows" {
		return nil // directories cannot be synced there
	}
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("sync directory: %w", err)
	}
	defer func() { _ = d.Close() }() // it was only read
	if err := d.Sync(); err != nil {
		return fmt.Errorf("sync directory %s: %w", dir, err)
	}
	return nil
}

// initialMap is the address space reserved for the file, so that it seldom has to be mapped anew, which waits for all
// readers. Windows would make the file that large.
func initialMap() int {
	if strconv.IntSize < 64 || runtime.GOOS == "windows" {
		return 0
	}
	return 1 << 30
}

// openBolt opens a file that was inspected, and makes the buckets if it is new.
func openBolt(path string, timeout time.Duration) (db *bbolt.DB, err error) {
	defer recovered(&err)
	db, err = bbolt.Open(path, 0o600, &bbolt.Options{
		Timeout: timeout,
		// The list of free pages is not written with each transaction, it is found again by the walk at Open.
		NoFreelistSync:  true,
		FreelistType:    bbolt.FreelistMapType,
		InitialMmapSize: initialMap(),
		NoStatistics:    true,
	})
	if err != nil {
		return nil, err
	}
	if err := prepare(db); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return db, nil
}

// prepare makes the buckets of a new file. It changes nothing in any other.
func prepare(db *bbolt.DB) error {
	isNew := false
	err := db.View(func(tx *bbolt.Tx) (err error) {
		isNew, err = checkVersion(tx)
		return err
	})
	if err != nil || !isNew {
		return err
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		for _, name := range buckets {
			if _, err := tx.CreateBucket(name); err != nil {
				return err
			}
		}
		return tx.Bucket(metaBucket).Put(versionKey, []byte(strconv.Itoa(version)))
	})
	if err != nil {
		return err
	}
	return syncDir(filepath.Dir(db.Path()))
}

// String implements [store.Store].
func (s *Store) String() string { return "files in " + filepath.Dir(s.path) }

// Close implements [store.Store].
func (s *Store) Close() error { return s.close() }

func (s *Store) shut() error {
	s.closing.Lock()
	s.closed = true
	close(s.postings)
	s.closing.Unlock()
	s.appending.Wait() // it may still have something for the writer
	close(s.queue)
	s.tables.Wait()
	return errors.Join(s.Presence.Close(), s.journal.close(), s.db.Close())
}

// view runs f on a snapshot of the tables.
func (s *Store) view(ctx context.Context, f func(*txn) error) (err error) {
	if err := ctx.Err(); err != nil {
		return err
	}
	defer recovered(&err)
	defer faultsPanic()()
	return readError(s.db.View(func(tx *bbolt.Tx) error { return f(s.begin(tx)) }))
}

// readError tells a reader who comes too late so.
func readError(err error) error {
	if errors.Is(err, bberrors.ErrDatabaseNotOpen) {
		return store.ErrClosed
	}
	return err
}

func (s *Store) begin(tx *bbolt.Tx) *txn {
	return &txn{
		Store: s, tx: tx, boxes: tx.Bucket(boxesBucket), mail: tx.Bucket(mailBucket), now: row.Millis(s.opts.Now()),
	}
}

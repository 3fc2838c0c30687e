package file

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"time"

	"go.etcd.io/bbolt"
	bberrors "go.etcd.io/bbolt/errors"

	"parley/store"
)

// errForeign means that the file is a sound bbolt file of some other program.
var errForeign = errors.New("it has no format version")

// newerError means that the file has a format of the future.
type newerError struct{ version int }

func (e newerError) Error() string { return fmt.Sprintf("format %d", e.version) }

// inspect looks at the file without changing it. It returns an error unless the file is missing, new, or one that this
// package can go on with.
func inspect(path string, timeout time.Duration) (err error) {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return noJournal(path)
	}
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return damage("it is not a regular file")
	}
	if info.Size() == 0 {
		return noJournal(path) // a process was killed just when it had made it
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0) // to see whether it may be written
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // nothing was written

	// bbolt is needed for its lock: without it, the file might change under the walk. Opening looks at no more than
	// the two meta pages.
	defer recovered(&err)
	db, err := bbolt.Open(path, 0, &bbolt.Options{ReadOnly: true, Timeout: timeout, NoStatistics: true})
	if err != nil {
		if damaged, ok := errors.AsType[damageError](verify(f)); ok && !errors.Is(err, bberrors.ErrTimeout) {
			return damaged
		}
		return err
	}
	defer func() { _ = db.Close() }()
	if err := verify(f); err != nil {
		return err
	}
	return db.View(func(tx *bbolt.Tx) error {
		isNew, err := checkVersion(tx)
		if err != nil {
			return err
		}
		if isNew {
			return noJournal(path)
		}
		folded, err := readNumber(tx.Bucket(metaBucket).Get(foldedKey))
		if err != nil {
			return damage("its journal has no turn")
		}
		_, err = readJournal(filepath.Dir(path), folded)
		return err
	})
}

// noJournal returns an error if there is a journal, which there cannot be before there are tables.
func noJournal(path string) error {
	turns, err := readJournal(filepath.Dir(path), 0)
	if err == nil && len(turns) > 0 {
		err = damage("it has a journal, and no tables in %s", fileName)
	}
	return err
}

// checkVersion returns an error unless the file is of this version or has nothing in it yet.
func checkVersion(tx *bbolt.Tx) (isNew bool, err error) {
	first, _ := tx.Cursor().First()
	if first == nil {
		return true, nil
	}
	meta := tx.Bucket(metaBucket)
	if meta == nil {
		return false, errForeign
	}
	found, err := strconv.Atoi(string(meta.Get(versionKey)))
	if err != nil {
		return false, errForeign
	}
	if found > version {
		return false, newerError{found}
	}
	for _, name := range buckets {
		if tx.Bucket(name) == nil {
			return false, damage("bucket %s is missing", name)
		}
	}
	return false, nil
}

// openError says what is wrong with a data file, and what to do.
func openError(path string, err error) error {
	dir := filepath.Dir(path)
	newer, isNewer := errors.AsType[newerError](err)
	_, isDamage := errors.AsType[damageError](err)
	isDamage = isDamage || errors.Is(err, bberrors.ErrInvalid) || errors.Is(err, bberrors.ErrChecksum) ||
		errors.Is(err, bberrors.ErrVersionMismatch) || errors.Is(err, errForeign)
	switch {
	case errors.Is(err, bberrors.ErrTimeout):
		return fmt.Errorf("data directory %s is in use by another process: stop that one, or choose another directory", dir)
	case isNewer:
		return fmt.Errorf("data directory %s was written by a newer version of Parley (format %d, this one knows %d): "+
			"run that version, or choose another directory; nothing was changed", dir, newer.version, version)
	case isDamage:
		return fmt.Errorf("data directory %s is damaged, or not one of Parley (%w): restore it from a backup, or move it "+
			"away to start empty; nothing was changed", dir, err)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("data directory %s cannot be written: change who may write there, or choose another directory: %w", dir, err)
	default:
		return fmt.Errorf("open data directory %s: %w", dir, err)
	}
}

// recovered turns a panic into an error. bbolt panics when a page is not what it should be, and a page that cannot be
// read from disk is a memory fault. Use it with defer.
func recovered(err *error) {
	if p := recover(); p != nil {
		*err = fmt.Errorf("%w: %w", damage("%v", p), store.ErrUnavailable)
	}
}

// faultsPanic makes memory faults of this goroutine panics that can be recovered, until the function it returns
// is called.
func faultsPanic() (restore func()) {
	before := debug.SetPanicOnFault(true)
	return func() { debug.SetPanicOnFault(before) }
}

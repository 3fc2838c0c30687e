package file

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"io"
	"os"
)

// damageError says what is not as it should be in a file.
type damageError struct{ what string }

func (e damageError) Error() string { return e.what }

func damage(format string, args ...any) error { return damageError{fmt.Sprintf(format, args...)} }

// The format of a bbolt file, version 2, in the byte order of the machine. A file is a row of pages; a page is a header
// and elements, and may go on over the pages that follow. Pages 0 and 1 are meta pages that are written in turn: the
// valid one with the higher transaction number leads to the root page of a tree, whose leaves have buckets, which are
// trees again, or small enough to stand in the leaf.
const (
	pageHeaderBytes = 16 // id 8, kind 2, count 2, overflow 4
	elementBytes    = 16 // leaf: flags 4, offset 4, key size 4, value size 4; branch: offset 4, key size 4, page 8
	bucketBytes     = 16 // root page 8, sequence 8
	metaBytes       = 64 // magic 4, version 4, page size 4, flags 4, bucket 16, free list 8, pages 8, transaction 8, sum 8

	branchPage   = 0x01
	leafPage     = 0x02
	freelistPage = 0x10
	bucketLeaf   = 0x01

	boltMagic   = 0xED0CDAED
	boltVersion = 2
	noPage      = ^uint64(0)
	maxPageSize = 16 << 20
	// maxDepth is far beyond what a tree of 2^64 pages needs.
	maxDepth = 64
)

var order = binary.NativeEndian

// verify reads the whole file, and returns a damageError unless all of its pages that are in use hold together. bbolt
// itself takes that for granted: it would panic, or fault, on a file that was cut off or overwritten.
func verify(f *os.File) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	m, err := findMeta(f)
	if err != nil {
		return err
	}
	if m.pages > uint64(info.Size())/m.pageSize {
		return damage("it has been cut off: %d bytes of %d are there", info.Size(), m.pages*m.pageSize)
	}
	w := walker{file: f, pageSize: m.pageSize, pages: m.pages, used: make([]uint64, m.pages/64+1)}
	if err := w.tree(m.root, nil, nil, 0); err != nil {
		return err
	}
	if m.freelist != noPage {
		return w.freelist(m.freelist)
	}
	return nil
}

type metaPage struct {
	pageSize, root, freelist, pages, transaction uint64
}

// findMeta returns the newest meta page that is valid.
func findMeta(f io.ReaderAt) (metaPage, error) {
	// The second one is at the end of the first page, whose size only a meta page tells.
	best, err := readMeta(f, 0)
	if err == nil {
		if second, err := readMeta(f, int64(best.pageSize)); err == nil && second.transaction > best.transaction {
			best = second
		}
		return best, nil
	}
	for size := int64(1024); size <= maxPageSize; size *= 2 {
		if m, err := readMeta(f, size); err == nil && m.pageSize == uint64(size) {
			return m, nil
		}
	}
	return metaPage{}, err
}

func readMeta(f io.ReaderAt, at int64) (metaPage, error) {
	var page [pageHeaderBytes + metaBytes]byte
	if _, err := f.ReadAt(page[:], at); err != nil {
		return metaPage{}, damage("read meta page: %v", err)
	}
	b := page[pageHeaderBytes:]
	sum := fnv.New64a()
	sum.Write(b[:metaBytes-8])
	m := metaPage{
		pageSize: uint64(order.Uint32(b[8:])), root: order.Uint64(b[16:]), freelist: order.Uint64(b[32:]),
		pages: order.Uint64(b[40:]), transaction: order.Uint64(b[48:]),
	}
	switch {
	case order.Uint32(b) != boltMagic || order.Uint32(b[4:]) != boltVersion:
		return metaPage{}, damage("it does not start as a bbolt file")
	case order.Uint64(b[56:]) != sum.Sum64():
		return metaPage{}, damage("the sum of a meta page is wrong")
	case m.pageSize < 1024 || m.pageSize > maxPageSize || m.pageSize&(m.pageSize-1) != 0:
		return metaPage{}, damage("a page size of %d", m.pageSize)
	}
	return m, nil
}

// walker walks the trees of a file.
type walker struct {
	file            io.ReaderAt
	pageSize, pages uint64
	used            []uint64         // a bit for each page that was met
	buffers         [maxDepth][]byte // a page for each level of the walk
}

// use marks n pages as met.
func (w *walker) use(id, n uint64) error {
	if id < 2 || n > w.pages || id > w.pages-n {
		return damage("page %d is not in the file", id)
	}
	for p := id; p < id+n; p++ {
		if w.used[p/64]&(1<<(p%64)) != 0 {
			return damage("page %d is used twice", p)
		}
		w.used[p/64] |= 1 << (p % 64)
	}
	return nil
}

// page reads a page, with those that it goes on over, into the buffer of that level.
func (w *walker) page(id uint64, depth int) ([]byte, error) {
	if depth >= maxDepth {
		return nil, damage("page %d is too deep", id)
	}
	if id < 2 || id >= w.pages {
		return nil, damage("page %d is not in the file", id)
	}
	var header [pageHeaderBytes]byte
	if _, err := w.file.ReadAt(header[:], int64(id*w.pageSize)); err != nil {
		return nil, damage("read page %d: %v", id, err)
	}
	if found := order.Uint64(header[:]); found != id {
		return nil, damage("page %d says that it is page %d", id, found)
	}
	n := 1 + uint64(order.Uint32(header[12:]))
	if err := w.use(id, n); err != nil {
		return nil, err
	}
	size := int(n * w.pageSize)
	if cap(w.buffers[depth]) < size {
		w.buffers[depth] = make([]byte, size)
	}
	page := w.buffers[depth][:size]
	if _, err := w.file.ReadAt(page, int64(id*w.pageSize)); err != nil {
		return nil, damage("read page %d: %v", id, err)
	}
	return page, nil
}

// tree walks the tree below a page. All its keys must be from low up to but not including high, if those are given.
func (w *walker) tree(id uint64, low, high []byte, depth int) error {
	page, err := w.page(id, depth)
	if err != nil {
		return err
	}
	switch kind := order.Uint16(page[8:]); kind {
	case branchPage:
		return w.branch(id, page, low, high, depth)
	case leafPage:
		return w.leaf(id, page, low, high, depth)
	default:
		return damage("page %d is of kind %#x", id, kind)
	}
}

// elements returns the elements of a page as a whole, or an error if they do not fit.
func elements(id uint64, page []byte) (count int, err error) {
	count = int(order.Uint16(page[10:]))
	if pageHeaderBytes+count*elementBytes > len(page) {
		return 0, damage("page %d has %d elements, more than fit", id, count)
	}
	return count, nil
}

// cut returns size bytes of the page, or an error if they are not in it.
func cut(id uint64, page []byte, at, size uint64) ([]byte, error) {
	if at > uint64(len(page)) || size > uint64(len(page))-at {
		return nil, damage("an element of page %d is not in it", id)
	}
	return page[at : at+size], nil
}

// inOrder checks one key against the one before it and the bounds of its page.
func inOrder(id uint64, key, before, low, high []byte, isFirst bool) error {
	if !isFirst && bytes.Compare(before, key) >= 0 || low != nil && bytes.Compare(key, low) < 0 ||
		high != nil && bytes.Compare(key, high) >= 0 {
		return damage("the keys of page %d are out of order", id)
	}
	return nil
}

func (w *walker) branch(id uint64, page, low, high []byte, depth int) error {
	count, err := elements(id, page)
	if err != nil {
		return err
	}
	if count == 0 {
		return damage("branch page %d is empty", id)
	}
	element := func(i int) (key []byte, child uint64, err error) {
		at := uint64(pageHeaderBytes + i*elementBytes)
		b := page[at:]
		key, err = cut(id, page, at+uint64(order.Uint32(b)), uint64(order.Uint32(b[4:])))
		return key, order.Uint64(b[8:]), err
	}
	var before []byte
	for i := range count {
		key, child, err := element(i)
		if err != nil {
			return err
		}
		if err := inOrder(id, key, before, low, high, i == 0); err != nil {
			return err
		}
		next := high
		if i+1 < count {
			if next, _, err = element(i + 1); err != nil {
				return err
			}
		}
		if err := w.tree(child, key, next, depth+1); err != nil {
			return err
		}
		before = key
	}
	return nil
}

func (w *walker) leaf(id uint64, page, low, high []byte, depth int) error {
	count, err := elements(id, page)
	if err != nil {
		return err
	}
	var before []byte
	for i := range count {
		at := uint64(pageHeaderBytes + i*elementBytes)
		b := page[at:]
		keyAt, keySize, valueSize := at+uint64(order.Uint32(b[4:])), uint64(order.Uint32(b[8:])), uint64(order.Uint32(b[12:]))
		key, err := cut(id, page, keyAt, keySize)
		if err != nil {
			return err
		}
		value, err := cut(id, page, keyAt+keySize, valueSize)
		if err != nil {
			return err
		}
		if err := inOrder(id, key, before, low, high, i == 0); err != nil {
			return err
		}
		before = key
		if order.Uint32(b)&bucketLeaf != 0 {
			if err := w.bucket(id, value, depth); err != nil {
				return err
			}
		}
	}
	return nil
}

// bucket walks the bucket that stands in a leaf.
func (w *walker) bucket(id uint64, value []byte, depth int) error {
	if len(value) < bucketBytes {
		return damage("a bucket of page %d is too short", id)
	}
	if root := order.Uint64(value); root != 0 {
		return w.tree(root, nil, nil, depth+1)
	}
	// A small bucket: its only page follows.
	inline := value[bucketBytes:]
	if depth+1 >= maxDepth || len(inline) < pageHeaderBytes || order.Uint16(inline[8:]) != leafPage {
		return damage("a small bucket of page %d is not a leaf", id)
	}
	return w.leaf(id, inline, nil, nil, depth+1)
}

// freelist checks the list of free pages, which other programs that use bbolt write.
func (w *walker) freelist(id uint64) error {
	page, err := w.page(id, 0)
	if err != nil {
		return err
	}
	if kind := order.Uint16(page[8:]); kind != freelistPage {
		return damage("page %d of free pages is of kind %#x", id, kind)
	}
	list := page[pageHeaderBytes:]
	count := uint64(order.Uint16(page[10:]))
	if count == 0xffff { // too many for the header
		count, list = order.Uint64(list), list[8:]
	}
	if count > uint64(len(list))/8 {
		return damage("page %d has %d free pages, more than fit", id, count)
	}
	for i := range count {
		if err := w.use(order.Uint64(list[i*8:]), 1); err != nil {
			return err
		}
	}
	return nil
}

package file

import "unsafe"

// blockBytes is what disks and file systems read and write at least. Whole blocks can go to the disk past the page cache.
const blockBytes = 4096

// wholeBlocks rounds up to whole blocks.
func wholeBlocks(n int64) int64 { return (n + blockBytes - 1) &^ (blockBytes - 1) }

// newBlocks returns zeros of that size, whole blocks, that begin at a multiple of a block in memory, as the way past the
// page cache wants it. Inlined, it could have them on the stack, which moves.
//
//go:noinline
func newBlocks(size int64) []byte {
	data := make([]byte, size+blockBytes-1)
	address := uintptr(unsafe.Pointer(unsafe.SliceData(data))) // #nosec G103 -- only looked at
	skip := -address & (blockBytes - 1)
	return data[skip : int64(skip)+size : int64(skip)+size]
}

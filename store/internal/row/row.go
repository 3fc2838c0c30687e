// Package row is how the stores write a row: fields one after the other, numbers in 8 bytes big-endian so that they
// sort, byte strings behind their length as a varint so that no field runs into the next whatever it contains.
package row

import (
	"encoding/binary"
	"fmt"
	"time"

	"parley/store"
)

// ErrDamaged means that a row is not what was written.
var ErrDamaged = fmt.Errorf("stored row is damaged: %w", store.ErrUnavailable)

// AppendUint appends a number.
func AppendUint(dst []byte, v uint64) []byte { return binary.BigEndian.AppendUint64(dst, v) }

// AppendString appends a string with its length.
func AppendString[T string | []byte](dst []byte, s T) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(s)))
	return append(dst, s...)
}

// AppendTime appends a time to the millisecond; the zero time stays zero.
func AppendTime(dst []byte, t time.Time) []byte { return AppendUint(dst, uint64(Millis(t))) }

// Millis returns unix milliseconds, and 0 for the zero time.
func Millis(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

// Time is the opposite of [Millis].
func Time(millis int64) time.Time {
	if millis == 0 {
		return time.Time{}
	}
	return time.UnixMilli(millis).UTC()
}

// Reader takes the fields out of a row. It is sticky: after a field that cannot be read all others are zero, and Err
// says so.
type Reader struct {
	rest   []byte
	failed bool
}

// Read returns a reader of data, which is not changed.
func Read(data []byte) Reader { return Reader{rest: data} }

// Uint reads a number.
func (r *Reader) Uint() uint64 {
	if len(r.rest) < 8 {
		r.rest, r.failed = nil, true
		return 0
	}
	v := binary.BigEndian.Uint64(r.rest)
	r.rest = r.rest[8:]
	return v
}

// Time reads a time.
func (r *Reader) Time() time.Time { return Time(int64(r.Uint())) }

// Raw reads n bytes, which belong to the row.
func (r *Reader) Raw(n int) []byte {
	if len(r.rest) < n {
		r.rest, r.failed = nil, true
		return nil
	}
	raw := r.rest[:n:n]
	r.rest = r.rest[n:]
	return raw
}

// Bytes reads a byte string, which belongs to the row.
func (r *Reader) Bytes() []byte {
	size, n := binary.Uvarint(r.rest)
	if n <= 0 || size > uint64(len(r.rest)-n) {
		r.rest, r.failed = nil, true
		return nil
	}
	r.rest = r.rest[n:]
	return r.Raw(int(size))
}

// String reads a string.
func (r *Reader) String() string { return string(r.Bytes()) }

// More reports whether something is left to read.
func (r *Reader) More() bool { return len(r.rest) > 0 }

// Err returns [ErrDamaged] if a field could not be read.
func (r *Reader) Err() error {
	if r.failed {
		return ErrDamaged
	}
	return nil
}

// Rest reads all that is left, which belongs to the row.
func (r *Reader) Rest() []byte { return r.Raw(len(r.rest)) }

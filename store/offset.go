package store

import (
	"errors"
	"strconv"
	"strings"
)

// Offset is a place in a mailbox. The zero Offset stands before the oldest entry.
type Offset struct {
	// Epoch tells incarnations of a mailbox apart: unix nanoseconds when it was made, and always later than that of
	// an earlier one.
	Epoch uint64
	// Seq is the number of an entry, from 1.
	Seq uint64
}

// IsZero reports whether o stands before the oldest entry.
func (o Offset) IsZero() bool { return o == Offset{} }

// Before reports whether o comes before p: in an earlier incarnation of the mailbox, or by its number.
func (o Offset) Before(p Offset) bool {
	return o.Epoch < p.Epoch || o.Epoch == p.Epoch && o.Seq < p.Seq
}

// String returns the form that travels to clients: the epoch in base 36, a hyphen, the number in base 10.
func (o Offset) String() string {
	b := make([]byte, 0, 32)
	b = strconv.AppendUint(b, o.Epoch, 36)
	b = append(b, '-')
	b = strconv.AppendUint(b, o.Seq, 10)
	return string(b)
}

// maxOffsetBytes is the length of the longest offset: 13 digits, a hyphen, 20 digits.
const maxOffsetBytes = 34

var errOffset = errors.New("not an offset")

// ParseOffset reads what [Offset.String] wrote, and nothing else: any other spelling is an error.
func ParseOffset(s string) (Offset, error) {
	if len(s) > maxOffsetBytes {
		return Offset{}, errOffset
	}
	epoch, seq, ok := strings.Cut(s, "-")
	if !ok {
		return Offset{}, errOffset
	}
	var o Offset
	var err error
	if o.Epoch, err = strconv.ParseUint(epoch, 36, 64); err != nil {
		return Offset{}, errOffset
	}
	if o.Seq, err = strconv.ParseUint(seq, 10, 64); err != nil {
		return Offset{}, errOffset
	}
	// Upper case, leading zeros and plus signs parse too, but were never given out.
	if o.String() != s {
		return Offset{}, errOffset
	}
	return o, nil
}

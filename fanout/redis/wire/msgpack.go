package wire

import (
	"strconv"

	"github.com/tinylib/msgp/msgp"
)

// kind is what a value is.
type kind int

const (
	kindOther kind = iota // no value begins so
	kindNil
	kindBool
	kindNumber
	kindString
	kindBinary
	kindArray
	kindMap
	kindExt
)

// kindOf returns what the value is that b begins with.
func kindOf(b []byte) kind {
	switch msgp.NextType(b) {
	case msgp.StrType:
		return kindString
	case msgp.IntType, msgp.UintType, msgp.Float64Type, msgp.Float32Type:
		return kindNumber
	case msgp.MapType:
		return kindMap
	case msgp.ArrayType:
		return kindArray
	case msgp.BinType:
		return kindBinary
	case msgp.NilType:
		return kindNil
	case msgp.BoolType:
		return kindBool
	case msgp.ExtensionType, msgp.TimeType, msgp.Complex64Type, msgp.Complex128Type: // some types have a name of their own
		return kindExt
	}
	return kindOther
}

// tooLong tells whether b begins with a length that a machine of 32 bits can't count, which the library would take
// for a negative one there.
func tooLong(b []byte) bool {
	const str32, bin32, ext32 = 0xdb, 0xc6, 0xc9
	return strconv.IntSize == 32 && len(b) > 1 && b[1] >= 0x80 && (b[0] == str32 || b[0] == bin32 || b[0] == ext32)
}

// writer appends MessagePack in the dialect of notepack.io (redis-adapter.md section 3), all in the smallest form. The
// first error stays.
type writer struct {
	buf []byte
	err error

	room [16]int // for the sizes of what most texts have
}

// newWriter returns a writer with room for size bytes; it takes more.
func newWriter(size int) *writer { return &writer{buf: make([]byte, 0, size)} }

func (w *writer) bytes() ([]byte, error) {
	if w.err != nil {
		return nil, w.err
	}
	return w.buf, nil
}

func (w *writer) fail(err error) {
	if w.err == nil {
		w.err = err
	}
}

func (w *writer) null()                { w.buf = msgp.AppendNil(w.buf) }
func (w *writer) bool(b bool)          { w.buf = msgp.AppendBool(w.buf, b) }
func (w *writer) uint(n uint64)        { w.buf = msgp.AppendUint64(w.buf, n) }
func (w *writer) float(f float64)      { w.buf = msgp.AppendFloat64(w.buf, f) }
func (w *writer) string(s string)      { w.buf = msgp.AppendString(w.buf, s) }
func (w *writer) stringBytes(s []byte) { w.buf = msgp.AppendStringFromBytes(w.buf, s) }
func (w *writer) binary(b []byte)      { w.buf = msgp.AppendBytes(w.buf, b) }
func (w *writer) array(n int)          { w.buf = msgp.AppendArrayHeader(w.buf, uint32(n)) }
func (w *writer) object(n int)         { w.buf = msgp.AppendMapHeader(w.buf, uint32(n)) }

// int appends n. Only what is negative is a signed number on the wire.
func (w *writer) int(n int64) {
	if n >= 0 {
		w.uint(uint64(n))
		return
	}
	w.buf = msgp.AppendInt64(w.buf, n)
}

func (w *writer) strings(list []string) {
	w.array(len(list))
	for _, s := range list {
		w.string(s)
	}
}

// pair appends a key and a text.
func (w *writer) pair(key, value string) {
	w.string(key)
	w.string(value)
}

package wire

import (
	"encoding/binary"
	"math"
	"slices"
	"strings"
	"testing"
)

// integers are those where the smallest form changes, and what they are on the wire as a signed and as an unsigned number.
var integers = []struct {
	n                int64
	signed, unsigned string
}{
	{0, "00", "00"},
	{1, "01", "01"},
	{-1, "ff", "cfffffffffffffffff"},
	{127, "7f", "7f"},
	{128, "cc80", "cc80"},
	{255, "ccff", "ccff"},
	{256, "cd0100", "cd0100"},
	{65535, "cdffff", "cdffff"},
	{65536, "ce00010000", "ce00010000"},
	{math.MaxUint32, "ceffffffff", "ceffffffff"},
	{math.MaxUint32 + 1, "cf0000000100000000", "cf0000000100000000"},
	{1<<53 - 1, "cf001fffffffffffff", "cf001fffffffffffff"},
	{math.MaxInt64, "cf7fffffffffffffff", "cf7fffffffffffffff"},
	{-32, "e0", "cfffffffffffffffe0"},
	{-33, "d0df", "cfffffffffffffffdf"},
	{-128, "d080", "cfffffffffffffff80"},
	{-129, "d1ff7f", "cfffffffffffffff7f"},
	{-32768, "d18000", "cfffffffffffff8000"},
	{-32769, "d2ffff7fff", "cfffffffffffff7fff"},
	{math.MinInt32, "d280000000", "cfffffffff80000000"},
	{math.MinInt32 - 1, "d3ffffffff7fffffff", "cfffffffff7fffffff"},
	{math.MinInt64, "d38000000000000000", "cf8000000000000000"},
}

// lengths are those where what precedes a text, a byte array, an array or a map changes, and what it is.
var lengths = []struct {
	n                           int
	text, binary, array, object string
}{
	{0, "a0", "c400", "90", "80"},
	{1, "a1", "c401", "91", "81"},
	{15, "af", "c40f", "9f", "8f"},
	{16, "b0", "c410", "dc0010", "de0010"},
	{31, "bf", "c41f", "dc001f", "de001f"},
	{32, "d920", "c420", "dc0020", "de0020"},
	{255, "d9ff", "c4ff", "dc00ff", "de00ff"},
	{256, "da0100", "c50100", "dc0100", "de0100"},
	{65535, "daffff", "c5ffff", "dcffff", "deffff"},
	{65536, "db00010000", "c600010000", "dd00010000", "df00010000"},
}

// All is written in its smallest form, and integers from 0 as unsigned ones.
func TestWrittenInTheSmallestForm(t *testing.T) {
	check := func(what string, n any, write func(*writer), head string, contents string) {
		t.Helper()
		w := newWriter(0)
		write(w)
		want := string(unhex(t, head)) + contents
		if got, err := w.bytes(); err != nil || string(got) != want {
			t.Errorf("%s %v: wrote %.20x, %v, want %.20x", what, n, got, err, want)
		}
	}
	for _, i := range integers {
		check("integer", i.n, func(w *writer) { w.int(i.n) }, i.signed, "")
		check("natural", uint64(i.n), func(w *writer) { w.uint(uint64(i.n)) }, i.unsigned, "")
	}
	for want, f := range map[string]float64{
		"cb3ff8000000000000": 1.5, "cbbfb999999999999a": -0.1, "cb400921fb54442d18": math.Pi,
		"cb7fefffffffffffff": math.MaxFloat64, "cb0000000000000001": math.SmallestNonzeroFloat64,
	} {
		check("float", f, func(w *writer) { w.float(f) }, want, "")
	}
	for _, l := range lengths {
		s := strings.Repeat("x", l.n)
		check("text of", l.n, func(w *writer) { w.string(s) }, l.text, s)
		check("text from bytes of", l.n, func(w *writer) { w.stringBytes([]byte(s)) }, l.text, s)
		check("bytes of", l.n, func(w *writer) { w.binary([]byte(s)) }, l.binary, s)
		check("array of", l.n, func(w *writer) { w.array(l.n) }, l.array, "")
		check("map of", l.n, func(w *writer) { w.object(l.n) }, l.object, "")
	}
}

// widths are the forms of a signed integer.
var widths = []struct {
	code      byte
	bytes     int
	low, high int64
}{
	{0xd0, 1, math.MinInt8, math.MaxInt8},
	{0xd1, 2, math.MinInt16, math.MaxInt16},
	{0xd2, 4, math.MinInt32, math.MaxInt32},
	{0xd3, 8, math.MinInt64, math.MaxInt64},
}

// Whatever form an integer or a length has, it is read.
func TestReadInEveryForm(t *testing.T) {
	for _, i := range integers {
		forms := []string{string(unhex(t, i.signed))}
		for _, w := range widths {
			if w.low <= i.n && i.n <= w.high {
				all := binary.BigEndian.AppendUint64(nil, uint64(i.n))
				forms = append(forms, string(append([]byte{w.code}, all[8-w.bytes:]...)))
			}
		}
		for _, form := range forms {
			if got, err := newReader(form, 0).integer(); err != nil || got != i.n {
				t.Errorf("%x was read as %d, %v, want %d", form, got, err, i.n)
			}
			got, err := newReader(form, 0).natural()
			if (err == nil) != (i.n >= 0) || err == nil && got != uint64(i.n) {
				t.Errorf("%x was read as %d, %v, want %d", form, got, err, i.n)
			}
			for cut := range len(form) {
				if got, err := newReader(form[:cut], 0).integer(); err == nil {
					t.Errorf("the first %d bytes of %x were read as %d", cut, form, got)
				}
			}
		}
	}
	for _, f := range []float64{7, -7, 1 << 62} {
		w := newWriter(0)
		w.float(f)
		if got, err := newReader(string(w.buf), 0).integer(); err != nil || got != int64(f) {
			t.Errorf("%v was read as %d, %v", f, got, err)
		}
	}
	for _, f := range []float64{7.5, math.NaN(), math.Inf(1), math.Inf(-1), 1e300} {
		w := newWriter(0)
		w.float(f)
		if got, err := newReader(string(w.buf), 0).integer(); err == nil {
			t.Errorf("%v was read as %d", f, got)
		}
		if got, err := newReader(string(w.buf), 0).natural(); err == nil {
			t.Errorf("%v was read as %d", f, got)
		}
	}
	for _, l := range lengths {
		for _, form := range []struct {
			write func(*writer)
			read  func(*reader) (int, error)
		}{
			{func(w *writer) { w.string(strings.Repeat("x", l.n)) }, func(r *reader) (int, error) {
				s, err := r.text()
				return len(s), err
			}},
			{func(w *writer) { w.binary(make([]byte, l.n)) }, func(r *reader) (int, error) {
				err := r.value(0)
				return len(slices.Concat(r.attachments...)), err
			}},
			{func(w *writer) { w.array(l.n) }, func(r *reader) (int, error) {
				n, err := r.arrayLen()
				return int(n), err
			}},
			{func(w *writer) { w.object(l.n) }, func(r *reader) (int, error) {
				n, err := r.mapLen()
				return int(n), err
			}},
		} {
			w := newWriter(0)
			form.write(w)
			if got, err := form.read(newReader(string(w.buf), 1)); err != nil || got != l.n {
				t.Errorf("%.5x is %d long, %v, want %d", w.buf, got, err, l.n)
			}
		}
	}
}

// A length that nothing could have is refused, also where it is a negative number for a machine of 32 bits.
func TestLengthsAreBounded(t *testing.T) {
	for _, code := range []byte{0xc6, 0xc9, 0xdb, 0xdd, 0xdf} {
		for _, first := range []byte{0x01, 0x7f, 0x80, 0xff} {
			body := string([]byte{code, first, 0xff, 0xff, 0xff, 1, 1})
			if err := newReader(body, 1).value(0); err != ErrMalformed {
				t.Errorf("%x: %v, want %v", body, err, ErrMalformed)
			}
		}
	}
}

func TestKinds(t *testing.T) {
	known := map[byte]kind{0xc0: kindNil, 0xc1: kindOther, 0xc2: kindBool, 0xc3: kindBool}
	put := func(from, to int, k kind) {
		for c := from; c <= to; c++ {
			known[byte(c)] = k
		}
	}
	put(0x00, 0x7f, kindNumber)
	put(0x80, 0x8f, kindMap)
	put(0x90, 0x9f, kindArray)
	put(0xa0, 0xbf, kindString)
	put(0xc4, 0xc6, kindBinary)
	put(0xc7, 0xc9, kindExt)
	put(0xca, 0xd3, kindNumber)
	put(0xd4, 0xd8, kindExt)
	put(0xd9, 0xdb, kindString)
	put(0xdc, 0xdd, kindArray)
	put(0xde, 0xdf, kindMap)
	put(0xe0, 0xff, kindNumber)
	for c, want := range known {
		for _, b := range [][]byte{{c}, append([]byte{c}, make([]byte, 32)...)} {
			if got := kindOf(b); got != want {
				t.Errorf("%x is of kind %d, want %d", b, got, want)
			}
		}
	}
	for typ := range 256 { // the library has names of its own for some types of extensions
		for _, b := range [][]byte{{0xd4, byte(typ), 0}, {0xc7, 1, byte(typ), 0}, {0xc8, 0, 1, byte(typ), 0}, {0xc9, 0, 0, 0, 1, byte(typ), 0}} {
			if got := kindOf(b); got != kindExt {
				t.Errorf("%x is of kind %d", b, got)
			}
		}
	}
	if len(known) != 256 {
		t.Errorf("%d codes", len(known))
	}
}

// A private message costs no more memory than this, of which one piece is the message itself.
func TestAllocations(t *testing.T) {
	m := message()
	body, err := m.Encode()
	if err != nil {
		t.Fatal(err)
	}
	text := string(body)
	for _, tt := range []struct {
		what string
		most float64
		do   func()
	}{
		{"encoding", 2, func() { _, _ = m.Encode() }},
		{"decoding", 5, func() { _, _ = Decoder{}.Broadcast(text) }},
		{"telling the sender", 0, func() { _, _ = Sender(text) }},
		{"telling mail", 0, func() { _ = IsMail(text) }},
	} {
		if got := testing.AllocsPerRun(100, tt.do); got > tt.most {
			t.Errorf("%s allocates %v times, want %v", tt.what, got, tt.most)
		}
	}
	if cap(body) > 2*len(body) {
		t.Errorf("%d bytes have room for %d", len(body), cap(body))
	}
}

func TestMailIsTold(t *testing.T) {
	mail, err := message().Encode()
	if err != nil || !IsMail(string(mail)) {
		t.Errorf("mail is not told: %v", err)
	}
	m := message()
	sharded, err := (&Sharded{UID: "ae2ebb64313e5a39", Namespace: "/", Broadcast: m}).Encode()
	if err != nil || !IsMail(string(sharded)) {
		t.Errorf("sharded mail is not told: %v", err)
	}
	m.Mail = nil
	other, err := m.Encode()
	if err != nil || IsMail(string(other)) {
		t.Errorf("another broadcast is taken for mail: %v", err)
	}
}

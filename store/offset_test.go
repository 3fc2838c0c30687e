package store

import (
	"math"
	"testing"
)

func TestParseOffset(t *testing.T) {
	for _, o := range []Offset{{}, {1, 1}, {1700000000000000000, 42}, {math.MaxUint64, math.MaxUint64}} {
		got, err := ParseOffset(o.String())
		if err != nil || got != o {
			t.Errorf("%v: got %v, %v", o, got, err)
		}
	}
	if got := (Offset{Epoch: 36, Seq: 10}).String(); got != "10-10" {
		t.Errorf("the epoch is base 36, the number base 10: got %s", got)
	}
	for _, bad := range []string{
		"", "-", "1", "1-", "-1", "1-1-1", "01-1", "1-01", "A-1", "+1-1", "1-+1", "1--1", " 1-1", "1-1 ", "1_0-1", "1-1_0",
		"0x1-1", "1-1.0", "3w5e11264sgsg-1", "1-18446744073709551616", "1700000000-0-extra", "１-1",
	} {
		if o, err := ParseOffset(bad); err == nil {
			t.Errorf("%q was read as %v", bad, o)
		}
	}
}

// FuzzParseOffset checks that whatever parses prints the same.
func FuzzParseOffset(f *testing.F) {
	f.Add("cxm2u9z5s5c0-42")
	f.Add("-")
	f.Fuzz(func(t *testing.T, s string) {
		if o, err := ParseOffset(s); err == nil && o.String() != s {
			t.Errorf("%q was read as %v", s, o)
		}
	})
}

func TestFold(t *testing.T) {
	for _, same := range [][]string{
		{"Bob", "BOB", "bob"}, {"K", "k", "\u212A"}, {"ſ", "S", "s"}, {"Σ", "σ", "ς"}, {"Å", "å", "\u212B"}, {"\xff", "\xfe"},
	} {
		for _, s := range same[1:] {
			if Fold(s) != Fold(same[0]) {
				t.Errorf("%q and %q differ", s, same[0])
			}
		}
	}
	if Fold("ab\x00c") != "ab\x00c" || Fold("é") == Fold("e") {
		t.Error("different names are the same")
	}
}

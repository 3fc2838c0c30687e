// Package plot draws small SVG charts: bars with their spread, and curves. They follow the reader's light or dark
// theme.
package plot

import (
	"bytes"
	"cmp"
	"encoding/xml"
	"fmt"
	"math"
	"slices"
	"strconv"
)

// Bar is one bar: a median and the extremes that it lies between.
type Bar struct {
	Label            string
	Median, Min, Max float64
	Strong           bool // drawn in the first color
}

const (
	width      = 720
	labelWidth = 190
	valueWidth = 150
	rowHeight  = 30
	headHeight = 44
)

const style = `<style>text{font:13px system-ui,sans-serif;fill:#1f2328}.t{font-weight:600}.s{fill:#59636e}.g{stroke:#d1d9e0}` +
	`.a{fill:#0969da;stroke:#0969da}.b{fill:#8c959f;stroke:#8c959f}.w{stroke:#1f2328;stroke-width:1.5}` +
	`@media(prefers-color-scheme:dark){text{fill:#f0f6fc}.s{fill:#9198a1}.g{stroke:#3d444d}.a{fill:#4493f8;stroke:#4493f8}.b{fill:#6e7681;stroke:#6e7681}` +
	`.w{stroke:#f0f6fc}}</style>` + "\n"

// Bars draws one bar for each server; shorter is better, unless the unit says otherwise.
func Bars(title, unit string, bars []Bar) []byte {
	var b bytes.Buffer
	height := headHeight + rowHeight*len(bars) + 10
	open(&b, height, title, unit)
	top := 0.0
	for _, bar := range bars {
		top = max(top, bar.Max, bar.Median)
	}
	x := func(v float64) float64 { return labelWidth + v/cmp.Or(top, 1)*(width-labelWidth-valueWidth) }
	for i, bar := range bars {
		y := headHeight + rowHeight*i
		class := "b"
		if bar.Strong {
			class = "a"
		}
		fmt.Fprintf(&b, `<text x="%d" y="%d" text-anchor="end">%s</text>`, labelWidth-8, y+18, escape(bar.Label))
		fmt.Fprintf(&b, `<rect class="%s" x="%d" y="%d" width="%.1f" height="%d" rx="2"/>`, class, labelWidth, y+5, max(x(bar.Median)-labelWidth, 0), rowHeight-12)
		if bar.Max > bar.Min {
			mid := float64(y) + rowHeight/2 - 1
			fmt.Fprintf(&b, `<path class="w" d="M%.1f %.1fH%.1fM%.1f %.1fv8M%.1f %.1fv8"/>`, x(bar.Min), mid, x(bar.Max), x(bar.Min), mid-4, x(bar.Max), mid-4)
		}
		fmt.Fprintf(&b, `<text class="s" x="%.1f" y="%d">%s</text>`+"\n", x(max(bar.Max, bar.Median))+8, y+18, Number(bar.Median))
	}
	b.WriteString("</svg>\n")
	return b.Bytes()
}

// Point is one point of a curve.
type Point struct{ X, Y float64 }

// Line is a named curve.
type Line struct {
	Label  string
	Points []Point
	Strong bool
}

// Curves draws lines over a logarithmic x axis, from zero upwards.
func Curves(title, unit string, lines []Line) []byte {
	const height, left, right, top0, bottom = 310, 60, 150, headHeight + 10, 270
	var b bytes.Buffer
	open(&b, height, title, unit)
	var xs []float64
	top := 0.0
	for _, l := range lines {
		for _, p := range l.Points {
			xs, top = append(xs, p.X), max(top, p.Y)
		}
	}
	slices.Sort(xs)
	xs = slices.Compact(xs)
	if len(xs) == 0 {
		b.WriteString("</svg>\n")
		return b.Bytes()
	}
	low, span := math.Log(max(xs[0], 1)), math.Log(max(xs[len(xs)-1], 1))-math.Log(max(xs[0], 1))
	x := func(v float64) float64 { return left + (math.Log(max(v, 1))-low)/cmp.Or(span, 1)*(width-left-right) }
	y := func(v float64) float64 { return bottom - v/cmp.Or(top*1.1, 1)*(bottom-top0) }
	for i := range 5 {
		v := top * 1.1 * float64(i) / 4
		fmt.Fprintf(&b, `<path class="g" d="M%d %.1fH%d"/><text class="s" x="%d" y="%.1f" text-anchor="end">%s</text>`+"\n", left, y(v), width-right, left-6, y(v)+4, Number(v))
	}
	for _, v := range xs {
		fmt.Fprintf(&b, `<text class="s" x="%.1f" y="%d" text-anchor="middle">%s</text>`+"\n", x(v), bottom+20, Number(v))
	}
	for _, l := range lines {
		if len(l.Points) == 0 {
			continue
		}
		class := "b"
		if l.Strong {
			class = "a"
		}
		var path bytes.Buffer
		for i, p := range l.Points {
			fmt.Fprintf(&path, "%c%.1f %.1f", "ML"[min(i, 1)], x(p.X), y(p.Y))
		}
		last := l.Points[len(l.Points)-1]
		fmt.Fprintf(&b, `<path class="%s" style="fill:none;stroke-width:2" d="%s"/><text x="%.1f" y="%.1f">%s</text>`+"\n", class, path.Bytes(), x(last.X)+8, y(last.Y)+4, escape(l.Label))
	}
	b.WriteString("</svg>\n")
	return b.Bytes()
}

func open(b *bytes.Buffer, height int, title, unit string) {
	fmt.Fprintf(b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" role="img" aria-label="%s">`+"\n", width, height, escape(title))
	b.WriteString(style)
	fmt.Fprintf(b, `<text class="t" x="8" y="18">%s</text><text class="s" x="8" y="36">%s</text>`+"\n", escape(title), escape(unit))
}

func escape(s string) string {
	var b bytes.Buffer
	_ = xml.EscapeText(&b, []byte(s)) // a buffer takes everything
	return b.String()
}

// Number writes a number with three digits, or all of those before its point.
func Number(v float64) string {
	switch a := math.Abs(v); {
	case a >= 100 || a == math.Trunc(a):
		return strconv.FormatFloat(v, 'f', 0, 64)
	case a >= 10:
		return strconv.FormatFloat(v, 'f', 1, 64)
	}
	return strconv.FormatFloat(v, 'f', 2, 64)
}

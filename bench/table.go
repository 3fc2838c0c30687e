//go:build linux

package main

import (
	"fmt"
	"io"
	"iter"
	"strconv"
	"strings"
	"text/tabwriter"
)

// table prints the summaries, one block for each phase, with ratios to the block's references.
func table(out io.Writer, all []summary) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for rows := range blocks(all) {
		head, lines := cells(rows)
		_, _ = fmt.Fprintf(w, "\n%s, %s (median, and from min to max)\n%s\n", rows[0].Workload, rows[0].Phase, strings.Join(head, "\t")) // Flush says
		for _, line := range lines {
			_, _ = fmt.Fprintln(w, strings.Join(line, "\t"))
		}
		if err := w.Flush(); err != nil {
			return err
		}
	}
	if verdicts := judge(all); len(verdicts) > 0 {
		_, _ = fmt.Fprintln(w, "\nbars")
		for _, v := range verdicts {
			_, _ = fmt.Fprintln(w, strings.ReplaceAll(strings.Trim(v.String(), "| "), " | ", "\t"))
		}
	}
	return w.Flush()
}

// blocks yields the summaries of one workload's phase together.
func blocks(all []summary) iter.Seq[[]summary] {
	return func(yield func([]summary) bool) {
		for start, end := 0, 0; start < len(all); start = end {
			for end < len(all) && all[end].Workload == all[start].Workload && all[end].Phase == all[start].Phase {
				end++
			}
			if !yield(all[start:end]) {
				return
			}
		}
	}
}

// cells is a block's table.
func cells(rows []summary) (head []string, lines [][]string) {
	head = []string{"server"}
	for _, m := range metrics {
		if has(rows, m.metric) {
			head = append(head, m.title)
		}
	}
	head = append(head, ratioTitles(rows)...)
	for _, r := range rows {
		line := []string{r.Target}
		for _, m := range metrics {
			if has(rows, m.metric) {
				line = append(line, cell(r, m.metric, m.digits))
			}
		}
		lines = append(lines, append(line, ratios(rows, r)...))
	}
	return head, lines
}

func cell(r summary, m metric, digits int) string {
	s, ok := r.Metrics[m]
	if !ok {
		return "-"
	}
	f := func(v float64) string { return strconv.FormatFloat(v, 'f', digits, 64) }
	if len(s.Runs) < 2 {
		return f(s.Median)
	}
	return fmt.Sprintf("%s (%s–%s)", f(s.Median), f(s.Min), f(s.Max))
}

func has(rows []summary, m metric) bool {
	for _, r := range rows {
		if _, ok := r.Metrics[m]; ok {
			return true
		}
	}
	return false
}

// references are the servers that ratios of a block are to.
func references(rows []summary) []summary {
	var refs []summary
	for _, r := range rows {
		if !ours(r) && len(rows) > 1 {
			refs = append(refs, r)
		}
	}
	return refs
}

func ratioTitles(rows []summary) []string {
	var titles []string
	for _, ref := range references(rows) {
		titles = append(titles, "× "+ref.Target)
	}
	return titles
}

// ratios compares what matters most in a block: CPU with everything, or else what there is.
func ratios(rows []summary, r summary) []string {
	var all []string
	for _, ref := range references(rows) {
		text := "-"
		for _, m := range comparable {
			a, ok := r.Metrics[m]
			b, also := ref.Metrics[m]
			if ok && also && b.Median > 0 {
				text = strconv.FormatFloat(a.Median/b.Median, 'f', 2, 64)
				break
			}
		}
		all = append(all, text)
	}
	return all
}

// comparable is what ratios are of, the best first.
var comparable = []metric{allPerEvent, cpuPerEvent, cpuPerConnect, rssPerConn, donePerSec}

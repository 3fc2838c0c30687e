//go:build linux

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"time"

	"parley/bench/plot"
)

// record is what a run leaves: results, and what they were measured on.
type record struct {
	Time     time.Time `json:"time"`
	Machine  string    `json:"machine"`
	Versions []string  `json:"versions"`
	Command  string    `json:"command"`
	Results  []summary `json:"results"`
}

func newRecord(ctx context.Context, root string, args []string, all []summary) record {
	return record{
		Time: time.Now().UTC().Truncate(time.Minute), Machine: machine(), Versions: versions(ctx, root),
		Command: strings.Join(append([]string{"go run ./bench"}, shown(args)...), " "), Results: all,
	}
}

var ownPaths = regexp.MustCompile(`^--?(json|data|report|from)(=.*)?$`)

// shown leaves out the flags that only say where files are.
func shown(args []string) (kept []string) {
	for i := 0; i < len(args); i++ {
		m := ownPaths.FindStringSubmatch(args[i])
		if m == nil {
			kept = append(kept, args[i])
		} else if m[2] == "" {
			i++ // its value
		}
	}
	return kept
}

var cpuModel = regexp.MustCompile(`(?m)^model name\s*: (.*)$`)

func machine() string {
	model := "unknown processor"
	if text, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		if m := cpuModel.FindSubmatch(text); m != nil {
			model = string(m[1])
		}
	}
	kernel, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	version, _, _ := strings.Cut(strings.TrimSpace(string(kernel)), "-")
	return fmt.Sprintf("%s, %d cores, Linux %s, %s", model, runtime.NumCPU(), version, memoryTotal())
}

var memTotal = regexp.MustCompile(`(?m)^MemTotal:\s*(\d+) kB$`)

func memoryTotal() string {
	text, _ := os.ReadFile("/proc/meminfo")
	m := memTotal.FindSubmatch(text)
	if m == nil {
		return "memory unknown"
	}
	kb, _ := strconv.Atoi(string(m[1]))
	return fmt.Sprintf("%d GB of memory", (kb+1<<19)>>20)
}

// versions asks what is installed. What is not there is left out.
func versions(ctx context.Context, root string) []string {
	all := []string{runtime.Version()}
	node := filepath.Join(root, "bench", "peer", "node", "node_modules")
	for _, ask := range [][]string{{"node", "--version"}, {filepath.Join(node, ".bin", "bun"), "--version"}, {"redis-server", "--version"}} {
		if out, err := exec.CommandContext(ctx, ask[0], ask[1:]...).Output(); err == nil { // #nosec G204 -- the three above
			first, _, _ := strings.Cut(strings.TrimSpace(string(out)), " sha=")
			all = append(all, filepath.Base(ask[0])+" "+strings.TrimPrefix(first, "Redis server "))
		}
	}
	for _, name := range []string{"socket.io", "@socket.io/redis-adapter", "@socket.io/bun-engine"} {
		var pkg struct{ Version string }
		text, err := os.ReadFile(filepath.Join(node, name, "package.json"))
		if err == nil && json.Unmarshal(text, &pkg) == nil {
			all = append(all, name+" "+pkg.Version)
		}
	}
	if out, err := exec.CommandContext(ctx, "go", "list", "-m", "github.com/lxzan/gws").Output(); err == nil {
		all = append(all, strings.TrimPrefix(strings.TrimSpace(string(out)), "github.com/lxzan/"))
	}
	return all
}

func (r record) write(path string) error {
	if path == "" {
		return nil
	}
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(text, '\n'), 0o644) // #nosec G306 -- a document
}

// readRecords reads what runs left.
func readRecords(paths string) (all []record, err error) {
	for _, path := range strings.Split(paths, ",") {
		text, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		var r record
		if err := json.Unmarshal(text, &r); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		all = append(all, r)
	}
	return all, nil
}

const (
	beginResults = "<!-- results: written by go run ./bench --report -->\n"
	endResults   = "<!-- end of results -->"
)

// report writes the plots into a directory and the tables into the file beside it, between the markers.
func report(dir string, records []record) error {
	path := dir + ".md"
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	head, rest, ok := strings.Cut(string(text), beginResults)
	_, tail, also := strings.Cut(rest, endResults)
	if !ok || !also {
		return fmt.Errorf("%s has no markers for the results: %q and %q", path, strings.TrimSpace(beginResults), endResults)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil { // #nosec G301 -- of documents
		return err
	}
	var b bytes.Buffer
	b.WriteString(head + beginResults + "\n")
	var all []summary
	for _, r := range records {
		fmt.Fprintf(&b, "%s: `%s` on %s; %s.\n\n", r.Time.Format("2006-01-02"), r.Command, r.Machine, strings.Join(r.Versions, ", "))
		all = append(all, r.Results...)
	}
	b.WriteString("### Bars\n\n| | measured | bar | |\n|---|---|---|---|\n")
	for _, v := range judge(all) {
		fmt.Fprintln(&b, v)
	}
	plots := map[string][]byte{}
	for rows := range blocks(all) {
		name := slug(rows[0].Workload + " " + rows[0].Phase)
		fmt.Fprintf(&b, "\n### %s, %s\n\n", rows[0].Workload, rows[0].Phase)
		if m, title := plotted(rows); m != "" {
			plots[name+".svg"] = plot.Bars(rows[0].Workload+", "+rows[0].Phase, title, plotBars(rows, m))
			fmt.Fprintf(&b, "![%s](%s/%s.svg)\n\n", title, filepath.Base(dir), name)
		}
		markdown(&b, rows)
	}
	heading := "\n### Doubling\n"
	for _, c := range curves {
		if lines := c.lines(all); len(lines) > 0 {
			plots[c.workload+".svg"] = plot.Curves(c.title, c.unit, lines)
			fmt.Fprintf(&b, "%s\n![%s](%s/%s.svg)\n", heading, c.title, filepath.Base(dir), c.workload)
			heading = ""
		}
	}
	b.WriteString("\n" + endResults + tail)
	var failed error
	for name, svg := range plots {
		failed = errors.Join(failed, os.WriteFile(filepath.Join(dir, name), svg, 0o644)) // #nosec G306 -- a document
	}
	return errors.Join(failed, os.WriteFile(path, b.Bytes(), 0o644)) // #nosec G306 -- a document
}

var notSlug = regexp.MustCompile(`[^a-z0-9]+`)

func slug(s string) string {
	return strings.Trim(notSlug.ReplaceAllString(strings.ToLower(s), "-"), "-")
}

// plotted is the metric that a block's plot shows.
func plotted(rows []summary) (metric, string) {
	for _, c := range comparable {
		if !has(rows, c) {
			continue
		}
		for _, m := range metrics {
			if m.metric == c {
				return c, m.title
			}
		}
	}
	return "", ""
}

func plotBars(rows []summary, m metric) (all []plot.Bar) {
	for _, r := range rows {
		if s, ok := r.Metrics[m]; ok {
			all = append(all, plot.Bar{Label: r.Target, Median: s.Median, Min: s.Min, Max: s.Max, Strong: ours(r)})
		}
	}
	return all
}

// curve is a plot of what a delivery costs as something doubles.
type curve struct {
	workload, title, unit string
	metric                metric
	x                     func(s summary) (float64, error)
	label                 func(s summary) string
}

var curves = []curve{
	{"scale", "CPU of a delivered private message as users double", "µs, by number of users with two devices each", cpuPerEvent,
		func(s summary) (float64, error) {
			if strings.HasSuffix(s.Phase, firstMessages) {
				return 0, errors.New("not of the curve")
			}
			return float64(sizeOf(s)), nil
		},
		func(s summary) string {
			if strings.HasSuffix(s.Phase, " in flight") {
				return s.Target + ", as many in flight for each"
			}
			return s.Target
		}},
	{"processes", "CPU of a delivered private message as processes double", "µs with Redis', by number of processes", allPerEvent,
		func(s summary) (float64, error) { return float64(s.Processes), nil },
		func(s summary) string { return s.Server }},
}

func (c *curve) lines(all []summary) (lines []plot.Line) {
	index := map[string]int{}
	for _, s := range all {
		x, err := c.x(s)
		if s.Workload != c.workload || err != nil {
			continue
		}
		label := c.label(s)
		i, ok := index[label]
		if !ok {
			i = len(lines)
			index[label] = i
			lines = append(lines, plot.Line{Label: label, Strong: ours(s)})
		}
		lines[i].Points = append(lines[i].Points, plot.Point{X: x, Y: s.Metrics[c.metric].Median})
	}
	return lines
}

func markdown(b *bytes.Buffer, rows []summary) {
	head, lines := cells(rows)
	fmt.Fprintf(b, "| %s |\n|%s\n", strings.Join(head, " | "), strings.Repeat("---|", len(head)))
	for _, line := range lines {
		fmt.Fprintf(b, "| %s |\n", strings.Join(line, " | "))
	}
}

//go:build linux

package main

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestSpread(t *testing.T) {
	for _, c := range []struct {
		runs             []float64
		median, min, max float64
	}{
		{nil, 0, 0, 0}, {[]float64{3}, 3, 3, 3}, {[]float64{4, 1}, 2.5, 1, 4}, {[]float64{9, 1, 5}, 5, 1, 9}, {[]float64{4, 3, 2, 1}, 2.5, 1, 4},
	} {
		if s := spreadOf(c.runs); s.Median != c.median || s.Min != c.min || s.Max != c.max {
			t.Errorf("%v: %+v", c.runs, s)
		}
	}
}

var (
	parley = target{"parley", "memory", 1}
	gws    = target{"gws", "memory", 1}
)

func sample() []summary {
	var results []result
	for round := range 3 {
		for _, t := range []target{parley, gws} {
			for _, phase := range []string{"saturation", "deep"} {
				cpu := 3.0 + float64(round)
				if t == parley && phase == "saturation" {
					cpu *= 2
				}
				results = append(results, result{"private", phase, t, values{cpuPerEvent: cpu, p99: 100}})
			}
		}
	}
	for i, phase := range []string{"250 users", "500 users", "1000 users"} {
		results = append(results, result{"scale", phase, parley, values{cpuPerEvent: []float64{1, 1.04, 2}[i]}})
		results = append(results, result{"scale", phase, gws, values{cpuPerEvent: []float64{1, 1, 2}[i]}})
		results = append(results, result{"scale", phase + ", first messages", parley, values{cpuPerEvent: 9}})
		results = append(results, result{"scale", phase + ", 7 in flight", parley, values{cpuPerEvent: 9}})
	}
	for _, n := range []int{1, 2} {
		results = append(results, result{"processes", "2000/s", target{"parley", "redis", n}, values{allPerEvent: 10}})
	}
	return append(results2(), summarize(results)...)
}

// results2 is a summary that only has a bar of its own.
func results2() []summary {
	return summarize([]result{{"durable", "64 senders", target{"parley", "file", 1}, values{donePerSec: 5000, syncShare: 0.7}}})
}

func TestSummarizePutsPhasesTogether(t *testing.T) {
	var order []string
	for _, s := range sample() {
		order = append(order, s.Phase+" "+s.Target)
	}
	want := []string{"64 senders parley file", "saturation parley", "saturation gws", "deep parley", "deep gws", "250 users parley", "250 users gws", "250 users, first messages parley", "250 users, 7 in flight parley",
		"500 users parley", "500 users gws", "500 users, first messages parley", "500 users, 7 in flight parley",
		"1000 users parley", "1000 users gws", "1000 users, first messages parley", "1000 users, 7 in flight parley",
		"2000/s parley redis", "2000/s parley redis ×2"}
	if !slices.Equal(order, want) {
		t.Errorf("%q", order)
	}
}

func TestJudge(t *testing.T) {
	got := map[string]verdict{}
	for _, v := range judge(sample()) {
		got[v.about] = v
	}
	for about, c := range map[string]struct {
		measured float64
		met      bool
	}{
		"private messages at saturation, to bare gws":                             {2, false},
		"thousands of messages in flight, to bare gws":                            {1, true},
		"durable acknowledgements a second, 64 senders":                           {5000, true}, // for the disk's sake
		"CPU of a private message, 250 to 500 users":                              {1.04, true},
		"CPU of a private message with Redis', 1 to 2 processes":                  {1, true},
		"CPU of a private message, 500 to 1000 users":                             {2 / 1.04, false},
		"CPU of a private message, 250 to 500 users, beside gws":                  {1.04, true},
		"CPU of a private message, 250 to 500 users, as many in flight for each":  {1, true},
		"CPU of a private message, 500 to 1000 users, as many in flight for each": {1, true},
		"CPU of a private message, 500 to 1000 users, beside gws":                 {1 / 1.04, true},
	} {
		if v, ok := got[about]; !ok || math.Abs(v.measured-c.measured) > 1e-9 || v.met != c.met {
			t.Errorf("%s: %+v, want %+v", about, v, c)
		}
		delete(got, about)
	}
	if len(got) > 0 {
		t.Errorf("judged what was not measured: %v", got)
	}
}

// Every bar must be of a workload and phase that are measured by default.
func TestBarsAreMeasured(t *testing.T) {
	o, err := parse(nil, &bench{})
	if err != nil {
		t.Fatal(err)
	}
	phases := []string{"saturation", "2000/s", "deep", "2048 in flight", "64 senders", "10000 sockets", ""}
	for _, b := range bars {
		i := slices.IndexFunc(choices, func(c choice) bool { return c.name == b.workload })
		if i < 0 || !slices.Contains(phases, b.phase) {
			t.Errorf("nothing measures %q", b.about)
			continue
		}
		if b.reference != "" && !slices.ContainsFunc(choices[i].targets, func(t target) bool { return t.server == b.reference }) {
			t.Errorf("%q is not compared with %s", b.about, b.reference)
		}
		if _, err := choices[i].make(o); err != nil {
			t.Error(err)
		}
	}
}

func TestTable(t *testing.T) {
	var out bytes.Buffer
	if err := table(&out, sample()); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"private, saturation", "8.00 (6.00–10.00)", "× gws", "**missed**"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the table lacks %q:\n%s", want, out.String())
		}
	}
}

func TestReport(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "performance")
	path := dir + ".md"
	if err := report(dir, nil); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("without the document: %v", err)
	}
	write := func(text string) {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("no markers")
	if err := report(dir, nil); err == nil || !strings.Contains(err.Error(), "markers") {
		t.Errorf("without markers: %v", err)
	}
	write("before\n" + beginResults + "old\n" + endResults + "\nafter\n")
	for range 2 { // the second finds the first's
		if err := report(dir, []record{{Command: "go run ./bench", Results: sample()}}); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"before\n", "\nafter\n", "](performance/private-saturation.svg)", "](performance/scale.svg)", "](performance/processes.svg)", "| parley | 8.00"} {
		if strings.Count(string(text), want) != 1 {
			t.Errorf("the document should have %q once:\n%s", want, text)
		}
	}
	svgs, err := filepath.Glob(dir + "/*.svg")
	if err != nil || len(svgs) < 3 {
		t.Fatalf("%d plots, error %v", len(svgs), err)
	}
	for _, path := range svgs {
		svg, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for d := xml.NewDecoder(bytes.NewReader(svg)); ; {
			if _, err := d.Token(); err == io.EOF {
				break
			} else if err != nil {
				t.Fatalf("%s: %v", path, err)
			}
		}
	}
}

func TestShownHidesPaths(t *testing.T) {
	got := shown([]string{"--quick", "--json", "a.json", "-report=x", "private", "--data", "/disk", "hot"})
	if !slices.Equal(got, []string{"--quick", "private", "hot"}) {
		t.Errorf("%q", got)
	}
}

func TestParseRefuses(t *testing.T) {
	for _, args := range [][]string{{"--content", "3"}, {"--repeat", "0"}, {"--users", "1"}} {
		if _, err := parse(args, &bench{}); err == nil {
			t.Errorf("%q was accepted", args)
		}
	}
	for _, args := range [][]string{{"nothing"}, {"--connections", "x", "idle"}, {"--sockets", "0", "broadcast"}} {
		o, err := parse(args, &bench{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := o.jobs(); err == nil {
			t.Errorf("%q was accepted", args)
		}
	}
}

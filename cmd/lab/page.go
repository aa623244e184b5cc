package main

import (
	"bytes"
	_ "embed"
	"flag"
	"fmt"
	"html/template"
	"math"
	"reflect"
	"regexp"
	"strings"

	look "github.com/rebound-dev/rebound/internal/chart"
	"github.com/rebound-dev/rebound/internal/cli"
	"github.com/rebound-dev/rebound/internal/config"
	"github.com/rebound-dev/rebound/internal/version"
	"github.com/rebound-dev/rebound/pkg/lab"
)

//go:embed page.html
var pageText string

// newPage returns the template of the pages, with the parts that all of them have.
func newPage() (*template.Template, error) {
	return template.New("page").Funcs(template.FuncMap{
		"chartStyle": func() template.CSS { return template.CSS(look.CSS()) },
		"percent":    percent, "recovery": recovery, "latency": latency, "counts": counts, "signed": signed,
		"lost":     func(p lab.Part) uint64 { return p.Calls - p.OK },
		"edgeName": edgeName, "shortRecovery": shortRecovery,
	}).Parse(pageText)
}

// page is the content of a page for one or more runs of the same scenario.
type page struct {
	Verdict  []string
	Command  string
	Policies []policyText
	Rungs    []policyResult
}

// policyText is a policy as the page shows it.
type policyText struct{ Name, Text string }

// renderPage returns the page. It has no script and loads nothing.
func renderPage(of page) ([]byte, error) {
	t, err := newPage()
	if err != nil {
		return nil, err
	}
	content := struct {
		page
		Title, Load, Version string
		Charts               [][]chart
	}{page: of, Title: "No policy", Version: version.String()}
	if len(of.Rungs) > 0 {
		name, about, _ := strings.Cut(strings.TrimSuffix(title(of.Rungs[0].Result), "\n"), "\n")
		content.Title, content.Load = name, about+". The band is the disturbance."
	}
	scale := scaleOf(of.Rungs)
	for _, r := range of.Rungs {
		content.Charts = append(content.Charts, []chart{calls(r.Result, scale), latencies(r.Result, scale), circuits(r.Result, scale)})
	}
	var b bytes.Buffer
	if err := t.Execute(&b, content); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// commandLine returns the command with all flags that were set, also those from the environment.
func commandLine(p cli.Program, fs *flag.FlagSet) string {
	words := []string{p.Name}
	fs.Visit(func(f *flag.Flag) {
		value := f.Value.String()
		if b, ok := f.Value.(interface{ IsBoolFlag() bool }); ok && b.IsBoolFlag() {
			words = append(words, "--"+f.Name+strings.TrimSuffix("="+value, "=true"))
			return
		}
		if !plainWord.MatchString(value) {
			value = "'" + strings.ReplaceAll(value, "'", `'\''`) + "'"
		}
		words = append(words, "--"+f.Name, value)
	})
	return strings.Join(words, " ")
}

// plainWord matches what a shell takes as it is.
var plainWord = regexp.MustCompile(`^[\w./:=,@%+-]+$`)

// texts returns the policies that were judged.
func texts(entrants []entrant) []policyText {
	var all []policyText
	for _, n := range entrants {
		if n.judged {
			all = append(all, policyText{n.Name, n.text()})
		}
	}
	return all
}

// text returns the policy as YAML, or, for another system, the values that were simulated.
func (n namedPolicy) text() string {
	if n.Client == nil {
		text, err := config.Marshal(n.Policy)
		if err != nil {
			return err.Error()
		}
		return string(text)
	}
	var b strings.Builder
	policy := n.rival
	policy.From = nil
	describe(&b, "", reflect.ValueOf(policy))
	return b.String()
}

// describe writes the values in v that are not zero, one a line.
func describe(b *strings.Builder, path string, v reflect.Value) {
	switch {
	case v.IsZero():
	case v.Kind() == reflect.Struct:
		for i := range v.NumField() {
			describe(b, strings.TrimPrefix(path+"."+v.Type().Field(i).Name, "."), v.Field(i))
		}
	case v.Kind() == reflect.Slice && v.Type().Elem().Kind() == reflect.Struct:
		for i := range v.Len() {
			describe(b, fmt.Sprintf("%s[%d]", path, i), v.Index(i))
		}
	default:
		fmt.Fprintf(b, "%s: %v\n", path, v.Interface())
	}
}

// scale has the upper ends of the axes, the same for all runs of a page.
type scale struct{ calls, latency, tokens float64 }

func scaleOf(results []policyResult) scale {
	s := scale{calls: 1, latency: 1, tokens: 1}
	for _, r := range results {
		for _, x := range r.Result.Series {
			s.calls = math.Max(s.calls, float64(max(x.Offered, x.Attempts, x.Goodput)))
			s.latency = math.Max(s.latency, x.P99)
			if x.Tokens < 1e5 { // a larger balance means an unlimited budget, which has no scale
				s.tokens = math.Max(s.tokens, x.Tokens)
			}
		}
	}
	return s
}

// niceTop returns the next number of 1, 2 or 5 times a power of ten.
func niceTop(v float64) float64 {
	power := math.Pow(10, math.Floor(math.Log10(v)))
	for _, step := range []float64{1, 2, 5} {
		if v <= step*power {
			return step * power
		}
	}
	return 10 * power
}

// curve is one curve of a chart. class sets its colour and dashes.
type curve struct {
	class, name string
	value       func(lab.Second) float64
	top         float64 // the largest value of its axis
	unit        unit
	right       bool // uses the right axis
}

// unit writes values, and marks of an axis, as the live page does.
type unit struct {
	say   func(float64) string
	mark  func(at, step float64) string
	least float64 // distance of marks that have different texts
}

func inCounts() unit {
	return unit{look.Count, func(at, _ float64) string { return look.Count(at) }, 1}
}

func inTime() unit { return unit{look.Duration, look.TickText, 0} }

func inTokens() unit {
	return unit{func(n float64) string { return fmt.Sprintf("%.1f", n) }, func(at, _ float64) string { return fmt.Sprintf("%g", at) }, 0}
}

func calls(r *lab.Result, s scale) chart {
	return draw(r, "calls a second", []curve{
		{"line-offered", "offered", func(x lab.Second) float64 { return float64(x.Offered) }, s.calls, inCounts(), false},
		{"line-attempts", "attempts", func(x lab.Second) float64 { return float64(x.Attempts) }, s.calls, inCounts(), false},
		{"line-good", "goodput", func(x lab.Second) float64 { return float64(x.Goodput) }, s.calls, inCounts(), false},
	})
}

func latencies(r *lab.Result, s scale) chart {
	return draw(r, "latency of calls that end well", []curve{
		{"line-p50", "p50", whereServed(func(x lab.Second) float64 { return x.P50 }), s.latency, inTime(), false},
		{"line-p99", "p99", whereServed(func(x lab.Second) float64 { return x.P99 }), s.latency, inTime(), false},
	})
}

// whereServed skips the seconds in which no call ended well.
func whereServed(value func(lab.Second) float64) func(lab.Second) float64 {
	return func(x lab.Second) float64 {
		if x.Goodput == 0 {
			return math.NaN()
		}
		return value(x)
	}
}

func circuits(r *lab.Result, s scale) chart {
	return draw(r, "clients with an open circuit (left), tokens of a client (right)", []curve{
		{"line-open", "open circuits", func(x lab.Second) float64 { return float64(x.Open) }, float64(r.Load.Clients), inCounts(), false},
		{"line-tokens", "tokens", func(x lab.Second) float64 { return math.Min(x.Tokens, s.tokens) }, s.tokens, inTokens(), true},
	})
}

// chart is a drawing over the seconds of a run. Its labels are text of the page, so that they have
// the same size in a drawing of any width.
type chart struct {
	Name        string
	Keys        []key
	Left, Right []string  // labels of the axes, from the top
	Marks       []float64 // of the left axis, from the top, in units of the drawing
	Seconds     []label
	Length      int     // seconds, the width of the drawing
	From, For   float64 // the disturbance
	Curves      []key
	Values      []values
}

// key is a curve's class and its name or its path.
type key struct{ Class, Text string }

// label is a text at a share of the width, in percent.
type label struct {
	At   string
	Text string
}

// values are the values of one second.
type values struct {
	At, For int
	Text    string
}

const (
	chartHeight = 100  // in units of the drawing, which is stretched
	mostValues  = 1000 // seconds with values of their own to point at
	mostMarks   = 3    // above 0 on the left axis
)

// labels returns the texts of an axis, from the top.
func labels(u unit, marks, step float64) (all []string) {
	for i := marks; i > 0; i-- {
		all = append(all, u.mark(i*step, step))
	}
	return append(all, "0")
}

func draw(r *lab.Result, name string, lines []curve) chart {
	n := len(r.Series)
	c := chart{Name: name, Length: n, From: r.DisturbanceFromS, For: r.DisturbanceToS - r.DisturbanceFromS}
	// The right axis has as many marks as the left one, so that the same lines lead to them.
	step := math.Max(lines[0].unit.least, look.Tick(lines[0].top, mostMarks))
	marks := math.Ceil(lines[0].top/step - 1e-9)
	ends := map[bool]float64{false: marks * step} // of the left axis and of the right one
	c.Left = labels(lines[0].unit, marks, step)
	for i := marks; i >= 0; i-- {
		c.Marks = append(c.Marks, chartHeight*(1-i/marks))
	}
	for _, l := range lines {
		if l.right {
			step := math.Max(l.unit.least, niceTop(l.top/marks))
			ends[true], c.Right = marks*step, labels(l.unit, marks, step)
		}
	}
	step = niceTop(float64(n) / 6)
	for second := 0.0; second <= float64(n); second += step {
		c.Seconds = append(c.Seconds, label{fmt.Sprintf("%.2f", 100*second/float64(n)), fmt.Sprintf("%gs", second)})
	}
	for _, l := range lines {
		c.Keys = append(c.Keys, key{l.class, l.name})
		var path strings.Builder
		command := 'M'
		for i, s := range r.Series {
			v := l.value(s)
			if math.IsNaN(v) {
				command = 'M'
				continue
			}
			fmt.Fprintf(&path, "%c%.1f %.1f", command, float64(i)+0.5, chartHeight*(1-math.Min(1, v/ends[l.right])))
			command = 'L'
		}
		c.Curves = append(c.Curves, key{l.class, path.String()})
	}
	every := (n + mostValues - 1) / mostValues
	for i := 0; i < n; i += every {
		text := fmt.Sprintf("%d s:", i)
		for k, l := range lines {
			if k > 0 {
				text += ","
			}
			if v := l.value(r.Series[i]); math.IsNaN(v) {
				text += fmt.Sprintf(" %s -", l.name)
			} else {
				text += " " + l.name + " " + l.unit.say(v)
			}
		}
		c.Values = append(c.Values, values{i, min(every, n-i), text})
	}
	return c
}

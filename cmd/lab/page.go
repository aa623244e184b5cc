package main

import (
	"bytes"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"encoding/json"
	"flag"
	"fmt"
	"html/template"
	"math"
	"reflect"
	"regexp"
	"strconv"
	"strings"

	look "github.com/rebound-dev/rebound/internal/chart"
	"github.com/rebound-dev/rebound/internal/cli"
	"github.com/rebound-dev/rebound/internal/config"
	"github.com/rebound-dev/rebound/internal/version"
	"github.com/rebound-dev/rebound/pkg/lab"
)

//go:embed page.html
var pageText string

//go:embed figures.js
var figuresText string

// newPage returns the template of the pages, with the parts that all of them have.
func newPage() (*template.Template, error) {
	script := look.Script() + figuresText
	return template.New("page").Funcs(template.FuncMap{
		"chartStyle": func() template.CSS { return template.CSS(look.CSS()) },
		"script":     func() template.HTML { return template.HTML(`<script type="module">` + script + `</script>`) },
		"scriptHash": func() string { return hashOf(script) },
		"percent":    percent, "recovery": recovery, "latency": latency, "counts": counts, "signed": signed,
		"lost":     func(p lab.Part) uint64 { return p.Calls - p.OK },
		"edgeName": edgeName, "shortRecovery": shortRecovery,
	}).Parse(pageText)
}

// hashOf returns the source by which a content security policy allows this inline script only.
func hashOf(script string) string {
	sum := sha256.Sum256([]byte(script))
	return "sha256-" + base64.StdEncoding.EncodeToString(sum[:])
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

// renderPage returns the page. It loads nothing: the script that draws its charts is in it. The
// script puts them in place of tables. A noscript would show these only where scripts are switched
// off, and not where they are forbidden.
func renderPage(of page) ([]byte, error) {
	t, err := newPage()
	if err != nil {
		return nil, err
	}
	content := struct {
		page
		Title, Load, Version string
		Charts               [][]figure
	}{page: of, Title: "No policy", Version: version.String()}
	if len(of.Rungs) > 0 {
		name, about, _ := strings.Cut(strings.TrimSuffix(title(of.Rungs[0].Result), "\n"), "\n")
		content.Title, content.Load = name, about+". The band is the disturbance."
	}
	scale := scaleOf(of.Rungs)
	for _, r := range of.Rungs {
		content.Charts = append(content.Charts, []figure{calls(r.Result, scale), latencies(r.Result, scale), circuits(r.Result, scale)})
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
		words = append(words, "--"+f.Name, shellWord(value))
	})
	return strings.Join(words, " ")
}

// shellWord returns a word as a shell takes it.
func shellWord(word string) string {
	if plainWord.MatchString(word) {
		return word
	}
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
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

// figure is a chart over the seconds of a run, as figures.js draws it.
type figure struct {
	Title       string      `json:"title"`
	Lines       []line      `json:"lines"`
	Seconds     int         `json:"seconds"`
	Disturbance [2]float64  `json:"disturbance"` // its begin and its end, in seconds
	Rows        [][]reading `json:"rows"`        // of every second, in the order of the lines
}

// line is one line of a chart. name sets its colour and dashes.
type line struct {
	Name  string  `json:"name"`
	Word  string  `json:"word"`
	Unit  string  `json:"unit"` // one of those in chart.js: count, time in milliseconds, level
	Top   float64 `json:"top"`  // the least upper end of its axis
	Right bool    `json:"right,omitempty"`
	Area  bool    `json:"area,omitempty"` // coloured below the line
	of    func(lab.Second) float64
}

// Head is the head of the line's column in the table without scripts.
func (l line) Head() string {
	if l.Unit == "time" {
		return l.Word + ", ms"
	}
	return l.Word
}

// reading is a value of a line. Where there is none it is not a number, and a gap in the line.
type reading float64

// round returns the value with the decimals that a page shows at most.
func (r reading) round() float64 { return math.Round(float64(r)*100) / 100 }

// MarshalJSON writes null for a gap.
func (r reading) MarshalJSON() ([]byte, error) {
	if math.IsNaN(float64(r)) {
		return []byte("null"), nil
	}
	return json.Marshal(r.round())
}

func (r reading) String() string {
	if math.IsNaN(float64(r)) {
		return "–"
	}
	return strconv.FormatFloat(r.round(), 'f', -1, 64)
}

// tabled is about how many rows the table without scripts has.
const tabled = 60

// tableRow is a row of the table without scripts.
type tableRow struct {
	Second   int
	Readings []reading
}

// Table returns the rows of every second, or of every n-th one of a long run.
func (f figure) Table() (rows []tableRow) {
	for i := 0; i < len(f.Rows); i += (len(f.Rows) + tabled - 1) / tabled {
		rows = append(rows, tableRow{i, f.Rows[i]})
	}
	return rows
}

func calls(r *lab.Result, s scale) figure {
	return newFigure(r, "Calls a second", []line{
		{Name: "offered", Word: "offered", Unit: "count", Top: s.calls, of: func(x lab.Second) float64 { return float64(x.Offered) }},
		{Name: "attempts", Word: "attempts", Unit: "count", Top: s.calls, of: func(x lab.Second) float64 { return float64(x.Attempts) }},
		{Name: "good", Word: "goodput", Unit: "count", Top: s.calls, Area: true, of: func(x lab.Second) float64 { return float64(x.Goodput) }},
	})
}

func latencies(r *lab.Result, s scale) figure {
	return newFigure(r, "Latency of calls that end well", []line{
		{Name: "p50", Word: "p50", Unit: "time", Top: s.latency, of: whereServed(func(x lab.Second) float64 { return x.P50 })},
		{Name: "p99", Word: "p99", Unit: "time", Top: s.latency, of: whereServed(func(x lab.Second) float64 { return x.P99 })},
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

func circuits(r *lab.Result, s scale) figure {
	return newFigure(r, "Clients with an open circuit (left), tokens of a client (right)", []line{
		{Name: "open", Word: "open circuits", Unit: "count", Top: float64(r.Load.Clients), of: func(x lab.Second) float64 { return float64(x.Open) }},
		{Name: "tokens", Word: "tokens", Unit: "level", Top: s.tokens, Right: true, of: func(x lab.Second) float64 { return math.Min(x.Tokens, s.tokens) }},
	})
}

func newFigure(r *lab.Result, title string, lines []line) figure {
	f := figure{Title: title, Lines: lines, Seconds: len(r.Series), Disturbance: [2]float64{r.DisturbanceFromS, r.DisturbanceToS}}
	for _, s := range r.Series {
		var row []reading
		for _, l := range lines {
			row = append(row, reading(l.of(s)))
		}
		f.Rows = append(f.Rows, row)
	}
	return f
}

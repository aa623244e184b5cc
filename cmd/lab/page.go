package main

import (
	"bytes"
	_ "embed"
	"fmt"
	"html/template"
	"math"
	"strings"

	"github.com/rebound-dev/rebound/internal/callgraph"
	"github.com/rebound-dev/rebound/pkg/lab"
)

//go:embed page.html
var pageText string

// newPage returns the template of the pages, with the head that all of them have.
func newPage() (*template.Template, error) {
	return template.New("page").Funcs(template.FuncMap{
		"percent": percent, "recovery": recovery, "latency": latency, "counts": counts,
		"lost":     func(p lab.Part) uint64 { return p.Calls - p.OK },
		"edgeName": edgeName, "shortRecovery": func(s callgraph.ServiceResult) string { return shortRecovery(&s) },
	}).Parse(pageText)
}

// renderPage returns one page for one or more runs of the same scenario. It has no script and loads
// nothing.
func renderPage(results []policyResult) ([]byte, error) {
	t, err := newPage()
	if err != nil {
		return nil, err
	}
	first := results[0].Result
	name, about, _ := strings.Cut(strings.TrimSuffix(title(first), "\n"), "\n")
	page := struct {
		Title, Load string
		Rungs       []policyResult
		Charts      [][]template.HTML
	}{Title: name, Load: about, Rungs: results}
	scale := scaleOf(results)
	for _, r := range results {
		page.Charts = append(page.Charts, []template.HTML{
			calls(r.Result, scale), latencies(r.Result, scale), circuits(r.Result, scale),
		})
	}
	var b bytes.Buffer
	if err := t.Execute(&b, page); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
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
	return scale{niceTop(s.calls), niceTop(s.latency), niceTop(s.tokens)}
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

// The drawing area of a chart, in units of its view box.
const (
	chartWidth, chartHeight = 640.0, 186.0
	legend                  = chartHeight - 10
	plotLeft, plotRight     = 44.0, 596.0
	plotTop, plotBottom     = 12.0, 140.0
)

// curve is one curve of a chart. class sets its colour and dashes.
type curve struct {
	class, name string
	value       func(lab.Second) float64
	top         float64
	right       bool // uses the right axis
}

func calls(r *lab.Result, s scale) template.HTML {
	return chart(r, "calls a second", []curve{
		{"offered", "offered", func(x lab.Second) float64 { return float64(x.Offered) }, s.calls, false},
		{"attempts", "attempts", func(x lab.Second) float64 { return float64(x.Attempts) }, s.calls, false},
		{"goodput", "goodput", func(x lab.Second) float64 { return float64(x.Goodput) }, s.calls, false},
	})
}

func latencies(r *lab.Result, s scale) template.HTML {
	return chart(r, "latency of calls that end well, ms", []curve{
		{"p50", "p50", whereServed(func(x lab.Second) float64 { return x.P50 }), s.latency, false},
		{"p99", "p99", whereServed(func(x lab.Second) float64 { return x.P99 }), s.latency, false},
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

func circuits(r *lab.Result, s scale) template.HTML {
	return chart(r, "clients with an open circuit (left), tokens of a client (right)", []curve{
		{"open", "open circuits", func(x lab.Second) float64 { return float64(x.Open) }, float64(r.Load.Clients), false},
		{"tokens", "tokens", func(x lab.Second) float64 { return math.Min(x.Tokens, s.tokens) }, s.tokens, true},
	})
}

// chart draws lines over the seconds of a run as SVG. Its text consists of numbers and of constants
// from this file only.
func chart(r *lab.Result, name string, lines []curve) template.HTML {
	var b strings.Builder
	n := float64(len(r.Series))
	x := func(second float64) float64 { return plotLeft + (plotRight-plotLeft)*second/n }
	fmt.Fprintf(&b, `<svg viewBox="0 0 %g %g" role="img" aria-label="%s">`, chartWidth, chartHeight, name)
	fmt.Fprintf(&b, `<rect class="band" x="%.1f" y="%g" width="%.1f" height="%g"><title>the disturbance</title></rect>`,
		x(r.DisturbanceFromS), plotTop, x(r.DisturbanceToS)-x(r.DisturbanceFromS), plotBottom-plotTop)
	left, right := lines[0].top, 0.0
	for _, l := range lines {
		if l.right {
			right = l.top
		}
	}
	const parts = 2
	for i := range parts + 1 {
		share := float64(i) / parts
		y := plotBottom - (plotBottom-plotTop)*share
		fmt.Fprintf(&b, `<line class="grid" x1="%g" x2="%g" y1="%.1f" y2="%.1f"/>`, plotLeft, plotRight, y, y)
		fmt.Fprintf(&b, `<text x="%g" y="%.1f" class="left">%g</text>`, plotLeft-5, y+4, left*share)
		if right > 0 {
			fmt.Fprintf(&b, `<text x="%g" y="%.1f">%g</text>`, plotRight+5, y+4, right*share)
		}
	}
	step := niceTop(n / 10)
	for second := 0.0; second <= n; second += step {
		fmt.Fprintf(&b, `<text x="%.1f" y="%g" class="middle">%gs</text>`, x(second), plotBottom+16, second)
	}
	for _, l := range lines {
		fmt.Fprintf(&b, `<path class="%s" d="`, l.class)
		command := 'M'
		for i, s := range r.Series {
			v := l.value(s)
			if math.IsNaN(v) {
				command = 'M'
				continue
			}
			fmt.Fprintf(&b, "%c%.1f %.1f", command, x(float64(i)+0.5), plotBottom-(plotBottom-plotTop)*math.Min(1, v/l.top))
			command = 'L'
		}
		b.WriteString(`"/>`)
	}
	at := plotLeft
	for _, l := range lines {
		fmt.Fprintf(&b, `<path class="%s" d="M%.1f %gh18"/><text x="%.1f" y="%g">%s</text>`, l.class, at, legend-4, at+22, legend, l.name)
		at += 34 + 7*float64(len(l.name))
	}
	fmt.Fprintf(&b, `<text x="%g" y="%g" class="left">%s</text>`, plotRight, legend, name)
	b.WriteString("</svg>")
	return template.HTML(b.String())
}

package main

import (
	"bytes"
	_ "embed"
	"fmt"
	"html/template"
	"math"
	"strings"

	"github.com/rebound-dev/rebound/internal/callgraph"
	"github.com/rebound-dev/rebound/internal/version"
	"github.com/rebound-dev/rebound/pkg/lab"
)

//go:embed graph.html
var graphText string

// renderGraph returns a page with a picture of the graph, and charts for each service.
func renderGraph(r graphResult, command string) ([]byte, error) {
	t, err := newPage()
	if err != nil {
		return nil, err
	}
	if t, err = t.Parse(graphText); err != nil {
		return nil, err
	}
	picture, width := drawGraph(r.Result)
	name, about, _ := strings.Cut(graphTitle(r.Result), "\n")
	page := struct {
		Title, Load, Verdict, Command, Version string
		Picture                                template.HTML
		Width                                  int
		Result                                 *callgraph.Result
		Charts                                 [][]figure
	}{Title: name, Load: about, Verdict: r.Verdict, Command: command, Version: version.String(), Picture: picture, Width: width, Result: r.Result}
	for _, s := range r.Services {
		run := asRun(r.Result, s)
		own := scaleOf([]policyResult{{Result: run}})
		page.Charts = append(page.Charts, []figure{
			calls(run, own),
			newFigure(run, "p99 of calls that end well", []line{
				{Name: "p99", Word: "p99", Unit: "time", Top: own.latency, of: whereServed(func(x lab.Second) float64 { return x.P99 })},
			}),
		})
	}
	var b bytes.Buffer
	err = t.ExecuteTemplate(&b, "graph", page)
	return b.Bytes(), err
}

// asRun returns the figures of a service as those of an upstream, for its charts.
func asRun(r *callgraph.Result, s callgraph.ServiceResult) *lab.Result {
	run := &lab.Result{DisturbanceFromS: r.DisturbanceFromS, DisturbanceToS: r.DisturbanceToS}
	for _, x := range s.Series {
		run.Series = append(run.Series, lab.Second{Offered: x.Calls, Attempts: x.Attempts, Goodput: x.Goodput, P99: x.P99})
	}
	return run
}

// The picture of a graph, in units of its view box.
const (
	boxWidth, boxHeight = 196.0, 62.0
	boxAcross, boxDown  = 290.0, 84.0 // from one box to the next
	pictureEdge         = 12.0
)

// drawGraph draws the services in columns: each to the right of all its callers. It also returns
// the width of the picture.
func drawGraph(r *callgraph.Result) (template.HTML, int) {
	places := placeServices(r)
	right, bottom := 0.0, 0.0
	for _, at := range places {
		right, bottom = math.Max(right, at.x), math.Max(bottom, at.y)
	}
	width, height := right+boxWidth+pictureEdge, bottom+boxHeight+pictureEdge
	var b strings.Builder
	fmt.Fprintf(&b, `<svg viewBox="0 0 %g %g" role="img" aria-label="the services and their calls">`, width, height)
	beside := map[string]float64{} // edges that are drawn already, by their name
	for _, e := range r.Edges {
		from, to := places[e.From], places[e.To]
		apart := 16 * beside[edgeName(e)] // policies of the same two services
		beside[edgeName(e)]++
		x1, y1, x2, y2 := from.x+boxWidth, from.y+boxHeight/2+apart, to.x, to.y+boxHeight/2+apart
		if e.From == "" {
			x1, y1 = pictureEdge, y2
		}
		bend := (x2 - x1) / 2
		fmt.Fprintf(&b, `<path class="edge %s" style="stroke-width:%.1f" d="M%.1f %.1fC%.1f %.1f %.1f %.1f %.1f %.1f"><title>%s: %.2f attempts per call, %.2f in the worst second, policy %s</title></path>`,
			heat(e.PerCall.Peak), math.Min(10, 1.5+2.5*math.Log2(math.Max(1, e.PerCall.Peak))), x1, y1, x1+bend, y1, x2-bend, y2, x2, y2,
			template.HTMLEscapeString(edgeName(e)), e.PerCall.Mean, e.PerCall.Peak, template.HTMLEscapeString(e.Policy))
		fmt.Fprintf(&b, `<text x="%.1f" y="%.1f" class="label">×%.2f</text>`, (x1+x2)/2, (y1+y2)/2-6, e.PerCall.Peak)
	}
	for _, s := range r.Services {
		at := places[s.Name]
		fmt.Fprintf(&b, `<rect class="box %s" x="%.1f" y="%.1f" width="%g" height="%g" rx="6"/>`, heat(s.PerEntry.Peak), at.x, at.y, boxWidth, boxHeight)
		fmt.Fprintf(&b, `<text class="name" x="%.1f" y="%.1f">%s</text>`, at.x+10, at.y+20, template.HTMLEscapeString(shorten(s.Name, 20)))
		fmt.Fprintf(&b, `<text x="%.1f" y="%.1f">×%.2f in the worst second</text>`, at.x+10, at.y+37, s.PerEntry.Peak)
		fmt.Fprintf(&b, `<text x="%.1f" y="%.1f">%s during, %s after</text>`, at.x+10, at.y+53, percent(s.During.Success), percent(s.After.Success))
	}
	b.WriteString("</svg>")
	return template.HTML(b.String()), int(width)
}

// heat is the class of an amplification.
func heat(peak float64) string {
	switch {
	case peak >= stormFrom:
		return "hot"
	case peak > lab.HarmAmplification:
		return "warm"
	}
	return "calm"
}

func shorten(text string, most int) string {
	if r := []rune(text); len(r) > most {
		return string(r[:most-1]) + "…"
	}
	return text
}

type point struct{ x, y float64 }

// placeServices returns the upper left corners of the boxes.
func placeServices(r *callgraph.Result) map[string]point {
	depth := map[string]int{}
	for changed := true; changed; { // ends, because there is no circle
		changed = false
		for _, e := range r.Edges {
			if d := depth[e.From] + 1; e.From != "" && d > depth[e.To] {
				depth[e.To], changed = d, true
			}
		}
	}
	rows := map[int]int{}
	places := map[string]point{}
	for _, s := range r.Services {
		d := depth[s.Name]
		places[s.Name] = point{pictureEdge + 84 + float64(d)*boxAcross, pictureEdge + float64(rows[d])*boxDown}
		rows[d]++
	}
	return places
}

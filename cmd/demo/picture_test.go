package main

import (
	"fmt"
	"html"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// The sizes in the picture, in pixels. GitHub's page is about 900 wide and has a light and a dark
// theme, so the picture has its own background.
const (
	pictureWidth = 960
	nameWidth    = 230 // of the column with span names
	rowHeight    = 34
	barHeight    = 18
	headHeight   = 78
	footHeight   = 44
	margin       = 20
	indent       = 16
	charWidth    = 6.3 // approximate, for the font of the labels
)

// picture draws the spans of one trace. Each span has a row below its parent's, with a bar for its
// duration and a label with its attributes.
func picture(spans []jaegerSpan) string {
	start, end := spans[0].StartTime, spans[0].StartTime+spans[0].Duration
	for _, s := range spans {
		start, end = min(start, s.StartTime), max(end, s.StartTime+s.Duration)
	}
	left, right := float64(margin+nameWidth), float64(pictureWidth-margin)
	x := func(at int64) float64 { return left + (right-left)*float64(at-start)/float64(end-start) }
	rows := inOrder(spans, "", 0)
	height := headHeight + rowHeight*len(rows) + footHeight

	var b strings.Builder
	descriptions := make([]string, 0, len(rows))
	for _, r := range rows {
		descriptions = append(descriptions, fmt.Sprintf("%s: %s.", r.OperationName, r.label()))
	}
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%[1]d" height="%d" role="img" aria-labelledby="title desc">
<title id="title">The trace of one call whose first two attempts failed</title>
<desc id="desc">%s</desc>
<style>
  text { font: 12px ui-sans-serif, system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; fill: #24292f }
  .head { font-size: 15px; font-weight: 600 }
  .name { font-weight: 600 }
  .quiet, .tick { fill: #57606a }
  .inside { fill: #ffffff }
  .halo { paint-order: stroke; stroke: #f6f8fa; stroke-width: 6px; stroke-linejoin: round }
  .grid { stroke: #d0d7de }
  .tree { stroke: #afb8c1; fill: none }
</style>
<defs><pattern id="wait" width="6" height="6" patternUnits="userSpaceOnUse" patternTransform="rotate(45)"><rect width="6" height="6" fill="#f6f8fa"/><path d="M0 0V6" stroke="#8c959f" stroke-width="3"/></pattern></defs>
<rect x="0.5" y="0.5" width="%d" height="%d" rx="8" fill="#ffffff" stroke="#d0d7de"/>
<text class="head" x="%d" y="30">One call: GET /process, two attempts failed</text>
`, pictureWidth, height, html.EscapeString(strings.Join(descriptions, " ")), pictureWidth-1, height-1, margin)

	bottom := headHeight + rowHeight*len(rows)
	step := tick(end - start)
	for at := int64(0); at <= end-start; at += step {
		fmt.Fprintf(&b, `<path class="grid" d="M%.1f %dV%d"/><text class="tick" x="%.1f" y="%d" text-anchor="middle">%d ms</text>`+"\n",
			x(start+at), headHeight-8, bottom, x(start+at), headHeight-14, at/1000)
	}
	y := headHeight
	for i, r := range rows {
		middle := y + rowHeight/2
		b.WriteString(branch(rows, i, y))
		fmt.Fprintf(&b, `<text x="%d" y="%d"><tspan class="name">%s</tspan>`, margin+indent*r.depth, middle+4, html.EscapeString(r.OperationName))
		if subtitle := r.subtitle(); subtitle != "" {
			fmt.Fprintf(&b, `<tspan class="quiet" dx="6">%s</tspan>`, html.EscapeString(subtitle))
		}
		b.WriteString("</text>\n")
		from, to := x(r.StartTime), max(x(r.StartTime+r.Duration), x(r.StartTime)+2)
		fmt.Fprintf(&b, `<rect x="%.1f" y="%d" width="%.1f" height="%d" rx="2" %s/>`, from, middle-barHeight/2, to-from, barHeight, r.paint())
		label := r.label()
		width := charWidth * float64(len(label))
		place := fmt.Sprintf(`x="%.1f" text-anchor="end"`, from-6)
		switch {
		case to+6+width <= right:
			place = fmt.Sprintf(`x="%.1f"`, to+6)
		case to-from > width+16 && r.paint() == paintWait:
			place = fmt.Sprintf(`class="halo" x="%.1f"`, from+8)
		case to-from > width+16:
			place = fmt.Sprintf(`class="inside" x="%.1f"`, from+8)
		}
		fmt.Fprintf(&b, `<text %s y="%d">%s</text>`+"\n", place, middle+4, html.EscapeString(label))
		y += rowHeight
	}
	legendX := margin
	for _, l := range []struct{ paint, text string }{
		{paintCall, "the call"}, {paintFailed, "failed attempt"}, {paintGood, "good attempt"}, {paintWait, "wait"}, {paintUpstream, "the upstream's own span"},
	} {
		fmt.Fprintf(&b, `<rect x="%d" y="%d" width="14" height="12" rx="2" %s/><text class="quiet" x="%d" y="%d">%s</text>`+"\n",
			legendX, bottom+17, l.paint, legendX+20, bottom+28, l.text)
		legendX += 20 + int(charWidth*float64(len(l.text))) + 28
	}
	b.WriteString("</svg>\n")
	return b.String()
}

const (
	paintCall     = `fill="#0969da"`
	paintFailed   = `fill="#cf222e"`
	paintGood     = `fill="#1a7f37"`
	paintWait     = `fill="url(#wait)" stroke="#8c959f"`
	paintUpstream = `fill="#9a6700"`
)

type pictureRow struct {
	jaegerSpan
	depth int
}

// inOrder returns the spans below parent, each followed by its own children.
func inOrder(spans []jaegerSpan, parent string, depth int) (rows []pictureRow) {
	for _, s := range spans { // by start
		if s.parent() == parent {
			rows = append(rows, pictureRow{s, depth})
			rows = append(rows, inOrder(spans, s.SpanID, depth+1)...)
		}
	}
	return rows
}

// branch draws the line from row i to its parent's row.
func branch(rows []pictureRow, i, y int) string {
	if rows[i].depth == 0 {
		return ""
	}
	above := i - 1
	for rows[above].depth >= rows[i].depth {
		above--
	}
	x := margin + indent*rows[i].depth - indent + 5
	return fmt.Sprintf(`<path class="tree" d="M%d %dV%dh8"/>`, x, y+rowHeight/2-rowHeight*(i-above)+9, y+rowHeight/2)
}

func (r pictureRow) subtitle() string {
	if attempt := r.tag("rebound.attempt"); attempt != "" {
		return "attempt " + attempt
	}
	if r.tag("span.kind") == "server" {
		return r.service
	}
	return ""
}

func (r pictureRow) label() string {
	text := fmt.Sprintf("%.1f ms", float64(r.Duration)/1000)
	for _, field := range []struct{ key, name string }{
		{"rebound.verdict", "verdict"}, {"rebound.backoff.source", "source"}, {"rebound.reason", "reason"}, {"rebound.attempts", "attempts"},
		{"rebound.policy", "policy"}, {"http.request.resend_count", "resend"}, {"rebound.fault", "fault"},
	} {
		if v := r.tag(field.key); v != "" {
			text += ", " + field.name + " " + v
		}
	}
	return text
}

func (r pictureRow) paint() string {
	switch {
	case r.tag("rebound.verdict") != "" && r.tag("error") == "true":
		return paintFailed
	case r.tag("rebound.verdict") != "":
		return paintGood
	case r.OperationName == "backoff":
		return paintWait
	case r.service != "client":
		return paintUpstream
	}
	return paintCall
}

// tick returns the distance between the marks of the scale, to get about six marks. Both values are
// in µs.
func tick(duration int64) int64 {
	for _, step := range []int64{1, 2, 5, 10, 20, 25, 50, 100, 200, 250, 500} {
		if duration <= 7*step*1000 {
			return step * 1000
		}
	}
	return 1_000_000
}

// words returns the texts of a picture without the scale and the numbers. They are the same in any
// two pictures of the same situation.
func words(svg string) (all []string) {
	number := regexp.MustCompile(`[\d.]+ ms`)
	for _, m := range regexp.MustCompile(`<t(?:ext|span)([^>]*)>([^<]+)<`).FindAllStringSubmatch(svg, -1) {
		if !strings.Contains(m[1], "tick") {
			all = append(all, number.ReplaceAllString(m[2], "? ms"))
		}
	}
	return all
}

func TestWordsOfAPicture(t *testing.T) {
	span := func(id, parent, name string, start, duration int64) (s jaegerSpan) {
		s.SpanID, s.OperationName, s.StartTime, s.Duration = id, name, start, duration
		if parent != "" {
			s.References = []struct{ SpanID string }{{parent}}
		}
		return s
	}
	draw := func(ms int64) string {
		return picture([]jaegerSpan{span("a", "", "GET /x", 0, 3000*ms), span("b", "a", "resilience", 0, 2000*ms), span("c", "b", "backoff", 1000*ms, 500*ms)})
	}
	if short, long := words(draw(1)), words(draw(40)); !slices.Equal(short, long) || !slices.Contains(short, "backoff") || !slices.Contains(short, "? ms") {
		t.Errorf("got texts %q and %q, want equal ones with the span's name", short, long)
	}
}

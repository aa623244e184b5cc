package page_test

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rebound-dev/rebound/internal/page"
	"github.com/rebound-dev/rebound/pkg/observe"
	"github.com/rebound-dev/rebound/pkg/resilience"
)

// drawing has the measures of a waterfall, in pixels from the left of the tracks.
type drawing struct {
	Sentence, Curl, Facts string
	Axis                  []struct {
		Word string
		At   float64
	}
	End  string // the axis' text about the deadline
	Rows []drawnRow
}

type drawnRow struct {
	Text     string // the name and the detail
	Error    string // for screen readers
	Icon     string
	Bar      *struct{ Left, Width float64 }
	Class    string // of the bar
	Deadline *float64
}

const measured = `(() => {
	const text = (id) => document.getElementById(id).innerText.trim();
	const left = (e) => e.getBoundingClientRect().left - e.closest(".wf-track").getBoundingClientRect().left;
	const middle = (e) => left(e) + e.getBoundingClientRect().width / 2;
	const axis = document.querySelector("#waterfall [data-kind=axis]");
	return {
		sentence: text("call-sentence"), curl: text("call-curl"), facts: text("call-facts"),
		axis: [...axis.querySelectorAll("text:not(.deadline-text)")].map((e) => ({ word: e.textContent, at: e.getAttribute("text-anchor") === "start" ? left(e) : middle(e) })),
		end: axis.querySelector(".wf-detail").textContent + (axis.querySelector("text.deadline-text")?.textContent ?? ""),
		rows: [...document.querySelectorAll("#waterfall [role=listitem]")].map((r) => {
			const [bar, line] = [r.querySelector("[data-bar]"), r.querySelector("line.deadline")];
			return {
				text: [r.querySelector(".wf-name").textContent, [...r.querySelector(".wf-detail").childNodes].filter((n) => n.className !== "hidden").map((n) => n.textContent).join("")].join(": "),
				error: r.querySelector(".wf-detail .hidden")?.textContent ?? "", icon: r.querySelector("use")?.getAttribute("href") ?? "",
				bar: bar && { left: left(bar), width: bar.getBoundingClientRect().width }, class: bar?.getAttribute("class") ?? "", deadline: line && middle(line),
			};
		}),
	};
})()`

// pickPath picks the newest listed call of a path and waits until the page shows it.
func (v *tab) pickPath(path string) {
	v.t.Helper()
	v.until(fmt.Sprintf(`(() => {
		const row = [...document.querySelectorAll("#rows tr")].find((r) => r.cells[1].innerText.endsWith(%q));
		row?.click();
		return Boolean(row) && document.getElementById("call-curl").innerText.includes(%q);
	})()`, " "+path, path))
}

// ofGRPC makes c a gRPC call that ends with a status after messages. The attempts before it
// have another message.
func ofGRPC(status, message, attempts string, c *observe.Call) *observe.Call {
	c.GRPCStatus, c.GRPCMessage = status, message
	for i := range c.Report.Attempts {
		if a := &c.Report.Attempts[i]; a.Reason != good {
			a.Message, a.Status, a.Err = attempts, 200, nil
		}
	}
	return c
}

// The waterfall of a recorded call has the right texts and bars, all on the same scale.
func TestWaterfall(t *testing.T) {
	t.Parallel()
	const ms = time.Millisecond
	jitter := func(planned, actual time.Duration) resilience.Wait {
		return resilience.Wait{Source: resilience.WaitJitter, Planned: planned, Actual: actual}
	}
	type row struct {
		text, icon, class string
		from, to          float64 // ms; both 0 if there is no bar
	}
	var forty []row // the shown ones: the first 31 and the last
	for i := range 31 {
		forty = append(forty,
			row{fmt.Sprintf("Attempt %d: status 503 · 1.0 ms · retry", i+1), "#shape-bad", "bar-bad", float64(2 * i), float64(2*i + 1)},
			row{"Wait: 1.0 ms of 1.0 ms planned · jitter", "#shape-wait", "bar-wait", float64(2*i + 1), float64(2*i + 2)})
	}
	forty = append(forty, row{text: ": 8 more attempts"}, row{"Attempt 40: status 503 · 1.0 ms · given up", "#shape-bad", "bar-bad", 78, 79})

	cases := map[string]struct {
		call *observe.Call
		rows []row
		// Parts of the sentence and the facts, and the whole curl command.
		says, facts []string
		curl, end   string
		deadline    float64 // ms, or 0 if it is not on the scale
	}{
		"planned": {
			call: ended("http://upstream", 500*ms, good, 200,
				step{bad, 40 * ms, jitter(120*ms, 80*ms), resilience.Closed},
				step{resilience.ReasonAttemptTimeout, 150 * ms, resilience.Wait{Source: resilience.WaitRetryAfter, Planned: 100 * ms, Actual: 100 * ms}, resilience.HalfOpen},
				step{good, 30 * ms, resilience.Wait{}, resilience.Closed}),
			rows: []row{
				{"Attempt 1: status 503 · 40.0 ms · retry", "#shape-bad", "bar-bad", 0, 40},
				{"Wait: 80.0 ms of 120 ms planned · jitter", "#shape-wait", "bar-wait", 40, 120},
				{"Attempt 2: attempt timeout · 150 ms · retry · circuit half-open", "#shape-late", "bar-late", 120, 270},
				{"Wait: 100 ms of 100 ms planned · Retry-After", "#shape-wait", "bar-wait", 270, 370},
				{"Attempt 3: 200 · 30.0 ms · returned", "#shape-good", "bar-good", 370, 400},
			},
			says:  []string{"Answered 200 after 3 attempts in 400 ms, of which 2 waits took 180 ms."},
			facts: []string{"500 ms", "7.5 tokens", "r-1", "process", "http://upstream", "default"},
			curl:  "curl -i -X POST http://localhost:8080/planned", end: "deadline 500 ms", deadline: 500,
		},
		"late": {
			call: ended("http://upstream", 70*ms, resilience.ReasonDeadlineExceeded, 504, step{bad, 20 * ms, jitter(500*ms, 50*ms), resilience.Closed}),
			rows: []row{
				{"Attempt 1: status 503 · 20.0 ms · retry, which did not happen", "#shape-bad", "bar-bad", 0, 20},
				{"Wait: 50.0 ms of 500 ms planned · jitter", "#shape-wait", "bar-wait", 20, 70},
			},
			says: []string{"Failed with 504 after 1 attempt in 70.0 ms, of which 1 wait took 50.0 ms. It ended because of: deadline exceeded."},
			end:  "deadline 70 ms", deadline: 70,
		},
		"grpc": {
			call: ofGRPC("INTERNAL", "out of <b>disk</b>", strings.Repeat("starting ", 20), ended("http://upstream", 500*ms, "grpc_internal", 200,
				step{"grpc_unavailable", 40 * ms, jitter(60*ms, 60*ms), resilience.Closed},
				step{good, 100 * ms, resilience.Wait{}, resilience.Closed})),
			rows: []row{
				{"Attempt 1: UNAVAILABLE “" + strings.Repeat("starting ", 6) + "starti…” · 40.0 ms · retry", "#shape-bad", "bar-bad", 0, 40},
				{"Wait: 60.0 ms of 60.0 ms planned · jitter", "#shape-wait", "bar-wait", 40, 100},
				{"Attempt 2: INTERNAL “out of <b>disk</b>” · 100 ms · returned", "#shape-bad", "bar-bad", 100, 200},
			},
			says:  []string{"Failed with INTERNAL after 2 attempts in 200 ms, of which 1 wait took 60.0 ms. It ended because of: gRPC internal."},
			facts: []string{"gRPC internal", "out of <b>disk</b>"}, end: "deadline 500 ms", deadline: 500,
		},
		"refused": {
			call: ended("http://upstream", 5*time.Second, resilience.ReasonBreakerOpen, 503),
			rows: []row{{text: "No attempt: breaker open", icon: "#shape-refused"}},
			says: []string{"Refused with 503 at once: breaker open, the upstream was not asked."},
			curl: "curl -i http://localhost:8080/refused", end: "deadline 5 s →",
		},
		"crowded": {
			call: ended("http://upstream", 5*time.Second, resilience.ReasonConcurrencyLimit, 503, step{bad, 20 * ms, resilience.Wait{}, resilience.Closed}),
			rows: []row{{"Attempt 1: status 503 · 20.0 ms · given up", "#shape-bad", "bar-bad", 0, 20}},
			says: []string{"Failed with 503 after 1 attempt in 20.0 ms. It ended because of: concurrency limit (too many attempts are in flight)."},
			end:  "deadline 5 s →",
		},
		"forty": {
			call: ended("http://upstream", 5*time.Second, resilience.ReasonMaxAttempts, 503, times(40, step{bad, ms, jitter(ms, ms), resilience.Closed})...),
			rows: forty,
			says: []string{"Failed with 503 after 40 attempts in 79.0 ms", "because of: max attempts"},
			end:  "deadline 5 s →",
		},
	}
	l, at := own(t, page.Options{Traces: "http://localhost:16686"})
	v := visit(t, at, 1440, false)
	v.until(isLive)
	for name, tc := range cases {
		tc.call.Path, tc.call.TraceID = "/"+name, [16]byte{1, 2, 3}
		if name == "planned" {
			tc.call.Method = "POST"
		}
		l.ObserveCall(t.Context(), *tc.call)
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			v.t = t
			v.pickPath("/" + name)
			got := eval[drawing](v, measured)
			for _, want := range tc.says {
				if !strings.Contains(got.Sentence, want) {
					t.Errorf("sentence = %q, want %q in it", got.Sentence, want)
				}
			}
			for _, want := range tc.facts {
				if !slices.Contains(strings.Split(got.Facts, "\n"), want) {
					t.Errorf("facts = %s\nwant %q in them", got.Facts, want)
				}
			}
			if tc.curl != "" && got.Curl != tc.curl {
				t.Errorf("curl command = %q, want %q", got.Curl, tc.curl)
			}
			if got.End != tc.end {
				t.Errorf("text of the axis = %q, want %q", got.End, tc.end)
			}
			if len(got.Rows) != len(tc.rows) {
				t.Fatalf("rows = %+v, want %+v", got.Rows, tc.rows)
			}
			// Bars, deadline and labels of the axis have the same scale.
			scale := 0.0
			for i, want := range tc.rows {
				if want.to > 0 && got.Rows[i].Bar != nil {
					scale = (got.Rows[i].Bar.Left + got.Rows[i].Bar.Width) / want.to
				}
			}
			near := func(what string, px, ms float64) {
				t.Helper()
				if math.Abs(px-ms*scale) > 1.5 {
					t.Errorf("%s = %.1f px, want %.1f for %.1f ms", what, px, ms*scale, ms)
				}
			}
			for i, want := range tc.rows {
				r := got.Rows[i]
				// It used to be in a title only, which needs a mouse.
				if strings.Contains(want.text, ": attempt timeout ") && r.Error != " · error: what went wrong" {
					t.Errorf("row %d has the error %q for a screen reader, want that of the attempt", i, r.Error)
				}
				if r.Text != want.text || r.Icon != want.icon || r.Class != want.class || (r.Bar != nil) != (want.to > 0) {
					t.Errorf("row %d = %q with icon %q and class %q, want %+v", i, r.Text, r.Icon, r.Class, want)
				} else if r.Bar != nil {
					near(r.Text+", its begin,", r.Bar.Left, want.from)
					near(r.Text+", its end,", r.Bar.Left+r.Bar.Width, want.to)
				}
				switch {
				case tc.deadline == 0 && r.Deadline != nil:
					t.Errorf("row %d has a line for the deadline, want none: it is off the scale", i)
				case tc.deadline > 0 && r.Deadline == nil && want.class != "bar-wait":
					t.Errorf("row %d has no line for the deadline, want one", i)
				case r.Deadline != nil:
					near("the deadline", *r.Deadline, tc.deadline)
				}
			}
			for _, a := range got.Axis {
				if scale > 0 && a.Word != "0" {
					near("the word "+a.Word, a.At, inMillis(t, a.Word))
				}
			}
			if len(got.Axis) < 3 {
				t.Errorf("labels of the axis = %+v, want more", got.Axis)
			}
		})
	}
}

// A trace ID links to the trace. A template that is not an http URL gives no link.
func TestTraceLink(t *testing.T) {
	t.Parallel()
	traces := page.Options{Traces: "http://localhost:16686"}
	l, at := own(t, traces)
	scripted := between(t, l, traces, func(s string) string {
		return strings.ReplaceAll(s, "http://localhost:16686/", "javascript:alert(1)//")
	})
	c := call("http://upstream")
	c.TraceID = [16]byte{0xab, 15: 0xcd}
	l.ObserveCall(t.Context(), *c)
	recorded(t, l, 1)
	const id = "ab0000000000000000000000000000cd"
	for url, want := range map[string]string{at: "http://localhost:16686/trace/" + id, scripted: ""} {
		v := visit(t, url, 1440, false)
		v.until(isLive + ` && !document.getElementById("call-body").hidden`)
		link := eval[string](v, `document.querySelector("#call-facts a")?.getAttribute("href") ?? ""`)
		if link != want {
			t.Errorf("trace link = %q, want %q", link, want)
		}
		if facts := v.text("call-facts"); !strings.Contains(facts, id[:16]) {
			t.Errorf("facts = %q, want the trace ID in them", facts)
		}
	}
}

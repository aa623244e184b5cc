package page_test

import (
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rebound-dev/rebound/internal/page"
	"github.com/rebound-dev/rebound/pkg/observe"
	"github.com/rebound-dev/rebound/pkg/resilience"
)

// In the charts of the last minutes, the points of each line add up to the recorded calls. A line
// is not drawn across a pause. The band shows each state of the circuit for its duration.
func TestHistory(t *testing.T) {
	t.Parallel()
	const shown = "http://upstream"
	began := time.Now()
	up := observe.Upstream{
		Upstream: shown, Policy: "default", Burst: 10, BudgetTokens: 4, Breaker: resilience.BreakerSnapshot{Since: began.Add(-time.Second)},
		Settings: resilience.BreakerPolicy{Window: 10 * time.Second, MinRequests: 50, FailureRatio: 0.5, ConsecutiveFailures: 10, Probes: 3},
	}
	l, at := own(t, page.Options{}, func() []observe.Upstream { return []observe.Upstream{up} })
	changes := []struct {
		resilience.Transition
		ago  time.Duration
		says string
	}{
		{resilience.Transition{From: resilience.Closed, To: resilience.Open, Successes: 40, Failures: 60, Consecutive: 2, OpenFor: 5 * time.Second}, 31 * time.Second,
			"Closed → open 60 of 100 failed (limit 50 % of at least 50), open for 5.00 s"},
		{resilience.Transition{From: resilience.Open, To: resilience.HalfOpen}, 27 * time.Second,
			"Open → half-open the open period is over, probes go through"},
		{resilience.Transition{From: resilience.HalfOpen, To: resilience.Open, Failures: 1, Consecutive: 3, OpenFor: 10 * time.Second}, 23 * time.Second,
			"Half-open → open a probe failed, open for 10.0 s"},
		{resilience.Transition{From: resilience.Open, To: resilience.HalfOpen}, 17 * time.Second,
			"Open → half-open the open period is over, probes go through"},
		{resilience.Transition{From: resilience.HalfOpen, To: resilience.Closed, Successes: 3}, 11 * time.Second,
			"Half-open → closed 3 probes succeeded"},
		{resilience.Transition{From: resilience.Closed, To: resilience.Open, Successes: 90, Failures: 12, Consecutive: 12, OpenFor: 5 * time.Second}, 6 * time.Second,
			"Closed → open 12 failures in a row (limit 10), open for 5.00 s"},
		{resilience.Transition{From: resilience.Open, To: resilience.HalfOpen}, 3 * time.Second,
			"Open → half-open the open period is over, probes go through"},
		{resilience.Transition{From: resilience.HalfOpen, To: resilience.Closed, Successes: 3}, time.Second,
			"Half-open → closed 3 probes succeeded"},
	}
	var says []string
	for _, c := range changes {
		c.Upstream, c.At = shown, began.Add(-c.ago)
		l.ObserveTransition(observe.Transition{Policy: "default", Transition: c.Transition})
		says = append(says, c.says)
	}
	slices.Reverse(says)

	v := visit(t, at, 1440, false)
	v.until(isLive)
	burst := func() {
		for i := range 30 {
			fine := step{reason: good, took: time.Millisecond}
			switch {
			case i < 12:
				l.ObserveCall(t.Context(), *ended(shown, time.Second, good, 200, step{reason: bad, took: time.Millisecond}, fine))
			case i < 18:
				l.ObserveCall(t.Context(), *ended(shown, time.Second, resilience.ReasonMaxAttempts, 503, times(3, step{reason: bad, took: time.Millisecond})...))
			default:
				l.ObserveCall(t.Context(), *ended(shown, time.Second, resilience.ReasonBreakerOpen, 503))
			}
		}
	}
	burst()
	pause := time.Now()
	v.until(`document.querySelectorAll("#transitions li").length === 8`)
	lines := eval[[]string](v, `[...document.querySelectorAll("#transitions li")].map((e) => [...e.children].slice(1).map((e) => e.textContent).join(" "))`)
	if !slices.Equal(lines, says) {
		t.Errorf("changes = \n%s\nwant\n%s", strings.Join(lines, "\n"), strings.Join(says, "\n"))
	}
	time.Sleep(time.Until(pause.Add(3500 * time.Millisecond)))
	burst()
	// sums has the sum of each line's points, on the scale of its axis.
	const sums = `Object.fromEntries([...document.querySelectorAll("svg.plot")].slice(1).flatMap((plot) => {
		const words = [...plot.querySelectorAll("text[text-anchor=end]")].filter((e) => /^\d+$/.test(e.textContent));
		const place = (e) => Number(e.getAttribute("y")) - 4;
		const [zero, top] = [words[0], words.at(-1)];
		return [...plot.querySelectorAll("path[class^=line-]")].map((p) => {
			const d = p.getAttribute("d") ?? "";
			const points = [...d.matchAll(/[ML][\d.]+ ([\d.]+)/g)].map((m) => Number(m[1]));
			const sum = points.reduce((all, y) => all + (place(zero) - y) / (place(zero) - place(top)) * Number(top.textContent), 0);
			return [p.getAttribute("class"), { sum, pieces: d.split("M").length - 1, points: points.length }];
		});
	}))`
	v.until(`Math.round((` + sums + `)["line-offered"].sum) === 60`)
	type line struct {
		Sum            float64
		Pieces, Points int
	}
	drawn := eval[map[string]line](v, sums)
	for name, want := range map[string]float64{"line-offered": 60, "line-attempts": 84, "line-good": 24, "line-refused": 24} {
		if got := drawn[name].Sum; math.Abs(got-want) > 1 {
			t.Errorf("sum of the points of %s = %.1f, want %.0f", name, got, want)
		}
	}
	if got := drawn["line-tokens"]; math.Abs(got.Sum-4*float64(got.Points)) > 0.5 || got.Points < 3 {
		t.Errorf("line of the budget = %+v, want 4 everywhere", got)
	}
	for name, want := range map[string]int{"line-p50": 2, "line-offered": 1} {
		if got := drawn[name].Pieces; got != want {
			t.Errorf("pieces of %s = %d, want %d", name, got, want)
		}
	}

	// The band's spans, on the axis of the lowest chart.
	type span struct {
		State    string
		From, To float64 // seconds before the end
	}
	spans := eval[[]span](v, `(() => {
		const words = [...document.querySelectorAll("svg.plot")].at(-1).querySelectorAll("text");
		const at = (word) => Number([...words].find((e) => e.textContent === word).getAttribute("x"));
		const [end, second] = [at("now"), (at("now") - at("−30 s")) / 30];
		return [...document.querySelectorAll("rect[data-state]")].map((r) => {
			const x = Number(r.getAttribute("x"));
			return { state: r.dataset.state, from: (end - x) / second, to: (end - x - Number(r.getAttribute("width"))) / second };
		});
	})()`)
	if len(spans) != len(changes) {
		t.Fatalf("spans of the band = %+v, want one for each of %d changes", spans, len(changes))
	}
	shift := changes[0].ago.Seconds() - spans[0].From // the time since the test began
	for i, c := range changes {
		to := 0.0
		if i+1 < len(changes) {
			to = changes[i+1].ago.Seconds() - shift
		}
		if got := spans[i]; got.State != c.To.String() || math.Abs(got.From-(c.ago.Seconds()-shift)) > 0.3 || math.Abs(got.To-to) > 0.3 {
			t.Errorf("span %d = %+v, want %s from %.1f to %.1f s before the end", i, got, c.To, c.ago.Seconds()-shift, to)
		}
	}
	if took := time.Since(began).Seconds(); shift > 0 || -shift > took+1 {
		t.Errorf("the band is shifted by %.1f s after %.1f s, want less", -shift, took)
	}
}

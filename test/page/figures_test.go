package page_test

import (
	"fmt"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rebound-dev/rebound/internal/live"
	"github.com/rebound-dev/rebound/internal/page"
	"github.com/rebound-dev/rebound/pkg/observe"
	"github.com/rebound-dev/rebound/pkg/resilience"
)

const (
	bad  = resilience.Reason("status_503")
	good = resilience.ReasonOK
)

// perUpstream returns the shown texts by upstream and element ID. It selects one upstream after the
// other, as a visitor does.
const perUpstream = `Object.fromEntries([...document.getElementById("series").options].map((o) => {
	const select = document.getElementById("series");
	select.value = o.value;
	select.dispatchEvent(new Event("change"));
	const texts = [...document.querySelectorAll(".now [id], #summary")].map((e) => [e.id, e.textContent]);
	texts.push(["shape", document.getElementById("breaker-shape").getAttribute("href")]);
	for (const e of document.querySelectorAll(".now rect[id]")) texts.push([e.id, e.getAttribute("width")]);
	const refused = document.getElementById("meter-refused");
	texts.push(["refused at", refused?.getAttribute("x")], ["refused by", String(Boolean(refused) && getComputedStyle(refused).fill.includes("#hatch") && document.getElementById("refused-share").checkVisibility())]);
	return [o.textContent.split(", policy")[0], Object.fromEntries(texts)];
}))`

// The page shows the right current figures of recorded calls.
func TestFigures(t *testing.T) {
	t.Parallel()
	many := func(n int, of func(upstream string) *observe.Call) func(*live.Live, string) {
		return func(l *live.Live, upstream string) {
			for range n {
				l.ObserveCall(t.Context(), *of(upstream))
			}
		}
	}
	one := func(reason resilience.Reason, status int, steps ...step) func(string) *observe.Call {
		return func(upstream string) *observe.Call { return ended(upstream, 5*time.Second, reason, status, steps...) }
	}
	refused := one(resilience.ReasonBreakerOpen, 503)
	failed := one(resilience.ReasonMaxAttempts, 503, step{reason: bad, took: 10 * time.Millisecond})
	answered := one(good, 200, step{reason: good, took: 10 * time.Millisecond})
	policy := resilience.BreakerPolicy{Window: 10 * time.Second, MinRequests: 50, FailureRatio: 0.5, ConsecutiveFailures: 10, Probes: 3}
	type feed = func(*live.Live, string)

	cases := map[string]struct {
		feed     []feed
		breaker  resilience.BreakerSnapshot
		tokens   float64
		want     map[string]string // by id
		p50, p99 time.Duration
	}{
		"saved by repetition": {
			feed: []feed{
				many(80, one(good, 200, step{reason: bad, took: 10 * time.Millisecond}, step{reason: bad, took: 10 * time.Millisecond}, step{reason: good, took: 10 * time.Millisecond})),
				many(20, one(resilience.ReasonMaxAttempts, 503, times(4, step{reason: bad, took: 200 * time.Millisecond})...)),
			},
			breaker: resilience.BreakerSnapshot{Successes: 8, Failures: 24}, tokens: 2.5,
			want: map[string]string{
				"success-callers": "80.0 %", "success-upstream": "25.0 %", "meter-callers": "80.00%", "meter-upstream": "25.00%",
				"success-note": "100 calls, 320 attempts, 0 refused", "amplification": "×3.20", "refused-share": "", "meter-refused": "0.00%", "latency-of": "",
				"breaker-state": "Closed", "shape": "#shape-closed", "breaker-note": "24 of 32 failed in 10 s",
				"tokens": "2.5", "tokens-note": "of 10 tokens for retries", "meter-budget": "25.00%",
				"summary": "In the last ten seconds the upstream failed 75.0 % of its attempts, but only 20.0 % of the calls failed.",
			},
			p50: 30 * time.Millisecond, p99: 800 * time.Millisecond,
		},
		"one of 3,000 fails": {
			feed:    []feed{many(2999, answered), many(1, failed)},
			breaker: resilience.BreakerSnapshot{State: resilience.HalfOpen, Successes: 1}, tokens: 10,
			want: map[string]string{
				"success-callers": "99.9 %", "success-upstream": "99.9 %", "success-note": "3,000 calls, 3,000 attempts, 0 refused", "amplification": "×1.00",
				"breaker-state": "Half-open", "shape": "#shape-half-open", "breaker-note": "probing: 1 of 3 good", "tokens": "10.0", "meter-budget": "100.00%",
			},
			p50: 10 * time.Millisecond, p99: 10 * time.Millisecond,
		},
		"one of 3,000 works": {
			feed:    []feed{many(2999, failed), many(1, answered)},
			breaker: resilience.BreakerSnapshot{State: resilience.Open, ProbeAt: time.Now().Add(-time.Second)},
			want: map[string]string{
				"success-callers": "0.1 %", "success-upstream": "0.1 %", "breaker-state": "Open", "breaker-note": "next probe with the next call", "tokens": "0.0", "meter-budget": "0.00%",
			},
			p50: 10 * time.Millisecond, p99: 10 * time.Millisecond,
		},
		"left alone": {
			feed:    []feed{many(3, refused), many(1, failed)},
			breaker: resilience.BreakerSnapshot{State: resilience.Open, ProbeAt: time.Now().Add(time.Hour)},
			want: map[string]string{
				"success-callers": "0 %", "success-upstream": "0 %", "success-note": "4 calls, 1 attempt, 3 refused", "amplification": "×0.25",
				"refused-share": "75.0 % of the calls refused", "meter-refused": "75.00%", "latency-of": "with refusals, ",
				"breaker-state": "Open", "shape": "#shape-open", "goodput": "0.0",
			},
		},
		// Five seconds into an outage. The tile used to say only that callers fare worse than the
		// upstream.
		"refused for five seconds": {
			feed: []feed{many(100, answered), many(16, one(resilience.ReasonMaxAttempts, 503, times(2, step{reason: bad, took: 10 * time.Millisecond})...)), many(84, refused)},
			want: map[string]string{
				"success-callers": "50.0 %", "success-upstream": "75.8 %", "meter-callers": "50.00%", "refused-share": "42.0 % of the calls refused", "meter-refused": "42.00%", "refused at": "50.00%", "refused by": "true",
				"latency-of": "with refusals, ",
			},
		},
		"calls that go away": {
			feed: []feed{many(1, answered), many(1, one(resilience.ReasonCallerCanceled, 499, step{reason: resilience.ReasonCallerCanceled, took: time.Millisecond}))},
			want: map[string]string{"success-callers": "50.0 %", "success-upstream": "100 %", "success-note": "2 calls, 2 attempts, 0 refused"},
		},
		"nothing": {
			want: map[string]string{
				"success-callers": "–", "success-upstream": "–", "success-note": "no calls in the last ten seconds", "amplification": "–", "goodput": "–",
				"p50": "–", "p99": "–", "meter-callers": "0.00%",
			},
		},
	}
	var upstreams []observe.Upstream
	for name, tc := range cases {
		upstreams = append(upstreams, observe.Upstream{Upstream: name, Policy: "default", Breaker: tc.breaker, BudgetTokens: tc.tokens, Burst: 10, Settings: policy})
	}
	l, at := own(t, page.Options{}, func() []observe.Upstream { return upstreams })
	v := visit(t, at, 1440, false)
	v.until(isLive + fmt.Sprintf(` && document.getElementById("series").options.length === %d`, len(cases)+1)) // also all of them
	for name, tc := range cases {
		for _, f := range tc.feed {
			f(l, name)
		}
	}
	// The figures are of the last ten seconds, so they are read at the moment when all calls are in
	// them.
	v.until(`document.getElementById("foot").innerText.startsWith("6,306 calls") && Boolean(window.drawn = ` + perUpstream + `)`)
	drawn := eval[map[string]map[string]string](v, `window.drawn`)
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			got := drawn[name]
			for id, want := range tc.want {
				if got[id] != want {
					t.Errorf("%s is %q, want %q", id, got[id], want)
				}
			}
			// The buckets of latencies are an eighth wide.
			for id, want := range map[string]time.Duration{"p50": tc.p50, "p99": tc.p99} {
				if ms := float64(want.Milliseconds()); want > 0 && math.Abs(inMillis(t, got[id])-ms) > ms/8 {
					t.Errorf("%s is %q, want about %v", id, got[id], want)
				}
			}
		})
	}
	// The length of the window changes, so both rates must be read at the same time.
	rates := drawn["saved by repetition"]
	goodput, offered := number(t, rates["goodput"]), number(t, strings.TrimSuffix(strings.TrimPrefix(rates["goodput-note"], "of "), " offered"))
	if math.Abs(goodput/offered-0.8) > 0.02 || offered < 100/11. {
		t.Errorf("goodput = %s/s %s, want 80 of 100 in at most 11 s", rates["goodput"], rates["goodput-note"])
	}
	if note := drawn["left alone"]["breaker-note"]; !regexp.MustCompile(`^next probe in 35\d\d\.\d s$`).MatchString(note) {
		t.Errorf("note for a probe in an hour = %q, want the seconds", note)
	}
	for _, part := range []string{"The circuit is open", "3 of 4 calls"} {
		if summary := drawn["left alone"]["summary"]; !strings.Contains(summary, part) {
			t.Errorf("summary = %q, want %q in it", summary, part)
		}
	}
}

func number(t *testing.T, text string) float64 {
	t.Helper()
	n, err := strconv.ParseFloat(strings.ReplaceAll(text, ",", ""), 64)
	if err != nil {
		t.Error(err)
	}
	return n
}

// inMillis parses a duration of the page.
func inMillis(t *testing.T, text string) float64 {
	t.Helper()
	value, unit, _ := strings.Cut(text, " ")
	factor, ok := map[string]float64{"ms": 1, "s": 1000, "min": 60_000}[unit]
	if !ok {
		t.Errorf("got %q, want a duration", text)
	}
	return factor * number(t, value)
}

// The countdown to the next probe continues without events.
func TestCountdownBetweenEvents(t *testing.T) {
	t.Parallel()
	up := observe.Upstream{Upstream: "http://upstream", Policy: "default", Burst: 10, Breaker: resilience.BreakerSnapshot{State: resilience.Open, ProbeAt: time.Now().Add(time.Hour)}}
	_, at := own(t, page.Options{}, func() []observe.Upstream { return []observe.Upstream{up} })
	proxy := newSwitchable(t, strings.TrimPrefix(at, "http://"))
	v := visit(t, "http://"+proxy.listener.Addr().String(), 1440, false)
	note := `document.getElementById("breaker-note").innerText`
	v.until(isLive + ` && ` + note + `.startsWith("next probe in")`)
	_ = eval[bool](v, `(() => {
		window.notes = new Set();
		new MutationObserver(() => { if (`+isLive+`) notes.add(`+note+`); }).observe(document.getElementById("breaker-note"), { childList: true });
		return true;
	})()`)
	for try := 1; ; try++ {
		proxy.set(false, true)
		// One event may still arrive.
		v.until(`notes.size >= 2 || document.getElementById("connection").innerText === "Stale"`)
		n := eval[int](v, "notes.size")
		if n >= 2 {
			break
		}
		if try == 3 {
			t.Fatalf("the countdown changed %d times in three seconds without events, want at least 2", n)
		}
		proxy.set(false, false) // the machine stopped for three seconds
		v.until(isLive + ` && (notes.clear(), true)`)
	}
}

// The page compares traffic with and without the policy, and its buttons change the generator. An
// error stays until another change succeeds.
func TestSteeringTheTraffic(t *testing.T) {
	t.Parallel()
	w := &wheel{state: page.TrafficState{
		TrafficSettings: page.TrafficSettings{PerSecond: 5, Path: page.PathBoth}, Limit: 200,
		With: page.TrafficResult{Ended: 2000, Good: 1900, Attempts: 2800, P50: 30, P99: 400}, Without: page.TrafficResult{Ended: 1000, Good: 700, Attempts: 1000, P50: 25, P99: 50},
	}}
	_, at := own(t, page.Options{Traffic: w})
	v, other := visit(t, at, 1440, false), visit(t, at, 1440, false)
	checked := func(name, value string) string {
		return fmt.Sprintf(`document.querySelector("input[name=%s]:checked")?.value === %q`, name, value)
	}
	v.until(isLive + ` && ` + checked("rate", "5") + ` && ` + checked("path", "both"))
	got := strings.Join(strings.Fields(v.text("compare")), " ")
	for _, want := range []string{
		"The policy is ahead by 25 points: 95.0 % instead of 70.0 % of the calls succeed, for 1.40 attempts a call instead of 1.00.",
		"With policy 2,000 calls Without 1,000 calls", "Calls that succeeded 95.0 % 1,900 of 2,000 70.0 % 700 of 1,000",
		"Attempts the upstream took (fewer is better) 2,800 1.40 a call 1,000 1.00 a call", "Time until an answer (shorter is better) 30.0 ms 99 %: 400 ms 25.0 ms 99 %: 50.0 ms",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("comparison = %q, want %q in it", got, want)
		}
	}
	widths := eval[[]string](v, `["success", "attempts", "time"].flatMap((name) => ["with", "without"].map((way) => document.getElementById(way + "-" + name + "-bar").getAttribute("width")))`)
	if want := []string{"95.00%", "70.00%", "100.00%", "35.71%", "7.50%", "6.25%"}; !slices.Equal(widths, want) {
		t.Errorf("widths of the bars = %q, want %q", widths, want)
	}
	is := func(what string, want page.TrafficSettings) {
		t.Helper()
		if got := w.State().TrafficSettings; got != want {
			t.Errorf("%s: traffic = %+v, want %+v", what, got, want)
		}
	}
	v.press("50")
	v.until(checked("rate", "50"))
	other.until(isLive + ` && ` + checked("rate", "50"))
	is("50 was pressed", page.TrafficSettings{PerSecond: 50, Path: page.PathBoth})

	v.press("200")
	v.until(`!document.getElementById("controls-error").hidden && document.getElementById("controls-error").innerText.includes("not today")`)
	v.until(checked("rate", "50"))
	v.press("Without")
	v.until(checked("path", "without") + ` && document.getElementById("controls-error").hidden`)
	is("Without was pressed", page.TrafficSettings{PerSecond: 50, Path: page.PathWithout})
}

package page_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"github.com/rebound-dev/rebound/internal/page"
)

// The figures of the comparison agree with the ledgers of both upstreams, in an outage too.
func TestComparisonAgreesWithBothLedgers(t *testing.T) {
	t.Parallel()
	d := start(t)
	v := visit(t, d.page, 1440, false)
	v.until(isLive)
	ledger := func(of string) int {
		return decode[struct{ Received int }](t, ask(t, http.MethodGet, strings.Replace(d.faults, "/faults", of+"/ledger", 1), "")).Received
	}
	type result struct{ Sent, Ended, Good, Attempts int }
	type state struct{ With, Without result }
	read := func() state { return decode[state](t, ask(t, http.MethodGet, d.page+"api/traffic", "")) }
	for _, faults := range []string{"errorRate: 0.3", "errorRate: 1"} {
		// A call that ends after the change would count for neither.
		still(t, func() string {
			s := read()
			return fmt.Sprint(s.With.Sent == s.With.Ended && s.Without.Sent == s.Without.Ended, " ", ledger(""), " ", ledger("/without"))
		}, "true ")
		for _, of := range []string{"", "/without"} {
			ask(t, http.MethodDelete, strings.Replace(d.faults, "/faults", of+"/ledger", 1), "")
		}
		ask(t, http.MethodPut, d.faults, faults)
		// The calls are few enough to be all in the last ten seconds.
		ask(t, http.MethodPut, d.page+"api/traffic", `{"perSecond": 50}`)
		time.Sleep(1500 * time.Millisecond)
		ask(t, http.MethodPut, d.page+"api/traffic", `{"perSecond": 0}`)
		// Calls in flight end. Then the page, the API and the ledgers have the same figures, until
		// the calls are ten seconds old.
		for began := time.Now(); ; time.Sleep(50 * time.Millisecond) {
			s, with, without := read(), ledger(""), ledger("/without")
			drawn := eval[map[string]string](v, `Object.fromEntries([...document.querySelectorAll("#compare [id]")].map((e) => [e.id, e.textContent]))`)
			// Without the policy a call is an attempt, and in the outage none of them is good.
			agree := s.With.Ended > 0 && s.With.Ended == s.Without.Ended && s.With.Attempts == with && s.Without.Attempts == without && s.Without.Ended == without &&
				(faults != "errorRate: 1" || s.With.Good == 0 && s.Without.Good == 0) &&
				drawn["with-attempts"] == grouped(with) && drawn["without-attempts"] == grouped(without)
			for way, r := range map[string]result{"with": s.With, "without": s.Without} {
				agree = agree && drawn[way+"-success-note"] == fmt.Sprintf("%s of %s", grouped(r.Good), grouped(r.Ended))
			}
			if agree {
				if s.With.Good < s.Without.Good || s.With.Good > with {
					t.Errorf("%s: got %+v, want no fewer good calls with the policy, and no more than its attempts", faults, s)
				}
				break
			}
			if time.Since(began) > 10*time.Second {
				t.Fatalf("%s: got %+v, want as many calls each way, and the attempts of the ledgers: %d and %d; the page shows %q", faults, s, with, without, drawn)
			}
		}
	}
}

// The verdict says which way is ahead and by how much, or that it makes no difference.
func TestVerdict(t *testing.T) {
	t.Parallel()
	result := func(ended, good, attempts int, p50, p99 float64) page.TrafficResult {
		return page.TrafficResult{Sent: ended, Ended: ended, Good: good, Attempts: attempts, P50: p50, P99: p99}
	}
	hanging := result(100, 0, 200, 5000, 5001) // half of them have not ended
	hanging.Sent = 200
	w := &wheel{}
	l, at := own(t, page.Options{Traffic: w})
	v := visit(t, at, 1440, false)
	v.until(isLive)
	for name, tc := range map[string]struct {
		with, without page.TrafficResult
		path          page.Path
		want          string
		seconds       float64 // 0 for 10
		perSecond     int     // 0 for 20
	}{
		"more succeed": {result(200, 200, 280, 30, 300), result(200, 140, 200, 25, 60), page.PathBoth,
			"The policy is ahead by 30 points: 100 % instead of 70.0 % of the calls succeed, for 1.40 attempts a call instead of 1.00.", 0, 0},
		"more succeed, for less": {result(200, 100, 100, 1, 300), result(200, 40, 200, 25, 60), page.PathBoth,
			"The policy is ahead by 30 points: 50.0 % instead of 20.0 % of the calls succeed, and the upstream takes 50 % fewer attempts.", 0, 0},
		"fewer succeed": {result(200, 100, 100, 1, 300), result(200, 180, 200, 25, 60), page.PathBoth,
			"Without the policy more calls succeed, by 40 points: 50.0 % instead of 90.0 % of the calls succeed, and the upstream takes 50 % fewer attempts.", 0, 0},
		"an outage": {result(200, 0, 14, 0.3, 28), result(200, 0, 200, 25, 60), page.PathBoth,
			"No call succeeds either way, but the policy spares the upstream 93 % of the attempts and answers in 0.30 ms instead of 25.0 ms.", 0, 0},
		"hanging": {result(200, 0, 20, 0.3, 1500), hanging, page.PathBoth,
			"No call succeeds either way, but the policy spares the upstream 90 % of the attempts and answers in 0.30 ms instead of 5.00 s.", 0, 0},
		"healthy":        {result(200, 200, 200, 25, 60), result(200, 200, 200, 25, 61), page.PathBoth, "The policy makes no difference: every call succeeds either way.", 0, 0},
		"only by chance": {result(200, 142, 201, 25, 60), result(200, 140, 200, 25, 61), page.PathBoth, "The policy makes no difference: about as many calls succeed either way.", 0, 0},
		"without it, none has ended": {result(20, 3, 40, 1500, 3000), page.TrafficResult{Sent: 40, Attempts: 40}, page.PathBoth,
			"With the policy 20 calls ended, 3 of them well; without it none has, and 40 calls wait.", 0, 0},
		// It used to say that 0 calls wait.
		"without it, all places are taken by calls of before": {result(20, 20, 20, 25, 60), page.TrafficResult{NotSent: 20}, page.PathBoth,
			"With the policy 20 calls ended, 20 of them well; without it none was sent, because too many calls of before still wait.", 0, 0},
		"without it, none was sent": {result(20, 20, 20, 25, 60), page.TrafficResult{}, page.PathBoth,
			"With the policy 20 calls ended, 20 of them well; without it none was sent.", 0, 0},
		"with it, none has ended": {page.TrafficResult{Sent: 1, Attempts: 1}, result(20, 0, 20, 25, 25), page.PathBoth,
			"Without the policy 20 calls ended, none of them well; with it none has, and 1 call waits.", 0, 0},
		// It used to blame the policy: its calls are repeated, and have not ended.
		"the first calls": {with: page.TrafficResult{Sent: 8, Ended: 2, Attempts: 14, P50: 20, P99: 20}, without: page.TrafficResult{Sent: 8, Ended: 7, Attempts: 8, P50: 25, P99: 25}, path: page.PathBoth,
			seconds: 0.4, want: "Counting since the faults changed."},
		"one call each": {with: page.TrafficResult{Sent: 1, Ended: 1, Attempts: 3, P50: 200, P99: 200}, without: result(1, 0, 1, 25, 25), path: page.PathBoth,
			seconds: 0.3, want: "Counting since the faults changed."},
		"twenty without it, in the first second": {with: page.TrafficResult{Sent: 22, Ended: 5, Attempts: 30, P50: 20, P99: 20}, without: result(21, 0, 21, 25, 25), path: page.PathBoth,
			seconds: 1, want: "Counting since the faults changed."},
		"a slow rate, after two seconds": {with: result(9, 9, 14, 25, 200), without: result(10, 8, 10, 25, 60), path: page.PathBoth,
			seconds: 2.1, perSecond: 5, want: "Counting since the faults changed."},
		"the rate was changed": {with: result(2, 2, 2, 25, 60), without: result(2, 2, 2, 25, 60), path: page.PathBoth, want: "Counting until enough calls have ended."},
		"a rate too slow for twenty calls": {with: result(10, 10, 10, 25, 60), without: result(10, 10, 10, 25, 61), path: page.PathBoth,
			perSecond: 1, want: "The policy makes no difference: every call succeeds either way."},
		// It used to say that about as many calls succeed, for more attempts.
		"better, but perhaps by chance": {result(20, 20, 28, 25, 300), result(20, 17, 20, 25, 60), page.PathBoth,
			"With the policy 100 % instead of 85.0 % of the calls succeed, which may be chance, for 1.40 attempts a call instead of 1.00.", 1.2, 0},
		// It used to name a lead by chance, and a deficit never.
		"worse, but perhaps by chance": {with: result(20, 17, 28, 25, 300), without: result(20, 20, 20, 25, 60), path: page.PathBoth,
			want: "With the policy 85.0 % instead of 100 % of the calls succeed, which may be chance, for 1.40 attempts a call instead of 1.00."},
		"worse by chance, and fewer attempts": {with: result(200, 190, 100, 25, 60), without: result(200, 194, 200, 25, 60), path: page.PathBoth,
			want: "With the policy 95.0 % instead of 97.0 % of the calls succeed, which may be chance, and the upstream takes 50 % fewer attempts."},
		"better by chance, and fewer attempts": {with: result(200, 194, 100, 25, 60), without: result(200, 190, 200, 25, 60), path: page.PathBoth,
			want: "With the policy 97.0 % instead of 95.0 % of the calls succeed, which may be chance, and the upstream takes 50 % fewer attempts."},
		"worse by chance, and faster": {with: result(200, 190, 200, 5, 60), without: result(200, 194, 200, 25, 60), path: page.PathBoth,
			want: "With the policy 95.0 % instead of 97.0 % of the calls succeed, which may be chance, and calls end in 5.0 ms instead of 25.0 ms."},
		"better by chance, and slower": {with: result(200, 194, 200, 80, 160), without: result(200, 190, 200, 25, 60), path: page.PathBoth,
			want: "With the policy 97.0 % instead of 95.0 % of the calls succeed, which may be chance, and calls end in 80.0 ms instead of 25.0 ms."},
		// It used to count on for ten seconds, so that a cost was never said if the faults changed
		// more often.
		"more attempts so far": {with: result(900, 450, 1260, 25, 60), without: result(900, 450, 900, 25, 60), path: page.PathBoth,
			seconds: 5.1, want: "So far with the policy the upstream takes 40 % more attempts."},
		"slower so far": {with: result(900, 900, 900, 80, 160), without: result(900, 900, 900, 25, 61), path: page.PathBoth,
			seconds: 5.1, want: "So far without the policy calls end in 25.0 ms instead of 80.0 ms."},
		"slower, in the first seconds": {with: result(900, 900, 900, 80, 160), without: result(900, 900, 900, 25, 61), path: page.PathBoth,
			seconds: 4.9, want: "Counting since the faults changed."},
		"more attempts of few calls": {with: result(19, 19, 28, 25, 60), without: result(20, 20, 20, 25, 60), path: page.PathBoth,
			seconds: 6, want: "Counting since the faults changed."},
		"more attempts, until the circuit opens": {with: result(20, 0, 25, 25, 200), without: result(21, 0, 21, 25, 60), path: page.PathBoth,
			seconds: 4, want: "Counting since the faults changed."},
		"more attempts for nothing": {result(200, 100, 280, 25, 60), result(200, 100, 200, 25, 60), page.PathBoth,
			"About as many calls succeed either way, but with the policy the upstream takes 40 % more attempts.", 0, 0},
		"only slower": {result(200, 200, 200, 80, 160), result(200, 200, 200, 25, 61), page.PathBoth,
			"About as many calls succeed either way, but without the policy calls end in 25.0 ms instead of 80.0 ms.", 0, 0},
		"one way only now": {result(200, 200, 200, 25, 60), result(200, 0, 200, 25, 60), page.PathWith, "Send the traffic both ways to compare them.", 0, 0},
		"one way":          {result(200, 200, 200, 25, 60), page.TrafficResult{}, page.PathWith, "Send the traffic both ways to compare them.", 0, 0},
		"nothing yet":      {page.TrafficResult{}, page.TrafficResult{}, page.PathBoth, "No call has ended yet.", 0, 0},
		// It used to compare the calls of before with none.
		"turned off, and calls of before end": {page.TrafficResult{}, result(20, 0, 0, 5000, 5001), "", "Turn the traffic on to compare both ways.", 0, 0},
		// It used to say that the upstream takes Infinity % more attempts.
		"turned off, and calls of before end both ways": {page.TrafficResult{Ended: 8, Attempts: 10, P50: 1500, P99: 3000}, page.TrafficResult{Ended: 10, P50: 5000, P99: 5001}, "", "Turn the traffic on to compare both ways.", 0, 0},
		"without it, no attempt arrives":                {result(200, 0, 200, 25, 60), result(200, 0, 0, 25, 61), page.PathBoth, "The policy makes no difference: no call succeeds either way.", 0, 0},
		"more succeed, and without it none arrives":     {result(200, 200, 280, 25, 60), result(200, 0, 0, 25, 61), page.PathBoth, "The policy is ahead by 100 points: 100 % instead of 0 % of the calls succeed.", 0, 0},
		"without traffic":                               {page.TrafficResult{}, page.TrafficResult{}, "", "Turn the traffic on to compare both ways.", 0, 0},
	} {
		w.mu.Lock()
		w.state = page.TrafficState{TrafficSettings: page.TrafficSettings{PerSecond: 20, Path: tc.path}, Limit: 200, Seconds: 10, With: tc.with, Without: tc.without}
		if tc.path == "" {
			w.state.TrafficSettings = page.TrafficSettings{Path: page.PathBoth}
		}
		if tc.seconds > 0 {
			w.state.Seconds = tc.seconds
		}
		if tc.perSecond > 0 {
			w.state.PerSecond = tc.perSecond
		}
		w.mu.Unlock()
		l.ObserveCall(t.Context(), *call("http://upstream")) // without news, the page gets one event a second
		t.Run(name, func(t *testing.T) {
			v := &tab{t: t, ctx: v.ctx}
			v.until(fmt.Sprintf(`document.getElementById("verdict").innerText === %q`, tc.want))
		})
	}
}

// In the first seconds of a fault the verdict used to say that the policy does harm. Each press
// starts the figures anew, so that is what a visitor reads right after it.
func TestNoVerdictBlamesThePolicyByChance(t *testing.T) {
	t.Parallel()
	d := start(t, "--traffic", "20", "--error-rate", "0")
	v := visit(t, d.page, 1440, false)
	v.record("verdict")
	for _, fault := range []string{"Outage", "30 % errors"} {
		v.press("Healthy")
		v.until(isLive + ` && document.getElementById("breaker-state").innerText === "Closed" && document.getElementById("verdict").innerText === "The policy makes no difference: every call succeeds either way." && document.getElementById("compare-period").innerText === "the last 10 s"`)
		_ = eval[int](v, `window.recorded.verdict.splice(0).length`)
		v.press(fault)
		v.until(`/^the last [1-9] s$/.test(document.getElementById("compare-period").innerText)`)
		v.until(`document.getElementById("compare-period").innerText === "the last 10 s"`)
		said := eval[[]string](v, `[...new Set(window.recorded.verdict)]`)
		t.Logf("%s: %q", fault, said)
		for _, s := range said {
			if strings.Contains(s, "more attempts.") || strings.Contains(s, "ithout the policy more") || strings.Contains(s, "without the policy calls end") {
				t.Errorf("after %s: %q", fault, s)
			}
		}
		if !slices.Contains(said, "Counting since the faults changed.") {
			t.Errorf("after %s: %q, want that it counts at first", fault, said)
		}
	}
}

// The table used to grow by one or two lines with figures of few calls, and the controls moved.
func TestComparisonKeepsItsHeight(t *testing.T) {
	t.Parallel()
	w := &wheel{}
	l, at := own(t, page.Options{Traffic: w})
	for _, width := range []int{375, 768, 1200, 1399, 1440, 2200} {
		v := visit(t, at, width, false)
		v.until(isLive)
		heights := map[float64]string{}
		for _, r := range []page.TrafficResult{
			{}, {Sent: 2, Ended: 2, Good: 1, Attempts: 4, P50: 90.7, P99: 90.7}, {Sent: 2000, Ended: 1999, Good: 1998, Attempts: 9999, P50: 1234, P99: 59900},
			{Sent: 2000, Ended: 1998, Good: 1, Attempts: 1234, P50: 0.12, P99: 123, NotSent: 123}, {Sent: 20, NotSent: 1234},
		} {
			w.mu.Lock()
			w.state = page.TrafficState{TrafficSettings: page.TrafficSettings{PerSecond: 200, Path: page.PathBoth}, Limit: 200, With: r, Without: r}
			w.mu.Unlock()
			l.ObserveCall(t.Context(), *call("http://upstream")) // without news, the page gets one event a second
			v.until(fmt.Sprintf(`document.getElementById("with-note").textContent.startsWith(%q) && document.getElementById("with-note").textContent.includes("not sent") === %v`,
				map[bool]string{true: "none ended", false: grouped(r.Ended) + " calls"}[r.Ended == 0], r.NotSent > 0))
			heights[eval[float64](v, `Math.round(document.getElementById("compare-table").getBoundingClientRect().height)`)] = v.text("compare-table")
		}
		if len(heights) != 1 {
			t.Errorf("at %d px the table is of %d heights, want one: %v", width, len(heights), heights)
		}
		if wide := eval[[]string](v, `[...document.querySelectorAll("#compare .note")].filter((e) => e.getBoundingClientRect().right > e.parentElement.getBoundingClientRect().right + 1).map((e) => e.id + " " + e.textContent)`); len(wide) > 0 {
			t.Errorf("at %d px %q leave their cells", width, wide)
		}
	}
}

// The comparison is of the time since the faults changed, and says so. It used to mix the seconds
// before a fault into its figures: "100 % instead of 91.2 % of the calls succeed", one second after
// the begin of an outage.
func TestComparisonIsOfOneTime(t *testing.T) {
	t.Parallel()
	d := start(t, "--traffic", "50", "--error-rate", "0")
	v := visit(t, d.page, 1440, false)
	v.until(isLive + ` && document.getElementById("compare-period").innerText === "the last 10 s"`)
	v.until(`document.getElementById("verdict").innerText.startsWith("The policy makes no difference")`)
	v.record("without-success")
	v.press("Outage")
	v.until(`/^the last [1-9] s$/.test(document.getElementById("compare-period").innerText) && document.getElementById("without-success").innerText === "0 %"`)
	for _, share := range eval[[]string](v, `window.recorded["without-success"].filter((s) => !["100 %", "–", "0 %"].includes(s))`) {
		t.Errorf("%s of the calls without the policy succeeded, want all of them before the outage and none after its begin", share)
	}
	v.until(`document.getElementById("compare-period").innerText === "the last 10 s"`)
}

// With a file that leads to another upstream, the page used to compare with 0 attempts. With one
// that leads nowhere, it used to say that without the policy more calls succeed.
func TestNoComparisonWithAnotherUpstream(t *testing.T) {
	t.Parallel()
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer other.Close()
	for name, route := range map[string]string{"another upstream": "GET /process", "no route": "POST /orders", "a route for another method": "POST /process"} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "rebound.yaml")
			if err := os.WriteFile(file, []byte("routes: [{name: process, match: "+route+", upstream: "+other.URL+"}]\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			d := start(t, "--traffic", "50", "--config", file)
			v := visit(t, d.page, 1440, false)
			v.until(isLive + ` && document.getElementById("verdict").innerText === "No comparison: under this configuration the calls reach another upstream than the demo’s own, or none."
				&& !document.getElementById("compare-table").checkVisibility() && !document.getElementById("path-set").checkVisibility()`)
		})
	}
}

// Leaving the tour used to leave its fault in force. It puts back the faults, the traffic and the
// sick endpoints as they were, also after a reload in its middle.
func TestLeavingTheTourPutsThingsBack(t *testing.T) {
	t.Parallel()
	const faults = "{errorRate: 0.1, latency: {distribution: fixed, value: 7ms}}"
	for name, leave := range map[string]func(*tab){
		"left": func(v *tab) { v.click("tour-skip") },
		"left at once after a step": func(v *tab) {
			_ = eval[bool](v, `(() => { document.getElementById("tour-next").click(); document.getElementById("tour-skip").click(); return true; })()`)
		},
		"finished": func(v *tab) {
			for step := 4; step < 6; step++ {
				v.click("tour-next")
				v.until(fmt.Sprintf(`document.getElementById("tour").dataset.step === "%d"`, step))
			}
			v.click("tour-next")
		},
		"reloaded, and then left": func(v *tab) {
			v.do(chromedp.Reload())
			v.until(isLive + ` && document.getElementById("tour-skip").innerText === "No, thank you"`)
			v.click("tour-skip")
		},
		"left when the record of a step fails": func(v *tab) {
			_ = eval[bool](v, `(() => {
				const fetching = window.fetch;
				window.fetch = async (url, init, ...rest) => {
					if (!String(url).includes("api/traffic")) return fetching(url, init, ...rest);
					if (init?.method !== "PUT") { window.failed = true; window.fetch = fetching; throw new TypeError("the page is left"); }
					const late = await fetching(url, init, ...rest);
					return new Response(JSON.stringify({ ...await late.json(), perSecond: 5, path: "with" }), { headers: late.headers });
				};
				document.getElementById("tour-next").click();
				return true;
			})()`)
			v.until(`window.failed === true`)
			v.click("tour-skip")
		},
		"reloaded before a step is recorded": func(v *tab) {
			_ = eval[bool](v, `(() => {
				const fetching = window.fetch;
				window.fetch = (url, ...rest) => String(url).includes("api/traffic") ? new Promise(() => {}) : fetching(url, ...rest);
				document.getElementById("tour-back").click();
				return true;
			})()`)
			v.until(`document.querySelector("input[name=scenario]:checked")?.value === "Outage"`)
			v.do(chromedp.Reload())
			v.until(isLive + ` && document.getElementById("tour-skip").innerText === "No, thank you"`)
			v.click("tour-skip")
		},
	} {
		t.Run(name, func(t *testing.T) {
			d := start(t, "--no-tour=false")
			ask(t, http.MethodPut, d.faults, faults)
			ask(t, http.MethodPut, d.page+"api/traffic", `{"perSecond": 5, "path": "with", "sick": 1}`)
			v := visit(t, d.page, 1440, false)
			v.until(isLive + ` && document.getElementById("tour").checkVisibility() && document.getElementById("scenario-note").innerText.includes("10 % errors")`)
			before := ask(t, http.MethodGet, d.faults, "")
			for step := 1; step < 4; step++ {
				v.click("tour-next")
				v.until(fmt.Sprintf(`document.getElementById("tour").dataset.step === "%d"`, step))
			}
			v.until(`document.querySelector("input[name=scenario]:checked")?.value === "Hanging"`)
			leave(v)
			v.until(`!document.getElementById("tour").checkVisibility() && document.getElementById("scenario-note").innerText.includes("10 % errors") && document.querySelector("input[name=rate]:checked")?.value === "5"`)
			traffic := decode[page.TrafficSettings](t, ask(t, http.MethodGet, d.page+"api/traffic", ""))
			if want := (page.TrafficSettings{PerSecond: 5, Path: page.PathWith, Sick: 1}); traffic != want {
				t.Errorf("traffic = %+v, want that of before the tour, %+v", traffic, want)
			}
			if after := ask(t, http.MethodGet, d.faults, ""); after != before {
				t.Errorf("faults = %s, want those of before the tour, %s", after, before)
			}
		})
	}
}

// Leaving the tour used to overwrite faults that somebody had set after it.
func TestLeavingTheTourKeepsWhatWasSetSince(t *testing.T) {
	t.Parallel()
	const kept = `sessionStorage.getItem("rebound-before-tour") !== null`
	for name, tc := range map[string]struct {
		set     func(*tab, demo)
		faults  string // in those after the tour
		traffic page.TrafficSettings
	}{
		"a button": {func(v *tab, _ demo) {
			v.press("Hanging")
			v.until(`document.querySelector("input[name=scenario]:checked")?.value === "Hanging"`)
		}, "hangRate: 1\n", page.TrafficSettings{PerSecond: 20, Path: page.PathBoth}},
		"the button of the tour's own fault": {func(v *tab, _ demo) {
			v.press("Hanging")
			v.until(`document.getElementById("scenario-note").innerText.includes("never answered")`)
			v.press("Outage")
			v.until(`document.getElementById("scenario-note").innerText.includes("every attempt answers 503")`)
		}, "errorRate: 1\n", page.TrafficSettings{PerSecond: 20, Path: page.PathBoth}},
		"another person": {func(_ *tab, d demo) {
			ask(t, http.MethodPut, d.faults, "errorRate: 0.25")
		}, "errorRate: 0.25\n", page.TrafficSettings{PerSecond: 5, Path: page.PathWith}},
		"the rate": {func(v *tab, _ demo) {
			v.press("50")
			v.until(`document.querySelector("input[name=rate]:checked")?.value === "50"`)
		}, "errorRate: 0.1\n", page.TrafficSettings{PerSecond: 50, Path: page.PathWith}},
	} {
		t.Run(name, func(t *testing.T) {
			d := start(t, "--no-tour=false")
			ask(t, http.MethodPut, d.faults, "errorRate: 0.1")
			ask(t, http.MethodPut, d.page+"api/traffic", `{"perSecond": 5, "path": "with"}`)
			v := visit(t, d.page, 1440, false)
			v.until(isLive + ` && document.getElementById("tour").checkVisibility() && document.getElementById("scenario-note").innerText.includes("10 % errors")`)
			v.click("tour-next")
			v.click("tour-next")
			v.until(`document.querySelector("input[name=scenario]:checked")?.value === "Outage" && JSON.parse(sessionStorage.getItem("rebound-before-tour")).put?.faults.errorRate === 1`)
			v.do(chromedp.Reload())
			v.until(isLive + ` && document.querySelector("input[name=scenario]:checked")?.value === "Outage" && ` + kept)
			tc.set(v, d)
			v.click("tour-skip")
			v.until(`!document.getElementById("tour").checkVisibility() && !(` + kept + `)`)
			if got := ask(t, http.MethodGet, d.faults, ""); !strings.Contains(got, tc.faults) {
				t.Errorf("faults = %s, want %q in them", got, tc.faults)
			}
			if got := decode[page.TrafficSettings](t, ask(t, http.MethodGet, d.page+"api/traffic", "")); got != tc.traffic {
				t.Errorf("traffic = %+v, want %+v", got, tc.traffic)
			}
		})
	}
}

// If the faults could not be put back, the traffic was, and nothing tried again.
func TestLeavingTheTourIsTriedAgain(t *testing.T) {
	t.Parallel()
	d := start(t, "--no-tour=false")
	ask(t, http.MethodPut, d.faults, "errorRate: 0.1")
	v := visit(t, d.page, 1440, false)
	v.until(isLive + ` && document.getElementById("tour").checkVisibility() && document.getElementById("scenario-note").innerText.includes("10 % errors")`)
	v.click("tour-next")
	v.until(`document.querySelector("input[name=scenario]:checked")?.value === "30 % errors" && document.querySelector("input[name=rate]:checked")?.value === "20"`)
	_ = eval[bool](v, `(() => {
		const real = window.fetch;
		window.away = true;
		window.fetch = (path, o) => (window.away && path === "api/faults" && o.method === "PUT" ? Promise.reject(new Error("away")) : real(path, o));
		return true;
	})()`)
	v.click("tour-skip")
	v.until(`!document.getElementById("controls-error").hidden`)
	_ = eval[bool](v, `(window.away = false, true)`)
	v.until(`document.getElementById("scenario-note").innerText.includes("10 % errors") && document.querySelector("input[name=rate]:checked")?.value === "0"`)
}

// still waits until a text begins with begin and does not change for a second.
func still(t *testing.T, text func() string, begin string) {
	t.Helper()
	began := time.Now()
	last, since := "", time.Now()
	for time.Since(since) < time.Second || !strings.HasPrefix(last, begin) {
		if now := text(); now != last || !strings.HasPrefix(now, begin) {
			last, since = now, time.Now()
		}
		if time.Since(began) > 2*patience {
			t.Fatalf("it does not stand still: %s", last)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

package page_test

import (
	"context"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/rebound-dev/rebound/internal/page"
	"github.com/rebound-dev/rebound/pkg/observe"
	"github.com/rebound-dev/rebound/pkg/resilience"
)

// startWith runs the demo with this policy. The file with the policy is written before flaky-server
// has a port, so a proxy is in between.
func startWith(t *testing.T, policy string) demo {
	t.Helper()
	upstream := newSwitchable(t, "")
	file := filepath.Join(t.TempDir(), "rebound.yaml")
	config := "routes: [{name: process, match: GET /, upstream: \"http://" + upstream.listener.Addr().String() + "\"}]\npolicies: {default: " + policy + "}\n"
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	d := start(t, "--config", file)
	upstream.lead(strings.TrimPrefix(d.flaky, "http://"))
	return d
}

// hang makes n calls that nobody answers until the test ends.
func (d demo) hang(t *testing.T, n int) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{}, n)
	t.Cleanup(func() {
		cancel()
		for range n {
			<-ended
		}
	})
	for range n {
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, d.client+"/process", nil)
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			defer func() { ended <- struct{}{} }()
			if resp, err := http.DefaultClient.Do(r); err == nil {
				_ = resp.Body.Close()
			}
		}()
	}
}

// refusalsDrawn is an expression: whether the line of refused calls leaves the bottom of its chart.
const refusalsDrawn = `[...document.querySelectorAll("path.line-refused")].some((p) => /[ML][\d.]+ (?!106\.0)/.test(p.getAttribute("d") ?? ""))`

// The page shows how much of a concurrency limit is in use, and the call that it refuses after it
// has waited for a place.
func TestConcurrencyLimit(t *testing.T) {
	t.Parallel()
	// Normal calls get 90 % of the limit, which is three places here.
	d := startWith(t, `{timeout: 60s, attemptTimeout: 60s, concurrency: {max: 4, queue: 1, maxWait: 10s}}`)
	v := visit(t, d.page, 1440, false)
	ask(t, http.MethodPut, d.faults, "{}")
	ask(t, http.MethodGet, d.client+"/process", "")
	v.until(isLive + ` && document.getElementById("limit-note").innerText === "0 of 4 in flight"`)
	v.record("limit-note")
	v.record("summary")
	ask(t, http.MethodPut, d.faults, "hangRate: 1")
	d.hang(t, 3)
	v.until(`document.getElementById("limit-note").innerText === "3 of 4 in flight"`)
	d.hang(t, 1)
	v.until(had("limit-note", "3 of 4 in flight, 1 wait"))
	v.untilIn(3*patience, `document.getElementById("limit-note").innerText === "3 of 4 in flight" && document.querySelectorAll("#rows tr").length === 2`)
	v.pickPath("/process")
	got := strings.TrimSpace(v.text("call-sentence"))
	after := regexp.MustCompile(`^Refused with 503 after ([\d.]+) s: concurrency limit \(too many attempts are in flight\), the upstream was not asked\.$`).FindStringSubmatch(got)
	if after == nil {
		t.Fatalf("sentence = %q, want a call refused by the concurrency limit", got)
	}
	if waited := number(t, after[1]); waited < 10 || waited >= 40 {
		t.Errorf("sentence = %q, want a call refused after about ten seconds", got)
	}
	if got := strings.Join(strings.Fields(v.text("waterfall")), " "); !strings.Contains(got, "No attempt") || !strings.Contains(got, "concurrency limit") {
		t.Errorf("waterfall = %q, want a row for no attempt", got)
	}
	if bars := eval[[]float64](v, `[...document.querySelectorAll("[data-bar=queue]")].map((e) => e.getBoundingClientRect().width / e.parentElement.getBoundingClientRect().width)`); len(bars) != 1 || bars[0] < 0.9 {
		t.Errorf("bars of the queue take %.2f of the width, want one with nearly all", bars)
	}
	if icon := eval[string](v, `document.querySelector("#rows use").getAttribute("href")`); icon != "#shape-refused" {
		t.Errorf("icon of the call = %s, want that of a refused one", icon)
	}
	v.until(`window.recorded.summary.some((text) => text.includes("The concurrency limit refused 1 "))`)
	v.until(refusalsDrawn)
	v.filter(string(resilience.ReasonConcurrencyLimit))
	v.until(`document.querySelectorAll("#rows tr").length === 1`)
	if state := ask(t, http.MethodGet, d.page+"api/state", ""); !strings.Contains(state, `"concurrency":{"inFlight":3,"queued":0,"limit":4}`) {
		t.Errorf("state = %s, want the limit and what is in flight", state)
	}
}

// The page shows the calls that a rate limit refuses, and no concurrency limit where there is none.
func TestRateLimit(t *testing.T) {
	t.Parallel()
	d := startWith(t, `{rateLimit: {perSecond: 0.001, burst: 1}}`)
	ask(t, http.MethodPut, d.faults, "{}")
	v := visit(t, d.page, 1440, false)
	v.until(isLive)
	v.record("success-note")
	v.record("summary")
	ask(t, http.MethodGet, d.client+"/process", "")
	ask(t, http.MethodGet, d.client+"/process", "")
	v.until(had("success-note", "2 calls, 1 attempt, 1 refused"))
	v.until(`window.recorded.summary.some((text) => /^Healthy( for \d+ s)?\. The rate limit refused 1 of 2 calls of the last ten seconds; of those let through, 100 % succeeded\.$/.test(text))`)
	v.pickPath("/process")
	if got, want := v.text("call-sentence"), "Refused with 429 at once: rate limited (too many calls have begun), the upstream was not asked."; !strings.Contains(got, want) {
		t.Errorf("sentence = %q, want %q in it", got, want)
	}
	v.until(refusalsDrawn)
	if got := v.text("limit-note"); got != "" {
		t.Errorf("note about the concurrency limit = %q, want none", got)
	}
	if state := ask(t, http.MethodGet, d.page+"api/state", ""); strings.Contains(state, `"concurrency"`) {
		t.Errorf("state = %s, want no concurrency limit in it", state)
	}
}

// An adaptive limit comes and goes. Nothing on the page moves then, at any width.
func TestAdaptiveLimitMovesNothing(t *testing.T) {
	t.Parallel()
	up := make(chan observe.Upstream, 1)
	up <- observe.Upstream{Upstream: "http://upstream", Policy: "default", Burst: 10}
	_, at := own(t, page.Options{}, func() []observe.Upstream {
		u := <-up
		defer func() { up <- u }()
		return []observe.Upstream{u}
	})
	limit := func(s resilience.ConcurrencySnapshot) {
		u := <-up
		u.Concurrency = s
		up <- u
	}
	const places = `[...document.querySelectorAll(".tile, .panel, #breaker-note")].map((e) => { const r = e.getBoundingClientRect(); return [r.x, r.y, r.width, r.height].join(" "); }).join("; ")`
	for _, width := range []int{320, 375, 640, 768, 905, 1185, 1440} {
		limit(resilience.ConcurrencySnapshot{InFlight: 5})
		v := visit(t, at, width, false)
		v.until(isLive + ` && document.getElementById("breaker-state").innerText === "Closed"`)
		// The charts get their size, and then nothing moves.
		before := ""
		for began := time.Now(); ; {
			first := eval[string](v, places)
			time.Sleep(300 * time.Millisecond)
			before = eval[string](v, places)
			if before == first && eval[bool](v, `[...document.querySelectorAll(".plot")].every((plot) => Math.abs(plot.viewBox.baseVal.width - plot.clientWidth) < 1)`) {
				break
			}
			if time.Since(began) > patience {
				t.Fatalf("at %d px the page does not come to rest: %s, then %s", width, first, before)
			}
		}
		limit(resilience.ConcurrencySnapshot{InFlight: 1200, Limit: 1333, Queued: 100})
		v.until(`document.getElementById("limit-note").textContent === "1,200 of 1,333 in flight, 100 wait"`)
		if after := eval[string](v, places); after != before {
			t.Errorf("at %d px the page moves: got %s, want %s", width, after, before)
		}
		if eval[bool](v, `(() => { const e = document.getElementById("limit-note"); return e.scrollHeight > e.clientHeight + 1 || e.scrollWidth > e.clientWidth + 1; })()`) {
			t.Errorf("at %d px the limit is cut off", width)
		}
		limit(resilience.ConcurrencySnapshot{InFlight: 5})
		v.until(`document.getElementById("limit-note").textContent === ""`)
	}
}

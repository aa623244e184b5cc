package page_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/rebound-dev/rebound/internal/page"
	"github.com/rebound-dev/rebound/pkg/endpoint"
	"github.com/rebound-dev/rebound/pkg/observe"
	"github.com/rebound-dev/rebound/pkg/resilience"
)

// The sentence says what happens, for each state of an upstream and for all upstreams together.
func TestSentence(t *testing.T) {
	const took = 10 * time.Millisecond
	type feed struct {
		n      int
		reason resilience.Reason
		steps  []step
	}
	fine, fails, gone := step{reason: good, took: took}, step{reason: bad, took: took}, step{reason: resilience.ReasonCallerCanceled, took: took}
	answered, refused := feed{10, good, []step{fine}}, feed{5, resilience.ReasonBreakerOpen, nil}
	failed := feed{2, resilience.ReasonMaxAttempts, times(4, fails)}
	cases := map[string]struct {
		before, feed []feed // before is more than three seconds earlier
		state        resilience.State
		endpoints    []endpoint.State
		want         string
	}{
		"idle":      {want: "No calls in the last ten seconds."},
		"works":     {feed: []feed{answered}, want: "Every call of the last ten seconds succeeded at the first attempt."},
		"repeats":   {feed: []feed{{10, good, []step{fails, fine}}}, want: "In the last ten seconds the upstream failed 50.0 % of its attempts, but no call failed."},
		"saves":     {feed: []feed{{8, good, []step{fails, fine}}, failed}, want: "In the last ten seconds the upstream failed 66.7 % of its attempts, but only 20.0 % of the calls failed."},
		"fails":     {feed: []feed{failed}, want: "In the last ten seconds the upstream failed 100 % of its attempts, and 100 % of the calls failed."},
		"open":      {feed: []feed{answered, refused}, state: resilience.Open, want: "The circuit is open: 5 of 15 calls of the last ten seconds ended early, to spare the upstream."},
		"half-open": {feed: []feed{refused}, state: resilience.HalfOpen, want: "The circuit is half-open: a few calls probe whether the upstream works again; 5 of 5 calls of the last ten seconds ended early."},
		"recovered": {before: []feed{refused}, feed: []feed{answered}, want: "The upstream works again. The 33.3 % of the calls that failed are refusals of seconds ago, while the circuit was open."},
		"recovered from failures": {before: []feed{failed, refused}, feed: []feed{answered},
			want: "The upstream works again. The 41.2 % of the calls that failed are failures and refusals of seconds ago, before and while the circuit was open."},
		"not yet recovered": {before: []feed{refused}, feed: []feed{failed}, want: "In the last ten seconds the upstream failed 100 % of its attempts, and 100 % of the calls failed."},
		"one is ejected": {feed: []feed{answered}, endpoints: []endpoint.State{{Address: "10.0.0.1:80"}, {Address: "10.0.0.2:80", Circuit: resilience.Open, Ejected: true}, {Address: "10.0.0.3:80"}},
			want: "1 of 3 endpoints is ejected (10.0.0.2:80); the others answered, and no call of the last ten seconds failed."},
		"sheds": {feed: []feed{answered, {5, resilience.ReasonConcurrencyLimit, nil}},
			want: "In the last ten seconds all attempts succeeded, but 33.3 % of the calls failed. The concurrency limit refused 5 calls. It shed load: of the calls that it let through, 100 % succeeded."},
		"limits":        {feed: []feed{{100, good, []step{fine}}, {1, resilience.ReasonRateLimited, nil}}, want: "In the last ten seconds all attempts succeeded, but 1.0 % of the calls failed. The rate limit refused 1 call."},
		"callers leave": {feed: []feed{answered, {5, resilience.ReasonCallerCanceled, []step{gone}}}, want: "In the last ten seconds, callers ended 5 of 15 attempts before an answer; the others succeeded."},
		"all leave":     {feed: []feed{{5, resilience.ReasonCallerCanceled, []step{gone}}}, want: "In the last ten seconds, callers ended 5 of 5 attempts before an answer."},
		"reaches none":  {feed: []feed{{3, resilience.ReasonDeadlineTooClose, nil}}, want: "None of the 3 calls of the last ten seconds reached an upstream."},
	}
	var upstreams []observe.Upstream
	for name, tc := range cases {
		upstreams = append(upstreams, observe.Upstream{Upstream: name, Policy: "default", Burst: 10, Breaker: resilience.BreakerSnapshot{State: tc.state}, Endpoints: tc.endpoints})
	}
	l, at := own(t, page.Options{}, func() []observe.Upstream { return upstreams })
	v := visit(t, at, 1440, false)
	v.until(isLive)
	if got := v.text("summary"); got != "No calls yet." {
		t.Errorf("before the first call: %q", got)
	}
	total := 0
	record := func(upstream string, all []feed) {
		for _, f := range all {
			for range f.n {
				status := http.StatusServiceUnavailable
				if f.reason == good {
					status = http.StatusOK
				}
				l.ObserveCall(t.Context(), *ended(upstream, time.Second, f.reason, status, f.steps...))
			}
			total += f.n
		}
	}
	for name, tc := range cases {
		record(name, tc.before)
	}
	time.Sleep(3200 * time.Millisecond)
	for name, tc := range cases {
		record(name, tc.feed)
	}
	v.until(fmt.Sprintf(`document.getElementById("foot").innerText.startsWith("%d calls") && Boolean(window.drawn = `+perUpstream+`)`, total))
	drawn := eval[map[string]map[string]string](v, `window.drawn`)
	for name, tc := range cases {
		if got := drawn[name]["summary"]; got != tc.want {
			t.Errorf("%s: %q, want %q", name, got, tc.want)
		}
	}
	all := drawn["all upstreams"]["summary"]
	for _, part := range []string{"2 of 16 upstreams have their circuits open or half-open: half-open, open.", " more failed calls: ", "Over all, "} {
		if !strings.Contains(all, part) {
			t.Errorf("all upstreams: %q, want %q in it", all, part)
		}
	}
}

// Ten seconds after an outage begins, the page says what the policy did. A visitor can read off the
// screen, without scrolling, every word of the sentence below.
func TestTenSecondsOfAnOutage(t *testing.T) {
	d := start(t, "--traffic", "50", "--error-rate", "0")
	v := visit(t, d.page, 1440, false)
	v.until(isLive)
	v.press("Outage")
	v.until(`document.getElementById("breaker-state").innerText === "Open"`)
	const says = "Outage. The circuit is open: calls ended early, to spare the upstream. No call succeeds either way, but the policy spares the upstream most of the attempts and answers in ms instead of ms."
	v.until(`/^No call succeeds either way, but the policy spares the upstream [89]\d % of the attempts and answers in \S+ ms instead of \S+ ms\.$/.test(document.getElementById("verdict").innerText)`)
	seen := eval[string](v, `[...document.querySelectorAll("#summary, #verdict, #compare td, #compare th, .tile")].filter((e) => e.getBoundingClientRect().bottom <= innerHeight).map((e) => e.innerText).join(" ").toLowerCase()`)
	for _, word := range strings.FieldsFunc(strings.ToLower(says), func(r rune) bool { return strings.ContainsRune(" .,:", r) }) {
		if !strings.Contains(seen, word) && word != "most" { // the page has the figure in its place
			t.Errorf("the word %q is not on the screen: %s", word, seen)
		}
	}
}

// The charts, the sentence and the circuit are where a visitor sees them without scrolling.
func TestFirstScreen(t *testing.T) {
	d := start(t, "--traffic", "50", "--no-tour=false")
	for _, size := range []struct {
		width, height int
		seen          []string
	}{
		{375, 667, []string{"#summary", "#breaker-tile"}},
		{768, 1024, []string{"#summary", "#breaker-tile", "#charts .chart:nth-child(2)"}},
		{1440, 900, []string{"#summary", "#breaker-tile", "#charts", "#verdict", "#time-row"}},
		{2200, 1200, []string{"#summary", "#breaker-tile", "#charts", "#verdict", "#time-row", "#controls"}},
	} {
		t.Run(fmt.Sprint(size.width), func(t *testing.T) {
			v := visit(t, d.page, size.width, false)
			v.size(size.width, size.height)
			v.until(isLive + ` && !document.getElementById("tour").hidden && document.querySelectorAll("#charts path[d^=M]").length > 4`)
			if size.width >= 1440 { // also with a step of the tour
				v.click("tour-next")
				v.until(`document.getElementById("tour").dataset.step === "1" && document.getElementById("scenario-note").innerText.startsWith("three")`)
			}
			for _, selector := range size.seen {
				if bottom := eval[float64](v, fmt.Sprintf(`document.querySelector(%q).getBoundingClientRect().bottom`, selector)); bottom > float64(size.height) || bottom <= 0 {
					t.Errorf("%s ends at %.0f px of %d", selector, bottom, size.height)
				}
			}
			order := eval[[]string](v, `["#summary", "#charts", "#controls", ".call", ".calls"].map((s) => [s, document.querySelector(s).getBoundingClientRect()]).sort(([, a], [, b]) => a.top - b.top || a.left - b.left).map(([s]) => s)`)
			if got := strings.Join(order, " "); got != "#summary #charts #controls .call .calls" {
				t.Errorf("order = %s, want sentence, charts, controls, one call, recent calls", got)
			}
		})
	}
}

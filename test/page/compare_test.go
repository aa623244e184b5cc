package page_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/rebound-dev/rebound/internal/page"
)

// The figures of the comparison agree with the ledgers of both upstreams, in an outage too.
func TestComparisonAgreesWithBothLedgers(t *testing.T) {
	d := start(t)
	v := visit(t, d.page, 1440, false)
	v.until(isLive)
	ledger := func(of string) int {
		return decode[struct{ Received int }](t, ask(t, http.MethodGet, strings.Replace(d.faults, "/faults", of+"/ledger", 1), "")).Received
	}
	for _, faults := range []string{"errorRate: 0.3", "errorRate: 1"} {
		for _, of := range []string{"", "/without"} {
			ask(t, http.MethodDelete, strings.Replace(d.faults, "/faults", of+"/ledger", 1), "")
		}
		ask(t, http.MethodPut, d.faults, faults)
		// The calls are few enough to be all in the last ten seconds.
		ask(t, http.MethodPut, d.page+"api/traffic", `{"perSecond": 50}`)
		time.Sleep(1500 * time.Millisecond)
		ask(t, http.MethodPut, d.page+"api/traffic", `{"perSecond": 0}`)
		type result struct{ Ended, Good, Attempts int }
		type state struct{ With, Without result }
		var s state
		for began := time.Now(); ; time.Sleep(50 * time.Millisecond) { // calls in flight end
			s = decode[state](t, ask(t, http.MethodGet, d.page+"api/traffic", ""))
			if s.With.Ended == s.Without.Ended && s.With.Attempts == ledger("") && s.Without.Attempts == ledger("/without") {
				break
			}
			if time.Since(began) > 6*time.Second {
				t.Fatalf("%s: got %+v, want as many calls each way, and the attempts of the ledgers: %d and %d", faults, s, ledger(""), ledger("/without"))
			}
		}
		if s.Without.Attempts != s.Without.Ended || s.With.Good < s.Without.Good {
			t.Errorf("%s: got %+v, want one attempt a call without the policy, and no fewer good calls with it", faults, s)
		}
		shown := func(id string, value int) string {
			return fmt.Sprintf(`document.getElementById(%q).innerText === %q`, id, grouped(value))
		}
		v.until(shown("with-attempts", s.With.Attempts) + ` && ` + shown("without-attempts", s.Without.Attempts))
		for way, r := range map[string]result{"with": s.With, "without": s.Without} {
			if got, want := v.text(way+"-success-note"), fmt.Sprintf("%s of %s", grouped(r.Good), grouped(r.Ended)); got != want {
				t.Errorf("%s: %s the policy %q succeeded, want %q", faults, way, got, want)
			}
		}
		time.Sleep(11 * time.Second) // until the window is empty
	}
}

// The verdict says which way is ahead and by how much, or that it makes no difference.
func TestVerdict(t *testing.T) {
	result := func(ended, good, attempts int, p50, p99 float64) page.TrafficResult {
		return page.TrafficResult{Sent: ended, Ended: ended, Good: good, Attempts: attempts, P50: p50, P99: p99}
	}
	hanging := result(100, 0, 200, 5000, 5001) // half of them have not ended
	hanging.Sent = 200
	w := &wheel{}
	_, at := own(t, page.Options{Traffic: w})
	v := visit(t, at, 1440, false)
	v.until(isLive)
	for name, tc := range map[string]struct {
		with, without page.TrafficResult
		path          page.Path
		want          string
	}{
		"more succeed": {result(200, 200, 280, 30, 300), result(200, 140, 200, 25, 60), page.PathBoth,
			"The policy is ahead by 30 points: 100 % instead of 70.0 % of the calls succeed, for 1.40 attempts a call instead of 1.00."},
		"more succeed, for less": {result(200, 100, 100, 1, 300), result(200, 40, 200, 25, 60), page.PathBoth,
			"The policy is ahead by 30 points: 50.0 % instead of 20.0 % of the calls succeed, and the upstream takes 50 % fewer attempts."},
		"fewer succeed": {result(200, 100, 100, 1, 300), result(200, 180, 200, 25, 60), page.PathBoth,
			"Without the policy more calls succeed, by 40 points: 50.0 % instead of 90.0 % of the calls succeed, and the upstream takes 50 % fewer attempts."},
		"an outage": {result(200, 0, 14, 0.3, 28), result(200, 0, 200, 25, 60), page.PathBoth,
			"No call succeeds either way, but the policy spares the upstream 93 % of the attempts and answers in 0.30 ms instead of 25.0 ms."},
		"hanging": {result(200, 0, 20, 0.3, 1500), hanging, page.PathBoth,
			"No call succeeds either way, but the policy spares the upstream 90 % of the attempts and answers in 0.30 ms instead of 5.00 s."},
		"healthy":        {result(200, 200, 200, 25, 60), result(200, 200, 200, 25, 61), page.PathBoth, "The policy makes no difference: every call succeeds either way."},
		"only by chance": {result(200, 142, 201, 25, 60), result(200, 140, 200, 25, 61), page.PathBoth, "The policy makes no difference: about as many calls succeed either way."},
		"only slower": {result(200, 200, 200, 80, 160), result(200, 200, 200, 25, 61), page.PathBoth,
			"About as many calls succeed either way, but without the policy calls end in 25.0 ms instead of 80.0 ms."},
		"one way only now": {result(200, 200, 200, 25, 60), result(200, 0, 200, 25, 60), page.PathWith, "Send the traffic both ways to compare them."},
		"one way":          {result(200, 200, 200, 25, 60), page.TrafficResult{}, page.PathWith, "Send the traffic both ways to compare them."},
		"nothing yet":      {page.TrafficResult{}, page.TrafficResult{}, page.PathBoth, "No call has ended yet."},
		"without traffic":  {page.TrafficResult{}, page.TrafficResult{}, "", "Turn the traffic on to compare both ways."},
	} {
		w.mu.Lock()
		w.state = page.TrafficState{TrafficSettings: page.TrafficSettings{PerSecond: 20, Path: tc.path}, Limit: 200, With: tc.with, Without: tc.without}
		if tc.path == "" {
			w.state.TrafficSettings = page.TrafficSettings{Path: page.PathBoth}
		}
		w.mu.Unlock()
		t.Run(name, func(t *testing.T) {
			v := &tab{t: t, ctx: v.ctx}
			v.until(fmt.Sprintf(`document.getElementById("verdict").innerText === %q`, tc.want))
		})
	}
}

package main

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/rebound-dev/rebound/pkg/lab"
	"github.com/rebound-dev/rebound/pkg/resilience"
)

// title describes a result, without the policy.
func title(r *lab.Result) string {
	capacity := fmt.Sprintf("with a capacity of %g/s", r.Load.Capacity)
	if r.Load.Capacity == 0 {
		capacity = "with unlimited capacity"
	}
	clients := "clients"
	if r.Load.Clients == 1 {
		clients = "client"
	}
	return fmt.Sprintf("%s: %s\n%g calls/s by %d %s to an upstream %s, for %v; disturbed from %v to %v; seed %d\n",
		r.Scenario, r.Description, r.Load.Rate, r.Load.Clients, clients, capacity,
		seconds(r.LengthS), seconds(r.DisturbanceFromS), seconds(r.DisturbanceToS), r.Load.Seed)
}

// markdownTitle is title without line breaks. The scenario may come from a file.
func markdownTitle(r *lab.Result) string {
	_, about, _ := strings.Cut(strings.TrimSpace(title(r)), "\n")
	return "Scenario " + code(r.Scenario) + ", " + about + "."
}

// seconds returns s seconds, rounded: for 1.001 the product is a nanosecond too short.
func seconds(s float64) time.Duration {
	return time.Duration(s * float64(time.Second)).Round(time.Microsecond)
}

// figures returns the figures of one run, in lines for a terminal of so many columns.
func figures(of policyResult, columns int) string {
	r := of.Result
	t := table{header: []string{"", "before", "during", "after"}, left: 1}
	row := func(name string, figure func(lab.Part) string) {
		t.add(name, figure(r.Before), figure(r.During), figure(r.After))
	}
	row("calls", func(p lab.Part) string { return fmt.Sprint(p.Calls) })
	row("ended well", func(p lab.Part) string { return percent(p.Success) })
	row("goodput per second", func(p lab.Part) string { return fmt.Sprintf("%.1f", p.Goodput) })
	row("latency p50, ms", func(p lab.Part) string { return latency(p.OK, p.P50) })
	row("latency p99, ms", func(p lab.Part) string { return latency(p.OK, p.P99) })
	row("failed calls p50, ms", func(p lab.Part) string { return latency(p.Calls-p.OK, p.FailedP50) })
	row("failed calls p99, ms", func(p lab.Part) string { return latency(p.Calls-p.OK, p.FailedP99) })
	for i := range shownInstances(r) {
		row(fmt.Sprintf("attempts to instance %d", i+1), func(p lab.Part) string { return share(p.AttemptsByInstance, i) })
	}
	return t.text(columns) + fmt.Sprintf(`
recovery        %s
amplification   %.2f attempts per call, %.2f in the worst second
retries         %d; %s
circuits        opened %d times; at most %d probes of a client at a time
endpoints       ejected %d times
upstream        %d attempts served, %s of them after the caller had left; refused %d, dropped %d
calls           %s
attempts        %s
`, recovery(r)+", from the end of the disturbance until 95 % of the calls end well", r.Amplification, r.PeakAmplification,
		r.Retries, saved(*of.Saved), r.Opened, r.Probes, r.Ejections,
		r.Work.Served, percent(r.Work.WastedShare()), r.Work.Refused, r.Work.Dropped, counts(r.Calls), counts(r.Attempts))
}

// saved says what the retries did, from the difference to the run without them.
func saved(calls int64) string {
	switch {
	case calls > 0:
		return fmt.Sprintf("%d more calls end well than without them", calls)
	case calls < 0:
		return fmt.Sprintf("%d fewer calls end well than without them", -calls)
	}
	return "as many calls end well as without them"
}

func percent(share float64) string { return fmt.Sprintf("%.1f %%", 100*share) }

// shownInstances returns for how many instances a table has a row: none if there is only one, or if
// there are too many to read.
func shownInstances(r *lab.Result) int {
	if n := len(r.Before.AttemptsByInstance); n > 1 && n <= 10 {
		return n
	}
	return 0
}

// share formats the share of attempts that went to an instance. It returns a dash if there were no
// attempts.
func share(attempts []uint64, instance int) string {
	var all uint64
	for _, n := range attempts {
		all += n
	}
	if all == 0 {
		return "-"
	}
	return percent(float64(attempts[instance]) / float64(all))
}

// latency formats a quantile in milliseconds. It returns a dash if there were no calls.
func latency(of uint64, ms float64) string {
	if of == 0 {
		return "-"
	}
	return fmt.Sprintf("%.1f", ms)
}

// never is the recovery of a run that ends before service is good.
const never = "never"

func recovery(r *lab.Result) string {
	if r.RecoveryS == nil && r.LengthS < r.DisturbanceToS+lab.RecoveryHolds.Seconds() {
		return "unknown, the run is too short"
	}
	if r.RecoveryS == nil {
		return never
	}
	return fmt.Sprintf("%.1fs", *r.RecoveryS)
}

// counts formats the reasons, the most frequent first.
func counts(m map[resilience.Reason]uint64) string {
	reasons := slices.SortedFunc(maps.Keys(m), func(a, b resilience.Reason) int {
		return cmp.Or(cmp.Compare(m[b], m[a]), cmp.Compare(a, b))
	})
	var parts []string
	for _, r := range reasons {
		parts = append(parts, fmt.Sprintf("%s %d", r, m[r]))
	}
	if len(parts) == 0 {
		return "none"
	}
	return strings.Join(parts, ", ")
}

// ladder returns the figures of several policies side by side.
func ladder(results []policyResult) table {
	t := table{
		header: []string{"", "during", "after", "recovery", "mean ampl.", "peak ampl.", "p99 after, ms", "wasted", "retries", "calls saved"},
		left:   1,
	}
	for _, c := range results {
		r := c.Result
		t.add(oneLine(c.Policy), percent(r.During.Success), percent(r.After.Success), recovery(r), fmt.Sprintf("%.2f", r.Amplification),
			fmt.Sprintf("%.2f", r.PeakAmplification), latency(r.After.OK, r.After.P99), percent(r.Work.WastedShare()),
			fmt.Sprint(r.Retries), signed(c.Saved))
	}
	return t
}

// signed formats a difference. It returns a dash if it is not known.
func signed(n *int64) string {
	switch {
	case n == nil:
		return "-"
	case *n == 0:
		return "0"
	}
	return fmt.Sprintf("%+d", *n)
}

// markdownLadder is ladder in Markdown.
func markdownLadder(results []policyResult) string {
	t := ladder(results)
	for i := range t.rows {
		t.rows[i][0] = code(results[i].Policy)
	}
	return t.markdown()
}

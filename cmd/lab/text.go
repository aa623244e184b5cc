package main

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
	"unicode/utf8"

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

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

// writeResult prints the figures of one run.
func writeResult(w io.Writer, policy string, r *lab.Result) error {
	fmt.Fprintf(w, "%spolicy: %s\n\n", title(r), policy)
	return writeFigures(w, r)
}

// writeFigures prints the figures of one run without what was run.
func writeFigures(w io.Writer, r *lab.Result) error {
	t := tabwriter.NewWriter(w, 0, 0, 3, ' ', tabwriter.AlignRight)
	row := func(name string, figure func(lab.Part) string) {
		fmt.Fprintf(t, "%-24s\t%s\t%s\t%s\t\n", name, figure(r.Before), figure(r.During), figure(r.After))
	}
	fmt.Fprintf(t, "%-24s\tbefore\tduring\tafter\t\n", "")
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
	if err := t.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(w, `
recovery        %s
amplification   %.2f attempts per call, %.2f in the worst second
retries         %d, of which %d saved a call
circuits        opened %d times; at most %d probes of a client at a time
endpoints       ejected %d times
upstream        %d attempts served, %s of them after the caller had left; refused %d, dropped %d
calls           %s
attempts        %s
`, recovery(r)+", from the end of the disturbance until 95 % of the calls end well", r.Amplification, r.PeakAmplification,
		r.Retries, r.OKAfterRetry, r.Opened, r.Probes, r.Ejections,
		r.Work.Served, percent(r.Work.WastedShare()), r.Work.Refused, r.Work.Dropped, counts(r.Calls), counts(r.Attempts))
	return err
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

// policyResult is a policy's name and its result.
type policyResult struct {
	Policy string      `json:"policy"`
	Result *lab.Result `json:"result"`
}

// writeLadder prints the figures of several policies side by side.
func writeLadder(w io.Writer, results []policyResult) error {
	fmt.Fprintln(w, title(results[0].Result))
	t := tabwriter.NewWriter(w, 0, 0, 3, ' ', tabwriter.AlignRight)
	width := 18
	for _, c := range results {
		width = max(width, utf8.RuneCountInString(c.Policy))
	}
	fmt.Fprintf(t, "%-*s\tduring\tafter\trecovery\tmean ampl.\tpeak ampl.\tp99 after, ms\twasted\tretries saved\t\n", width, "")
	for _, c := range results {
		r := c.Result
		fmt.Fprintf(t, "%-*s\t%s\t%s\t%s\t%.2f\t%.2f\t%s\t%s\t%d of %d\t\n", width, c.Policy, percent(r.During.Success), percent(r.After.Success),
			recovery(r), r.Amplification, r.PeakAmplification, latency(r.After.OK, r.After.P99), percent(r.Work.WastedShare()), r.OKAfterRetry, r.Retries)
	}
	return t.Flush()
}

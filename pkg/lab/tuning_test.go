package lab_test

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rebound-dev/rebound/internal/testkit/golden"
	"github.com/rebound-dev/rebound/internal/virtual"
	"github.com/rebound-dev/rebound/pkg/lab"
	"github.com/rebound-dev/rebound/pkg/resilience"
	"github.com/rebound-dev/rebound/pkg/transport"
)

const (
	tuning   = "../../docs/tuning.md"
	defaults = "../../docs/defaults.md"
)

// TestTuningTables writes the tables of docs/tuning.md and docs/defaults.md. They take minutes, so
// it runs only on demand:
//
//	go test -run TestTuningTables -timeout 30m ./pkg/lab -update
func TestTuningTables(t *testing.T) {
	if !golden.Updating() {
		t.Skip("writes the tables of docs/tuning.md and docs/defaults.md with -update")
	}
	for name, table := range map[string]struct {
		page  string
		write func(*testing.T) string
	}{
		"alternatives": {defaults, alternatives}, "clients": {defaults, clientsTable}, "ladder": {tuning, ladderTable}, "boundary": {tuning, boundaryTable},
	} {
		golden.Table(t, table.page, name, table.write(t))
	}
}

// all runs experiments two at a time.
func all(t *testing.T, experiments []lab.Experiment) []*lab.Result {
	t.Helper()
	results := make([]*lab.Result, len(experiments))
	var wg sync.WaitGroup
	free := make(chan struct{}, 2)
	for i, e := range experiments {
		free <- struct{}{}
		wg.Go(func() {
			defer func() { <-free }()
			virtual.Run(func() {
				var err error
				if results[i], err = e.Run(t.Context()); err != nil {
					t.Error(err)
				}
			})
		})
	}
	wg.Wait()
	if t.Failed() {
		t.FailNow()
	}
	return results
}

// worst returns the highest figure of some results.
func worst(results []*lab.Result, figure func(*lab.Result) float64) float64 {
	w := math.Inf(-1)
	for _, r := range results {
		w = math.Max(w, figure(r))
	}
	return w
}

func recoveryOf(r *lab.Result) float64 {
	if r.RecoveryS == nil {
		return math.Inf(1)
	}
	return *r.RecoveryS
}

func inSeconds(s float64) string {
	if math.IsInf(s, 1) {
		return "never"
	}
	return fmt.Sprintf("%.1f", s)
}

func outageOf(t *testing.T, name string, length time.Duration) lab.Scenario {
	s := builtin(t, name, 8*time.Second)
	s.Disturbance.For, s.Upstream.Phases[0].For = length, length
	s.Length = s.Disturbance.End() + 15*time.Second
	return s
}

func alternatives(t *testing.T) string {
	var b strings.Builder
	b.WriteString("| ratio | burst | consecutiveFailures | maxOpenFor | success at 30 % errors, %: worst, mean | worst second, hanging | recovery, s: hanging | refusing |\n|---|---|---|---|---|---|---|---|\n")
	for _, v := range []struct {
		ratio, burst float64
		consecutive  int
		maxOpen      time.Duration
	}{
		{1, resilience.AdaptiveBurst, 12, time.Second / 2},
		{0.45, resilience.AdaptiveBurst, 12, time.Second / 2},
		{1, 4, 12, time.Second / 2},
		{1, 20, 12, time.Second / 2},
		{1, resilience.AdaptiveBurst, 10, time.Second / 2},
		{1, resilience.AdaptiveBurst, 20, time.Second / 2},
		{1, resilience.AdaptiveBurst, 12, time.Second},
		{1, resilience.AdaptiveBurst, 12, 2 * time.Second},
		{1, resilience.AdaptiveBurst, 12, 5 * time.Second},
	} {
		p := transport.DefaultPolicy()
		p.Retry.Budget.Ratio, p.Retry.Budget.Burst = v.ratio, v.burst
		p.Breaker.ConsecutiveFailures, p.Breaker.OpenFor, p.Breaker.MaxOpenFor = v.consecutive, v.maxOpen/2, v.maxOpen
		var errors, hanging, refusing []lab.Experiment
		for seed := range uint64(5) {
			errors = append(errors, lab.Experiment{Policy: p, Scenario: builtin(t, "error-rate-30", 2*time.Second), Load: load(500, seed+1)})
			hanging = append(hanging, lab.Experiment{Policy: p, Scenario: outageOf(t, "outage-hanging", 10*time.Second), Load: load(500, seed+1)})
		}
		for _, length := range []time.Duration{3, 6, 8, 12, 14, 20} {
			hanging = append(hanging, lab.Experiment{Policy: p, Scenario: outageOf(t, "outage-hanging", length*time.Second), Load: load(700, 1)})
			refusing = append(refusing, lab.Experiment{Policy: p, Scenario: outageOf(t, "outage", length*time.Second), Load: load(700, 1)})
		}
		failing, hung, refused := all(t, errors), all(t, hanging), all(t, refusing)
		mean := 0.0
		for _, r := range failing {
			mean += r.During.Success / float64(len(failing))
		}
		fmt.Fprintf(&b, "| %g | %g | %d | %v | %.2f, %.2f | %.2f | %s | %s |\n", v.ratio, v.burst, v.consecutive, v.maxOpen,
			-100*worst(failing, func(r *lab.Result) float64 { return -r.During.Success }), 100*mean,
			worst(hung, func(r *lab.Result) float64 { return r.PeakAmplification }), inSeconds(worst(hung, recoveryOf)), inSeconds(worst(refused, recoveryOf)))
	}
	return b.String()
}

func ladderTable(t *testing.T) string {
	var b strings.Builder
	b.WriteString("| scenario | load, % | policy | success during, % | after, % | recovery, s | amplification | worst second | wasted, % |\n|---|---|---|---|---|---|---|---|---|\n")
	for _, c := range []struct {
		scenario string
		rate     float64
	}{{"outage-hanging", 500}, {"outage-hanging", 850}, {"outage", 500}, {"overload", 500}, {"brownout", 700}, {"error-rate-30", 500}, {"bad-instance", 500}, {"herd", 500}} {
		var experiments []lab.Experiment
		ladder := lab.Ladder(transport.DefaultPolicy())
		ladder[len(ladder)-1].Name = "+ limit"
		// These two are much like their neighbours.
		ladder = slices.DeleteFunc(ladder, func(r lab.Rung) bool { return r.Name == "fixed wait" || r.Name == "exponential wait" })
		for _, rung := range ladder {
			s := builtin(t, c.scenario, 10*time.Second)
			s.Length = s.Disturbance.End() + 40*time.Second
			experiments = append(experiments, lab.Experiment{Policy: rung.Policy, Scenario: s, Load: load(c.rate, 1)})
		}
		for i, r := range all(t, experiments) {
			fmt.Fprintf(&b, "| %s | %g | %s | %.1f | %.1f | %s | %.2f | %.2f | %.1f |\n", c.scenario, c.rate/10, ladder[i].Name,
				100*r.During.Success, 100*r.After.Success, inSeconds(recoveryOf(r)), r.Amplification, r.PeakAmplification, 100*r.Work.WastedShare())
		}
	}
	return b.String()
}

func clientsTable(t *testing.T) string {
	var b strings.Builder
	b.WriteString("| clients | calls a second each | worst second, hanging | refusing | recovery, s: hanging | refusing |\n|---|---|---|---|---|---|\n")
	for _, clients := range []int{1, 5, 20, 50, 100, 250} {
		var results [2][]*lab.Result
		for i, name := range []string{"outage-hanging", "outage"} {
			var experiments []lab.Experiment
			for seed := range uint64(3) {
				l := load(500, seed+1)
				l.Clients = clients
				s := builtin(t, name, 12*time.Second) // after a window of the circuit clients know their traffic
				s.Length = s.Disturbance.End() + 15*time.Second
				experiments = append(experiments, lab.Experiment{Policy: transport.DefaultPolicy(), Scenario: s, Load: l})
			}
			results[i] = all(t, experiments)
		}
		peak := func(r *lab.Result) float64 { return r.PeakAmplification }
		fmt.Fprintf(&b, "| %d | %g | %.2f | %.2f | %s | %s |\n", clients, 500/float64(clients),
			worst(results[0], peak), worst(results[1], peak), inSeconds(worst(results[0], recoveryOf)), inSeconds(worst(results[1], recoveryOf)))
	}
	return b.String()
}

func boundaryTable(t *testing.T) string {
	var b strings.Builder
	b.WriteString("| policy | hangs | refuses |\n|---|---|---|\n")
	for _, rung := range lab.Ladder(transport.DefaultPolicy()) {
		fmt.Fprintf(&b, "| %s |", rung.Name)
		for _, scenario := range []string{"outage-hanging", "outage"} {
			s, err := lab.LoadScenario(scenario)
			if err != nil {
				t.Fatal(err)
			}
			switch found := boundaryOf(t, rung.Policy, s.ForBoundary(), 5); {
			case found.Percent == lab.BoundarySteps:
				b.WriteString(" always |")
			case found.Low == found.High:
				fmt.Fprintf(&b, " %d |", found.Percent)
			default:
				fmt.Fprintf(&b, " %d (%d to %d) |", found.Percent, found.Low, found.High)
			}
		}
		b.WriteString("\n")
	}
	return b.String()
}

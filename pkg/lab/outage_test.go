package lab_test

import (
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/rebound-dev/rebound/internal/backend"
	"github.com/rebound-dev/rebound/pkg/faults"
	"github.com/rebound-dev/rebound/pkg/lab"
	"github.com/rebound-dev/rebound/pkg/transport"
)

// The promise of the defaults: in any second of an outage, attempts exceed calls by at most a
// fifth, and service recovers soon after it.
func TestDefaultPolicyInAnOutage(t *testing.T) {
	statistics(t)
	t.Parallel()
	for _, name := range []string{"outage", "outage-hanging"} {
		for _, rate := range []float64{500, 700, 850} {
			for seed := range uint64(5) {
				t.Run(fmt.Sprintf("%s at %g, seed %d", name, rate, seed+1), func(t *testing.T) {
					t.Parallel()
					r := simulate(t, lab.Experiment{
						Policy: transport.DefaultPolicy(), Scenario: builtin(t, name, 8*time.Second), Load: load(rate, seed+1),
					})
					if r.PeakAmplification > 1.2 {
						t.Errorf("%.2f attempts per call in the worst second, want at most 1.2", r.PeakAmplification)
					}
					if r.RecoveryS == nil || *r.RecoveryS > 5 {
						t.Errorf("recovery %s, want at most 5 s", shown(r.RecoveryS))
					}
					if r.Before.Success < 0.995 { // calls in flight when it begins fail
						t.Errorf("success before the outage %.4f, want nearly all", r.Before.Success)
					}
				})
			}
		}
	}
}

// After an outage of ten seconds, circuits may happen to probe at the right moment. Other lengths
// show whether they do in general.
func TestDefaultPolicyInOutagesOfAnyLength(t *testing.T) {
	statistics(t)
	t.Parallel()
	for _, name := range []string{"outage", "outage-hanging"} {
		for _, length := range []time.Duration{3, 6, 12, 20} {
			t.Run(fmt.Sprintf("%s of %ds", name, length), func(t *testing.T) {
				t.Parallel()
				s := builtin(t, name, 4*time.Second)
				s.Disturbance.For = length * time.Second
				s.Upstream.Phases[0].For = length * time.Second
				s.Length = s.Disturbance.End() + 12*time.Second
				r := simulate(t, lab.Experiment{Policy: transport.DefaultPolicy(), Scenario: s, Load: load(700, 1)})
				if r.RecoveryS == nil || *r.RecoveryS > 5 {
					t.Errorf("recovery %s, want at most 5 s", shown(r.RecoveryS))
				}
			})
		}
	}
}

func shown(seconds *float64) string {
	if seconds == nil {
		return "never"
	}
	return fmt.Sprintf("after %.1f s", *seconds)
}

// Retries keep an upstream down: it spends its time on work that no caller waits for any more. The
// waits between attempts make no difference.
func TestLadderInAnOutage(t *testing.T) {
	statistics(t)
	t.Parallel()
	for name, c := range map[string]struct {
		recovers bool
		within   float64 // in seconds
		peak     float64 // upper limit
	}{
		"no retry":         {true, 12, 1.01},
		"immediate retry":  {false, 0, 9},
		"fixed wait":       {false, 0, 9},
		"exponential wait": {false, 0, 9},
		"full jitter":      {false, 0, 9},
		"+ budget":         {true, 12, 1.5},
		"+ breaker":        {true, 5, 1.2},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := builtin(t, "outage-hanging", 4*time.Second)
			s.Length = s.Disturbance.End() + 18*time.Second
			r := simulate(t, lab.Experiment{Policy: rungOf(t, name), Scenario: s, Load: load(500, 1)})
			switch {
			case c.recovers && (r.RecoveryS == nil || *r.RecoveryS > c.within):
				t.Errorf("recovery %s, want at most %v s", shown(r.RecoveryS), c.within)
			case !c.recovers && r.RecoveryS != nil:
				t.Errorf("recovery %s, want never", shown(r.RecoveryS))
			case !c.recovers && r.Work.WastedShare() < 0.5:
				t.Errorf("%.2f of the work is wasted, want at least half", r.Work.WastedShare())
			}
			if r.PeakAmplification > c.peak {
				t.Errorf("%.2f attempts per call in the worst second, want at most %v", r.PeakAmplification, c.peak)
			}
		})
	}
}

// A service that drops the work of callers that have left recovers without a circuit breaker,
// because deadlines travel with the attempts.
func TestHonouredDeadlines(t *testing.T) {
	t.Parallel()
	run := func(honour bool) *lab.Result {
		s := builtin(t, "outage-hanging", 4*time.Second)
		s.Upstream.Faults.HonourDeadline = honour
		return simulate(t, lab.Experiment{Policy: rungOf(t, "+ budget"), Scenario: s, Load: load(500, 1)})
	}
	served, dropped := run(false), run(true)
	if dropped.RecoveryS == nil || *dropped.RecoveryS > 1 {
		t.Errorf("recovery %s, want at once", shown(dropped.RecoveryS))
	}
	if served.RecoveryS != nil && *served.RecoveryS < 5 {
		t.Errorf("recovery %s without, want more", shown(served.RecoveryS))
	}
	if dropped.Work.Dropped == 0 || dropped.Work.WastedShare() > 0.01 {
		t.Errorf("%d dropped and %.3f wasted, want many and none", dropped.Work.Dropped, dropped.Work.WastedShare())
	}
}

// An upstream has a third of its capacity for half a minute. The limit must keep its queue short,
// from five seconds on. It must not take the latency of the queue for the usual one: then it would
// leave force, and the queue would grow until attempts time out.
//
// Many clients have at least 1.8 places each, so that their queue is longer. At 2.25 times the load
// that two workers can serve, attempts time out before a client of eleven calls a second has seen
// enough of them. The limit must be small then too, or they go on to time out for ever.
//
// A worker needs 20 or 21 ms, in whole units of the simulator. So a p99 of 1.95 times 20 ms is 1.86
// times what the slower calls need.
func TestDefaultPolicyInABrownOut(t *testing.T) {
	statistics(t)
	t.Parallel()
	const seeds = 10
	fixed := faults.Latency{Distribution: faults.DistributionFixed, Value: 20 * time.Millisecond}
	mixed := faults.Latency{Distribution: faults.DistributionLognormal, Median: 10 * time.Millisecond, P99: 50 * time.Millisecond}
	slower := func(p *lab.Phase) { p.Slower = new(3.0) }
	fewer := func(p *lab.Phase) { p.Working = new(1.0 / 3) }
	for name, c := range map[string]struct {
		change  func(*lab.Phase)
		work    faults.Latency
		workers float64
		p99     time.Duration // of a worker meanwhile
		clients int
		least   float64 // mean goodput, as a share of what the upstream can serve
		times   float64 // the largest mean p99, times that of a worker; 0 = the attempt timeout
	}{
		"slower workers":                          {slower, fixed, 8, 60 * time.Millisecond, 1, 0.98, 2},
		"fewer workers":                           {fewer, fixed, 6, 20 * time.Millisecond, 1, 0.98, 2},
		"fewer workers, mixed work":               {fewer, mixed, 6, 50 * time.Millisecond, 1, 0.98, 2},
		"slower workers, many clients":            {slower, fixed, 8, 60 * time.Millisecond, 20, 0.96, 20},
		"fewer workers, many clients":             {fewer, fixed, 6, 20 * time.Millisecond, 20, 0.9, 60},
		"three of eight workers, many clients":    {fewer, fixed, 8, 20 * time.Millisecond, 20, 0.96, 45},
		"fewer workers, mixed work, many clients": {fewer, mixed, 6, 50 * time.Millisecond, 20, 0.98, 22},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			const begins, settles, lasts = 10 * time.Second, 5 * time.Second, 30 * time.Second
			s := steady(func(s *lab.Scenario) {
				s.Upstream.Faults.Latency = c.work
				s.Disturbance = lab.Span{At: begins + settles, For: lasts - settles}
				s.Length = s.Disturbance.End() + time.Second
				s.Upstream.Phases = []lab.Phase{phase(begins, lasts, c.change)}
			})
			capacity := c.workers / backend.Mean(c.work).Seconds()
			left := capacity * math.Round(c.workers/3) / c.workers
			if s.Upstream.Phases[0].Slower != nil {
				left = capacity / 3
			}
			var kept, times float64
			worst, longest := 1e9, 0.0
			for seed := range uint64(seeds) {
				r := simulate(t, lab.Experiment{
					Policy: transport.DefaultPolicy(), Scenario: s, Load: lab.Load{Rate: 0.75 * capacity, Clients: c.clients, Capacity: capacity, Seed: seed + 1},
				})
				k, p := r.During.Goodput/left, r.During.P99/float64(c.p99.Milliseconds())
				kept += k / seeds
				times += p / seeds
				worst, longest = min(worst, k), max(longest, p)
			}
			t.Logf("goodput %.1f %% (worst %.1f), p99 %.2f (longest %.2f)", 100*kept, 100*worst, times, longest)
			if kept < c.least {
				t.Errorf("goodput is %.1f %% of what the upstream can serve, want at least %.0f", 100*kept, 100*c.least)
			}
			if c.times > 0 && times > c.times {
				t.Errorf("p99 is %.2f times that of a worker, want at most %v", times, c.times)
			}
		})
	}
}

// An upstream becomes ten times as slow for good, and could serve all calls. The limit finds that
// out within a second or two.
func TestSlowForGood(t *testing.T) {
	statistics(t)
	t.Parallel()
	for clients, most := range map[int]float64{1: 0.02, 20: 0.015} {
		t.Run(fmt.Sprintf("%d clients", clients), func(t *testing.T) {
			t.Parallel()
			s := steady(func(s *lab.Scenario) {
				s.Upstream.Faults.Latency.Value = 20 * time.Millisecond
				s.Disturbance = lab.Span{At: 10 * time.Second, For: 40 * time.Second}
				s.Length = s.Disturbance.End()
				s.Upstream.Phases = []lab.Phase{phase(s.Disturbance.At, s.Disturbance.For, func(p *lab.Phase) { p.Slower = new(10.0) })}
			})
			r := simulate(t, lab.Experiment{
				Policy: transport.DefaultPolicy(), Scenario: s, Load: lab.Load{Rate: 300, Clients: clients, Capacity: 6000, Seed: 1},
			})
			if lost := 1 - r.During.Success; lost > most {
				t.Errorf("%.1f %% of the calls do not end well, want at most %v %%", 100*lost, 100*most)
			}
		})
	}
}

package lab_test

import (
	"context"
	"encoding/json"
	"errors"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rebound-dev/rebound/internal/testkit/leaks"
	"github.com/rebound-dev/rebound/pkg/endpoint"
	"github.com/rebound-dev/rebound/pkg/faults"
	"github.com/rebound-dev/rebound/pkg/lab"
	"github.com/rebound-dev/rebound/pkg/resilience"
	"github.com/rebound-dev/rebound/pkg/transport"
)

func TestMain(m *testing.M) {
	debug.SetGCPercent(800) // collects about as seldom as the program lab
	leaks.Main(m)
}

// The same seed gives the same figures for every second, even if many things fail at once, and on
// any number of processors. Another seed gives other figures. No other test runs beside this one,
// which changes the number of processors.
func TestSameSeedSameFigures(t *testing.T) {
	everything := func(honour bool) lab.Scenario {
		return steady(func(s *lab.Scenario) {
			s.Length, s.Disturbance = 11*time.Second, lab.Span{At: time.Second, For: 4 * time.Second}
			s.Upstream.Instances, s.Upstream.Queue = 2, 2*time.Second
			s.Upstream.Faults = faults.Spec{
				Latency:   faults.Latency{Distribution: faults.DistributionLognormal, Median: 8 * time.Millisecond, P99: 60 * time.Millisecond},
				ErrorRate: 0.1, ResetRate: 0.02, TruncateRate: 0.02, HangRate: 0.01, HonourDeadline: honour,
			}
			s.Upstream.Phases = []lab.Phase{
				phase(time.Second, 3*time.Second, func(p *lab.Phase) { p.Working, p.WorkingAtEnd = new(0.0), new(0.6) }),
				phase(4*time.Second, time.Second, func(p *lab.Phase) { p.Refuse, p.Instance = true, 2 }),
				phase(6*time.Second, 2*time.Second, func(p *lab.Phase) { p.Working = new(0.0) }),
			}
			s.Load.Herd = &lab.Herd{At: 9 * time.Second, Calls: 300}
		})
	}
	// Without waits and jitter, the most happens at once.
	bare := rungOf(t, "immediate retry")
	bare.Breaker, bare.Retry.Budget = transport.DefaultPolicy().Breaker, transport.DefaultPolicy().Retry.Budget
	usual := lab.Load{Rate: 200, Clients: 5, Capacity: 300}
	for name, c := range map[string]struct {
		scenario lab.Scenario
		policy   transport.Policy
		load     lab.Load
	}{
		"default policy":     {everything(false), transport.DefaultPolicy(), usual},
		"immediate retry":    {everything(false), bare, usual},
		"deadlines honoured": {everything(true), transport.DefaultPolicy(), usual},
		"probes that hang": {func() lab.Scenario {
			s := builtin(t, "outage-hanging", time.Second)
			s.Disturbance.For, s.Upstream.Phases[0].For, s.Length = 5*time.Second, 5*time.Second, 7*time.Second
			return s
		}(), transport.DefaultPolicy(), lab.Load{Rate: 500, Clients: 20, Capacity: 1000}},
		"many workers come back": {steady(func(s *lab.Scenario) {
			s.Length = 3 * time.Second
			s.Upstream.Faults.ErrorRate = 0.5
			s.Upstream.Phases = []lab.Phase{phase(500*time.Millisecond, time.Second, func(p *lab.Phase) { p.Working = new(0.0) })}
		}), rungOf(t, "immediate retry"), lab.Load{Rate: 600, Clients: 2, Capacity: 6000}},
		"endpoints": {func() lab.Scenario {
			s := everything(false)
			s.Upstream.Instances, s.Upstream.Endpoints.Resolve = 4, endpoint.ResolveDNS
			s.Upstream.Endpoints.Refresh = 700 * time.Millisecond
			s.Upstream.Phases = append(s.Upstream.Phases,
				phase(time.Second, 2*time.Second, func(p *lab.Phase) { p.Slower, p.Instance = new(100.0), 4 }),
				phase(2*time.Second, 3*time.Second, func(p *lab.Phase) { p.Gone, p.Instance = true, 1 }),
				phase(3*time.Second, 4*time.Second, func(p *lab.Phase) { p.HangRate, p.Instance = new(0.5), 3 }),
				phase(7*time.Second, time.Second, func(p *lab.Phase) { p.Gone, p.Instance = true, 4 }),
			)
			return s
		}(), transport.DefaultPolicy(), usual},
		"callers who wait": {func() lab.Scenario {
			s := everything(true)
			s.Load.Think = 200 * time.Millisecond
			return s
		}(), transport.DefaultPolicy(), usual},
	} {
		t.Run(name, func(t *testing.T) {
			figures := func(seed uint64) string {
				c.load.Seed = seed
				text, err := json.Marshal(simulate(t, lab.Experiment{Policy: c.policy, Scenario: c.scenario, Load: c.load}))
				if err != nil {
					t.Fatal(err)
				}
				return string(text)
			}
			first := figures(1)
			for i := range 19 {
				old := runtime.GOMAXPROCS(1 + i%4)
				again := figures(1)
				runtime.GOMAXPROCS(old)
				if again != first {
					at := 0
					for first[at] == again[at] {
						at++
					}
					from := max(0, at-60)
					t.Fatalf("run %d, on %d processors, differs: %q, first %q", i+2, 1+i%4, again[from:min(len(again), at+40)], first[from:min(len(first), at+40)])
				}
			}
			if figures(2) == first {
				t.Error("another seed gives the same figures, want others")
			}
		})
	}
}

func TestProgressAndSeries(t *testing.T) {
	t.Parallel()
	var told []time.Duration
	r := simulate(t, lab.Experiment{
		Policy: transport.DefaultPolicy(), Scenario: steady(func(*lab.Scenario) {}), Load: load(100, 1),
		Progress: func(passed time.Duration) { told = append(told, passed) },
	})
	if len(told) != 10 || told[9] != 10*time.Second {
		t.Errorf("told of %v, want each of ten seconds", told)
	}
	var sum lab.Second
	for i, s := range r.Series {
		sum.Offered += s.Offered
		sum.Attempts += s.Attempts
		sum.Goodput += s.Goodput
		if s.P50 <= 0 || s.P99 < s.P50 || s.Open != 0 || s.Tokens != transport.DefaultPolicy().Retry.Budget.Most() {
			t.Errorf("second %d: got %+v, want 0 < p50 <= p99, no open circuit and a full budget", i, s)
		}
	}
	calls := r.Before.Calls + r.During.Calls + r.After.Calls
	if uint64(sum.Offered) != calls || uint64(sum.Attempts) != calls || uint64(sum.Goodput) > calls || uint64(sum.Goodput) < calls-10 {
		t.Errorf("the seconds add up to %+v, want %d calls", sum, calls)
	}
}

func TestRunIsCalledOff(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancelCause(context.Background())
	interrupted := errors.New("interrupted")
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		_, err := lab.Experiment{
			Policy: transport.DefaultPolicy(), Scenario: steady(func(*lab.Scenario) {}), Load: load(100, 1),
			Progress: func(passed time.Duration) {
				if passed == 3*time.Second {
					cancel(interrupted)
				}
			},
		}.Run(ctx)
		if !errors.Is(err, interrupted) {
			t.Errorf("got %v, want %v", err, interrupted)
		}
		if took := time.Since(start); took > 4*time.Second {
			t.Errorf("it took %v, want an early end", took)
		}
	})
}

func TestImpossibleExperiments(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change func(*lab.Experiment)
		want   string
	}{
		"rate":       {func(e *lab.Experiment) { e.Load.Rate = -1 }, "rate: must be from 0 to 1000000 calls a second, got -1"},
		"clients":    {func(e *lab.Experiment) { e.Load.Clients = 0 }, "clients: must be from 1 to 100000, got 0"},
		"capacity":   {func(e *lab.Experiment) { e.Load.Capacity = 1e9 }, "capacity: must be from 0 (no limit) to 1000000 calls a second, got 1e+09"},
		"too short":  {func(e *lab.Experiment) { e.Load.Length = time.Second }, "length: must be at least 2s, the end of the disturbance of scenario steady, got 1s"},
		"no workers": {func(e *lab.Experiment) { e.Load.Capacity = 0 }, "capacity: must be above 0, because scenario steady stops workers, got 0"},
		"callers":    {func(e *lab.Experiment) { e.Load.Rate, e.Scenario.Load.Think = 500, time.Hour }, "rate: must make at most 100000 callers, each with load.think of scenario steady (1h0m0s) between its calls, makes 1800000"},
		"policy":     {func(e *lab.Experiment) { e.Policy.Timeout = 0 }, "timeout: must be above 0"},
		"scenario":   {func(e *lab.Experiment) { e.Scenario.Name = "" }, "must be letters"},
		"phases that clash": {func(e *lab.Experiment) {
			e.Scenario.Upstream.Phases = append(e.Scenario.Upstream.Phases,
				phase(0, time.Second, func(p *lab.Phase) { p.ErrorRate = new(0.6) }),
				phase(0, time.Second, func(p *lab.Phase) { p.HangRate = new(0.6) }))
		}, "add up to at most 1"},
	} {
		t.Run(name, func(t *testing.T) {
			e := lab.Experiment{Policy: transport.DefaultPolicy(), Load: load(1, 1), Scenario: steady(func(s *lab.Scenario) {
				s.Upstream.Phases = []lab.Phase{phase(0, time.Second, func(p *lab.Phase) { p.Working = new(0.5) })}
			})}
			c.change(&e)
			if _, err := e.Run(t.Context()); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

// The number of opened circuits matches the reported transitions.
func TestOpenedAreTheTransitions(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var opened uint64
	r := simulate(t, lab.Experiment{
		Policy: transport.DefaultPolicy(), Scenario: builtin(t, "outage", time.Second), Load: load(200, 1),
		Transition: func(_ int, tr resilience.Transition) {
			mu.Lock()
			defer mu.Unlock()
			if tr.To == resilience.Open {
				opened++
			}
		},
	})
	if opened == 0 || r.Opened != opened {
		t.Errorf("%d circuits opened, want %d as in the transitions", r.Opened, opened)
	}
}

// The memory that a run needs does not grow with its calls, and with its length only by the figures
// of each second. No other test runs beside this one.
func TestMemoryIsFlat(t *testing.T) {
	live := func(length time.Duration) uint64 {
		var at uint64
		s := steady(func(s *lab.Scenario) { s.Length = length })
		simulate(t, lab.Experiment{
			Policy: transport.DefaultPolicy(), Scenario: s, Load: lab.Load{Rate: 100, Clients: 5, Capacity: 200, Seed: 1},
			Progress: func(passed time.Duration) {
				if passed == length {
					var m runtime.MemStats
					runtime.GC()
					runtime.GC() // the first only moves what pools keep
					runtime.ReadMemStats(&m)
					at = m.HeapAlloc
				}
			},
		})
		return at
	}
	const most = 250 // bytes for each second
	live(time.Minute)
	short, long := live(time.Minute), live(10*time.Minute)
	growth := (float64(long) - float64(short)) / 540
	t.Logf("%d bytes after a minute, %d after ten: %.0f for each second", short, long, growth)
	if growth > most {
		t.Errorf("got %d bytes after a minute and %d after ten: %.0f for each second, want at most %d", short, long, growth, most)
	}
}

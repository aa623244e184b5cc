package lab_test

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"testing"

	"github.com/rebound-dev/rebound/internal/virtual"
	"github.com/rebound-dev/rebound/pkg/lab"
	"github.com/rebound-dev/rebound/pkg/transport"
)

// sampled is the number of cells of the grid for each one that the test looks at. It shares no
// factor with the number of loads and clients, so that all of them are seen.
const sampled = 29

// The default policy does no harm.
func TestDefaultPolicyDoesNoHarm(t *testing.T) {
	statistics(t)
	t.Parallel()
	all, err := lab.HarmGrid(1)
	if err != nil {
		t.Fatal(err)
	}
	type cell struct {
		scenario   string
		ofCapacity float64
		clients    int
	}
	// Each of these once was harmed.
	harmed := map[cell]bool{
		// A part of the upstream is gone and the rest is overloaded. Retries kept the queue up,
		// with clients that see few answers each, and with one.
		{"rolling-restart", 0.9, 250}:  true,
		{"hanging-endpoint", 0.9, 250}: true,
		{"bad-instance", 0.9, 250}:     true,
		{"1-of-3-hang-none", 0.9, 1}:   true,
		// All load was led to the endpoints that work, and one that worked again was not used.
		{"bad-endpoint", 0.9, 250}:     true,
		{"2-of-3-error-dns", 0.9, 250}: true,
		{"2-of-3-error-dns", 0.9, 1}:   true,
		// Retries of clients with few calls filled the queue of an upstream that hung.
		{"outage-hanging", 0.1, 250}: true,
		// Clients saved retries for failures by chance, and spent them in outages.
		{"flapping", 0.9, 250}: true,
	}
	var cells []lab.Cell
	missing := maps.Clone(harmed)
	for i, c := range all {
		is := cell{c.Scenario.Name, c.Load.Rate / c.Load.Capacity, c.Load.Clients}
		if delete(missing, is); i%sampled == 0 || harmed[is] {
			cells = append(cells, c)
		}
	}
	if len(missing) > 0 || len(cells) < 15+len(harmed) {
		t.Fatalf("%d cells, want at least %d; not in the grid: %v", len(cells), 15+len(harmed), missing)
	}
	for _, c := range cells {
		t.Run(fmt.Sprintf("%s at %g %% with %d clients", c.Scenario.Name, 100*c.Load.Rate/c.Load.Capacity, c.Load.Clients), func(t *testing.T) {
			t.Parallel()
			p := transport.DefaultPolicy()
			var results [2]*lab.Result
			for i, policy := range []transport.Policy{p, lab.NoPolicy(p)} {
				virtual.Run(func() {
					var err error
					if results[i], err = (lab.Experiment{Policy: policy, Scenario: c.Scenario, Load: c.Load}).Run(t.Context()); err != nil {
						t.Error(err)
					}
				})
			}
			if t.Failed() {
				return
			}
			if h := c.Compare(results[0], results[1]); h.Broken() {
				t.Errorf("success is %.1f %% with the policy and %.1f %% without, with up to %.2f attempts per call in a second, want at least 95 %% of it, and at most %v",
					100*h.With, 100*h.Without, h.Peak, h.Allowed)
			}
		})
	}
}

// Every retry counts, whatever it saves, unless the upstream has little to do. Calls that begin in
// a hang do not count.
func TestWhatCountsAsHarm(t *testing.T) {
	t.Parallel()
	hanging, err := lab.LoadScenario("outage-hanging")
	if err != nil {
		t.Fatal(err)
	}
	refusing, err := lab.LoadScenario("outage")
	if err != nil {
		t.Fatal(err)
	}
	byDegrees := hanging
	byDegrees.Upstream.Phases = slices.Clone(hanging.Upstream.Phases)
	byDegrees.Upstream.Phases[0].WorkingAtEnd = new(1.0)
	load := lab.Load{Rate: 500, Clients: 1, Capacity: 1000, Seed: 1}
	type counts struct{ offered, attempts uint32 }
	results := func(during, after [2]uint64, seconds ...counts) (results [2]*lab.Result) {
		for i := range results {
			r := &lab.Result{During: lab.Part{Calls: 1000, OK: during[i]}, After: lab.Part{Calls: 1000, OK: after[i]}}
			for _, s := range append([]counts{{500, 500}, {}}, seconds...) {
				second := lab.Second{Offered: s.offered, Attempts: s.attempts}
				if i == 1 {
					second.Attempts = s.offered
				}
				r.Series = append(r.Series, second)
			}
			results[i] = r
		}
		return results
	}
	same := [2]uint64{1000, 1000}
	for name, c := range map[string]struct {
		scenario   lab.Scenario
		partial    bool
		results    [2]*lab.Result // with the policy and without
		kept, peak float64
	}{
		"retries that save calls":     {refusing, true, results([2]uint64{950, 650}, same, counts{500, 850}), 1950. / 1650, 1.7},
		"retries that save none":      {refusing, true, results([2]uint64{650, 650}, same, counts{500, 850}), 1, 1.7},
		"all fail":                    {refusing, false, results([2]uint64{}, same, counts{500, 700}), 1, 1.4},
		"little to do":                {refusing, false, results(same, same, counts{120, 350}), 1, 1},
		"just more to do":             {refusing, false, results(same, same, counts{117, 351}), 1, 3},
		"a second of refusals":        {refusing, true, results(same, same, counts{1000, 1600}, counts{1000, 300}), 1, 1.6},
		"answers after a hang":        {hanging, false, results([2]uint64{0, 150}, [2]uint64{990, 1000}), 0.99, 1},
		"answers during other ones":   {refusing, false, results([2]uint64{0, 150}, [2]uint64{990, 1000}), 990. / 1150, 1},
		"answers that came too late":  {hanging, false, results([2]uint64{0, 150}, [2]uint64{900, 1000}), 0.9, 1},
		"lost after a hang":           {hanging, false, results([2]uint64{150, 150}, [2]uint64{843, 1000}), 0.843, 1},
		"a hang that ends by degrees": {byDegrees, false, results([2]uint64{0, 150}, [2]uint64{990, 1000}), 990. / 1150, 1},
	} {
		t.Run(name, func(t *testing.T) {
			h := lab.Cell{Scenario: c.scenario, Load: load, Partial: c.partial}.Compare(c.results[0], c.results[1])
			if math.Abs(h.Kept()-c.kept) > 1e-9 || math.Abs(h.Peak-c.peak) > 1e-9 {
				t.Errorf("%.3f of the goodput is kept, with %.2f attempts a call, want %.3f and %.2f", h.Kept(), h.Peak, c.kept, c.peak)
			}
		})
	}
}

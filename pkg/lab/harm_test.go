package lab_test

import (
	"fmt"
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
	cells, err := lab.HarmGrid(sampled)
	if err != nil {
		t.Fatal(err)
	}
	if len(cells) < 15 {
		t.Fatalf("%d cells, want at least 15", len(cells))
	}
	for _, c := range cells {
		t.Run(cellName(c), func(t *testing.T) {
			t.Parallel()
			doesNoHarm(t, c)
		})
	}
}

// With 250 clients, one of three instances fails at 90 % load. Each client sees few answers, and
// some of them are not slow. Retries that went on meanwhile kept the upstream overloaded: 13 % of
// the goodput without a policy were lost.
func TestRetriesOfManyClientsKeepNoOverloadUp(t *testing.T) {
	statistics(t)
	t.Parallel()
	cells, err := lab.HarmGrid(1)
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(cells, func(c lab.Cell) bool {
		return c.Scenario.Name == "bad-instance" && c.Load.Clients == 250 && c.Load.Rate == 0.9*c.Load.Capacity
	})
	if i < 0 {
		t.Fatal("there is no such cell")
	}
	doesNoHarm(t, cells[i])
}

func cellName(c lab.Cell) string {
	return fmt.Sprintf("%s at %g %% with %d clients", c.Scenario.Name, 100*c.Load.Rate/c.Load.Capacity, c.Load.Clients)
}

// doesNoHarm checks the default policy in a cell.
func doesNoHarm(t *testing.T, c lab.Cell) {
	t.Helper()
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
}

// Retries above the limit are no harm while they save calls as often as first attempts succeed, or
// nobody minds them. Answers that a caller got only because a hang ended in time are no goodput.
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
	load := lab.Load{Rate: 500, Clients: 1, Capacity: 1000, Seed: 1}
	second := func(attempts, goodput uint32) lab.Second {
		return lab.Second{Offered: 500, Attempts: attempts, Goodput: goodput}
	}
	result := func(during, after uint64, s lab.Second) *lab.Result {
		return &lab.Result{
			During: lab.Part{Calls: 1000, OK: during}, After: lab.Part{Calls: 1000, OK: after}, Series: []lab.Second{second(500, 500), s},
		}
	}
	for name, c := range map[string]struct {
		scenario      lab.Scenario
		partial       bool
		with, without *lab.Result
		kept, peak    float64
	}{
		"retries that save calls":    {refusing, true, result(950, 1000, second(850, 475)), result(650, 1000, second(500, 250)), 1950. / 1650, 1},
		"retries that save none":     {refusing, true, result(650, 1000, second(850, 250)), result(650, 1000, second(500, 250)), 1, 1.7},
		"all fail":                   {refusing, false, result(0, 1000, second(700, 0)), result(0, 1000, second(500, 0)), 1, 1.4},
		"up to the limit all count":  {refusing, true, result(950, 1000, second(700, 475)), result(650, 1000, second(500, 350)), 1950. / 1650, 1.4},
		"answers after a hang":       {hanging, false, result(0, 990, second(500, 0)), result(150, 1000, second(500, 0)), 0.99, 1},
		"answers during other ones":  {refusing, false, result(0, 990, second(500, 0)), result(150, 1000, second(500, 0)), 990. / 1150, 1},
		"answers that came too late": {hanging, false, result(0, 900, second(500, 0)), result(150, 1000, second(500, 0)), 0.9, 1},
	} {
		t.Run(name, func(t *testing.T) {
			h := lab.Cell{Scenario: c.scenario, Load: load, Partial: c.partial}.Compare(c.with, c.without)
			if math.Abs(h.Kept()-c.kept) > 1e-9 || math.Abs(h.Peak-c.peak) > 1e-9 {
				t.Errorf("%.3f of the goodput is kept, with %.2f attempts a call, want %.3f and %.2f", h.Kept(), h.Peak, c.kept, c.peak)
			}
		})
	}
}

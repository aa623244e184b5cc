package lab_test

import (
	"fmt"
	"testing"

	"github.com/rebound-dev/rebound/internal/virtual"
	"github.com/rebound-dev/rebound/pkg/lab"
	"github.com/rebound-dev/rebound/pkg/transport"
)

// sampled is the number of cells of the grid for each one that the test looks at. It shares no
// factor with the number of loads and clients, so that all of them are seen.
const sampled = 29

// With the default policy at least 95 % of the calls end well that do without any policy. One token
// for each success allows at most two attempts per call.
func TestDefaultPolicyDoesNoHarm(t *testing.T) {
	statistics(t)
	t.Parallel()
	cells, err := lab.HarmGrid(sampled)
	if err != nil {
		t.Fatal(err)
	}
	if len(cells) < 15 {
		t.Fatalf("%d cells, want at least 20", len(cells))
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
			if h := c.Compare(results[0], results[1]); h.Kept() < lab.HarmGoodput || h.Peak > 2 {
				t.Errorf("success is %.1f %% with the policy and %.1f %% without, with up to %.2f attempts per call in a second, want at least 95 %% of it, and at most 2",
					100*h.With, 100*h.Without, h.Peak)
			}
		})
	}
}

package rival_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/rebound-dev/rebound/internal/rival"
	"github.com/rebound-dev/rebound/pkg/lab"
	"github.com/rebound-dev/rebound/pkg/transport"
)

// One endpoint of three is slow, or has half the capacity. The p999 is at most a fifth of that with
// endpoints in turn under the same policy.
func TestAgainstRoundRobin(t *testing.T) {
	if testing.Short() {
		t.Skip("makes very many calls")
	}
	half := 0.5
	for name, tc := range map[string]struct {
		change   func(*lab.Phase)
		capacity float64
		most     float64 // attempts a second at the endpoint
	}{
		"slow":          {func(p *lab.Phase) { p.Slower = new(100.0) }, 1200, 6},
		"half capacity": {func(p *lab.Phase) { p.Working = &half }, 900, 150},
	} {
		for seed := range uint64(10) {
			t.Run(fmt.Sprint(name, ", seed ", seed+1), func(t *testing.T) {
				t.Parallel()
				s := scenario(t, "slow-endpoint")
				phase := lab.Phase{Instance: 2}
				phase.At, phase.For = 2*time.Second, 10*time.Second
				tc.change(&phase)
				s.Upstream.Phases, s.Length = []lab.Phase{phase}, 12*time.Second
				s.Disturbance = lab.Span{At: 5 * time.Second, For: 7 * time.Second}
				load := lab.Load{Rate: 600, Clients: 1, Capacity: tc.capacity, Seed: seed + 1}
				p := transport.DefaultPolicy()
				ours := simulate(t, lab.Experiment{Policy: p, Scenario: s, Load: load}).During
				turns := neutral(p)
				turns.RoundRobin = true
				theirs := simulate(t, lab.Experiment{Client: rival.New(turns), Scenario: s, Load: load}).During
				rate := float64(ours.AttemptsByInstance[1]) / 7
				if ours.P999*5 > theirs.P999 || rate > tc.most || ours.Success < 0.999 {
					t.Errorf("p999 %.0f ms, %.0f ms in turn, success %.5f, %.0f attempts a second at the endpoint, want at most a fifth, 0.999, at most %.0f",
						ours.P999, theirs.P999, ours.Success, rate, tc.most)
				}
			})
		}
	}
}

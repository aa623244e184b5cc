package lab_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/rebound-dev/rebound/internal/virtual"
	"github.com/rebound-dev/rebound/pkg/lab"
	"github.com/rebound-dev/rebound/pkg/transport"
)

func TestFindBoundary(t *testing.T) {
	for name, tc := range map[string]struct {
		bySeed []int // the lowest load at which each seed does not recover
		want   lab.Boundary
	}{
		"one seed":       {[]int{37}, lab.Boundary{Percent: 37, Low: 37, High: 37, BySeed: []int{37}}},
		"several seeds":  {[]int{40, 25, 31}, lab.Boundary{Percent: 31, Low: 25, High: 40, BySeed: []int{40, 25, 31}}},
		"at every load":  {[]int{1, 1}, lab.Boundary{Percent: 1, Low: 1, High: 1, BySeed: []int{1, 1}}},
		"at no load":     {[]int{100}, lab.Boundary{Percent: 100, Low: 100, High: 100, BySeed: []int{100}}},
		"at the highest": {[]int{99}, lab.Boundary{Percent: 99, Low: 99, High: 99, BySeed: []int{99}}},
	} {
		t.Run(name, func(t *testing.T) {
			var mu sync.Mutex
			asked := map[uint64]int{}
			got, err := lab.FindBoundary(t.Context(), len(tc.bySeed), func(_ context.Context, percent int, seed uint64) (bool, error) {
				mu.Lock()
				defer mu.Unlock()
				asked[seed]++
				if percent < 1 || percent >= lab.BoundarySteps {
					t.Errorf("asked for a load of %d %%, want 1 to 99", percent)
				}
				return percent < tc.bySeed[seed-1], nil
			})
			if err != nil || got.Percent != tc.want.Percent || got.Low != tc.want.Low || got.High != tc.want.High || !slices.Equal(got.BySeed, tc.want.BySeed) {
				t.Errorf("got %+v, error %v, want %+v", got, err, tc.want)
			}
			for seed, n := range asked {
				if n > 7 {
					t.Errorf("seed %d was asked %d times, want at most 7", seed, n)
				}
			}
		})
	}
}

func TestFindBoundaryFails(t *testing.T) {
	broken := errors.New("broken")
	if _, err := lab.FindBoundary(t.Context(), 2, func(context.Context, int, uint64) (bool, error) { return false, broken }); !errors.Is(err, broken) {
		t.Errorf("got error %v, want that of a run", err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(broken)
	if _, err := lab.FindBoundary(ctx, 1, func(context.Context, int, uint64) (bool, error) { return true, nil }); !errors.Is(err, broken) {
		t.Errorf("got error %v, want the cause of the context", err)
	}
}

// Three attempts keep a hanging upstream down from a third of its capacity on. The default policy
// lets it recover at nearly every load.
func TestBoundaryOfPolicies(t *testing.T) {
	statistics(t)
	t.Parallel()
	s := builtin(t, "outage-hanging", 11*time.Second).ForBoundary()
	for name, tc := range map[string]struct {
		policy    transport.Policy
		low, high int
	}{
		"immediate retry": {rungOf(t, "immediate retry"), 25, 35},
		"no retry":        {rungOf(t, "no retry"), 80, 95},
		"the policy":      {rungOf(t, "the policy"), 95, 100},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := boundaryOf(t, tc.policy, s, 1); got.Percent < tc.low || got.Percent > tc.high {
				t.Errorf("got %+v, want %d to %d %%", got, tc.low, tc.high)
			}
		})
	}
}

// boundaryOf returns the boundary of a policy, with 20 clients of an upstream of 200 calls a
// second.
func boundaryOf(t *testing.T, p transport.Policy, s lab.Scenario, seeds int) lab.Boundary {
	t.Helper()
	const capacity = 200
	b, err := lab.FindBoundary(t.Context(), seeds, func(ctx context.Context, percent int, seed uint64) (recovers bool, err error) {
		virtual.Run(func() {
			var r *lab.Result
			load := lab.Load{Rate: capacity * float64(percent) / lab.BoundarySteps, Clients: 20, Capacity: capacity, Seed: seed}
			if r, err = (lab.Experiment{Policy: p, Scenario: s, Load: load}).Run(ctx); err == nil {
				recovers = r.RecoveryS != nil
			}
		})
		return recovers, err
	})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

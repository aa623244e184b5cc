package lab_test

import (
	"reflect"
	"testing"

	"github.com/rebound-dev/rebound/pkg/lab"
	"github.com/rebound-dev/rebound/pkg/transport"
)

// The rungs that add a budget and a circuit have the default ones where the policy has none.
// Otherwise it would look as if a circuit did not help.
func TestLadderUsesDefaultsWhereThePolicyHasNone(t *testing.T) {
	t.Parallel()
	def := transport.DefaultPolicy()
	own := def
	own.Retry.Budget.Ratio, own.Breaker.ConsecutiveFailures = 0.5, 7
	none := def
	none.Retry.Budget.Ratio, none.Retry.Budget.Burst, none.Retry.Budget.FloorPerSecond = 100, 1e6, 1e6
	none.Breaker.FailureRatio, none.Breaker.ConsecutiveFailures = 0, 0
	burst := none
	burst.Retry.Budget.FloorPerSecond = 0
	for name, c := range map[string]struct{ policy, want transport.Policy }{
		"its own":       {own, own},
		"none":          {none, def},
		"a huge budget": {burst, def},
	} {
		rungs := map[string]transport.Policy{}
		for _, r := range lab.Ladder(c.policy) {
			rungs[r.Name] = r.Policy
		}
		if got := rungs["+ budget"].Retry.Budget; got != c.want.Retry.Budget {
			t.Errorf("%s: got budget %+v, want %+v", name, got, c.want.Retry.Budget)
		}
		if got := rungs["+ breaker"]; got.Retry.Budget != c.want.Retry.Budget || !reflect.DeepEqual(got.Breaker, c.want.Breaker) {
			t.Errorf("%s: got budget %+v and circuit %+v, want %+v and %+v", name, got.Retry.Budget, got.Breaker, c.want.Retry.Budget, c.want.Breaker)
		}
		if got := rungs["the policy"]; !reflect.DeepEqual(got, c.policy) {
			t.Errorf("%s: the last rung is %+v, want the policy itself", name, got)
		}
	}
}

package rival

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/rebound-dev/rebound/internal/foreign"
)

// Check returns what is wrong with a policy, or what of it cannot be simulated.
func Check(p foreign.Policy) error {
	var errs []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf("policy %s: "+format, append([]any{p.Name}, args...)...))
		}
	}
	check(p.Timeout >= 0 && p.TryTimeout >= 0 && p.ConnectTimeout >= 0 && p.Retry.StopAfter >= 0, "a time is below 0")
	check(p.Retry.MaxAttempts >= 0, "Retry.MaxAttempts: must be at least 0, got %d", p.Retry.MaxAttempts)
	check(!p.Retry.SameEndpoint || !p.Retry.OtherEndpoint, "Retry: SameEndpoint and OtherEndpoint exclude each other")
	b := p.Retry.Backoff
	known := func(ok bool, field string, value any) { check(ok, "%s: unknown value %q", field, value) }
	known(slices.Contains([]foreign.BackoffKind{
		foreign.BackoffNone, foreign.BackoffFixed, foreign.BackoffLinear, foreign.BackoffExponential, foreign.BackoffEnvoy, foreign.BackoffList,
	}, b.Kind), "Retry.Backoff.Kind", b.Kind)
	known(slices.Contains([]foreign.Jitter{
		foreign.JitterNone, foreign.JitterFull, foreign.JitterEqual, foreign.JitterPercent, foreign.JitterUpward, foreign.JitterDecorrelated, foreign.JitterPolly,
	}, b.Jitter), "Retry.Backoff.Jitter", b.Jitter)
	known(slices.Contains([]foreign.BudgetKind{
		foreign.BudgetNone, foreign.BudgetInFlight, foreign.BudgetWindow, foreign.BudgetTokens,
	}, p.Retry.Budget.Kind), "Retry.Budget.Kind", p.Retry.Budget.Kind)
	for _, b := range p.Breakers {
		known(slices.Contains([]foreign.Growth{foreign.GrowthNone, foreign.GrowthLinear, foreign.GrowthExponential}, b.Growth), "Breakers.Growth", b.Growth)
	}
	check(b.Base >= 0 && b.Max >= 0 && b.ThrottledBase >= 0, "Retry.Backoff: a time is below 0")
	check(b.Kind != foreign.BackoffExponential || b.Factor > 0, "Retry.Backoff.Factor: must be above 0, got %v", b.Factor)
	check(b.Kind != foreign.BackoffList || len(b.Waits) > 0, "Retry.Backoff.Waits: must not be empty")
	check(b.Percent >= 0 && b.Percent <= 100, "Retry.Backoff.Percent: must be from 0 to 100, got %v", b.Percent)
	budget := p.Retry.Budget
	check(budget.Kind != foreign.BudgetWindow || budget.Window > 0, "Retry.Budget.Window: must be above 0")
	check(budget.Cost >= 0 && budget.TimeoutCost >= 0 && budget.ThrottledCost >= 0 && budget.Refill >= 0, "Retry.Budget: a price is below 0")
	for i, b := range p.Breakers {
		check(b.Scope == foreign.ScopeUpstream || b.Scope == foreign.ScopeEndpoint, "Breakers[%d].Scope: unknown scope %q", i, b.Scope)
		check(b.BelowMean == 0 || b.Scope == foreign.ScopeEndpoint && b.CheckEvery > 0,
			"Breakers[%d].BelowMean: needs the scope endpoint, and CheckEvery", i)
		check(b.Window >= 0 && b.CheckEvery >= 0 && b.OpenFor >= 0 && b.MaxOpenFor >= 0 && b.OpenJitter >= 0, "Breakers[%d]: a time is below 0", i)
		check(b.CheckEvery == 0 || b.CheckEvery >= time.Millisecond, "Breakers[%d].CheckEvery: must be at least 1ms, got %v", i, b.CheckEvery)
		check(!b.FromLastFailure || b.FixedWindow && b.CheckEvery == 0, "Breakers[%d].FromLastFailure: needs FixedWindow, without CheckEvery", i)
		check(!b.WhileCounted || b.Failures > 0 && b.Window > 0 && !b.FixedWindow && b.CheckEvery == 0, "Breakers[%d].WhileCounted: needs Failures in a rolling Window", i)
		check(b.CountWindow >= 0 && b.HalfOpenCalls >= 0, "Breakers[%d]: a number is below 0", i)
	}
	c := p.Concurrency
	check(c.MaxPending >= -1, "Concurrency.MaxPending: must be at least -1, got %d", c.MaxPending)
	check(!c.SkipFull || c.PerEndpoint, "Concurrency.SkipFull: needs PerEndpoint")
	check(!c.PerEndpoint || c.MaxRetries == 0, "Concurrency.MaxRetries: cannot be simulated per endpoint")
	check(!c.PerEndpoint || !c.PerCall || c.MaxRequests == 0, "Concurrency.MaxRequests: cannot be simulated per endpoint and per call at once")
	r := p.RateLimit
	check(r.Calls >= 0 && (r.Calls == 0 || r.Per > 0), "RateLimit: needs Calls of at least 0, and Per")
	check(r.Burst == 0 || r.Burst >= 1, "RateLimit.Burst: must be 0 or at least 1, got %v", r.Burst)
	h := p.Hedge
	check(!h.OnTryTimeout || p.TryTimeout > 0, "Hedge.OnTryTimeout: needs TryTimeout")
	check(h.MaxAttempts >= 0 && h.Delay >= 0, "Hedge: a value is below 0")
	return errors.Join(errs...)
}

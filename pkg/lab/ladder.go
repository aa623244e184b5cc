package lab

import (
	"time"

	"github.com/rebound-dev/rebound/pkg/resilience"
	"github.com/rebound-dev/rebound/pkg/transport"
)

// Rung is a policy with a name.
type Rung struct {
	Name   string
	Policy transport.Policy
}

// Ladder returns what teams usually do about failures, from nothing up to policy p. Each rung adds
// something to the one before. It takes timeouts, backoff, budget and circuit from p, and makes p's
// number of attempts, but at least three. Where p has no budget, or no circuit, the rung that adds
// one takes that of the default policy.
func Ladder(p transport.Policy) []Rung {
	budget, breaker := p.Retry.Budget, p.Breaker
	if endless := unlimited().Burst / 10; budget.Most() >= endless || budget.FloorPerSecond >= endless {
		budget = transport.DefaultPolicy().Retry.Budget
	}
	if breaker.FailureRatio == 0 && breaker.ConsecutiveFailures == 0 {
		breaker = transport.DefaultPolicy().Breaker
	}
	attempts := max(3, p.Retry.MaxAttempts)
	with := func(change func(*transport.Policy)) transport.Policy {
		r := NoPolicy(p)
		r.Retry.MaxAttempts = attempts
		r.Retry.Budget = unlimited()
		change(&r)
		return r
	}
	base := p.Retry.Backoff.Base
	if base == 0 {
		base = 100 * time.Millisecond
	}
	exponential := resilience.Backoff{Base: base, Max: max(base, p.Retry.Backoff.Max), Factor: max(2, p.Retry.Backoff.Factor), Jitter: resilience.JitterNone}
	full := exponential
	full.Jitter = resilience.JitterFull
	return []Rung{
		{"no retry", with(func(r *transport.Policy) { r.Retry.MaxAttempts = 1 })},
		{"immediate retry", with(func(r *transport.Policy) {
			r.Retry.Backoff = resilience.Backoff{Factor: 1, Jitter: resilience.JitterNone}
		})},
		{"fixed wait", with(func(r *transport.Policy) {
			r.Retry.Backoff = resilience.Backoff{Base: base, Max: base, Factor: 1, Jitter: resilience.JitterNone}
		})},
		{"exponential wait", with(func(r *transport.Policy) { r.Retry.Backoff = exponential })},
		{"full jitter", with(func(r *transport.Policy) { r.Retry.Backoff = full })},
		{"+ budget", with(func(r *transport.Policy) { r.Retry.Backoff, r.Retry.Budget = full, budget })},
		{"+ breaker", with(func(r *transport.Policy) {
			r.Retry.Backoff, r.Retry.Budget, r.Breaker = full, budget, breaker
		})},
		{"the policy", p},
	}
}

// unlimited returns a budget that never runs out.
func unlimited() resilience.BudgetPolicy {
	return resilience.BudgetPolicy{Ratio: 100, Burst: 1e6, FloorPerSecond: 1e6}
}

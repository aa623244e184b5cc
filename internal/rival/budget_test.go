package rival

import (
	"testing"
	"time"

	"github.com/rebound-dev/rebound/internal/foreign"
)

func TestBudget(t *testing.T) {
	with := func(n int, b foreign.Budget) foreign.Policy {
		return retries(n, func(p *foreign.Policy) { p.Retry.Budget = b })
	}
	slow503 := always(answer{status: 503, takes: s})
	scenes(t, map[string]scene{
		// Envoy's retry budget: 20 % of the requests in flight, but always 1. A retry is in flight
		// until its attempt ends.
		"in flight": {play{policy: with(2, foreign.Budget{Kind: foreign.BudgetInFlight, Percent: 20, Min: 1}), upstream: slow503, calls: []time.Duration{0, 100 * ms, 200 * ms}},
			"0s try, 100ms try, 200ms try, 1s try, 1.1s budget_exhausted, 1.2s budget_exhausted, 2s max_attempts"},
		"in flight, percent": {play{policy: with(2, foreign.Budget{Kind: foreign.BudgetInFlight, Percent: 60}), upstream: slow503, calls: []time.Duration{0, 100 * ms, 200 * ms}},
			"0s try, 100ms try, 200ms try, 1s try, 1.1s try, 1.2s budget_exhausted, 2s max_attempts, 2.1s max_attempts"},
		"in flight in the wait": {play{policy: retries(2, func(p *foreign.Policy) {
			p.Retry.Budget, p.Retry.Backoff = foreign.Budget{Kind: foreign.BudgetInFlight, Min: 1}, fixed(s)
		}), upstream: always(answer{status: 503}), calls: []time.Duration{0, 500 * ms, 2 * s}},
			"0s try, 500ms try, 500ms budget_exhausted, 1s try, 1s max_attempts, 2s try, 3s try, 3s max_attempts"},
		// Envoy's max_retries (circuit_breakers.thresholds).
		"max retries": {play{policy: retries(2, func(p *foreign.Policy) { p.Concurrency.MaxRetries = 1 }), upstream: slow503, calls: []time.Duration{0, 100 * ms}},
			"0s try, 100ms try, 1s try, 1.1s budget_exhausted, 2s max_attempts"},
		// GEP-3388: percent of the requests of an interval, and a minimum by second.
		"window, minimum": {play{policy: with(9, foreign.Budget{Kind: foreign.BudgetWindow, Window: 10 * s, MinPerSecond: 0.2}), upstream: slow503, calls: []time.Duration{0, 11 * s}},
			"0s try, 1s try, 2s try, 3s budget_exhausted, 11s try, 12s try, 13s try, 14s budget_exhausted"},
		"window, percent": {play{policy: with(9, foreign.Budget{Kind: foreign.BudgetWindow, Window: 10 * s, Percent: 50}), upstream: always(answer{status: 503}), calls: every(s, 4)},
			"0s try, 0s try, 0s budget_exhausted, 1s try, 1s budget_exhausted, 2s try, 2s try, 2s budget_exhausted, 3s try, 3s budget_exhausted"},
		"window, least": {play{policy: with(9, foreign.Budget{Kind: foreign.BudgetWindow, Window: 10 * s, WindowMin: 1}), upstream: always(answer{status: 503}), calls: every(s, 2)},
			"0s try, 0s try, 0s budget_exhausted, 1s try, 1s budget_exhausted"},
		// gRPC's retryThrottling (A6): -1 by failure, no retries at half of the tokens or fewer.
		"tokens, charged": {play{policy: with(9, foreign.Budget{Kind: foreign.BudgetTokens, Tokens: 4, Threshold: 2, Cost: 1, ChargeFailures: true, Refill: 1}),
			upstream: list(answer{status: 503}, answer{status: 503}, answer{status: 200}, answer{status: 200}, answer{status: 503}, answer{status: 200}), calls: every(s, 4)},
			"0s try, 0s try, 0s budget_exhausted, 1s try, 1s ok, 2s try, 2s ok, 3s try, 3s try, 3s ok"},
		// The AWS SDKs (standard mode): a retry has a price, which may be another one after a
		// timeout or throttling.
		"tokens, prices": {play{policy: retries(9, func(p *foreign.Policy) {
			p.TryTimeout, p.Retry.Budget = s, foreign.Budget{Kind: foreign.BudgetTokens, Tokens: 10, Cost: 3, TimeoutCost: 4, ThrottledCost: 2}
		}), upstream: list(answer{}, answer{status: 503}, answer{status: 500}, answer{status: 500})},
			"0s try, 1s try, 1s try, 1s try, 1s budget_exhausted"},
		"tokens, refund": {play{policy: with(2, foreign.Budget{Kind: foreign.BudgetTokens, Tokens: 5, Cost: 5, Refund: true}),
			upstream: list(answer{status: 503}, answer{status: 200}, answer{status: 503}, answer{status: 503}, answer{status: 503}), calls: every(s, 3)},
			"0s try, 0s try, 0s ok, 1s try, 1s try, 1s max_attempts, 2s try, 2s budget_exhausted"},
		"tokens, refill": {play{policy: with(2, foreign.Budget{Kind: foreign.BudgetTokens, Tokens: 2, Cost: 2, Refill: 1}),
			upstream: list(answer{status: 503}, answer{status: 200}, answer{status: 503}, answer{status: 200}, answer{status: 503}), calls: every(s, 4)},
			"0s try, 0s try, 0s ok, 1s try, 1s budget_exhausted, 2s try, 2s ok, 3s try, 3s try, 3s max_attempts"},
	})
}

package rival

import (
	"testing"
	"time"

	"github.com/rebound-dev/rebound/internal/foreign"
)

func TestConcurrency(t *testing.T) {
	with := func(c foreign.Concurrency) foreign.Policy {
		return retries(2, func(p *foreign.Policy) { p.Concurrency = c })
	}
	slow := always(answer{status: 200, takes: s})
	three := []time.Duration{0, 100 * ms, 200 * ms}
	scenes(t, map[string]scene{
		"refused":     {play{policy: with(foreign.Concurrency{MaxRequests: 1}), upstream: slow, calls: three}, "0s try, 100ms concurrency_limit, 200ms concurrency_limit, 1s ok"},
		"one waits":   {play{policy: with(foreign.Concurrency{MaxRequests: 1, MaxPending: 1}), upstream: slow, calls: three}, "0s try, 200ms concurrency_limit, 1s ok, 1s try, 2s ok"},
		"all wait":    {play{policy: with(foreign.Concurrency{MaxRequests: 1, MaxPending: -1}), upstream: slow, calls: three}, "0s try, 1s ok, 1s try, 2s ok, 2s try, 3s ok"},
		"not so long": {play{policy: with(foreign.Concurrency{MaxRequests: 1, MaxPending: -1, MaxWait: 500 * ms}), upstream: slow, calls: three}, "0s try, 600ms concurrency_limit, 700ms concurrency_limit, 1s ok"},
		"connections": {play{policy: with(foreign.Concurrency{MaxConnections: 1, MaxPending: 1}), upstream: slow, calls: three}, "0s try, 200ms concurrency_limit, 1s ok, 1s try, 2s ok"},
		"shared connection": {play{policy: retries(2, func(p *foreign.Policy) { p.GRPC, p.Concurrency.MaxConnections = true, 1 }), upstream: slow, calls: three[:2]},
			"0s try, 100ms try, 1s ok, 1.1s ok"},
		"deadline in the queue": {play{policy: retries(2, func(p *foreign.Policy) {
			p.Timeout, p.Concurrency = 500*ms, foreign.Concurrency{MaxRequests: 1, MaxPending: -1}
		}), upstream: always(answer{}), calls: three[:2]}, "0s try, 500ms deadline_exceeded, 500ms try, 600ms deadline_exceeded"},
		"try gives its place back in the wait": {play{policy: retries(2, func(p *foreign.Policy) {
			p.Retry.Backoff, p.Concurrency = fixed(s), foreign.Concurrency{MaxRequests: 1}
		}), upstream: always(answer{status: 503}), calls: three[:2]}, "0s try, 100ms try, 1s try, 1s max_attempts, 1.1s try, 1.1s max_attempts"},
		// Polly's limiter is outside of the retry.
		"call keeps its place in the wait": {play{policy: retries(2, func(p *foreign.Policy) {
			p.Retry.Backoff, p.Concurrency = fixed(s), foreign.Concurrency{MaxRequests: 1, PerCall: true}
		}), upstream: always(answer{status: 503}), calls: three[:2]}, "0s try, 100ms concurrency_limit, 1s try, 1s max_attempts"},
		"refusal is retried": {play{policy: retries(2, func(p *foreign.Policy) {
			p.Retry.Backoff, p.Concurrency, p.Retry.On.Limited = fixed(s), foreign.Concurrency{MaxRequests: 1}, true
		}), upstream: slow, calls: three[:2]}, "0s try, 1s ok, 1.1s try, 2.1s ok"},
		"per endpoint": {play{policy: with(foreign.Concurrency{MaxRequests: 1, PerEndpoint: true}), instances: 2, choices: []float64{0, 0.5, 0.5}, upstream: slow, calls: three},
			"0s try@0, 100ms try@1, 200ms concurrency_limit, 1s ok, 1.1s ok"},
	})
}

func TestRateLimit(t *testing.T) {
	with := func(r foreign.RateLimit) foreign.Policy {
		return retries(2, func(p *foreign.Policy) { p.RateLimit = r })
	}
	ok := always(answer{status: 200})
	scenes(t, map[string]scene{
		// resilience4j: limitForPeriod, limitRefreshPeriod, timeoutDuration.
		"fixed window": {play{policy: with(foreign.RateLimit{Calls: 2, Per: s}), upstream: ok, calls: every(300*ms, 5)},
			"0s try, 0s ok, 300ms try, 300ms ok, 600ms rate_limited, 900ms rate_limited, 1.2s try, 1.2s ok"},
		"fixed window, waits": {play{policy: with(foreign.RateLimit{Calls: 1, Per: s, MaxWait: 1500 * ms}), upstream: ok, calls: every(100*ms, 3)},
			"0s try, 0s ok, 200ms rate_limited, 1s try, 1s ok"},
		"bucket": {play{policy: with(foreign.RateLimit{Calls: 1, Per: s, Burst: 2}), upstream: ok, calls: every(400*ms, 5)},
			"0s try, 0s ok, 400ms try, 400ms ok, 800ms rate_limited, 1.2s try, 1.2s ok, 1.6s rate_limited"},
		"bucket, waits": {play{policy: with(foreign.RateLimit{Calls: 1, Per: s, Burst: 1, MaxWait: s}), upstream: ok, calls: every(400*ms, 3)},
			"0s try, 0s ok, 800ms rate_limited, 1s try, 1s ok"},
		"per call":  {play{policy: retries(3, func(p *foreign.Policy) { p.RateLimit = foreign.RateLimit{Calls: 1, Per: s, PerCall: true} }), upstream: always(answer{status: 503})}, "0s try, 0s try, 0s try, 0s max_attempts"},
		"every try": {play{policy: retries(3, func(p *foreign.Policy) { p.RateLimit = foreign.RateLimit{Calls: 1, Per: s} }), upstream: always(answer{status: 503})}, "0s try, 0s rate_limited"},
		"deadline": {play{policy: retries(1, func(p *foreign.Policy) {
			p.Timeout, p.RateLimit = 500*ms, foreign.RateLimit{Calls: 1, Per: s, MaxWait: s}
		}), upstream: ok, calls: every(100*ms, 2)}, "0s try, 0s ok, 600ms deadline_exceeded"},
	})
}

package rival

import (
	"math/rand/v2"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rebound-dev/rebound/internal/foreign"
	"github.com/rebound-dev/rebound/pkg/lab"
	"github.com/rebound-dev/rebound/pkg/resilience"
)

// Every call ends in time, whatever the policy and the upstream do, and the policy's limits hold.
func FuzzPolicy(f *testing.F) {
	for seed := range uint64(300) {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, seed uint64) {
		rng := rand.New(rand.NewPCG(seed, 1))
		p := anyPolicy(rng)
		if err := Check(p); err != nil {
			t.Fatal(err)
		}
		synctest.Test(t, func(t *testing.T) { holds(t, p, rng) })
	})
}

// anyPolicy returns a random valid policy.
func anyPolicy(rng *rand.Rand) foreign.Policy {
	often := func(n int) bool { return rng.IntN(n) > 0 }
	rarely := func(n int) bool { return rng.IntN(n) == 0 }
	some := func(most time.Duration) time.Duration { return time.Duration(rng.Int64N(int64(most))) }
	conditions := func() foreign.Conditions {
		return foreign.Conditions{
			Statuses: []foreign.StatusRange{{Low: 500 + rng.IntN(4), High: 599}}, GRPC: []string{"UNAVAILABLE"},
			Connect: often(3), Reset: often(3), Timeout: often(3), BreakerOpen: rarely(3), Limited: rarely(3),
		}
	}
	p := foreign.Policy{Name: "any", GRPC: rarely(2), Retry: foreign.Retry{
		MaxAttempts: rng.IntN(6), OncePerEndpoint: rarely(4), OtherEndpoint: rarely(2), On: conditions(),
		Backoff: foreign.Backoff{
			Kind: []foreign.BackoffKind{
				foreign.BackoffNone, foreign.BackoffFixed, foreign.BackoffLinear, foreign.BackoffExponential, foreign.BackoffEnvoy, foreign.BackoffList,
			}[rng.IntN(6)],
			Base: some(time.Second), Max: some(10 * time.Second), Factor: 1 + rng.Float64(), Waits: []time.Duration{some(time.Second), some(time.Second)},
			Jitter: []foreign.Jitter{
				foreign.JitterNone, foreign.JitterFull, foreign.JitterEqual, foreign.JitterPercent, foreign.JitterUpward, foreign.JitterDecorrelated, foreign.JitterPolly,
			}[rng.IntN(7)],
			Percent: 100 * rng.Float64(), JitterAboveMax: rarely(2),
		},
		RetryAfter: foreign.RetryAfter{Obey: rarely(2), Max: some(5 * time.Second)},
		Budget: foreign.Budget{
			Kind:    []foreign.BudgetKind{foreign.BudgetNone, foreign.BudgetInFlight, foreign.BudgetWindow, foreign.BudgetTokens}[rng.IntN(4)],
			Percent: 50 * rng.Float64(), Min: rng.IntN(3), Window: 1 + some(10*time.Second), MinPerSecond: rng.Float64(), WindowMin: rng.IntN(3),
			Tokens: 10, Threshold: float64(rng.IntN(6)), Cost: float64(rng.IntN(3)), TimeoutCost: float64(rng.IntN(3)),
			ChargeFailures: rarely(2), Refund: rarely(2), Refill: rng.Float64(),
		},
	}}
	p.RoundRobin, p.Retry.Resend, p.Retry.SameEndpoint = rarely(3), rarely(4), !p.Retry.OtherEndpoint && rarely(3)
	if often(3) {
		p.Timeout = 1 + some(20*time.Second)
	}
	if often(3) {
		p.TryTimeout = 1 + some(3*time.Second)
	}
	if rarely(4) {
		p.Retry.StopAfter = 1 + some(10*time.Second)
	}
	if rarely(4) {
		p.Hedge = foreign.Hedge{MaxAttempts: rng.IntN(4), Delay: some(time.Second), OnTryTimeout: p.TryTimeout > 0 && rarely(2)}
	}
	for range rng.IntN(3) {
		b := foreign.Breaker{
			Scope: []foreign.Scope{foreign.ScopeUpstream, foreign.ScopeEndpoint}[rng.IntN(2)], FixedWindow: rarely(2), MinCalls: rng.IntN(5),
			OpenFor: some(5 * time.Second), MaxOpenFor: some(10 * time.Second), OpenJitter: rng.Float64(), HalfOpenCalls: rng.IntN(3),
			Growth:     []foreign.Growth{foreign.GrowthNone, foreign.GrowthLinear, foreign.GrowthExponential}[rng.IntN(3)],
			MaxEjected: rng.Float64(), AtLeastOne: rarely(2), PanicBelow: rng.Float64(), Counts: conditions(),
			ConsecutiveFailures: rng.IntN(4), Failures: rng.IntN(4), FailureRatio: rng.Float64(), SlowCall: some(time.Second), SlowRatio: rng.Float64(),
		}
		if rarely(2) {
			b.CountWindow = rng.IntN(5)
		} else {
			b.Window = some(5 * time.Second)
		}
		if rarely(3) {
			b.CheckEvery = time.Millisecond + some(5*time.Second)
			if b.Scope == foreign.ScopeEndpoint {
				b.BelowMean, b.MinEndpoints = rng.Float64(), rng.IntN(3)
			}
		}
		b.IfRepeated = rarely(4)
		b.FromLastFailure = b.FixedWindow && b.CheckEvery == 0 && rarely(2)
		b.WhileCounted = b.Failures > 0 && b.Window > 0 && !b.FixedWindow && b.CheckEvery == 0 && rarely(2)
		p.Breakers = append(p.Breakers, b)
	}
	if rarely(2) {
		p.Concurrency = foreign.Concurrency{MaxRequests: rng.IntN(4), MaxPending: rng.IntN(4) - 1, MaxWait: some(time.Second), MaxConnections: rng.IntN(4)}
		switch rng.IntN(3) {
		case 0:
			p.Concurrency.PerEndpoint, p.Concurrency.SkipFull = true, rarely(2)
		case 1:
			p.Concurrency.PerCall = true
			fallthrough
		default:
			p.Concurrency.MaxRetries = rng.IntN(3)
		}
	}
	if rarely(3) {
		p.RateLimit = foreign.RateLimit{Calls: 1 + 10*rng.Float64(), Per: 1 + some(time.Second), MaxWait: some(time.Second), PerCall: rarely(2)}
		if rarely(2) {
			p.RateLimit.Burst = 1 + 5*rng.Float64()
		}
	}
	return p
}

// holds makes 40 calls in about four seconds and checks what must be true of every policy.
func holds(t *testing.T, p foreign.Policy, rng *rand.Rand) {
	const instances = 3
	var mu sync.Mutex
	draw := func() float64 {
		mu.Lock()
		defer mu.Unlock()
		return rng.Float64()
	}
	var inFlight [instances + 1]atomic.Int64 // by endpoint; the last one is any
	var c *Client
	c = newClient(p, lab.ClientOptions{
		Request: &http.Request{Method: http.MethodGet}, Instances: func() []int { return []int{0, 1, 2} }, Random: draw, Choose: draw,
		Send: func(req *http.Request, endpoint int) (*http.Response, error) {
			if endpoint == lab.AnyInstance || !p.Concurrency.PerEndpoint {
				endpoint = instances
			}
			n := inFlight[endpoint].Add(1)
			defer inFlight[endpoint].Add(-1)
			checkInFlight(t, p, endpoint, n)
			c.mu.Lock()
			if most := p.Concurrency.MaxRetries; most > 0 && c.budget.retries > most {
				t.Errorf("%d retries in flight, want at most %d", c.budget.retries, most)
			}
			if c.budget.tokens < 0 {
				t.Errorf("%v tokens, want at least 0", c.budget.tokens)
			}
			c.mu.Unlock()
			takes := time.Duration(draw() * float64(time.Second))
			what := draw()
			if what < 0.1 {
				takes = time.Hour
			}
			select {
			case <-time.After(takes):
			case <-req.Context().Done():
				return nil, req.Context().Err()
			}
			switch {
			case what < 0.2:
				return nil, &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}
			case what < 0.3:
				return nil, &net.OpError{Op: "read", Err: syscall.ECONNRESET}
			case what < 0.7:
				return &http.Response{StatusCode: 503, Header: http.Header{"Retry-After": {"1"}}, Body: http.NoBody}, nil
			}
			return &http.Response{StatusCode: 200, Body: http.NoBody}, nil
		},
	})
	limit := patience
	if p.Timeout > 0 {
		limit = p.Timeout
	}
	var calls sync.WaitGroup
	for range 40 {
		time.Sleep(time.Duration(draw() * float64(200*time.Millisecond)))
		calls.Go(func() {
			r := c.Call()
			if r.Duration > limit+time.Millisecond {
				t.Errorf("a call took %v, want at most %v", r.Duration, limit)
			}
			most := p.Retry.MaxAttempts * max(1, p.Hedge.MaxAttempts)
			if most > 0 && len(r.Attempts) > most && !p.Retry.Resend {
				t.Errorf("%d attempts, want at most %d", len(r.Attempts), most)
			}
			if !r.Reason.Valid() || (r.Reason == resilience.ReasonOK) != (len(r.Attempts) > 0 && r.Attempts[len(r.Attempts)-1].Reason == resilience.ReasonOK) && p.Hedge == (foreign.Hedge{}) {
				t.Errorf("reason %s after attempts %+v, want the one of the last attempt", r.Reason, r.Attempts)
			}
		})
	}
	calls.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	b := c.budget
	if b.calls != 0 || b.retries != 0 || c.calls.used != 0 || b.tokens < 0 || b.tokens > p.Retry.Budget.Tokens {
		t.Errorf("at the end: %d calls, %d retries, %d places taken and %v tokens, want none and at most %v", b.calls, b.retries, c.calls.used, b.tokens, p.Retry.Budget.Tokens)
	}
	for _, places := range c.tries {
		if places.used != 0 || len(places.queue) != 0 {
			t.Errorf("at the end: %d places taken and %d calls waiting, want none", places.used, len(places.queue))
		}
	}
	for _, g := range c.guards.all {
		for _, breaker := range g.members {
			if breaker.probes > breaker.rule.HalfOpenCalls || breaker.probes != breaker.ended {
				t.Errorf("a breaker let %d probes through, of which %d have ended, want at most %d", breaker.probes, breaker.ended, breaker.rule.HalfOpenCalls)
			}
		}
	}
}

// checkInFlight checks the number of attempts in flight, those to one endpoint if the policy says
// so.
func checkInFlight(t *testing.T, p foreign.Policy, endpoint int, n int64) {
	c := p.Concurrency
	if most := int64(c.MaxRequests); most > 0 && n > most && !c.PerCall {
		t.Errorf("%d tries in flight to %d, want at most %d", n, endpoint, most)
	}
}

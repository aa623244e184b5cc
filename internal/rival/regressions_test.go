package rival

import (
	"net/http"
	"testing"
	"time"

	"github.com/rebound-dev/rebound/internal/foreign"
)

// Rules that test/faithful found to be other than the model had them.

// HAProxy without option redispatch.
func TestRetriesStayAtTheEndpoint(t *testing.T) {
	same := retries(3, func(p *foreign.Policy) { p.Retry.SameEndpoint = true })
	scenes(t, map[string]scene{
		"same endpoint": {play{policy: same, instances: 2, choices: []float64{0.6, 0.1}, upstream: always(answer{connect: true})},
			"0s try@1, 0s try@1, 0s try@1, 0s max_attempts"},
		"next call": {play{policy: same, instances: 2, choices: []float64{0.6, 0.1}, upstream: list(answer{status: 503}, answer{status: 200}), calls: every(s, 2)},
			"0s try@1, 0s try@1, 0s ok, 1s try@0, 1s ok"},
	})
}

// HAProxy and Traefik.
func TestEndpointsInTurn(t *testing.T) {
	turns := func(change func(*foreign.Policy)) foreign.Policy {
		return retries(2, func(p *foreign.Policy) {
			p.RoundRobin = true
			change(p)
		})
	}
	sick := func(_, endpoint int) answer {
		if endpoint == 1 {
			return answer{status: 503}
		}
		return answer{status: 200}
	}
	scenes(t, map[string]scene{
		"in turn": {play{policy: turns(func(*foreign.Policy) {}), instances: 3, upstream: always(answer{status: 200}), choices: []float64{0.4, 0.9}, calls: every(s, 4)},
			"0s try@1, 0s ok, 1s try@2, 1s ok, 2s try@0, 2s ok, 3s try@1, 3s ok"},
		"a retry takes a turn": {play{policy: turns(func(*foreign.Policy) {}), instances: 3, upstream: sick, calls: every(s, 4)},
			"0s try@0, 0s ok, 1s try@1, 1s try@2, 1s ok, 2s try@0, 2s ok, 3s try@1, 3s try@2, 3s ok"},
		"without one that is out": {play{policy: turns(func(p *foreign.Policy) {
			p.Breakers = []foreign.Breaker{{Scope: foreign.ScopeEndpoint, ConsecutiveFailures: 1, OpenFor: time.Minute, MaxEjected: 1, Counts: all5xx()}}
		}), instances: 3, upstream: sick, calls: every(s, 4)},
			"0s try@0, 0s ok, 1s try@1, 1s try@2, 1s ok, 2s try@0, 2s ok, 3s try@2, 3s ok"},
	})
}

// nginx tries no server twice, even if the others are out.
func TestNoEndpointTwice(t *testing.T) {
	p := retries(0, func(p *foreign.Policy) {
		p.Retry.OncePerEndpoint, p.Retry.OtherEndpoint = true, true
		p.Breakers = []foreign.Breaker{{Scope: foreign.ScopeEndpoint, Failures: 1, Window: 10 * s, OpenFor: 10 * s, MaxEjected: 1,
			Counts: foreign.Conditions{Connect: true}}}
	})
	scenes(t, map[string]scene{
		"one is out": {play{policy: p, instances: 2, choices: []float64{0}, calls: every(s, 2), upstream: func(_, endpoint int) answer {
			return answer{connect: endpoint == 0, status: 503}
		}}, "0s try@0, 0s try@1, 0s max_attempts, 1s try@1, 1s endpoint_ejected"},
	})
}

// nginx, HAProxy and Caddy skip a server that has no place left.
func TestFullEndpointsAreSkipped(t *testing.T) {
	limit := func(pending int) foreign.Policy {
		return retries(1, func(p *foreign.Policy) {
			p.Concurrency = foreign.Concurrency{MaxRequests: 1, MaxPending: pending, PerEndpoint: true, SkipFull: true}
		})
	}
	slow := always(answer{status: 200, takes: s})
	three := []time.Duration{0, 100 * ms, 200 * ms}
	scenes(t, map[string]scene{
		"all full":  {play{policy: limit(0), instances: 2, upstream: slow, calls: three}, "0s try@0, 100ms try@1, 200ms concurrency_limit, 1s ok, 1.1s ok"},
		"one waits": {play{policy: limit(-1), instances: 2, upstream: slow, calls: three}, "0s try@0, 100ms try@1, 1s ok, 1s try@0, 1.1s ok, 2s ok"},
		"at once":   {play{policy: limit(0), instances: 3, upstream: slow, calls: []time.Duration{0, 0, 0}}, "0s try@0, 0s try@1, 0s try@2, 1s ok, 1s ok, 1s ok"},
	})
}

// net/http in Caddy and Traefik sends a GET again if a connection died that was used before.
func TestResend(t *testing.T) {
	good, dies := answer{status: 200}, answer{reset: true}
	p := retries(1, func(p *foreign.Policy) { p.Retry.Resend = true })
	twice := every(s, 2)
	scenes(t, map[string]scene{
		"used connection": {play{policy: p, upstream: list(good, dies, good), calls: twice}, "0s try, 0s ok, 1s try, 1s try, 1s ok"},
		"new connection":  {play{policy: p, upstream: list(dies, good), calls: twice}, "0s try, 0s max_attempts, 1s try, 1s ok"},
		"once a connection": {play{policy: p, upstream: list(good, dies, dies, good), calls: twice},
			"0s try, 0s ok, 1s try, 1s try, 1s max_attempts"},
		"after an error": {play{policy: p, upstream: list(answer{status: 503}, dies, good), calls: twice}, "0s try, 0s max_attempts, 1s try, 1s try, 1s ok"},
		"POST":           {play{policy: p, upstream: list(good, dies, good), calls: twice, method: http.MethodPost}, "0s try, 0s ok, 1s try, 1s max_attempts"},
		"off":            {play{policy: retries(1, nil), upstream: list(good, dies, good), calls: twice}, "0s try, 0s ok, 1s try, 1s max_attempts"},
		"in one call": {play{policy: retries(2, func(p *foreign.Policy) { p.Retry.Resend = true }), upstream: list(answer{status: 503}, dies, good)},
			"0s try, 0s try, 0s try, 0s ok"},
	})
}

// Retry-After in an answer of HTTP says nothing to gRPC.
func TestRetryAfterIsNotForGRPC(t *testing.T) {
	p := foreign.Policy{GRPC: true, Retry: foreign.Retry{
		MaxAttempts: 2, On: foreign.Conditions{GRPC: []string{"UNAVAILABLE"}}, RetryAfter: foreign.RetryAfter{Obey: true}, Backoff: fixed(100 * ms),
	}}
	scenes(t, map[string]scene{
		"ignored": {play{policy: p, upstream: list(answer{status: 503, after: "3"}, answer{status: 200})}, "0s try, 100ms try, 100ms ok"},
	})
}

// How nginx and Caddy count failures.
func TestPassiveChecks(t *testing.T) {
	bad, good := answer{status: 503}, answer{status: 200}
	const no, yes, out = "try, %s status_not_retryable", "try, %s ok", "breaker_open"
	calls := func(n int, b foreign.Breaker, answers ...answer) play {
		b.Scope, b.Counts = foreign.ScopeUpstream, all5xx()
		p := retries(1, func(p *foreign.Policy) { p.Breakers, p.Retry.On = []foreign.Breaker{b}, foreign.Conditions{} })
		return play{policy: p, upstream: list(answers...), calls: every(s, n)}
	}
	nginx := foreign.Breaker{Failures: 3, Window: 2500 * ms, FixedWindow: true, FromLastFailure: true, OpenFor: 2500 * ms, HalfOpenCalls: 1}
	caddy := foreign.Breaker{Failures: 2, Window: 3500 * ms, WhileCounted: true}
	unrepeated := foreign.Breaker{ConsecutiveFailures: 1, OpenFor: time.Minute, IfRepeated: true}
	scenes(t, map[string]scene{
		"nginx: rare failures add up": {calls(6, nginx, bad, good, bad, good, bad), seconds(no, yes, no, yes, no, out)},
		"nginx: a late success clears": {calls(9, nginx, bad, bad, good, good, good, bad, bad, bad),
			seconds(no, no, yes, yes, yes, no, no, no, out)},
		"nginx: a late failure does not":     {calls(6, nginx, bad, bad, good, good, bad), seconds(no, no, yes, yes, no, out)},
		"nginx: an answer that is passed on": {calls(3, unrepeated, bad), seconds(no, no, no)},
		"nginx: one that is not": {play{policy: retries(2, func(p *foreign.Policy) {
			b := unrepeated
			b.Scope, b.Counts = foreign.ScopeUpstream, all5xx()
			p.Breakers = []foreign.Breaker{b}
		}), upstream: always(bad)}, "0s try, 0s breaker_open"},
		"Caddy: out until the first is forgotten": {calls(9, caddy, bad), seconds(no, no, out, out, no, no, out, out, no)},
	})
}

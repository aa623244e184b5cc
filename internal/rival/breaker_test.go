package rival

import (
	"testing"
	"time"

	"github.com/rebound-dev/rebound/internal/foreign"
)

func TestBreaker(t *testing.T) {
	with := func(change func(*foreign.Breaker)) foreign.Policy {
		b := foreign.Breaker{Scope: foreign.ScopeUpstream, OpenFor: 3500 * ms, Counts: all5xx()}
		change(&b)
		return retries(1, func(p *foreign.Policy) { p.Breakers, p.Retry.On = []foreign.Breaker{b}, foreign.Conditions{} })
	}
	bad, good := answer{status: 503}, answer{status: 200}
	const no, yes, out = "try, %s status_not_retryable", "try, %s ok", "breaker_open"
	// each call is a second after the one before
	calls := func(change func(*foreign.Breaker), n int, answers ...answer) play {
		return play{policy: with(change), upstream: list(answers...), calls: every(s, n)}
	}
	consecutive := func(n int) func(*foreign.Breaker) { return func(b *foreign.Breaker) { b.ConsecutiveFailures = n } }
	scenes(t, map[string]scene{
		"consecutive": {calls(consecutive(2), 7, bad, good, bad, bad, good), seconds(no, yes, no, no, out, out, out)},
		"just closes": {calls(consecutive(1), 6, bad, good), seconds(no, out, out, out, yes, yes)},
		"opens again": {calls(consecutive(1), 6, bad, bad), seconds(no, out, out, out, no, out)},
		"half-open, success": {calls(func(b *foreign.Breaker) { b.ConsecutiveFailures, b.HalfOpenCalls = 2, 1 }, 8, bad, bad, good, bad, good),
			seconds(no, no, out, out, out, yes, no, yes)},
		"half-open, failure": {calls(func(b *foreign.Breaker) { b.ConsecutiveFailures, b.HalfOpenCalls = 2, 1 }, 8, bad),
			seconds(no, no, out, out, out, no, out, out)},
		// resilience4j: the ratio decides when all permitted calls have ended.
		"half-open, ratio": {calls(func(b *foreign.Breaker) {
			b.CountWindow, b.FailureRatio, b.HalfOpenCalls, b.OpenFor = 2, 0.6, 2, 1500*ms
		}, 8, bad, bad, good),
			seconds(no, out, no, yes, yes, yes, yes, yes)},
		"half-open, full": {play{policy: with(func(b *foreign.Breaker) { b.ConsecutiveFailures, b.HalfOpenCalls, b.OpenFor = 1, 1, s }),
			upstream: list(bad, answer{status: 200, takes: 5 * s}), calls: []time.Duration{0, 2 * s, 3 * s}}, "0s try, 0s status_not_retryable, 2s try, 3s breaker_open, 7s ok"},
		"failures in a rolling window": {calls(func(b *foreign.Breaker) { b.Failures, b.Window = 2, 1500*ms }, 6, bad, good, bad, bad, good), seconds(no, yes, no, no, out, out)},
		"failures in a fixed window":   {calls(func(b *foreign.Breaker) { b.Failures, b.Window, b.FixedWindow = 2, 2*s, true }, 6, good, bad, bad, good, bad, good), seconds(yes, no, no, yes, no, yes)},
		"failures without end":         {calls(func(b *foreign.Breaker) { b.Failures = 2 }, 6, bad, good, good, good, bad, good), seconds(no, yes, yes, yes, no, out)},
		"ratio":                        {calls(func(b *foreign.Breaker) { b.FailureRatio, b.MinCalls, b.Window = 0.5, 3, 10*s }, 5, bad, good, bad, good), seconds(no, yes, no, out, out)},
		"ratio in the last calls":      {calls(func(b *foreign.Breaker) { b.FailureRatio, b.CountWindow, b.MinCalls = 0.5, 3, 9 }, 6, good, good, good, bad, bad), seconds(yes, yes, yes, no, no, out)},
		"slow": {calls(func(b *foreign.Breaker) { b.SlowCall, b.SlowRatio, b.MinCalls, b.Window = 500*ms, 0.5, 2, 10*s }, 4, good, answer{status: 200, takes: 500 * ms}),
			"0s try, 0s ok, 1s try, 1.5s ok, 2s breaker_open, 3s breaker_open"},
		// Envoy and gRPC: ratios are checked every interval, and whether an open time is over too.
		"checked every 2 s": {calls(func(b *foreign.Breaker) {
			b.FailureRatio, b.Window, b.FixedWindow, b.CheckEvery, b.OpenFor = 0.5, 2*s, true, 2*s, 500*ms
		}, 6, bad, bad, good),
			seconds(no, no, out, out, yes, yes)},
		"growth, linear": {calls(func(b *foreign.Breaker) {
			b.ConsecutiveFailures, b.OpenFor, b.Growth, b.HalfOpenCalls = 1, 1500*ms, foreign.GrowthLinear, 1
		}, 8, bad),
			seconds(no, out, no, out, out, no, out, out)},
		"growth, exponential": {calls(func(b *foreign.Breaker) {
			b.ConsecutiveFailures, b.OpenFor, b.Growth, b.HalfOpenCalls = 1, 1500*ms, foreign.GrowthExponential, 1
		}, 13, bad),
			seconds(no, out, no, out, out, no, out, out, out, out, out, no, out)},
		"growth up to the longest": {calls(func(b *foreign.Breaker) {
			b.ConsecutiveFailures, b.OpenFor, b.MaxOpenFor, b.Growth, b.HalfOpenCalls = 1, 1500*ms, 1800*ms, foreign.GrowthExponential, 1
		}, 7, bad), seconds(no, out, no, out, no, out, no)},
		"open retried": {play{policy: retries(3, func(p *foreign.Policy) {
			p.Retry.On.BreakerOpen, p.Retry.Backoff = true, fixed(s)
			p.Breakers = []foreign.Breaker{{Scope: foreign.ScopeUpstream, ConsecutiveFailures: 1, OpenFor: 1500 * ms, Counts: all5xx()}}
		}), upstream: list(bad, good)}, "0s try, 2s try, 2s ok"},
		"open not retried": {play{policy: retries(3, func(p *foreign.Policy) {
			p.Breakers = []foreign.Breaker{{Scope: foreign.ScopeUpstream, ConsecutiveFailures: 1, OpenFor: 1500 * ms, Counts: all5xx()}}
		}), upstream: list(bad, good)}, "0s try, 0s breaker_open"},
		"jitter": {play{policy: with(func(b *foreign.Breaker) { b.ConsecutiveFailures, b.OpenFor, b.OpenJitter = 1, s, 0.5 }), random: 0.9,
			upstream: list(bad, good), calls: []time.Duration{0, 1400 * ms, 1500 * ms}}, "0s try, 0s status_not_retryable, 1.4s breaker_open, 1.5s try, 1.5s ok"},
	})
}

// seconds returns the events of calls at 0 s, 1 s and so on.
func seconds(calls ...string) string {
	text := ""
	for i, c := range calls {
		if i > 0 {
			text += ", "
		}
		at := (time.Duration(i) * s).String()
		text += at + " "
		for j := range c {
			if j+1 < len(c) && c[j:j+2] == "%s" {
				c = c[:j] + at + c[j+2:]
				break
			}
		}
		text += c
	}
	return text
}

func TestEndpoints(t *testing.T) {
	with := func(change func(*foreign.Breaker)) foreign.Policy {
		b := foreign.Breaker{Scope: foreign.ScopeEndpoint, OpenFor: time.Minute, MaxEjected: 1, Counts: all5xx(), ConsecutiveFailures: 1}
		change(&b)
		return retries(1, func(p *foreign.Policy) { p.Breakers, p.Retry.On = []foreign.Breaker{b}, foreign.Conditions{} })
	}
	sick := func(bad ...int) func(int, int) answer {
		return func(_, endpoint int) answer {
			for _, n := range bad {
				if n == endpoint {
					return answer{status: 503}
				}
			}
			return answer{status: 200}
		}
	}
	calls := func(n, instances int, upstream func(int, int) answer, change func(*foreign.Breaker)) play {
		return play{policy: with(change), upstream: upstream, instances: instances, calls: every(s, n)}
	}
	none := func(*foreign.Breaker) {}
	scenes(t, map[string]scene{
		"ejected":      {calls(3, 2, sick(0), none), "0s try@0, 0s status_not_retryable, 1s try@1, 1s ok, 2s try@1, 2s ok"},
		"all ejected":  {calls(3, 2, sick(0, 1), none), "0s try@0, 0s status_not_retryable, 1s try@1, 1s status_not_retryable, 2s endpoint_ejected"},
		"most ejected": {calls(3, 2, sick(0, 1), func(b *foreign.Breaker) { b.MaxEjected = 0.5 }), "0s try@0, 0s status_not_retryable, 1s try@1, 1s status_not_retryable, 2s try@1, 2s status_not_retryable"},
		"none":         {calls(2, 2, sick(0), func(b *foreign.Breaker) { b.MaxEjected = 0.4 }), "0s try@0, 0s status_not_retryable, 1s try@0, 1s status_not_retryable"},
		"at least one": {calls(3, 2, sick(0, 1), func(b *foreign.Breaker) { b.MaxEjected, b.AtLeastOne = 0.1, true }), "0s try@0, 0s status_not_retryable, 1s try@1, 1s status_not_retryable, 2s try@1, 2s status_not_retryable"},
		"panic":        {calls(3, 3, sick(0, 1, 2), func(b *foreign.Breaker) { b.PanicBelow = 0.5 }), "0s try@0, 0s status_not_retryable, 1s try@1, 1s status_not_retryable, 2s try@0, 2s status_not_retryable"},
		"comes back":   {calls(3, 2, sick(0), func(b *foreign.Breaker) { b.OpenFor = 1500 * ms }), "0s try@0, 0s status_not_retryable, 1s try@1, 1s ok, 2s try@0, 2s status_not_retryable"},
		// Envoy's success rate: of 1, 1 and 0, the mean is 0.67 and the deviation 0.47.
		"below the mean": {play{
			policy: with(func(b *foreign.Breaker) {
				b.ConsecutiveFailures, b.BelowMean, b.MinEndpoints, b.MinCalls, b.Window, b.FixedWindow, b.CheckEvery = 0, 1.2, 3, 1, 10*s, true, 10*s
			}),
			upstream: sick(0), instances: 3, calls: []time.Duration{0, s, 2 * s, 10 * s}, choices: []float64{0, 0.4, 0.9, 0},
		}, "0s try@0, 0s status_not_retryable, 1s try@1, 1s ok, 2s try@2, 2s ok, 10s try@1, 10s ok"},
		"too few to compare": {play{
			policy: with(func(b *foreign.Breaker) {
				b.ConsecutiveFailures, b.BelowMean, b.MinEndpoints, b.MinCalls, b.Window, b.FixedWindow, b.CheckEvery = 0, 1.2, 4, 1, 10*s, true, 10*s
			}),
			upstream: sick(0), instances: 3, calls: []time.Duration{0, s, 2 * s, 10 * s}, choices: []float64{0, 0.4, 0.9, 0},
		}, "0s try@0, 0s status_not_retryable, 1s try@1, 1s ok, 2s try@2, 2s ok, 10s try@0, 10s status_not_retryable"},
	})
}

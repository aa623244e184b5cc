package translate

import (
	"cmp"
	"time"

	"github.com/rebound-dev/rebound/internal/foreign"
	"github.com/rebound-dev/rebound/pkg/endpoint"
	"github.com/rebound-dev/rebound/pkg/resilience"
)

// breakers translates the breakers: one for the upstream, and one for each endpoint, which takes
// the rules of several.
func (t *translation) breakers() {
	to := &t.Policy.Breaker
	to.FailureRatio, to.ConsecutiveFailures = 0, 0 // none
	upstream := false
	for _, b := range t.from.Breakers {
		switch {
		case b.BelowMean > 0:
			t.drop("Breakers.BelowMean", "an endpoint is not compared with the mean of the others")
		case b.Scope == foreign.ScopeEndpoint:
			t.eject(b)
		case upstream:
			t.drop("Breakers.Scope", "an upstream has one breaker: the first is taken")
		default:
			upstream = true
			*to = t.breaker(b)
		}
	}
}

const (
	shortestWindow = 10 * time.Millisecond
	longestWindow  = 24 * time.Hour
	mostCount      = 1 << 30
	// window stands for the last n calls.
	window = 10 * time.Second
)

// breaker translates one breaker and notes what both scopes have in common.
func (t *translation) breaker(b foreign.Breaker) resilience.BreakerPolicy {
	to := resilience.BreakerPolicy{
		Window: min(max(cmp.Or(b.Window, longestWindow), shortestWindow), longestWindow), MinRequests: min(max(1, b.MinCalls), mostCount),
		FailureRatio: b.FailureRatio, ConsecutiveFailures: min(b.ConsecutiveFailures, mostCount),
		OpenFor: max(b.OpenFor, time.Millisecond), Probes: min(max(1, b.HalfOpenCalls), mostCount),
	}
	switch {
	case b.CountWindow > 0:
		to.Window = window
		t.approximate("Breakers.CountWindow", "the last %d calls become the calls of the last %v", b.CountWindow, window)
	case b.Window == 0 && (b.FailureRatio > 0 || b.Failures > 0):
		t.approximate("Breakers.Window", "counts that are never cleared become those of the last %v", longestWindow)
	case b.FixedWindow && b.FailureRatio > 0:
		t.approximate("Breakers.Window", "a window that begins anew becomes a rolling one")
	}
	if b.Window > 0 && to.Window != b.Window && b.CountWindow == 0 {
		t.approximate("Breakers.Window", "becomes %v: a window is from %v to %v", to.Window, shortestWindow, longestWindow)
	}
	if b.Failures > 0 {
		to.ConsecutiveFailures = min(b.Failures, mostCount)
		t.approximate("Breakers.Failures", "%d failures within %v become %d failures in a row", b.Failures, b.Window, b.Failures)
	}
	for _, field := range []string{"Breakers.SlowCall", "Breakers.SlowRatio"} {
		if b.SlowRatio > 0 && (t.set(field) || b.SlowRatio < 1) {
			t.drop(field, "slow answers do not open a circuit; attemptTimeout makes them failures")
		}
	}
	to.MaxOpenFor = to.OpenFor
	switch b.Growth {
	case foreign.GrowthNone:
	case foreign.GrowthLinear:
		to.MaxOpenFor = max(to.OpenFor, cmp.Or(b.MaxOpenFor, 10*to.OpenFor))
		t.approximate("Breakers.Growth", "the open time doubles instead of growing by the same each time")
	case foreign.GrowthExponential:
		to.MaxOpenFor = max(to.OpenFor, cmp.Or(b.MaxOpenFor, time.Hour))
	}
	if b.HalfOpenCalls == 0 {
		t.approximate("Breakers.HalfOpenCalls", "one probe decides after the open time, where all calls would pass")
	}
	if b.Counts.Status(400) || b.Counts.Status(404) || b.Counts.Status(429) || len(b.Counts.GRPC) > 0 {
		t.approximate("Breakers.Counts", "failures are statuses from 500 but 501, failed connections and timeouts; other answers are healthy")
	}
	return to
}

// eject adds the rules of a breaker for each endpoint.
func (t *translation) eject(b foreign.Breaker) {
	first := t.Eject == nil
	if first {
		t.Eject = &endpoint.Eject{MinRequests: 1, Window: window}
	}
	notes := len(t.Notes)
	c := t.breaker(b)
	if !first { // the notes are the same
		t.Notes = t.Notes[:notes]
	}
	e := t.Eject
	if c.ConsecutiveFailures > 0 && (e.ConsecutiveFailures == 0 || c.ConsecutiveFailures < e.ConsecutiveFailures) {
		e.ConsecutiveFailures = c.ConsecutiveFailures
	}
	if c.FailureRatio > 0 && e.FailureRatio == 0 {
		e.FailureRatio, e.MinRequests, e.Window = c.FailureRatio, c.MinRequests, c.Window
	}
	if first {
		e.EjectFor, e.MaxEjectFor, e.MaxEjected = c.OpenFor, c.MaxOpenFor, b.MaxEjected
		t.approximate("Breakers.Scope", "ejects endpoints: belongs to upstreams.NAME.endpoints.eject, with resolve: dns; any failure counts")
	} else {
		t.approximate("Breakers.Scope", "the rules of several detectors become one: the strictest counts")
	}
	if b.PanicBelow > 0 && t.set("Breakers.PanicBelow") {
		t.drop("Breakers.PanicBelow", "Rebound decides itself when too few endpoints are left")
	}
}

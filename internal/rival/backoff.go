package rival

import (
	"math"
	"time"

	"github.com/rebound-dev/rebound/internal/foreign"
)

// waits are the waits of one call.
type waits struct {
	policy   foreign.Backoff
	retries  int
	previous time.Duration
	curve    float64 // the last value of Polly's curve
}

// next returns the wait before the next retry. u is a random number from 0 to below 1. throttled
// means that the answer asks to slow down.
func (w *waits) next(u float64, throttled bool) time.Duration {
	w.retries++
	p := w.policy
	base := float64(p.Base)
	if throttled && p.ThrottledBase > 0 {
		base = float64(p.ThrottledBase)
	}
	most := math.Inf(1)
	if p.Max > 0 {
		most = float64(p.Max)
	}
	d := w.jitter(base, u, most)
	if !p.JitterAboveMax {
		d = math.Min(d, most)
	}
	w.previous = duration(d)
	return w.previous
}

// jitter returns the wait with its jitter. It may be above most.
func (w *waits) jitter(base, u, most float64) float64 {
	p := w.policy
	d := w.plain(base)
	capped := math.Min(d, most)
	// Percent can lengthen a wait, so the systems differ in whether Max is before or after it.
	if p.JitterAboveMax {
		d = capped
	}
	share := p.Percent / 100
	switch p.Jitter {
	case foreign.JitterNone:
	case foreign.JitterFull:
		return u * capped
	case foreign.JitterEqual:
		return capped/2 + u*capped/2
	case foreign.JitterPercent:
		return d * (1 - share + 2*share*u)
	case foreign.JitterUpward:
		return d * (1 + share*u)
	case foreign.JitterDecorrelated:
		previous := math.Max(base, float64(w.previous))
		return math.Min(most, base+u*(3*previous-base))
	case foreign.JitterPolly:
		return w.polly(base, u)
	}
	return d
}

// plain returns the wait before the jitter and Max.
func (w *waits) plain(base float64) float64 {
	n := float64(w.retries)
	if base == 0 && w.policy.Kind != foreign.BackoffList {
		return 0 // 0·∞ would be NaN
	}
	switch w.policy.Kind {
	case foreign.BackoffNone:
	case foreign.BackoffFixed:
		return base
	case foreign.BackoffLinear:
		return base * n
	case foreign.BackoffExponential:
		return base * math.Pow(w.policy.Factor, n-1)
	case foreign.BackoffEnvoy:
		return base * (math.Pow(2, n) - 1)
	case foreign.BackoffList:
		return float64(w.policy.Waits[min(w.retries, len(w.policy.Waits))-1])
	}
	return 0
}

// polly is DecorrelatedJitterBackoffV2 of Polly v8 (RetryHelper.cs): the steps of the curve
// 2^t·tanh(√(4t)) at random places t, scaled so that the median of the first wait is the base.
func (w *waits) polly(base, u float64) float64 {
	t := float64(w.retries-1) + u
	next := math.Pow(2, t) * math.Tanh(math.Sqrt(4*t))
	if math.IsInf(next, 1) {
		return float64(math.MaxInt64)
	}
	step := next - w.curve
	w.curve = next
	return step / 1.4 * base
}

// duration converts nanoseconds. What does not fit becomes a century.
func duration(ns float64) time.Duration {
	const century = 100 * 365 * 24 * float64(time.Hour)
	return time.Duration(math.Max(0, math.Min(ns, century)))
}

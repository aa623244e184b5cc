package resilience

import (
	"fmt"
	"math"
	"time"

	"github.com/rebound-dev/rebound/internal/mistake"
)

// Jitter selects how waits are randomised, so that many callers do not retry at once.
type Jitter string

// The jitters. The wait before retry n, counted from 1, is based on cap(n) = min(Max,
// Base·Factorⁿ⁻¹); U(a, b) is uniform. Full, equal and decorrelated are from Marc Brooker,
// "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
const (
	JitterFull         Jitter = "full"         // U(0, cap)
	JitterEqual        Jitter = "equal"        // cap/2 + U(0, cap/2)
	JitterDecorrelated Jitter = "decorrelated" // min(Max, U(Base, 3·previous))
	JitterNone         Jitter = "none"         // cap
)

// UnmarshalText accepts the four names only.
func (j *Jitter) UnmarshalText(text []byte) error {
	if !Jitter(text).valid() {
		return fmt.Errorf("expected one of full, equal, decorrelated, none, got %q", text)
	}
	*j = Jitter(text)
	return nil
}

func (j Jitter) valid() bool {
	switch j {
	case JitterFull, JitterEqual, JitterDecorrelated, JitterNone:
		return true
	}
	return false
}

// Backoff sets the wait between attempts. No backoff is above Max; a longer Retry-After replaces
// it.
type Backoff struct {
	Base   time.Duration `yaml:"base"`   // the wait before the first retry; at least 0, at most Max
	Max    time.Duration `yaml:"max"`    // the longest wait; at least Base
	Factor float64       `yaml:"factor"` // the growth from one retry to the next; at least 1
	Jitter Jitter        `yaml:"jitter"` // the randomness of the waits
}

// Delay returns the wait before retry n (from 1), within [0, Max]. previous is the wait before the
// previous retry, 0 for the first. u is a uniform number in [0, 1).
func (b Backoff) Delay(n int, previous time.Duration, u float64) time.Duration {
	// Compute in floating point and compare before the conversion: Base·Factorⁿ overflows a
	// Duration within a few dozen retries, and an overflowed wait would be an immediate retry.
	ceiling := math.Min(float64(b.Max), float64(b.Base)*math.Pow(b.Factor, float64(n-1)))
	if b.Base == 0 {
		ceiling = 0 // 0·∞ would be NaN
	}
	var d float64
	switch b.Jitter {
	case JitterNone:
		d = ceiling
	case JitterEqual:
		d = ceiling/2 + u*ceiling/2
	case JitterDecorrelated:
		low := float64(b.Base)
		high := math.Max(low, 3*float64(max(previous, b.Base)))
		d = math.Min(float64(b.Max), low+u*(high-low))
	default:
		d = u * ceiling
	}
	// As a float64, 2^63-1 rounds up to 2^63, which would overflow when converted back.
	if d >= float64(b.Max) {
		return b.Max
	}
	return time.Duration(d)
}

func (b Backoff) mistakes() (m mistake.List) {
	m.Check(b.Base >= 0, "base", "must be at least 0, got %v", b.Base)
	m.Check(b.Max >= 0, "max", "must be at least 0, got %v", b.Max)
	if b.Base >= 0 && b.Max >= 0 {
		byDefault := DefaultPolicy().Retry.Backoff
		m.Check(b.Base <= b.Max, "base", "must be at most max (%s), got %s",
			named(b.Max, byDefault.Max), named(b.Base, byDefault.Base))
	}
	m.Check(b.Factor >= 1 && finite(b.Factor), "factor", "must be a number from 1, got %v", b.Factor)
	m.Check(b.Jitter.valid(), "jitter", "expected one of full, equal, decorrelated, none, got %q", string(b.Jitter))
	return m
}

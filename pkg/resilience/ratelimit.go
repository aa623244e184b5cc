package resilience

import (
	"errors"
	"math"
	"time"

	"golang.org/x/time/rate"

	"github.com/rebound-dev/rebound/internal/mistake"
)

// RateLimitPolicy limits the calls that begin, as a token bucket. Retries are part of their call.
type RateLimitPolicy struct {
	// PerSecond is the number of calls a second. 0 = no limit. 0 to 1000000.
	PerSecond float64 `yaml:"perSecond"`
	// Burst is the number of calls that may begin at once after a pause. At least 1 with perSecond,
	// 0 without. At most 1000000.
	Burst int `yaml:"burst"`
}

func (p RateLimitPolicy) mistakes() (m mistake.List) {
	m.Check(p.PerSecond >= 0 && p.PerSecond <= 1e6, "perSecond", "must be from 0 (no limit) to 1000000, got %v", p.PerSecond)
	m.Check(p.PerSecond == 0 || p.Burst >= 1 && p.Burst <= 1e6, "burst", "must be from 1 to 1000000 with perSecond, got %d", p.Burst)
	m.Check(p.PerSecond > 0 || p.Burst == 0, "burst", "must be left out without perSecond, got %d", p.Burst)
	return m
}

var errRateLimited = errors.New("the rate limit is reached")

// newRateLimit returns nil for no limit.
func newRateLimit(p RateLimitPolicy) *rate.Limiter {
	if p.PerSecond == 0 {
		return nil
	}
	return rate.NewLimiter(rate.Limit(p.PerSecond), p.Burst)
}

// overRate returns how long a call has to wait for the rate limit, 0 if it may begin.
func overRate(l *rate.Limiter, now time.Time) time.Duration {
	if l == nil || l.AllowN(now, 1) {
		return 0
	}
	// Not a reservation: canceling one does not return its token if others were made meanwhile.
	wait := (1 - l.TokensAt(now)) / float64(l.Limit()) * float64(time.Second)
	if wait >= math.MaxInt64 {
		return math.MaxInt64
	}
	return max(1, time.Duration(math.Ceil(wait)))
}

package rival

import (
	"math"
	"time"

	"github.com/rebound-dev/rebound/internal/foreign"
)

// rate limits what begins in a time. Its caller holds the client's lock.
type rate struct {
	policy foreign.RateLimit
	start  time.Time

	tokens float64 // of a token bucket; below 0 if some wait
	at     time.Time

	window time.Duration // the last window that has some, as the time of its start
	used   int           // in that window
}

// newRate returns a limit whose windows begin at a random time: clients did not begin together.
func newRate(p foreign.RateLimit, now time.Time, random func() float64) rate {
	return rate{policy: p, start: now.Add(-time.Duration(random() * float64(p.Per))), tokens: p.Burst, at: now}
}

// reserve returns how long to wait for the next token or window, or false if that is too long.
func (r *rate) reserve(now time.Time) (wait time.Duration, ok bool) {
	switch {
	case r.policy.Calls == 0:
		return 0, true
	case r.policy.Burst > 0:
		return r.bucket(now)
	}
	return r.fixed(now)
}

func (r *rate) bucket(now time.Time) (wait time.Duration, ok bool) {
	perNano := r.policy.Calls / float64(r.policy.Per)
	r.tokens = math.Min(r.policy.Burst, r.tokens+float64(now.Sub(r.at))*perNano)
	r.at = now
	if r.tokens < 1 {
		if wait = duration(math.Ceil((1 - r.tokens) / perNano)); wait > r.policy.MaxWait {
			return 0, false
		}
	}
	r.tokens--
	return wait, true
}

// fixed is resilience4j's AtomicRateLimiter: a call that waits reserves its place in a later
// window.
func (r *rate) fixed(now time.Time) (wait time.Duration, ok bool) {
	elapsed := now.Sub(r.start)
	window, used := r.window, r.used
	if current := elapsed - elapsed%r.policy.Per; current > window {
		window, used = current, 0
	}
	if used >= max(1, int(r.policy.Calls)) {
		window, used = window+r.policy.Per, 0
	}
	if wait = max(0, window-elapsed); wait > r.policy.MaxWait {
		return 0, false
	}
	if wait > 0 {
		wait += 2 * time.Duration(used) // their order is always the same
	}
	r.window, r.used = window, used+1
	return wait, true
}

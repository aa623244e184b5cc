package resilience

import (
	"math"
	"sync/atomic"
	"time"
)

const (
	lateBy    = 4 // standard deviations above the mean, and at least leastSlow
	lateTime  = 250 * time.Millisecond
	lateHolds = 5 * time.Second
)

// lateness keeps retries away while answers come late: a queue is being built up in a part of the
// upstream, and retries would keep it up. A client with few calls knows it by two answers in a row,
// long before the limiter has a block that is slow. By chance it is rare: by Chebyshev's inequality
// at most one answer in 17 is so late, whatever the latencies are.
//
// Only until is safe for concurrent use.
type lateness struct {
	until atomic.Int64 // no retries until then, ns since epoch

	since          int64   // since when all answers have come late, ns since epoch; 0 = the last one did not
	learned        int64   // when the following were updated, ns since epoch; 0 = they are unknown
	mean, variance float64 // of the latency while answers do not come late, s and s²
}

// see takes the latency of a success, in seconds.
func (l *lateness) see(at int64, latency float64) {
	// Rounding may make the variance of equal latencies negative.
	limit := max(leastSlow.Seconds(), l.mean+lateBy*math.Sqrt(max(0, l.variance)))
	switch {
	case l.learned == 0 || latency <= limit:
		l.since = 0
	case l.since == 0:
		l.since = at
	case at-l.since >= int64(lateTime):
		l.until.Store(at + int64(lateHolds))
	}
}

// learn takes a block of successes. slow reports whether it seems slow, and fails whether attempts
// failed too. In a time of late answers the mean follows slowly, so that it ends if that is how the
// upstream is now. The variance would follow too fast: one late answer weighs as much as many.
func (l *lateness) learn(at int64, b *sample, slow, fails bool) {
	n := float64(b.n)
	if l.learned == 0 {
		l.learned, l.mean = at, b.latency/n
		l.variance = b.squares/n - l.mean*l.mean
		return
	}
	over := float64(usualOver)
	late := slow || at < l.until.Load()
	if late || fails {
		over = float64(adoptOver)
	}
	if late && fails {
		over *= failsOver
	}
	weight := -math.Expm1(-float64(at-l.learned) / over)
	l.learned = at
	if !late {
		l.variance += weight * (b.squares/n - 2*l.mean*b.latency/n + l.mean*l.mean - l.variance)
	}
	l.mean += weight * (b.latency/n - l.mean)
}

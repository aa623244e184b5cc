package resilience

import (
	"math"
	"sync/atomic"
	"time"
)

const (
	lateBy    = 4 // standard deviations above the mean, and at least leastSlow
	lateTimes = 2 // times the mean, at least
	lateTime  = 250 * time.Millisecond
	lateHolds = 5 * time.Second
)

// lateness keeps retries away while answers come late: a queue is being built up in a part of the
// upstream, and retries would keep it up. A client with few calls knows it by two answers in a row,
// long before the limiter has a block that is slow. By chance it is rare: by Cantelli's inequality
// at most one answer in 17 takes so much longer than the mean.
//
// Only until is safe for concurrent use.
type lateness struct {
	until atomic.Int64 // no retries until then, ns since epoch

	since          int64   // since when all answers have come late, ns since epoch; 0 = the last did not
	last           int64   // when the last one came, ns since epoch
	learned        int64   // when the following were updated, ns since epoch; 0 = they are unknown
	mean, variance float64 // of the latency while answers do not come late, s and s²
}

// see takes the latency of a success, in seconds.
func (l *lateness) see(at int64, latency float64) {
	limit := max(leastSlow.Seconds(), lateTimes*l.mean, l.mean+lateBy*math.Sqrt(l.variance))
	switch {
	case l.learned == 0 || latency <= limit:
		l.since = 0
	case l.since == 0 || at-l.last > int64(lateHolds):
		l.since = at
	case at-l.since >= int64(lateTime):
		l.until.Store(at + int64(lateHolds))
	}
	l.last = at
}

// learn takes a block of successes. In a time of late answers the mean follows slowly, so that it
// ends if that is how the upstream is now, and also while attempts fail: then these are the fast
// ones of an upstream in trouble. The variance would follow too fast: one late answer weighs as
// much as many.
func (l *lateness) learn(at int64, b *sample, fails bool) {
	n := float64(b.n)
	mean, square := b.latency/n, b.squares/n
	if l.learned == 0 {
		l.learned, l.mean, l.variance = at, mean, max(0, square-mean*mean) // rounded, it may be negative
		return
	}
	late := at < l.until.Load()
	over := usualOver
	if late || fails {
		over = adoptOver
	}
	weight := follows(at-l.learned, over)
	l.learned = at
	if !late {
		l.variance += weight * (max(0, square-2*l.mean*mean+l.mean*l.mean) - l.variance)
	}
	l.mean += weight * (mean - l.mean)
}

// forget ends a time of late answers that say nothing about the upstream.
func (l *lateness) forget() {
	l.since = 0
	l.until.Store(0)
}

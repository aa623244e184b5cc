package backend

import (
	"math"
	"time"

	"github.com/rebound-dev/rebound/pkg/faults"
)

// Tenth is the resolution at which recovery is measured.
const Tenth = 100 * time.Millisecond

// Tally counts calls, and those of them that succeeded.
type Tally struct{ Offered, OK uint32 }

// RecoveryHolds is how long service must be good to count as recovered.
const RecoveryHolds = 5 * time.Second

// GoodShare is the share of the calls that must end well for good service.
const GoodShare = 0.95

// Recovery returns the time from end until, in each of [RecoveryHolds] seconds in a row, enough of
// the calls that begin end well. tenths counts the calls where they begin.
func Recovery(tenths []Tally, end time.Duration) (time.Duration, bool) {
	const second = int(time.Second / Tenth)
	first := int((end + Tenth - 1) / Tenth)
	good := func(at int) bool {
		var sum Tally
		for _, t := range tenths[at : at+second] {
			sum.Offered += t.Offered
			sum.OK += t.OK
		}
		return float64(sum.OK) >= GoodShare*float64(sum.Offered)
	}
	seconds := int(RecoveryHolds / time.Second)
next:
	for at := first; at+seconds*second <= len(tenths); at++ {
		for i := range seconds {
			if !good(at + i*second) {
				continue next
			}
		}
		return time.Duration(at-first) * Tenth, true
	}
	return 0, false
}

// Histogram counts durations in buckets that grow by 2 %. So a quantile is at most 2 % too high,
// and the size does not depend on the number of durations. It is not safe for concurrent use.
type Histogram struct {
	counts [histogramBuckets]uint32
	total  uint32
}

const (
	histogramFirst   = 10 * time.Microsecond // the upper bound of the first bucket
	histogramGrowth  = 1.02
	histogramBuckets = 1024 // enough for more than an hour
)

// Add counts a duration.
func (h *Histogram) Add(d time.Duration) {
	i := 0
	if d > histogramFirst {
		i = int(math.Log(float64(d)/float64(histogramFirst))/math.Log(histogramGrowth)) + 1
	}
	h.counts[min(i, histogramBuckets-1)]++
	h.total++
}

// Total returns the number of durations.
func (h *Histogram) Total() uint32 { return h.total }

// Quantile returns the upper bound of the bucket with quantile q, or 0 if the histogram is empty.
func (h *Histogram) Quantile(q float64) time.Duration {
	if h.total == 0 {
		return 0
	}
	rank := max(1, uint32(math.Ceil(q*float64(h.total))))
	var seen uint32
	for i, n := range h.counts {
		if seen += n; seen >= rank {
			return time.Duration(float64(histogramFirst) * math.Pow(histogramGrowth, float64(i)))
		}
	}
	return 0
}

// Milliseconds returns d in milliseconds, to the microsecond.
func Milliseconds(d time.Duration) float64 {
	return float64(d.Round(time.Microsecond)) / float64(time.Millisecond)
}

// Mean returns the mean of a latency, or 0 if it is not above 0 or too large. The formulas are
// those of the distributions of [faults.Latency.Sample].
func Mean(l faults.Latency) time.Duration {
	var mean float64
	switch l.Distribution {
	case faults.DistributionFixed:
		mean = float64(l.Value)
	case faults.DistributionUniform:
		mean = (float64(l.Min) + float64(l.Max)) / 2
	case faults.DistributionLognormal:
		sigma := math.Log(float64(l.P99)/float64(l.Median)) / z99
		mean = float64(l.Median) * math.Exp(sigma*sigma/2)
	case faults.DistributionPareto:
		if l.Alpha > 1 {
			mean = float64(l.Min) * l.Alpha / (l.Alpha - 1)
		}
	}
	if !(mean > 0 && mean < float64(Longest)) {
		return 0
	}
	return time.Duration(mean)
}

// z99 is the 99th percentile of the standard normal distribution.
const z99 = 2.3263478740408408

// minCalls is the number of calls that an amplification needs.
const minCalls = 20

// Amplification returns the number of attempts per call of a series of n seconds, and the largest
// number in any second. at returns the calls and the attempts of a second. A second with fewer than
// 20 calls is counted together with the seconds before it.
func Amplification(n int, at func(second int) (calls, attempts float64)) (mean, peak float64) {
	var calls, attempts float64
	for i := range n {
		c, a := at(i)
		calls, attempts = calls+c, attempts+a
	}
	if calls > 0 {
		mean = attempts / calls
	}
	if calls < minCalls {
		return mean, mean
	}
	for end := range n {
		// Go back until there are enough calls.
		var calls, attempts float64
		for i := end; i >= 0 && calls < minCalls; i-- {
			c, a := at(i)
			calls, attempts = calls+c, attempts+a
		}
		if calls >= minCalls {
			peak = max(peak, attempts/calls)
		}
	}
	return mean, peak
}

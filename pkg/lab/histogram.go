package lab

import (
	"math"
	"time"
)

// histogram counts durations in buckets that grow by 2 %. So a quantile is at most 2 % too high,
// and the size does not depend on the number of durations. It is not safe for concurrent use.
type histogram struct {
	counts [histogramBuckets]uint32
	total  uint32
}

const (
	histogramFirst   = 10 * time.Microsecond // the upper bound of the first bucket
	histogramGrowth  = 1.02
	histogramBuckets = 1024 // enough for more than an hour
)

func (h *histogram) add(d time.Duration) {
	i := 0
	if d > histogramFirst {
		i = int(math.Log(float64(d)/float64(histogramFirst))/math.Log(histogramGrowth)) + 1
	}
	h.counts[min(i, histogramBuckets-1)]++
	h.total++
}

// quantile returns the upper bound of the bucket with quantile q, or 0 if the histogram is empty.
func (h *histogram) quantile(q float64) time.Duration {
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

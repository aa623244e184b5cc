package live

import (
	"math/bits"
	"time"
)

// A histogram has eight buckets for each doubling, from 1 µs to 134 s. A quantile is wrong by at
// most an eighth of its value. Longer durations count as 134 s.
const (
	histogramOctaves = 27
	perOctave        = 8
	histogramBuckets = perOctave * histogramOctaves
)

type histogram [histogramBuckets]uint32

func (h *histogram) add(d time.Duration) { h[bucketOf(d)]++ }

func (h *histogram) merge(o *histogram) {
	for i, n := range o {
		h[i] += n
	}
}

func bucketOf(d time.Duration) int {
	us := uint64(max(d/time.Microsecond, 1))
	octave := bits.Len64(us) - 1
	if octave >= histogramOctaves {
		return histogramBuckets - 1
	}
	// The lower part is the three bits below the highest one.
	return perOctave*octave + int(us*perOctave>>octave%perOctave)
}

// bucketBounds returns the bounds of bucket i in µs.
func bucketBounds(i int) (from, to float64) {
	width := float64(uint64(1)<<(i/perOctave)) / perOctave
	from = width * float64(perOctave+i%perOctave)
	return from, from + width
}

// quantile returns the duration that a share q of all durations, from 0 to 1, does not exceed. It
// returns 0 for an empty histogram.
func (h *histogram) quantile(q float64) time.Duration {
	var all float64
	for _, n := range h {
		all += float64(n)
	}
	if all == 0 {
		return 0
	}
	rank := q * all
	for i, n := range h {
		if n == 0 {
			continue
		}
		if rank <= float64(n) {
			from, to := bucketBounds(i)
			return time.Duration((from + (to-from)*rank/float64(n)) * float64(time.Microsecond))
		}
		rank -= float64(n)
	}
	_, to := bucketBounds(histogramBuckets - 1)
	return time.Duration(to * float64(time.Microsecond))
}

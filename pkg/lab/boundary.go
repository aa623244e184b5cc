package lab

import (
	"context"
	"slices"
	"sync"
	"time"
)

// BoundarySteps is the number of loads that [FindBoundary] tells apart: whole percents of the
// capacity.
const BoundarySteps = 100

// Boundary is the load from which a policy no longer recovers from a disturbance. Loads are whole
// percents of the capacity.
type Boundary struct {
	// Percent is the median of the seeds. At 100 the policy recovered at every load that was
	// tried, up to 99.
	Percent int `json:"percent"`
	// Low and High are the lowest and the highest of the seeds.
	Low  int `json:"low"`
	High int `json:"high"`
	// BySeed has the boundary of each seed, from seed 1 on.
	BySeed []int `json:"bySeed"`
}

// FindBoundary finds the boundary by bisection, once for each of the seeds 1 to seeds; there must
// be at least one. recovers reports whether the policy recovers at a load with a seed; it is called
// for several seeds at the same time. If a policy recovers at a load and not at a lower one, the
// result is one of the loads where that changes. The error is the first of recovers, or the cause
// of ctx.
func FindBoundary(ctx context.Context, seeds int, recovers func(ctx context.Context, percent int, seed uint64) (bool, error)) (Boundary, error) {
	b := Boundary{BySeed: make([]int, seeds)}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var all sync.WaitGroup
	for i := range seeds {
		all.Go(func() {
			var err error
			if b.BySeed[i], err = bisect(ctx, func(percent int) (bool, error) { return recovers(ctx, percent, uint64(i)+1) }); err != nil {
				cancel(err)
			}
		})
	}
	all.Wait()
	if err := context.Cause(ctx); err != nil {
		return Boundary{}, err
	}
	sorted := slices.Sorted(slices.Values(b.BySeed))
	b.Percent, b.Low, b.High = sorted[len(sorted)/2], sorted[0], sorted[len(sorted)-1]
	return b, nil
}

// bisect returns the lowest load found at which ok is false, or BoundarySteps.
func bisect(ctx context.Context, ok func(percent int) (bool, error)) (int, error) {
	low, high := 0, BoundarySteps // without calls all is well, and no policy serves more than all
	for high-low > 1 {
		if ctx.Err() != nil {
			return 0, context.Cause(ctx)
		}
		middle := (low + high) / 2
		good, err := ok(middle)
		if err != nil {
			return 0, err
		}
		if good {
			low = middle
		} else {
			high = middle
		}
	}
	return high, nil
}

// BoundaryTail is how long a policy has to recover.
const BoundaryTail = time.Minute

// ForBoundary returns s with less time before its disturbance, and with [BoundaryTail] after it.
func (s Scenario) ForBoundary() Scenario {
	s = s.sooner(BoundaryTail)
	s.Length = s.Disturbance.End() + BoundaryTail
	return s
}

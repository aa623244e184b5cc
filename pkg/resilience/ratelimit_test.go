package resilience_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rebound-dev/rebound/pkg/resilience"
)

// rated returns a pipeline with a rate limit, and a function that makes a call and reports whether
// it was served.
func rated(t *testing.T, limit resilience.RateLimitPolicy) (served func() bool) {
	t.Helper()
	p := limited(resilience.ConcurrencyPolicy{})
	p.RateLimit = limit
	pl := pipeline(t, p, resilience.Options{})
	return func() bool {
		_, report, err := pl.Do(t.Context(), answers("ok"))
		if err != nil && report.Reason != resilience.ReasonRateLimited {
			t.Fatalf("got error %v, want a refusal by the rate limit", err)
		}
		return err == nil
	}
}

// Over ten seconds the rate limit serves as many calls as it has tokens, whether they come evenly
// or many at once. A whole burst may begin at the start.
func TestRateLimitIsExact(t *testing.T) {
	const length = 10 * time.Second
	for _, rate := range []int{1, 10, 1000, 10000} {
		limit := resilience.RateLimitPolicy{PerSecond: float64(rate), Burst: max(1, rate/5)}
		for name, arrivals := range map[string]struct {
			each  time.Duration
			calls int // at once
		}{
			"steady": {time.Second / time.Duration(2*rate), 1},
			"bursty": {100 * time.Millisecond, max(5, rate/2)}, // five times the rate
		} {
			t.Run(fmt.Sprintf("%d a second, %s", rate, name), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					served := rated(t, limit)
					atOnce, n := 0, 0
					for served() {
						atOnce++
					}
					for start := time.Now(); time.Since(start) < length; {
						time.Sleep(arrivals.each)
						for range arrivals.calls {
							if served() {
								n++
							}
						}
					}
					if atOnce != limit.Burst {
						t.Errorf("%d calls served at once, want the burst of %d", atOnce, limit.Burst)
					}
					want := limit.PerSecond*length.Seconds() + float64(limit.Burst)
					if got := float64(atOnce + n); math.Abs(got-want) > want/100 {
						t.Errorf("%v calls served in %v, want %v ± 1 %%", got, length, want)
					}
				})
			})
		}
	}
}

// Tokens go to those who come first. Bursts of one caller do not starve a steady one. If both make
// too many calls, each is served in proportion to its own.
func TestRateLimitIsFair(t *testing.T) {
	const length = 100 * time.Second
	limit := resilience.RateLimitPolicy{PerSecond: 100, Burst: 20}
	for name, tc := range map[string]struct {
		steady, other float64 // calls a second
		atOnce        int     // of the other
		want          float64 // the steady caller's share of served calls, of all its own
		within        float64
	}{
		"beside bursts of 200 calls":            {steady: 80, other: 200, atOnce: 200, want: 0.99, within: 0.01},
		"beside bursts of 20 calls":             {steady: 80, other: 200, atOnce: 20, want: 0.86, within: 0.02},
		"beside one that comes as often":        {steady: 100, other: 100, atOnce: 1, want: 0.5, within: 0.02},
		"beside one that comes thrice as often": {steady: 50, other: 150, atOnce: 1, want: 0.5, within: 0.02},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				served := rated(t, limit)
				rng := rand.New(rand.NewPCG(1, 2))
				var made, well [2]float64
				next := [2]time.Duration{}
				start := time.Now()
				for time.Since(start) < length {
					who, calls, mean := 0, 1, 1/tc.steady
					if next[1] < next[0] {
						who, calls, mean = 1, tc.atOnce, float64(tc.atOnce)/tc.other
					}
					time.Sleep(time.Until(start.Add(next[who])))
					for range calls {
						made[who]++
						if served() {
							well[who]++
						}
					}
					next[who] += time.Duration(mean * rng.ExpFloat64() * float64(time.Second))
				}
				if got := well[0] / made[0]; math.Abs(got-tc.want) > tc.within {
					t.Errorf("%.3f of the steady caller's calls are served, want %v ± %v; of the other's %.3f", got, tc.want, tc.within, well[1]/made[1])
				}
			})
		})
	}
}

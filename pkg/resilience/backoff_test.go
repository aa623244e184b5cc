package resilience_test

import (
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/rebound-dev/rebound/pkg/resilience"
)

func TestBackoffFollowsItsFormula(t *testing.T) {
	const ms = time.Millisecond
	base := resilience.Backoff{Base: 100 * ms, Max: time.Second, Factor: 2}
	for name, tc := range map[string]struct {
		jitter   resilience.Jitter
		n        int
		previous time.Duration
		u        float64
		want     time.Duration
	}{
		"none, first":                          {resilience.JitterNone, 1, 0, 0.9, 100 * ms},
		"none, third":                          {resilience.JitterNone, 3, 0, 0.9, 400 * ms},
		"none, capped":                         {resilience.JitterNone, 9, 0, 0.9, time.Second},
		"full, lowest":                         {resilience.JitterFull, 3, 0, 0, 0},
		"full, middle":                         {resilience.JitterFull, 3, 0, 0.5, 200 * ms},
		"full, capped before the draw":         {resilience.JitterFull, 9, 0, 0.5, 500 * ms},
		"equal, lowest":                        {resilience.JitterEqual, 2, 0, 0, 100 * ms},
		"equal, middle":                        {resilience.JitterEqual, 2, 0, 0.5, 150 * ms},
		"decorrelated, first":                  {resilience.JitterDecorrelated, 1, 0, 0.5, 200 * ms},
		"decorrelated, from the previous wait": {resilience.JitterDecorrelated, 2, 300 * ms, 0.5, 500 * ms},
		"decorrelated, capped":                 {resilience.JitterDecorrelated, 3, 900 * ms, 0.9, time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			b := base
			b.Jitter = tc.jitter
			if got := b.Delay(tc.n, tc.previous, tc.u); got != tc.want {
				t.Errorf("Delay(%d, %v, %v) = %v, want %v", tc.n, tc.previous, tc.u, got, tc.want)
			}
		})
	}
}

// Other libraries apply the jitter after the cap, or overflow at a high attempt number and then
// retry at once.
func TestBackoffIsNeverAboveMaxNorNegative(t *testing.T) {
	for _, jitter := range []resilience.Jitter{
		resilience.JitterFull, resilience.JitterEqual, resilience.JitterDecorrelated, resilience.JitterNone,
	} {
		for _, limit := range []time.Duration{0, 1, time.Second, time.Hour, math.MaxInt64} {
			for _, n := range []int{1, 2, 10, 63, 64, 1000, math.MaxInt32} {
				for _, u := range []float64{0, 0.5, math.Nextafter(1, 0)} {
					b := resilience.Backoff{Base: min(limit, time.Second), Max: limit, Factor: 10, Jitter: jitter}
					d := b.Delay(n, limit, u)
					if d < 0 || d > limit {
						t.Errorf("%s: Delay(%d, …, %v) = %v, want 0 to %v", jitter, n, u, d, limit)
					}
					if jitter == resilience.JitterNone && n > 1 && limit >= 10*time.Second && d < time.Second {
						t.Errorf("%s: Delay(%d) = %v, want at least 1s", jitter, n, d)
					}
				}
			}
		}
	}
}

func TestJitterAcceptsItsFourNamesOnly(t *testing.T) {
	for _, name := range []string{"full", "equal", "decorrelated", "none"} {
		var j resilience.Jitter
		if err := j.UnmarshalText([]byte(name)); err != nil || string(j) != name {
			t.Errorf("UnmarshalText(%q) = %q, %v, want %q and no error", name, j, err, name)
		}
	}
	for _, name := range []string{"", "Full", "random"} {
		var j resilience.Jitter
		if err := j.UnmarshalText([]byte(name)); err == nil {
			t.Errorf("UnmarshalText(%q) = nil, want an error", name)
		}
	}
}

func ExampleBackoff_Delay() {
	b := resilience.DefaultPolicy().Retry.Backoff
	fmt.Println(b.Delay(1, 0, 0.5), b.Delay(2, 0, 0.5), b.Delay(9, 0, 0.99))
	// Output: 50ms 100ms 1.98s
}

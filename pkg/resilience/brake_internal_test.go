package resilience

import (
	"math"
	"testing"
	"time"
)

// The least limit is left again when the upstream serves calls as fast as it can, but slower than
// in the time before.
func TestLeastLimitIsLeft(t *testing.T) {
	const usual, latency = 0.02, 1.45 * 0.02 // s: neither fast enough to raise it nor slow enough to lower it
	r := newBrake(0, usual, 0, 300)
	limit := float64(leastBrake)
	for at := time.Duration(0); at < 2*searchesAfter; at += 500 * time.Millisecond {
		b := sample{n: 30, latency: 30 * latency, from: int64(at)}
		limit = r.next(int64(at+400*time.Millisecond), &b, limit, true)
		if limit > leastBrake {
			if at < searchesAfter {
				t.Errorf("the limit was %v after %v, want it raised after %v", limit, at, searchesAfter)
			}
			return
		}
	}
	t.Errorf("the limit was %v for %v, want more", limit, 2*searchesAfter)
}

// Neither rare long calls nor a few calls after a pause make the brake take a long queue for short.
func TestSpreadIsBounded(t *testing.T) {
	for name, c := range map[string]struct {
		latencies []float64 // s
		want      float64
	}{
		"all alike":      {[]float64{0.1, 0.1, 0.1, 0.1}, 0},
		"little varied":  {[]float64{0.1, 0.3}, 0.5},
		"one long call":  {[]float64{0.005, 0.005, 0.005, 0.005, 0.4}, mostSpread},
		"no time at all": {[]float64{0, 0, 0}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			var b sample
			for _, s := range c.latencies {
				b.n++
				b.latency += s
				b.squares += s * s
			}
			if got := b.spread(); !(math.Abs(got-c.want) < 1e-9) { // also if it is no number
				t.Errorf("got %v, want %v", got, c.want)
			}
		})
	}
}

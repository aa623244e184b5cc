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

// A part of a place is one for that part of the time: if others begin as soon as they may, as many
// are in flight on average as the limit says.
func TestPartOfAPlace(t *testing.T) {
	const latency, step, until = 40 * time.Millisecond, 50 * time.Microsecond, 20 * time.Second
	for _, limit := range []float64{2, 2.25, 3.6, 4.5, 9.9} {
		l := newLimiter(ConcurrencyPolicy{}, time.Second)
		l.brake.Store(limit)
		l.latency.Store(int64(latency))
		l.slow.Store(int64(time.Hour))
		// The upstream ends one after the other, and keeps all that are in flight in a queue.
		ends := latency / time.Duration(limit*1000) * 1000
		sum, n := 0.0, 0
		for at := time.Duration(0); at < until; at += step {
			now := l.epoch.Add(at)
			for l.take(now, 1) {
			}
			if at%ends < step && l.inFlight.Load() > 0 {
				l.leave(now, Neutral, latency)
			}
			sum += float64(l.inFlight.Load())
			n++
		}
		if got := sum / float64(n); math.Abs(got-limit) > 0.1 {
			t.Errorf("with a limit of %v %.2f are in flight on average", limit, got)
		}
	}
}

// Nothing wakes an attempt that waits for a part of a place. So where attempts may wait there is no
// such part, which one that comes later, of a lower class, could take.
func TestNoPartOfAPlaceOvertakesTheQueue(t *testing.T) {
	for queue, want := range map[int]bool{0: true, 1: false} {
		l := newLimiter(ConcurrencyPolicy{Queue: queue, MaxWait: time.Duration(queue) * time.Second}, time.Second)
		l.brake.Store(2.8)
		l.latency.Store(int64(40 * time.Millisecond))
		l.slow.Store(int64(time.Hour))
		now := l.epoch.Add(time.Second)
		for range 2 {
			if !l.take(now, 1) {
				t.Fatalf("queue %d: no place for two attempts of 2.8", queue)
			}
		}
		if got := l.take(now.Add(time.Second), 1); got != want {
			t.Errorf("queue %d: a third attempt a second later has a place: %v, want %v", queue, got, want)
		}
	}
}

// A search that finds the same latency without a queue as before ends at the limit of before: calls
// are refused only while it takes.
func TestSearchThatFindsNothingNew(t *testing.T) {
	const usual, served, high = 0.02, 100.0, 3.0 // s, a second, places
	r := newBrake(0, usual, 0, 300)
	limit, lowest := high, high
	for at := time.Duration(0); at < 2*searchesAfter; at += 500 * time.Millisecond {
		latency := max(usual, normalShare*limit/served) // by Little's law
		b := sample{n: 50, latency: 50 * latency, from: int64(at)}
		before := limit
		limit = r.next(int64(at+400*time.Millisecond), &b, limit, true)
		lowest = min(lowest, limit)
		if limit > before && limit != high {
			t.Errorf("after %v the limit went up to %v, want %v", at, limit, high)
		}
	}
	if lowest == high || limit != high {
		t.Errorf("the limit was at least %v and %v at last, want a search that ends at %v", lowest, limit, high)
	}
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

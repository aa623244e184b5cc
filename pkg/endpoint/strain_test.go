package endpoint_test

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rebound-dev/rebound/pkg/endpoint"
	"github.com/rebound-dev/rebound/pkg/resilience"
)

// meanwhile makes n calls, one every gap, without waiting for their answers. It returns the number
// of attempts by endpoint.
func (w *world) meanwhile(n int, gap time.Duration) map[string]int {
	w.t.Helper()
	return w.meanwhileAs(endpoint.Call{Repeatable: true}, n, gap)
}

// meanwhileAs is meanwhile for calls like c.
func (w *world) meanwhileAs(c endpoint.Call, n int, gap time.Duration) map[string]int {
	w.t.Helper()
	var mu sync.Mutex
	counts := map[string]int{}
	var all sync.WaitGroup
	for range n {
		all.Go(func() {
			call := endpoint.Call{Repeatable: c.Repeatable}
			address, _, _ := w.attempt(&call)
			mu.Lock()
			defer mu.Unlock()
			counts[address]++
		})
		time.Sleep(gap)
	}
	all.Wait()
	return counts
}

// While the endpoints that work answer so late that attempts would soon time out, those that fail
// get their share, ejected or not: they shed the load that the others cannot serve.
func TestFailingEndpointsRelieveTheOthers(t *testing.T) {
	const quick, slow = 10 * time.Millisecond, 600 * time.Millisecond // attempts have a second
	for title, tc := range map[string]struct {
		before, later [3]time.Duration // the latencies until some fail, and from then on
		failing       int              // the first ones
		gap           time.Duration    // between two calls
		least, most   int              // of 600 attempts, at the failing ones
	}{
		"one fails, the others are overloaded": {[3]time.Duration{quick, quick, quick}, [3]time.Duration{0, slow, slow}, 1, pace, 150, 250},
		"two fail, the other is overloaded":    {[3]time.Duration{quick, quick, quick}, [3]time.Duration{0, 0, slow}, 2, 500 * time.Millisecond, 300, 460},
		"one fails, the others are quick":      {[3]time.Duration{quick, quick, quick}, [3]time.Duration{0, quick, quick}, 1, pace, 0, 10},
		"two fail, the other is quick":         {[3]time.Duration{quick, quick, quick}, [3]time.Duration{0, 0, quick}, 2, pace, 0, 20},
		"one fails, another is slow":           {[3]time.Duration{quick, quick, quick}, [3]time.Duration{0, slow, quick}, 1, pace, 0, 20},
		"one fails, all are slow as usual":     {[3]time.Duration{slow, slow, slow}, [3]time.Duration{0, slow, slow}, 1, pace, 0, 10},
		"one fails, the others are slower":     {[3]time.Duration{quick, quick, quick}, [3]time.Duration{0, 300 * time.Millisecond, 300 * time.Millisecond}, 1, pace, 0, 40},
	} {
		t.Run(title, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, 3, nil)
				for i, latency := range tc.before {
					w.answer(i+1, answer{latency: latency})
				}
				w.meanwhile(300, pace)
				for i, latency := range tc.later {
					a := answer{latency: latency}
					if i < tc.failing {
						a.status = 503
					}
					w.answer(i+1, a)
				}
				w.meanwhile(600, tc.gap) // until it is known
				counts := w.meanwhile(600, tc.gap)
				got := 0
				for i := range tc.failing {
					got += counts[name(i+1)]
				}
				if got < tc.least || got > tc.most {
					t.Errorf("%d of 600 attempts at those that fail, want %d to %d: %v", got, tc.least, tc.most, counts)
				}
			})
		})
	}
}

// overloaded returns a world of three endpoints, of which the first fails and the others have been
// overloaded for a while.
func overloaded(t *testing.T) *world {
	t.Helper()
	w := newWorld(t, 3, nil)
	for n := 1; n <= 3; n++ {
		w.answer(n, answer{latency: 10 * time.Millisecond})
	}
	w.meanwhile(300, pace)
	w.answer(1, answer{status: 503})
	w.answer(2, answer{latency: 600 * time.Millisecond})
	w.answer(3, answer{latency: 600 * time.Millisecond})
	w.meanwhile(600, pace)
	return w
}

// A call that cannot be repeated does not pay for the others' overload: it goes to an endpoint that
// works.
func TestOnlyRepeatableCallsRelieve(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := overloaded(t)
		if got := w.meanwhile(600, pace)[name(1)]; got < 100 {
			t.Errorf("%d of 600 repeatable attempts at the one that fails, want at least 100", got)
		}
		if got := w.meanwhileAs(endpoint.Call{}, 600, pace)[name(1)]; got > 10 {
			t.Errorf("%d of 600 other attempts at the one that fails, want at most 10, its probes", got)
		}
	})
}

// Nobody knows whether an overload goes on during a pause. The first calls after it go to the
// endpoints that work.
func TestOverloadEndsInAPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := overloaded(t)
		time.Sleep(time.Hour)
		if got := w.meanwhile(100, 0)[name(1)]; got > 5 {
			t.Errorf("%d of 100 attempts at the one that fails, want at most 5, its probes", got)
		}
	})
}

// An endpoint that has been ejected for long is probed soon while the others answer late, because
// it is needed. Otherwise it waits for the end of its period.
func TestEndpointThatIsNeededIsProbedSooner(t *testing.T) {
	for title, tc := range map[string]struct {
		latency time.Duration // of the others
		back    bool
	}{
		"the others answer late":     {40 * time.Millisecond, true},
		"the others answer as usual": {10 * time.Millisecond, false},
	} {
		t.Run(title, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, 3, nil)
				for n := 1; n <= 3; n++ {
					w.answer(n, answer{latency: 10 * time.Millisecond})
				}
				w.meanwhile(300, pace)
				w.eject(1)
				w.meanwhile(1200, pace) // 24 s: the period is 16 s by now
				for w.set.State()[0].Circuit != resilience.Open {
					w.meanwhile(1, pace)
				}
				w.answer(1, answer{latency: 10 * time.Millisecond})
				w.answer(2, answer{latency: tc.latency})
				w.answer(3, answer{latency: tc.latency})
				w.meanwhile(250, pace) // 5 s
				if back := !w.set.State()[0].Ejected; back != tc.back {
					t.Errorf("the endpoint is back after five seconds: %v, want %v", back, tc.back)
				}
			})
		})
	}
}

package resilience_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rebound-dev/rebound/pkg/resilience"
)

// refusal returns the error of a call that a limit must refuse.
func refusal(t *testing.T, pl *resilience.Pipeline[string], want resilience.Reason) *resilience.Error {
	t.Helper()
	_, _, err := pl.Do(t.Context(), answers("ok"))
	var e *resilience.Error
	if !errors.As(err, &e) || !e.Refused || e.Reason != want || e.RetryIn <= 0 {
		t.Fatalf("got error %#v, want a refusal with reason %s and a time to wait", err, want)
	}
	return e
}

// Callers that the rate limit refuses at the same moment are told to come back one after the other,
// as tokens come. Each is served when it does, also below one call a second. Later ones are refused
// with the last of these times, so callers that do not wait push it no further.
func TestRefusedCallersAreToldTheirTurn(t *testing.T) {
	const callers = 32
	for _, limit := range []resilience.RateLimitPolicy{
		{PerSecond: 0.01, Burst: 1}, {PerSecond: 0.3, Burst: 1}, {PerSecond: 0.7, Burst: 5}, {PerSecond: 1, Burst: 1},
		{PerSecond: 7, Burst: 3}, {PerSecond: 100, Burst: 20}, {PerSecond: 9999, Burst: 1},
	} {
		t.Run(fmt.Sprintf("%v a second, burst %d", limit.PerSecond, limit.Burst), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := limited(resilience.ConcurrencyPolicy{})
				p.RateLimit = limit
				pl := pipeline(t, p, resilience.Options{})
				for range 2 { // the second time, half of them have come back
					for {
						if _, _, err := pl.Do(t.Context(), answers("ok")); err != nil {
							break
						}
					}
					time.Sleep(time.Hour) // a full bucket, and no one is waited for
					for range limit.Burst {
						if _, _, err := pl.Do(t.Context(), answers("ok")); err != nil {
							t.Fatalf("within the burst: %v", err)
						}
					}
					var waits []time.Duration
					for range callers {
						waits = append(waits, refusal(t, pl, resilience.ReasonRateLimited).RetryIn)
					}
					if first := time.Duration(float64(time.Second)/limit.PerSecond) + 2; waits[0] > first {
						t.Errorf("the first is told to wait %v, want at most %v", waits[0], first)
					}
					for range 1000 {
						if got := refusal(t, pl, resilience.ReasonRateLimited).RetryIn; got > waits[callers-1] {
							t.Fatalf("told to wait %v, want at most the %v of number %d", got, waits[callers-1], callers)
						}
					}
					slices.Sort(waits)
					start := time.Now()
					for i, wait := range waits {
						time.Sleep(time.Until(start.Add(wait)))
						if _, _, err := pl.Do(t.Context(), answers("ok")); err != nil {
							t.Fatalf("caller %d after the %v that it was told: %v", i+1, wait, err)
						}
					}
				}
			})
		})
	}
}

// A caller that the concurrency limit refuses is told to wait until the attempts in flight usually
// end. If they take longer, it is told when their time is over, and then it is served.
func TestAdviceOfTheConcurrencyLimit(t *testing.T) {
	const limit = 30 * time.Second // the attempt timeout
	for name, tc := range map[string]struct {
		usual  time.Duration   // how long attempts took before; 0 = there were none
		takes  time.Duration   // how long those in flight take
		after  time.Duration   // the caller comes so long after they began
		advice []time.Duration // it is told so, and refused each time but the last
	}{
		"quick attempts":           {usual: 20 * time.Millisecond, takes: 20 * time.Millisecond, after: time.Millisecond, advice: []time.Duration{time.Second}},
		"attempts of four seconds": {usual: 4 * time.Second, takes: 4 * time.Second, after: time.Second, advice: []time.Duration{5 * time.Second}},
		"near their end":           {usual: 4 * time.Second, takes: 5 * time.Second, after: 4 * time.Second, advice: []time.Duration{2 * time.Second}},
		"they hang":                {usual: 20 * time.Millisecond, takes: time.Hour, after: time.Millisecond, advice: []time.Duration{time.Second, 29*time.Second - time.Millisecond}},
		"all at once, they hang":   {usual: 20 * time.Millisecond, takes: time.Hour, after: 20 * time.Second, advice: []time.Duration{10 * time.Second}},
		"nothing is known":         {takes: 20 * time.Second, after: time.Second, advice: []time.Duration{4625 * time.Millisecond, 24375 * time.Millisecond}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := limited(resilience.ConcurrencyPolicy{Max: 10})
				p.Timeout, p.AttemptTimeout = 2*limit, limit
				pl := pipeline(t, p, resilience.Options{})
				var calls sync.WaitGroup
				defer calls.Wait()
				for range 30 {
					if tc.usual > 0 {
						_, _, _ = pl.Do(t.Context(), taking(tc.usual))
					}
				}
				for range 9 { // what normal calls may use
					calls.Go(func() { _, _, _ = pl.Do(t.Context(), taking(tc.takes)) })
				}
				time.Sleep(tc.after)
				for i, want := range tc.advice {
					got := refusal(t, pl, resilience.ReasonConcurrencyLimit).RetryIn
					if got != want {
						t.Fatalf("refusal %d: told to wait %v, want %v", i+1, got, want)
					}
					time.Sleep(got)
					synctest.Wait()
				}
				if _, _, err := pl.Do(t.Context(), answers("ok")); err != nil {
					t.Errorf("after the %v that it was told: %v", tc.advice[len(tc.advice)-1], err)
				}
			})
		})
	}
}

// An attempt does not wait in the queue if it could not end in time. With a fixed limit too, how
// long attempts take is learned from those before.
func TestQueueKnowsHowLongAttemptsTake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := limited(resilience.ConcurrencyPolicy{Max: 1, Queue: 1, MaxWait: time.Second})
		p.Timeout, p.AttemptTimeout = time.Minute, 30*time.Second
		pl := pipeline(t, p, resilience.Options{})
		for range 30 {
			_, _, _ = pl.Do(t.Context(), taking(20*time.Millisecond))
		}
		var calls sync.WaitGroup
		defer calls.Wait()
		calls.Go(func() { _, _, _ = pl.Do(t.Context(), taking(20*time.Millisecond)) })
		synctest.Wait()
		if _, _, err := pl.DoWithin(context.Background(), time.Second, taking(20*time.Millisecond)); err != nil {
			t.Errorf("a call with a second left, when attempts take 20ms: %v", err)
		}
	})
}

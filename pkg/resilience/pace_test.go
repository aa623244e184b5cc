package resilience_test

import (
	"context"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rebound-dev/rebound/pkg/resilience"
)

// With an adaptive budget the retries are a share of the attempts, however many of them save a
// call. With a burst of its own they are not.
func TestRetriesAreAShareOfTheAttempts(t *testing.T) {
	for name, tc := range map[string]struct {
		fails     float64 // the share of the attempts that fail
		burst     float64
		perCall   float64 // the most attempts a call
		successes float64 // the least share of the calls
	}{
		"as many as they need": {0.2, resilience.AdaptiveBurst, 1.27, 0.985},
		"30 % fail":            {0.3, resilience.AdaptiveBurst, 1.42, 0.965},
		"half of them":         {0.5, resilience.AdaptiveBurst, 1.3, 0.62},
		"70 %":                 {0.7, resilience.AdaptiveBurst, 1.3, 0.36},
		"a burst of its own":   {0.5, 20, 1.8, 0.85},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := resilience.DefaultPolicy()
				p.Retry.Budget.Burst = tc.burst
				chance := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // the same in each run
				var mu sync.Mutex
				random := func() float64 {
					mu.Lock()
					defer mu.Unlock()
					return chance.Float64()
				}
				pl := pipeline(t, p, resilience.Options{Random: random})
				var calls sync.WaitGroup
				const all, from, rate = 4000, 2000, 100
				var attempts, ok int
				for i := range all {
					calls.Go(func() {
						o := &op{}
						o.attempt = func(context.Context, *resilience.Attempt) (string, error) {
							time.Sleep(time.Millisecond)
							if random() < tc.fails {
								return "busy", nil
							}
							return "ok", nil
						}
						got, report, _ := pl.Do(t.Context(), o)
						if i < from {
							return
						}
						mu.Lock()
						defer mu.Unlock()
						attempts += len(report.Attempts)
						if got == "ok" {
							ok++
						}
					})
					time.Sleep(time.Second / rate)
				}
				calls.Wait()
				perCall, successes := float64(attempts)/(all-from), float64(ok)/(all-from)
				if perCall > tc.perCall || successes < tc.successes {
					t.Errorf("%.2f attempts a call, and %.3f of the calls succeed, want at most %v, and at least %v", perCall, successes, tc.perCall, tc.successes)
				}
			})
		})
	}
}

// A retry that does not happen, because its caller leaves during the wait, takes no place of the
// ones that do.
func TestRetryThatDoesNotHappenIsNotPaced(t *testing.T) {
	for name, leaves := range map[string]bool{"all happen": false, "callers leave during the waits": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := resilience.DefaultPolicy()
				p.Breaker.ConsecutiveFailures, p.Breaker.FailureRatio = 0, 0
				p.Retry.MaxAttempts = 2
				pl := pipeline(t, p, resilience.Options{Random: half})
				for range 150 {
					_, _, _ = pl.Do(t.Context(), answers("ok"))
					time.Sleep(time.Second / 10)
				}
				for range 3 {
					if !leaves {
						break
					}
					ctx, cancel := context.WithCancel(t.Context())
					time.AfterFunc(time.Millisecond, cancel)
					_, report, _ := pl.Do(ctx, answers("busy"))
					if report.Reason != resilience.ReasonCallerCanceled || report.Attempts[0].Verdict != resilience.VerdictRetry {
						t.Fatalf("%v, attempts %+v, want a canceled wait", report.Reason, report.Attempts)
					}
				}
				retries := 0
				for range 5 {
					_, report, _ := pl.Do(t.Context(), answers("busy", "ok"))
					retries += len(report.Attempts) - 1
				}
				if want := 3; retries != want { // two that were saved, and a fifth of these attempts
					t.Errorf("%d retries, want %d", retries, want)
				}
			})
		})
	}
}

// An attempt that leaves the queue without a place is no attempt: it makes no place for a retry.
func TestAttemptWithoutAPlaceIsNotPaced(t *testing.T) {
	for name, refused := range map[string]int{"none": 0, "refused in the queue": 50} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := resilience.DefaultPolicy()
				p.Breaker.ConsecutiveFailures, p.Breaker.FailureRatio = 0, 0
				p.Retry.MaxAttempts = 2
				p.Concurrency = resilience.ConcurrencyPolicy{Max: 2, Queue: 100, MaxWait: 10 * time.Millisecond}
				pl := pipeline(t, p, resilience.Options{Random: half})
				for range 600 {
					_, _, _ = pl.Do(t.Context(), answers("ok"))
					time.Sleep(time.Second / 40)
				}
				for range 5 { // spends all retries that are saved
					_, _, _ = pl.Do(t.Context(), answers("busy"))
				}
				var calls sync.WaitGroup
				defer calls.Wait()
				calls.Go(func() { _, _, _ = pl.Do(t.Context(), taking(time.Second)) })
				synctest.Wait()
				for range refused {
					calls.Go(func() {
						if _, report, _ := pl.Do(t.Context(), answers("ok")); report.Reason != resilience.ReasonConcurrencyLimit {
							t.Errorf("reason %s, want concurrency_limit", report.Reason)
						}
					})
				}
				calls.Wait()
				retries := 0
				for range 5 {
					_, report, _ := pl.Do(t.Context(), answers("busy"))
					retries += len(report.Attempts) - 1
				}
				if want := 1; retries != want { // a fifth of these attempts
					t.Errorf("%d retries, want %d", retries, want)
				}
			})
		})
	}
}

// The retries of floorPerSecond come on top of the share.
func TestFloorIsNotPaced(t *testing.T) {
	for name, tc := range map[string]struct {
		floor float64
		want  int
	}{
		"no floor": {0, 1},
		"a floor":  {1, 4},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := resilience.DefaultPolicy()
				p.Breaker.ConsecutiveFailures, p.Breaker.FailureRatio = 0, 0
				p.Retry.MaxAttempts, p.Retry.Budget.FloorPerSecond = 2, tc.floor
				pl := pipeline(t, p, resilience.Options{Random: half})
				for range 600 {
					_, _, _ = pl.Do(t.Context(), answers("ok"))
					time.Sleep(time.Second / 40)
				}
				for { // spends all retries that are saved, but not the tokens
					_, report, _ := pl.Do(t.Context(), answers("busy"))
					if report.Reason != resilience.ReasonBudgetExhausted {
						continue
					}
					if report.BudgetTokens < 2 {
						t.Fatalf("%v tokens are left, want at least 2", report.BudgetTokens)
					}
					break
				}
				retries := 0
				for range 4 {
					time.Sleep(time.Second)
					_, report, _ := pl.Do(t.Context(), answers("busy"))
					retries += len(report.Attempts) - 1
				}
				if retries != tc.want {
					t.Errorf("%d retries, want %d", retries, tc.want)
				}
			})
		})
	}
}

// A reload of the breaker gives a new circuit, not a new client: the retries that are saved, and
// what is known of the traffic, go on.
func TestChangedBreakerGivesNoRetriesAgain(t *testing.T) {
	change := map[string]func(*resilience.Policy){
		"nothing":     func(*resilience.Policy) {},
		"the timeout": func(p *resilience.Policy) { p.Timeout++ },
		"the breaker": func(p *resilience.Policy) { p.Breaker.MaxOpenFor *= 2 },
	}
	for name, change := range change {
		for when, spent := range map[string]bool{"before the failures": false, "after the saved retries": true} {
			t.Run(name+", "+when, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					p := resilience.DefaultPolicy()
					p.Breaker.ConsecutiveFailures, p.Breaker.FailureRatio = 0, 0
					p.Retry.MaxAttempts = 2
					pl := pipeline(t, p, resilience.Options{Random: half})
					for range 150 {
						_, _, _ = pl.Do(t.Context(), answers("ok"))
						time.Sleep(time.Second / 10)
					}
					retries := 0
					fail := func() {
						_, report, _ := pl.Do(t.Context(), answers("busy", "ok"))
						retries += len(report.Attempts) - 1
					}
					if spent {
						fail()
						fail()
					}
					change(&p)
					renewed, err := pl.Renew(p)
					if err != nil {
						t.Error(err)
						return
					}
					pl.Retire(renewed)
					pl = renewed
					for range 5 {
						fail()
					}
					want := 3 // two that were saved, and a fifth of these attempts
					if retries != want {
						t.Errorf("%d retries, want %d", retries, want)
					}
				})
			})
		}
	}
}

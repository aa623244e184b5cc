package resilience_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rebound-dev/rebound/pkg/resilience"
)

// single returns a policy without retries: each call makes one attempt.
func single(change func(*resilience.BreakerPolicy)) resilience.Policy {
	p := resilience.DefaultPolicy()
	p.Retry.MaxAttempts = 1
	p.Breaker.ConsecutiveFailures = 0
	p.Breaker.FailureRatio = 0
	p.Breaker.OpenFor, p.Breaker.MaxOpenFor = time.Second, 2*time.Second
	change(&p.Breaker)
	return p
}

// script makes one call for each letter: o = ok, x = failure, n = neutral.
func script(t *testing.T, pl *resilience.Pipeline[string], letters string) {
	t.Helper()
	for _, letter := range letters {
		o := answers(string(letter))
		o.classify = func(r string, _ error) resilience.Outcome {
			switch r {
			case "o":
				return resilience.Outcome{Reason: resilience.ReasonOK, Health: resilience.Healthy}
			case "n":
				return resilience.Outcome{Reason: "status_404", Health: resilience.Neutral}
			default:
				return resilience.Outcome{Reason: "status_500"}
			}
		}
		_, _, _ = pl.Do(t.Context(), o)
	}
}

func TestBreakerTrips(t *testing.T) {
	ratio := func(b *resilience.BreakerPolicy) { b.FailureRatio, b.MinRequests = 0.5, 4 }
	consecutive := func(b *resilience.BreakerPolicy) { b.ConsecutiveFailures = 3 }
	for name, tc := range map[string]struct {
		policy func(*resilience.BreakerPolicy)
		calls  string
		want   resilience.State
	}{
		"ratio reached":                          {ratio, "ooxx", resilience.Open},
		"ratio not reached":                      {ratio, "oooxx", resilience.Closed},
		"too few calls":                          {ratio, "xxx", resilience.Closed},
		"as many calls as the minimum":           {ratio, "xxxx", resilience.Open},
		"neutral calls do not count":             {ratio, "xxxnnnn", resilience.Closed},
		"consecutive":                            {consecutive, "oooooxxx", resilience.Open},
		"a success between":                      {consecutive, "xxoxx", resilience.Closed},
		"a neutral call between changes nothing": {consecutive, "xxnnx", resilience.Open},
		"both rules off":                         {func(*resilience.BreakerPolicy) {}, "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx", resilience.Closed},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				pl := pipeline(t, single(tc.policy), resilience.Options{})
				script(t, pl, tc.calls)
				if got := pl.Breaker().State; got != tc.want {
					t.Errorf("calls %s: state %v, want %v", tc.calls, got, tc.want)
				}
			})
		})
	}
}

// gobreaker's consecutive count loses the failures of buckets that leave the window, so sparse
// failures in a row would never trip.
func TestSparseFailuresInARowTrip(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pl := pipeline(t, single(func(b *resilience.BreakerPolicy) { b.ConsecutiveFailures = 20 }), resilience.Options{})
		for range 19 {
			script(t, pl, "x")
			time.Sleep(5 * time.Second)
		}
		if s := pl.Breaker(); s.State != resilience.Closed || s.Consecutive != 19 {
			t.Fatalf("after 19 failures: %+v, want closed with 19 consecutive failures", s)
		}
		script(t, pl, "x")
		if got := pl.Breaker().State; got != resilience.Open {
			t.Errorf("state %v after 20 failures in a row, want open", got)
		}
	})
}

func TestOldResultsLeaveTheWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pl := pipeline(t, single(func(b *resilience.BreakerPolicy) { b.FailureRatio, b.MinRequests = 0.5, 4 }), resilience.Options{})
		script(t, pl, "xxx")
		time.Sleep(12 * time.Second)
		if s := pl.Breaker(); s.Failures != 0 {
			t.Errorf("%d failures in an empty window, want 0", s.Failures)
		}
		script(t, pl, "ooox")
		if s := pl.Breaker(); s.State != resilience.Closed || s.Successes != 3 || s.Failures != 1 {
			t.Errorf("%+v, want closed with 3 successes and 1 failure", s)
		}
	})
}

// tripped returns a pipeline whose circuit has just opened for one second.
func tripped(t *testing.T, o resilience.Options, change func(*resilience.BreakerPolicy)) *resilience.Pipeline[string] {
	t.Helper()
	if o.Random == nil {
		o.Random = half
	}
	pl := pipeline(t, single(func(b *resilience.BreakerPolicy) {
		b.ConsecutiveFailures = 1
		if change != nil {
			change(b)
		}
	}), o)
	script(t, pl, "x")
	if got := pl.Breaker().State; got != resilience.Open {
		t.Fatalf("state %v, want open", got)
	}
	return pl
}

func TestOpenCircuitRefusesWithoutAnAttempt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pl := tripped(t, resilience.Options{}, nil)
		time.Sleep(300 * time.Millisecond)
		o := answers("ok")
		_, report, err := pl.Do(t.Context(), o)
		var e *resilience.Error
		if !errors.As(err, &e) || !errors.Is(err, resilience.ErrBreakerOpen) || !e.Refused || e.Reason != resilience.ReasonBreakerOpen || e.RetryIn != 700*time.Millisecond || e.Attempts != 0 {
			t.Errorf("err = %#v, want a refusal by the open circuit and 700ms until its probe", err)
		}
		if len(o.times) != 0 || len(report.Attempts) != 0 || report.Reason != resilience.ReasonBreakerOpen || report.Duration != 0 {
			t.Errorf("%d attempts, report %+v; want none, ended at once with breaker_open", len(o.times), report)
		}
		if want := "calling upstream, no attempt made: breaker_open: the circuit is open"; err.Error() != want {
			t.Errorf("error %q, want %q", err, want)
		}
	})
}

// A circuit that opens during the wait ends the call with its refusal, because the result of the
// previous attempt was discarded.
func TestCircuitThatOpensDuringTheWaitEndsTheCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := steady()
		p.Breaker.ConsecutiveFailures = 2
		p.Retry.Budget.Burst = 10
		pl := pipeline(t, p, resilience.Options{})
		time.AfterFunc(50*time.Millisecond, func() {
			_, _, _ = pl.Do(t.Context(), answers("busy"))
		})
		_, report, err := pl.Do(t.Context(), answers("busy"))
		if !errors.Is(err, resilience.ErrBreakerOpen) || report.Reason != resilience.ReasonBreakerOpen || len(report.Attempts) != 1 {
			t.Errorf("err = %v, reason %s, %d attempts; want ErrBreakerOpen, breaker_open, 1", err, report.Reason, len(report.Attempts))
		}
		if report.Duration != 100*time.Millisecond {
			t.Errorf("ended after %v, want 100ms", report.Duration)
		}
		synctest.Wait()
		if got := pl.BudgetTokens(); got != 10 {
			t.Errorf("%v tokens, want 10, because no retry was made", got)
		}
	})
}

func TestCircuitTurnsHalfOpenOnTimeWithoutTraffic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var seen []resilience.Transition
		start := time.Now()
		pl := tripped(t, resilience.Options{Observer: resilience.Observer{Transition: func(tr resilience.Transition) { seen = append(seen, tr) }}}, nil)
		for range 9 { // reading the state does not change it
			time.Sleep(100 * time.Millisecond)
			if s := pl.Breaker(); s.State != resilience.Open || s.ProbeAt.Sub(start) != time.Second {
				t.Errorf("after %v: %+v, want open with a probe at 1s", time.Since(start), s)
			}
		}
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if len(seen) != 2 || seen[1].To != resilience.HalfOpen || seen[1].At.Sub(start) != time.Second {
			t.Errorf("transitions %+v, want half-open after 1s", seen)
		}
		if seen[0].OpenFor != time.Second || seen[0].Failures != 1 || seen[0].Consecutive != 1 || seen[0].Upstream != "upstream" {
			t.Errorf("first transition %+v, want upstream, open for 1s after 1 failure", seen[0])
		}
	})
}

// gobreaker calls back under its mutex. Reading the breaker from there would deadlock.
func TestObserverMayReadTheBreaker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var pl *resilience.Pipeline[string]
		var states []resilience.State
		pl = pipeline(t, single(func(b *resilience.BreakerPolicy) { b.ConsecutiveFailures = 1 }), resilience.Options{
			Observer: resilience.Observer{Transition: func(tr resilience.Transition) {
				states = append(states, pl.Breaker().State)
				_, _, _ = pl.Do(t.Context(), answers("ok"))
			}},
		})
		script(t, pl, "x")
		if len(states) != 1 || states[0] != resilience.Open {
			t.Errorf("the observer saw %v, want open", states)
		}
	})
}

func TestHalfOpenClosesAfterAsManySuccessesAsProbes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pl := tripped(t, resilience.Options{}, nil)
		time.Sleep(time.Second + 1)
		script(t, pl, "oo")
		if s := pl.Breaker(); s.State != resilience.HalfOpen || s.Successes != 2 {
			t.Fatalf("after 2 of 3 probes: %+v, want half-open with 2 successes", s)
		}
		script(t, pl, "o")
		if got := pl.Breaker().State; got != resilience.Closed {
			t.Errorf("state %v, want closed", got)
		}
	})
}

func TestNeutralProbeFreesItsSlot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pl := tripped(t, resilience.Options{}, nil)
		time.Sleep(time.Second + 1)
		script(t, pl, "nnnnnnnnnnooo")
		if got := pl.Breaker().State; got != resilience.Closed {
			t.Errorf("state %v, want closed", got)
		}
	})
}

func TestOpenPeriodsGrowUpToTheirLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var periods []time.Duration
		pl := tripped(t, resilience.Options{Observer: resilience.Observer{Transition: func(tr resilience.Transition) {
			if tr.To == resilience.Open {
				periods = append(periods, tr.OpenFor)
			}
		}}}, func(b *resilience.BreakerPolicy) { b.MaxOpenFor = 5 * time.Second })
		for range 4 {
			time.Sleep(time.Until(pl.Breaker().ProbeAt) + 1)
			script(t, pl, "x")
		}
		want := []time.Duration{1e9, 2e9, 4e9, 5e9, 5e9}
		for i := range want {
			if len(periods) != len(want) || periods[i] != want[i] {
				t.Fatalf("open periods %v, want %v", periods, want)
			}
		}
		time.Sleep(time.Until(pl.Breaker().ProbeAt) + 1)
		script(t, pl, "ooox")
		if got := periods[len(periods)-1]; got != time.Second {
			t.Errorf("the open period after closing is %v, want 1s", got)
		}
	})
}

func TestOpenPeriodsAreJitteredWithinTheirLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		random := rand.New(rand.NewPCG(1, 2))
		distinct := map[time.Duration]bool{}
		for range 200 {
			var period time.Duration
			tripped(t, resilience.Options{
				Random:   random.Float64,
				Observer: resilience.Observer{Transition: func(tr resilience.Transition) { period = max(period, tr.OpenFor) }},
			}, func(b *resilience.BreakerPolicy) { b.OpenFor, b.MaxOpenFor = time.Second, 1100*time.Millisecond })
			if period < 800*time.Millisecond || period > 1100*time.Millisecond {
				t.Errorf("open for %v, want 0.8s to 1.1s", period)
			}
			distinct[period] = true
		}
		if len(distinct) < 190 {
			t.Errorf("%d of 200 periods are distinct, want at least 190 so that instances do not probe in lockstep", len(distinct))
		}
	})
}

func TestHalfOpenNeverLetsMoreThanProbesThrough(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pl := tripped(t, resilience.Options{}, nil)
		time.Sleep(time.Second + 1)
		var inFlight, most, through, refused atomic.Int32
		slow := func(context.Context, *resilience.Attempt) (string, error) {
			through.Add(1)
			now := inFlight.Add(1)
			for m := most.Load(); now > m && !most.CompareAndSwap(m, now); m = most.Load() {
			}
			time.Sleep(time.Second)
			inFlight.Add(-1)
			return "ok", nil
		}
		var wg sync.WaitGroup
		for range 200 {
			wg.Go(func() {
				if _, r, err := pl.Do(t.Context(), &op{attempt: slow}); errors.Is(err, resilience.ErrBreakerOpen) && r.Reason == resilience.ReasonBreakerHalfOpen {
					refused.Add(1)
				}
			})
		}
		wg.Wait()
		if most.Load() != 3 || through.Load() != 3 || refused.Load() != 197 {
			t.Errorf("%d at once, %d in total, %d refused; want 3, 3, 197", most.Load(), through.Load(), refused.Load())
		}
		if got := pl.Breaker().State; got != resilience.Closed {
			t.Errorf("state %v after 3 good probes, want closed", got)
		}
	})
}

// With gobreaker and failsafe-go a hanging probe keeps the half-open slot forever, and every caller
// is refused.
func TestHungProbeLosesItsSlot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pl := tripped(t, resilience.Options{}, func(b *resilience.BreakerPolicy) { b.Probes = 1 })
		time.Sleep(time.Second + 1)
		release := make(chan struct{})
		var wg sync.WaitGroup
		wg.Go(func() { // an operation that ignores its context
			_, _, _ = pl.Do(context.Background(), &op{attempt: func(context.Context, *resilience.Attempt) (string, error) {
				<-release
				return "ok", nil
			}})
		})
		time.Sleep(1500 * time.Millisecond) // the attempt timeout
		synctest.Wait()
		if got := pl.Breaker().State; got != resilience.Open {
			t.Fatalf("state %v after the lease of the probe, want open", got)
		}
		time.Sleep(2*time.Second + 1)
		if _, _, err := pl.Do(t.Context(), answers("ok")); err != nil {
			t.Errorf("the next probe returned %v, want no error", err)
		}
		close(release)
		wg.Wait()
		if s := pl.Breaker(); s.State != resilience.Closed || s.Successes != 0 {
			t.Errorf("%+v, want closed without the late result", s)
		}
	})
}

func TestHeldProbeIsJudgedByItsAnswerWhenItsLeaseEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pl := tripped(t, resilience.Options{}, func(b *resilience.BreakerPolicy) { b.Probes = 1 })
		time.Sleep(time.Second + 1)
		var held *resilience.Attempt
		_, _, _ = pl.Do(t.Context(), &op{attempt: func(_ context.Context, a *resilience.Attempt) (string, error) {
			a.Hold()
			held = a
			return "ok", nil
		}})
		time.Sleep(1500 * time.Millisecond)
		synctest.Wait()
		if got := pl.Breaker().State; got != resilience.Closed {
			t.Errorf("state %v during a long body, want closed", got)
		}
		held.Release(resilience.Healthy)
	})
}

// In failsafe-go, successes from before the trip closed the circuit. In gobreaker, a late result
// turned an open circuit half-open.
func TestResultsFromBeforeTheTripDoNotCount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pl := pipeline(t, single(func(b *resilience.BreakerPolicy) { b.ConsecutiveFailures = 1 }), resilience.Options{Random: half})
		var wg sync.WaitGroup
		for _, after := range []time.Duration{500 * time.Millisecond, 1200 * time.Millisecond} {
			for range 5 {
				wg.Go(func() {
					_, _, _ = pl.Do(t.Context(), &op{attempt: func(context.Context, *resilience.Attempt) (string, error) {
						time.Sleep(after)
						return "ok", nil
					}})
				})
			}
		}
		synctest.Wait()
		script(t, pl, "x")
		time.Sleep(600 * time.Millisecond)
		if got := pl.Breaker(); got.State != resilience.Open || got.Stale != 5 {
			t.Errorf("after late results while open: %+v, want open with 5 stale results", got)
		}
		wg.Wait()
		if got := pl.Breaker(); got.State != resilience.HalfOpen || got.Successes != 0 || got.Stale != 10 {
			t.Errorf("after late results while half-open: %+v, want half-open with 10 stale results and no success", got)
		}
	})
}

func TestTransitionsArriveInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var seen []resilience.Transition
		pl := pipeline(t, single(func(b *resilience.BreakerPolicy) { b.ConsecutiveFailures, b.Probes = 3, 1 }), resilience.Options{
			Observer: resilience.Observer{Transition: func(tr resilience.Transition) {
				mu.Lock()
				defer mu.Unlock()
				seen = append(seen, tr)
			}},
		})
		var wg sync.WaitGroup
		for i := range 20 {
			wg.Go(func() {
				for j := range 200 {
					script(t, pl, []string{"x", "o"}[(i+j/20)%2])
					time.Sleep(time.Duration(i+1) * 7 * time.Millisecond)
				}
			})
		}
		wg.Wait()
		synctest.Wait() // for transitions by a timer
		if len(seen) < 6 {
			t.Fatalf("%d transitions, want at least 6", len(seen))
		}
		for i := 1; i < len(seen); i++ {
			if seen[i].From != seen[i-1].To || seen[i].At.Before(seen[i-1].At) {
				t.Fatalf("transition %d is %+v, want one that continues %+v", i, seen[i], seen[i-1])
			}
		}
	})
}

// If many attempts fail anyway, failures in a row are chance, and do not open the circuit.
func TestFailuresInARowAreChanceIfManyAttemptsFail(t *testing.T) {
	consecutive := func(b *resilience.BreakerPolicy) { b.ConsecutiveFailures = 12 }
	for name, tc := range map[string]struct {
		before string
		takes  int
	}{
		"after successes":      {strings.Repeat("o", 100), 12},
		"at the start":         {"", 12},
		"after a bad start":    {"xxo", 12},
		"after 25 % failures":  {strings.Repeat("xooo", 50), 12},
		"after half failures":  {strings.Repeat("xo", 100), 21},
		"after 67 % failures":  {strings.Repeat("xxo", 100), 35},
		"after an old failure": {strings.Repeat("x", 11) + strings.Repeat("o", 200), 12},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				pl := pipeline(t, single(consecutive), resilience.Options{})
				script(t, pl, tc.before)
				took := 0
				for ; pl.Breaker().State == resilience.Closed && took < 100; took++ {
					script(t, pl, "x")
				}
				if took != tc.takes {
					t.Errorf("the circuit opened after %d failures in a row, want %d", took, tc.takes)
				}
			})
		})
	}
}

// An upstream that answers some probes serves a part of the calls, which an open circuit refuses.
func TestFailedProbeAfterAGoodOneDecidesNothing(t *testing.T) {
	for name, tc := range map[string]struct {
		probes string
		want   resilience.State
	}{
		"the first one fails": {"x", resilience.Open},
		"one good":            {"oxx", resilience.HalfOpen},
		"three good":          {"oxoxo", resilience.Closed},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				pl := tripped(t, resilience.Options{}, nil)
				time.Sleep(time.Second)
				script(t, pl, tc.probes)
				if got := pl.Breaker().State; got != tc.want {
					t.Errorf("state %v after the probes %s, want %v", got, tc.probes, tc.want)
				}
			})
		})
	}
}

// The counts are those of the window at the moment of reading, and not at the last call.
func TestResultsLeaveTheWindowStepByStep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pl, err := resilience.New[string]("upstream", single(func(b *resilience.BreakerPolicy) { b.Window = 10 * time.Second }), resilience.Options{})
		if err != nil {
			t.Fatal(err)
		}
		script(t, pl, "oox") // in the first step
		time.Sleep(4500 * time.Millisecond)
		script(t, pl, "ox") // in the fifth
		for _, want := range []struct {
			after               time.Duration
			successes, failures int
		}{{0, 3, 2}, {5 * time.Second, 3, 2}, {time.Second, 1, 1}, {3 * time.Second, 1, 1}, {time.Second, 0, 0}} {
			time.Sleep(want.after)
			if s := pl.Breaker(); s.Successes != want.successes || s.Failures != want.failures {
				t.Errorf("%v later: %d successes and %d failures, want %d and %d", want.after, s.Successes, s.Failures, want.successes, want.failures)
			}
		}
	})
}

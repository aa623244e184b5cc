package resilience_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rebound-dev/rebound/pkg/resilience"
)

// The tests in this file show that a healthy upstream stays open to all its callers.

// spread makes calls at random times, rate a second on average, until length is over and all have
// ended. It returns the number of calls by the second in which they began, and how many of those
// were not served.
func spread(pl *resilience.Pipeline[string], rate float64, length time.Duration, next func(at time.Duration, random *rand.Rand) resilience.Operation[string]) (made, refused []int) {
	made, refused = make([]int, int(length.Seconds())+1), make([]int, int(length.Seconds())+1)
	random := rand.New(rand.NewPCG(1, 2))
	var mu sync.Mutex
	var calls sync.WaitGroup
	for start := time.Now(); time.Since(start) < length; {
		at := time.Since(start)
		o := next(at, random)
		calls.Go(func() {
			_, r, _ := pl.Do(context.Background(), o)
			mu.Lock()
			defer mu.Unlock()
			made[int(at.Seconds())]++
			switch r.Reason {
			case resilience.ReasonConcurrencyLimit, resilience.ReasonBreakerOpen, resilience.ReasonBreakerHalfOpen:
				refused[int(at.Seconds())]++
			}
		})
		time.Sleep(time.Duration(random.ExpFloat64() / rate * float64(time.Second)))
	}
	calls.Wait()
	return made, refused
}

func sum(of []int) (n int) {
	for _, v := range of {
		n += v
	}
	return n
}

// always returns operations that take d.
func always(d time.Duration) func(time.Duration, *rand.Rand) resilience.Operation[string] {
	return func(time.Duration, *rand.Rand) resilience.Operation[string] { return taking(d) }
}

// upload is an operation that waits for its caller.
type upload struct{ *op }

func (upload) CallerBusy() bool  { return true }
func (upload) CallerSends() bool { return true }

// Callers that hang up early on a slow route do not open the circuit while other calls succeed.
// Their attempts began before the last success.
func TestCutsSoonAfterASuccessProveNothing(t *testing.T) {
	for _, every := range []time.Duration{200 * time.Millisecond, 700 * time.Millisecond} {
		t.Run(every.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := resilience.DefaultPolicy()
				p.Concurrency.Max = -1
				pl := pipeline(t, p, resilience.Options{})
				stop := time.Now().Add(20 * time.Second)
				var calls sync.WaitGroup
				calls.Go(func() {
					for time.Now().Before(stop) {
						calls.Go(func() {
							_, _, _ = pl.DoWithin(context.Background(), 1400*time.Millisecond, takes(1450*time.Millisecond))
						})
						time.Sleep(5 * time.Millisecond)
					}
				})
				for time.Now().Before(stop) && !t.Failed() {
					if _, r, err := pl.Do(context.Background(), taking(10*time.Millisecond)); err != nil {
						t.Errorf("a patient call: got %s, want it served", r.Reason)
					}
					time.Sleep(every)
				}
				calls.Wait()
			})
		})
	}
}

// Callers with slow uploads or little time, who do not let a probe decide, cannot keep the circuit
// of an upstream that is well again from closing.
func TestCallersCannotHoldTheProbes(t *testing.T) {
	for _, probes := range []int{1, 3} {
		for name, doubtful := range map[string]func(*resilience.Pipeline[string]){
			"slow uploads": func(pl *resilience.Pipeline[string]) {
				_, _, _ = pl.Do(context.Background(), upload{taking(time.Hour)})
			},
			"little time": func(pl *resilience.Pipeline[string]) {
				_, _, _ = pl.DoWithin(context.Background(), 700*time.Millisecond, taking(time.Second))
			},
		} {
			t.Run(fmt.Sprintf("%s, %d probes", name, probes), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					p := resilience.DefaultPolicy()
					p.Breaker.Probes = probes
					pl := pipeline(t, p, resilience.Options{})
					stop := time.Now().Add(30 * time.Second)
					var calls sync.WaitGroup
					calls.Go(func() {
						for time.Now().Before(stop) {
							calls.Go(func() { doubtful(pl) })
							time.Sleep(10 * time.Millisecond)
						}
					})
					for pl.Breaker().State == resilience.Closed && time.Now().Before(stop) {
						_, _, _ = pl.Do(context.Background(), answers("busy"))
						time.Sleep(time.Millisecond)
					}
					began := time.Now()
					random := rand.New(rand.NewPCG(3, 4))
					for pl.Breaker().State != resilience.Closed && time.Now().Before(stop) {
						time.Sleep(time.Duration(random.ExpFloat64() * float64(100*time.Millisecond)))
						_, _, _ = pl.Do(context.Background(), taking(10*time.Millisecond))
					}
					if took := time.Since(began); took > 5*time.Second {
						t.Errorf("ten good calls a second closed the circuit after %v, want at most 5 s", took)
					}
					calls.Wait()
				})
			})
		}
	}
}

// Uploads alone close the circuit, one probe at a time.
func TestUploadsAloneCloseTheCircuit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pl := pipeline(t, resilience.DefaultPolicy(), resilience.Options{})
		for pl.Breaker().State == resilience.Closed {
			_, _, _ = pl.Do(context.Background(), answers("busy"))
		}
		for range 10 {
			time.Sleep(100 * time.Millisecond)
			_, _, _ = pl.Do(context.Background(), upload{taking(10 * time.Millisecond)})
		}
		if s := pl.Breaker().State; s != resilience.Closed {
			t.Errorf("the circuit is %s after 10 good uploads, want closed", s)
		}
	})
}

// An upstream becomes slow for good, and two of five calls fail, as they did before. The limit
// takes that for usual in the end. It used to refuse two thirds of the calls for ever.
func TestSlowForGoodWhileSomeCallsFail(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := resilience.DefaultPolicy()
		p.Retry.MaxAttempts = 1
		pl := pipeline(t, p, resilience.Options{})
		made, refused := spread(pl, 200, 330*time.Second, func(at time.Duration, random *rand.Rand) resilience.Operation[string] {
			d := 20 * time.Millisecond
			if at > 30*time.Second {
				d = 200 * time.Millisecond
			}
			o := taking(d)
			if random.Float64() < 0.4 {
				o.classify = func(string, error) resilience.Outcome {
					return resilience.Outcome{Reason: resilience.StatusReason(500), Health: resilience.Unhealthy}
				}
			}
			return o
		})
		if sum(refused[30:60]) == 0 {
			t.Error("no call was refused at first, so the test shows nothing")
		}
		if late := sum(refused[230:]); late > 0 {
			t.Errorf("%d of %d calls were refused three minutes after the change, want none", late, sum(made[230:]))
		}
	})
}

// A change of the traffic is no trouble of the upstream: after a night of pings come calls that are
// slow by nature.
func TestOtherTrafficIsNoTrouble(t *testing.T) {
	for name, rate := range map[string]float64{"the morning after pings": 1000, "a few slow calls": 100} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				pl := pipeline(t, resilience.DefaultPolicy(), resilience.Options{})
				spread(pl, 2, 300*time.Second, always(time.Millisecond))
				made, refused := spread(pl, rate, 40*time.Second, func(_ time.Duration, random *rand.Rand) resilience.Operation[string] {
					return taking(20*time.Millisecond + time.Duration(random.ExpFloat64()*float64(10*time.Millisecond)))
				})
				if n := sum(refused); n > 0 {
					t.Errorf("%d of %d calls were refused, want none", n, sum(made))
				}
			})
		})
	}
}

// A flood of a route that is slow by nature does not close a fast route of the same upstream.
func TestFloodOfASlowRoute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pl := pipeline(t, resilience.DefaultPolicy(), resilience.Options{})
		spread(pl, 2, 120*time.Second, always(10*time.Millisecond))
		var flood sync.WaitGroup
		flood.Go(func() { spread(pl, 100, 40*time.Second, always(time.Second)) })
		made, refused := spread(pl, 2, 40*time.Second, always(10*time.Millisecond))
		flood.Wait()
		if n := sum(refused); n > 0 {
			t.Errorf("%d of %d calls of the fast route were refused, want none", n, sum(made))
		}
	})
}

// At a cold start nothing is known of the upstream, and its first calls may be slow by nature.
func TestColdStartOfSlowCalls(t *testing.T) {
	for name, tc := range map[string]struct {
		timeout, takes time.Duration
		rate           float64
	}{
		"1 s":     {1500 * time.Millisecond, time.Second, 100},
		"reports": {30 * time.Second, 15 * time.Second, 5},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := resilience.DefaultPolicy()
				p.Timeout, p.AttemptTimeout = 2*tc.timeout, tc.timeout
				made, refused := spread(pipeline(t, p, resilience.Options{}), tc.rate, 30*time.Second, always(tc.takes))
				if n := sum(refused); n > 0 {
					t.Errorf("%d of %d calls were refused, want none", n, sum(made))
				}
			})
		})
	}
}

// retries makes calls whose first attempt fails with a chance. It returns how many were retried,
// and when others lost their retry to the concurrency limit.
func retries(t *testing.T, seed uint64, length, gap time.Duration, failing float64, latency func(at time.Duration, random *rand.Rand) time.Duration) (retried int, lost []time.Duration) {
	t.Helper()
	var mu sync.Mutex
	synctest.Test(t, func(t *testing.T) {
		p := limited(resilience.ConcurrencyPolicy{})
		p.Retry.MaxAttempts = 3
		pl := pipeline(t, p, resilience.Options{})
		random := rand.New(rand.NewPCG(seed, 0))
		var calls sync.WaitGroup
		start := time.Now()
		for at := time.Duration(0); at < length; at = time.Since(start) {
			takes, first := latency(at, random), "ok"
			if random.Float64() < failing {
				first = "busy"
			}
			calls.Go(func() {
				_, report, _ := pl.Do(t.Context(), &op{attempt: func(_ context.Context, a *resilience.Attempt) (string, error) {
					time.Sleep(takes)
					if a.Number() == 1 {
						return first, nil
					}
					return "ok", nil
				}})
				mu.Lock()
				defer mu.Unlock()
				if report.Reason == resilience.ReasonConcurrencyLimit {
					lost = append(lost, at)
				}
				if len(report.Attempts) > 1 {
					retried++
				}
			})
			time.Sleep(gap)
		}
		calls.Wait()
	})
	return retried, lost
}

// Several long calls in a row are chance, not a slow upstream. They cost hardly a call its retry:
// only if all answers of a block were long, as is once in half an hour here.
func TestLongCallsAmongShortOnesCostNoRetries(t *testing.T) {
	retried, lost := 0, 0
	for seed := range uint64(8) {
		n, some := retries(t, seed, 5*time.Minute, 97*time.Millisecond, 0.1, func(_ time.Duration, random *rand.Rand) time.Duration {
			if random.IntN(5) == 0 {
				return 303 * time.Millisecond
			}
			return 5 * time.Millisecond
		})
		retried, lost = retried+n, lost+len(some)
	}
	t.Logf("%d calls were retried, %d lost their retry", retried, lost)
	if retried < 2000 || lost*50 > retried {
		t.Errorf("%d calls were retried, and %d lost their retry, want at least 2000, and at most 2 %% of that", retried, lost)
	}
}

// An upstream that becomes slower for good gets retries again soon, also if a part of its attempts
// fails. One that is hardly slower never loses them.
func TestRetriesReturnToASlowerUpstream(t *testing.T) {
	const change = 20 * time.Second
	for name, c := range map[string]struct {
		before, after, spread time.Duration
		failing               float64
		rate                  int // calls a second
		within                time.Duration
	}{
		"a fifth slower":                       {150, 180, 1, 0.1, 5, 0},
		"just above a tenth of a second":       {95, 105, 1, 0.1, 50, 0},
		"2.5 times as slow":                    {60, 150, 15, 0.1, 20, 30 * time.Second},
		"2.5 times as slow, and failing":       {60, 150, 15, 0.3, 20, time.Minute},
		"ten times as slow":                    {20, 200, 4, 0.1, 20, time.Minute},
		"ten times as slow, with few calls":    {20, 200, 50, 0.1, 2, time.Minute},
		"thirty times as slow, half of it bad": {20, 600, 50, 0.5, 10, 90 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			for seed := range uint64(5) {
				retried, lost := retries(t, seed, 5*time.Minute, time.Second/time.Duration(c.rate), c.failing, func(at time.Duration, random *rand.Rand) time.Duration {
					usual := c.before
					if at > change {
						usual = c.after
					}
					return max(1, usual+time.Duration(random.NormFloat64()*float64(c.spread))) * time.Millisecond
				})
				var last time.Duration // after the change
				for _, at := range lost {
					last = max(last, at-change)
				}
				if retried < 30 || last > c.within {
					t.Errorf("%d calls were retried, and the last one lost its retry %v after the change, want at least 30, and at most %v", retried, last, c.within)
				}
			}
		})
	}
}

// Attempts that the adaptive limit leaves out are in flight all the same.
func TestInFlightCountsUploads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pl := pipeline(t, resilience.DefaultPolicy(), resilience.Options{})
		var calls sync.WaitGroup
		for range 5 {
			calls.Go(func() { _, _, _ = pl.Do(context.Background(), upload{taking(time.Second)}) })
		}
		synctest.Wait()
		if n := pl.Concurrency().InFlight; n != 5 {
			t.Errorf("%d attempts in flight, want 5", n)
		}
		calls.Wait()
		if n := pl.Concurrency().InFlight; n != 0 {
			t.Errorf("%d attempts in flight at the end, want 0", n)
		}
	})
}

// An upstream without processor time pauses, and nobody is to blame. On a cluster such pauses made
// the limit refuse calls.
func TestPausesOfTheUpstream(t *testing.T) {
	const every = 5 * time.Second
	for _, pause := range []time.Duration{60 * time.Millisecond, 100 * time.Millisecond, 200 * time.Millisecond} {
		t.Run(pause.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				made, refused := spread(pipeline(t, resilience.DefaultPolicy(), resilience.Options{}), 1000, 30*time.Second,
					func(at time.Duration, random *rand.Rand) resilience.Operation[string] {
						takes := 5*time.Millisecond + time.Duration(random.ExpFloat64()*float64(5*time.Millisecond))
						if end := (at + takes) % every; at > every && end < pause { // it ends after the pause
							takes += pause - end
						}
						return taking(takes)
					})
				if n := sum(refused); n > 0 {
					t.Errorf("%d of %d calls were refused, want none", n, sum(made))
				}
			})
		})
	}
}

// After a pause of the callers comes a burst, whose first answers take longer than usual, such as
// for new connections. The pause is no silence of the upstream.
func TestBurstAfterAPause(t *testing.T) {
	for name, c := range map[string]struct {
		takes    time.Duration
		slowCall bool // one is in flight all the time
	}{
		"alone":              {95 * time.Millisecond, false},
		"beside a slow call": {95 * time.Millisecond, true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				pl := pipeline(t, resilience.DefaultPolicy(), resilience.Options{})
				spread(pl, 300, 6*time.Second, always(20*time.Millisecond))
				var calls sync.WaitGroup
				if c.slowCall {
					calls.Go(func() { _, _, _ = pl.Do(context.Background(), taking(1400*time.Millisecond)) })
				}
				time.Sleep(time.Second)
				_, refused := spread(pl, 1000, 200*time.Millisecond, always(c.takes))
				calls.Wait()
				if n := sum(refused); n > 0 {
					t.Errorf("%d calls of the burst were refused, want none", n)
				}
			})
		})
	}
}

// A machine has too little processor time. All calls take twenty times as long as usual, but no
// longer than people notice, and callers that wait for each other call together.
func TestBusyMachineIsNoTrouble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pl := pipeline(t, resilience.DefaultPolicy(), resilience.Options{})
		const callers, every = 20, 200 * time.Millisecond
		start := time.Now()
		var refused atomic.Int64
		var calls sync.WaitGroup
		for time.Since(start) < 10*time.Second {
			takes := 3 * time.Millisecond
			if time.Since(start) > 5*time.Second {
				takes = 60 * time.Millisecond
			}
			for i := range callers {
				calls.Go(func() {
					time.Sleep(time.Duration(i) * time.Millisecond)
					if _, r, _ := pl.Do(context.Background(), taking(takes)); r.Reason != resilience.ReasonOK {
						refused.Add(1)
					}
				})
			}
			time.Sleep(every)
		}
		calls.Wait()
		if n := refused.Load(); n > 0 {
			t.Errorf("%d calls were refused, want none", n)
		}
	})
}

// An upstream has little capacity left for a minute: two calls at a time, 0.8 s each. A limit that
// was found meanwhile must not stay when the upstream is well again.
func TestLimitOfASlowUpstreamEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const slow, well, length = 5 * time.Second, 65 * time.Second, 80 * time.Second
		workers := make(chan struct{}, 2)
		pl := pipeline(t, resilience.DefaultPolicy(), resilience.Options{})
		made, refused := spread(pl, 200, length, func(at time.Duration, _ *rand.Rand) resilience.Operation[string] {
			if at < slow || at > well {
				return taking(20 * time.Millisecond)
			}
			return &op{attempt: func(ctx context.Context, _ *resilience.Attempt) (string, error) {
				select {
				case workers <- struct{}{}:
				case <-ctx.Done():
					return "", context.Cause(ctx)
				}
				defer func() { <-workers }()
				select {
				case <-time.After(800 * time.Millisecond):
					return "ok", nil
				case <-ctx.Done():
					return "", context.Cause(ctx)
				}
			}}
		})
		during, after := sum(refused[10:60]), sum(refused[70:])
		if during == 0 || after > 0 {
			t.Errorf("%d of %d calls were refused while the upstream was slow, and %d of %d from 5 s after that on, want some and none",
				during, sum(made[10:60]), after, sum(made[70:]))
		}
	})
}

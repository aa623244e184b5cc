package resilience_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rebound-dev/rebound/pkg/resilience"
)

// limited returns a policy with one attempt, without a circuit, and with a concurrency limit.
func limited(c resilience.ConcurrencyPolicy) resilience.Policy {
	p := steady()
	p.Timeout, p.AttemptTimeout = 10*time.Second, 1500*time.Millisecond
	p.Retry.MaxAttempts = 1
	p.Breaker.FailureRatio, p.Breaker.ConsecutiveFailures = 0, 0
	p.Concurrency = c
	return p
}

// classed is an operation with a priority.
type classed struct {
	*op
	priority resilience.Priority
}

func (c classed) Priority() resilience.Priority { return c.priority }

// taking returns an operation whose attempt takes a time, and succeeds unless it is cut.
func taking(d time.Duration) *op {
	return &op{attempt: func(ctx context.Context, _ *resilience.Attempt) (string, error) {
		select {
		case <-time.After(d):
			return "ok", nil
		case <-ctx.Done():
			return "", context.Cause(ctx)
		}
	}}
}

func TestConcurrencyLimitRefuses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pl := pipeline(t, limited(resilience.ConcurrencyPolicy{Max: 10}), resilience.Options{})
		var calls sync.WaitGroup
		begin := func(n int, p resilience.Priority) (refused int) {
			var mu sync.Mutex
			for range n {
				calls.Go(func() {
					_, report, err := pl.Do(t.Context(), classed{taking(time.Second), p})
					if err == nil {
						return
					}
					var e *resilience.Error
					if !errors.As(err, &e) || !e.Refused || e.Reason != resilience.ReasonConcurrencyLimit || e.RetryIn != time.Second || len(report.Attempts) > 0 {
						t.Errorf("got error %#v, report %+v, want a refusal without an attempt", err, report)
					}
					mu.Lock()
					refused++
					mu.Unlock()
				})
			}
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			return refused
		}
		// Seven places for sheddable calls, nine for normal ones, ten for critical ones.
		if got := begin(8, resilience.PrioritySheddable); got != 1 {
			t.Errorf("%d of 8 sheddable calls refused, want 1", got)
		}
		if got := begin(3, resilience.PriorityNormal); got != 1 {
			t.Errorf("%d of 3 normal calls refused, want 1", got)
		}
		if got := begin(2, resilience.PriorityCritical); got != 1 {
			t.Errorf("%d of 2 critical calls refused, want 1", got)
		}
		if got, want := pl.Concurrency(), (resilience.ConcurrencySnapshot{InFlight: 10, Limit: 10}); got != want {
			t.Errorf("got %+v, want %+v", got, want)
		}
		calls.Wait()
		if got := pl.Concurrency().InFlight; got != 0 {
			t.Errorf("%d attempts in flight after the calls, want none", got)
		}
	})
}

// A queue gives free places to critical calls first, and to each class in order. A call that could
// not end in time does not wait, and one whose caller leaves frees its place in the queue.
func TestConcurrencyQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pl := pipeline(t, limited(resilience.ConcurrencyPolicy{Max: 1, Queue: 4, MaxWait: 5 * time.Second}), resilience.Options{})
		var mu sync.Mutex
		var ended []string
		var calls sync.WaitGroup
		start := time.Now()
		begin := func(ctx context.Context, name string, p resilience.Priority, limit time.Duration) {
			calls.Go(func() {
				_, report, err := pl.DoWithin(ctx, limit, classed{taking(time.Second), p})
				mu.Lock()
				defer mu.Unlock()
				if err != nil {
					name += " " + string(report.Reason)
				}
				ended = append(ended, fmt.Sprintf("%s after %v", name, time.Since(start)))
			})
			synctest.Wait()
		}
		leaving, leave := context.WithCancel(t.Context())
		begin(t.Context(), "first", resilience.PriorityNormal, time.Minute)
		begin(t.Context(), "sheddable", resilience.PrioritySheddable, time.Minute)
		begin(leaving, "leaves", resilience.PriorityCritical, time.Minute)
		begin(t.Context(), "normal", resilience.PriorityNormal, time.Minute)
		begin(t.Context(), "hurried", resilience.PriorityCritical, 100*time.Millisecond)
		leave()
		synctest.Wait()
		begin(t.Context(), "critical", resilience.PriorityCritical, time.Minute)
		begin(t.Context(), "second critical", resilience.PriorityCritical, time.Minute)
		begin(t.Context(), "too many", resilience.PrioritySheddable, time.Minute)
		calls.Wait()
		want := []string{
			"hurried concurrency_limit after 0s", "leaves caller_canceled after 0s", "too many concurrency_limit after 0s",
			"first after 1s", "critical after 2s", "second critical after 3s", "normal after 4s", "sheddable after 5s",
		}
		if !slices.Equal(ended, want) {
			t.Errorf("got\n%s\nwant\n%s", strings.Join(ended, "\n"), strings.Join(want, "\n"))
		}
		if got := pl.Concurrency(); got.InFlight != 0 || got.Queued != 0 {
			t.Errorf("got %+v after the calls, want nothing in flight", got)
		}
	})
}

// Retries may use 80 % of the limit. The caller gets the upstream's answer instead of a retry.
func TestRetriesLeaveRoomForFirstAttempts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := limited(resilience.ConcurrencyPolicy{Max: 10})
		p.Retry.MaxAttempts = 2
		pl := pipeline(t, p, resilience.Options{})
		var calls sync.WaitGroup
		for range 8 {
			calls.Go(func() { _, _, _ = pl.Do(t.Context(), taking(time.Second)) })
		}
		synctest.Wait()
		result, report, err := pl.Do(t.Context(), answers("busy", "ok"))
		if err != nil || result != "busy" || report.Reason != resilience.ReasonConcurrencyLimit || len(report.Attempts) != 1 {
			t.Errorf("got %q, reason %s, error %v, %d attempts, want the busy answer after one attempt", result, report.Reason, err, len(report.Attempts))
		}
		calls.Wait()
	})
}

// A panicking operation gives its place back.
func TestPanicGivesThePlaceBack(t *testing.T) {
	pl := pipeline(t, limited(resilience.ConcurrencyPolicy{Max: 1}), resilience.Options{})
	for range 2 {
		func() {
			defer func() { _ = recover() }()
			_, _, _ = pl.Do(t.Context(), &op{attempt: func(context.Context, *resilience.Attempt) (string, error) { panic("x") }})
		}()
	}
	if got := pl.Concurrency().InFlight; got != 0 {
		t.Errorf("%d attempts in flight, want none", got)
	}
}

// load makes calls at random times until stop, and returns how many were refused. latency returns
// the time that an attempt takes, at a time since the start.
func load(t *testing.T, pl *resilience.Pipeline[string], rate func(time.Duration) float64, latency func(at time.Duration, rng *rand.Rand) time.Duration, stop time.Duration) (made, refused int, most int) {
	t.Helper()
	rng := rand.New(rand.NewPCG(1, 2))
	var mu sync.Mutex
	var calls sync.WaitGroup
	start := time.Now()
	for {
		at := time.Since(start)
		if at >= stop {
			break
		}
		d := latency(at, rng)
		made++
		calls.Go(func() {
			if _, r, _ := pl.Do(t.Context(), taking(d)); r.Reason == resilience.ReasonConcurrencyLimit {
				mu.Lock()
				refused++
				mu.Unlock()
			}
		})
		time.Sleep(time.Duration(rng.ExpFloat64() / rate(at) * float64(time.Second)))
		most = max(most, pl.Concurrency().InFlight)
	}
	calls.Wait()
	return made, refused, most
}

func constant(rate float64) func(time.Duration) float64 {
	return func(time.Duration) float64 { return rate }
}

func TestAdaptiveLimit(t *testing.T) {
	exponential := func(mean time.Duration) func(time.Duration, *rand.Rand) time.Duration {
		return func(_ time.Duration, rng *rand.Rand) time.Duration {
			return time.Duration(rng.ExpFloat64() * float64(mean))
		}
	}
	for name, tc := range map[string]struct {
		rate    func(time.Duration) float64
		latency func(time.Duration, *rand.Rand) time.Duration
		stop    time.Duration
		refused [2]float64 // the least and the largest share of refused calls
		most    int        // the most attempts in flight
	}{
		"a healthy upstream": {constant(300), exponential(20 * time.Millisecond), 10 * time.Second, [2]float64{0, 0}, 100},
		"a surge to ten times the load within a second": {func(at time.Duration) float64 {
			return 100 * (1 + 9*min(1, max(0, (at-5*time.Second).Seconds())))
		}, exponential(20 * time.Millisecond), 10 * time.Second, [2]float64{0, 0}, 100},
		"a sudden surge to ten times the load": {func(at time.Duration) float64 {
			if at > 5*time.Second {
				return 3000
			}
			return 300
		}, exponential(50 * time.Millisecond), 8 * time.Second, [2]float64{0, 0}, 400},
		"a slow but healthy upstream": {constant(300), func(_ time.Duration, rng *rand.Rand) time.Duration {
			// lognormal with a 99th percentile of ten times the median
			return time.Duration(30 * float64(time.Millisecond) * math.Exp(rng.NormFloat64()*math.Log(10)/2.326))
		}, 10 * time.Second, [2]float64{0, 0}, 100},
		"a third of the endpoints hangs": {constant(300), func(at time.Duration, rng *rand.Rand) time.Duration {
			if at > 3*time.Second && rng.IntN(3) == 0 {
				return time.Hour
			}
			return 20 * time.Millisecond
		}, 10 * time.Second, [2]float64{0, 0.001}, 250},
		"two of three endpoints become slow": {constant(300), func(at time.Duration, rng *rand.Rand) time.Duration {
			if at > 3*time.Second && rng.IntN(3) > 0 {
				return time.Second
			}
			return 20 * time.Millisecond
		}, 10 * time.Second, [2]float64{0, 0.001}, 300},
		"it hangs": {constant(300), func(at time.Duration, _ *rand.Rand) time.Duration {
			if at > 5*time.Second {
				return time.Hour
			}
			return 20 * time.Millisecond
			// 46.6 %: half of the calls come in the outage. Those of the first 60 ms get a place,
			// and some probes.
		}, 10 * time.Second, [2]float64{0.4, 0.5}, 100},
		"it answers more slowly as a whole": {constant(300), func(at time.Duration, _ *rand.Rand) time.Duration {
			if at > 5*time.Second {
				return 500 * time.Millisecond
			}
			return 20 * time.Millisecond
			// 8.4 %: one step down shows that there is no queue. Before and after it the limit is
			// close to the 150 attempts that are in flight.
		}, 10 * time.Second, [2]float64{0, 0.101}, 200},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				pl := pipeline(t, limited(resilience.ConcurrencyPolicy{}), resilience.Options{})
				made, refused, most := load(t, pl, tc.rate, tc.latency, tc.stop)
				share := float64(refused) / float64(made)
				t.Logf("%.3f of the calls refused", share)
				if share < tc.refused[0] || share > tc.refused[1] || most > tc.most {
					t.Errorf("%d of %d calls refused, at most %d in flight, want a share of %v, at most %d", refused, made, most, tc.refused, tc.most)
				}
			})
		})
	}
}

// A reload changes the limit. The attempts in flight still count, and a queued one gets the place
// of one that ends.
func TestChangedLimitCountsAttemptsInFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := limited(resilience.ConcurrencyPolicy{Max: 2, Queue: 1, MaxWait: 5 * time.Second})
		pl := pipeline(t, p, resilience.Options{})
		var calls sync.WaitGroup
		for range 3 { // one of them waits
			calls.Go(func() {
				if _, report, err := pl.Do(t.Context(), classed{taking(time.Second), resilience.PriorityCritical}); err != nil {
					t.Errorf("a call before the change: got reason %s, want it served", report.Reason)
				}
			})
		}
		synctest.Wait()
		p.Concurrency = resilience.ConcurrencyPolicy{Max: 2}
		renewed, err := pl.Renew(p)
		if err != nil {
			t.Error(err)
			return
		}
		if got := renewed.Concurrency(); got.InFlight != 2 || got.Queued != 1 {
			t.Errorf("got %+v after the change, want 2 in flight and 1 queued", got)
		}
		if _, report, _ := renewed.Do(t.Context(), classed{taking(time.Second), resilience.PriorityCritical}); report.Reason != resilience.ReasonConcurrencyLimit {
			t.Errorf("a call beyond the limit: got reason %s, want it refused", report.Reason)
		}
		calls.Wait()
		if got := renewed.Concurrency(); got.InFlight != 0 || got.Queued != 0 {
			t.Errorf("got %+v after all calls, want none", got)
		}
	})
}

// The limit of a new policy holds for all attempts that wait, whoever leaves a place to them. It
// used to be the limit of the calls before: as many got a place as there were such calls.
func TestNewLimitHoldsForAllThatWait(t *testing.T) {
	queue := resilience.ConcurrencyPolicy{Max: 2, Queue: 20, MaxWait: 5 * time.Second}
	lower, higher, none := queue, queue, resilience.ConcurrencyPolicy{Max: -1}
	higher.Max = 20
	for name, tc := range map[string]struct {
		before, after resilience.ConcurrencyPolicy
		atOnce, most  int // of those that wait run
	}{
		"a lower limit":  {higher, lower, 0, 2},
		"a higher limit": {lower, higher, 18, 20},
		"no limit":       {lower, none, 20, 20},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := limited(tc.before)
				pl := pipeline(t, p, resilience.Options{})
				var calls sync.WaitGroup
				defer calls.Wait()
				begin := func(o *op) {
					calls.Go(func() { _, _, _ = pl.Do(t.Context(), classed{o, resilience.PriorityCritical}) })
				}
				for i := range tc.before.Max {
					begin(taking(time.Second + time.Duration(i)*50*time.Millisecond))
				}
				synctest.Wait()
				var running, most atomic.Int64
				for range 20 {
					begin(&op{attempt: func(context.Context, *resilience.Attempt) (string, error) {
						most.Store(max(most.Load(), running.Add(1)))
						time.Sleep(time.Second)
						running.Add(-1)
						return "ok", nil
					}})
				}
				p.Concurrency = tc.after
				next, err := pl.Renew(p)
				if err != nil {
					t.Error(err)
					return
				}
				synctest.Wait()
				if n := running.Load(); n != 0 {
					t.Errorf("%d run before the change, want none", n)
				}
				pl.Retire(next)
				synctest.Wait()
				if n := running.Load(); n != int64(tc.atOnce) {
					t.Errorf("%d run at once after the change, want %d", n, tc.atOnce)
				}
				calls.Wait()
				if n := most.Load(); n > int64(tc.most) {
					t.Errorf("%d ran together, want at most %d", n, tc.most)
				}
			})
		})
	}
}

// A renewed pipeline that replaces none changes nothing for the calls of the one before.
func TestRenewalThatIsNotUsedChangesNothing(t *testing.T) {
	withStalling(t, 1500*time.Millisecond, func(t *testing.T, s *stalling) {
		s.call(1000, 5*time.Millisecond, 10*time.Millisecond)
		s.call(30, time.Hour, 10*time.Millisecond)
		before := s.Concurrency().Limit
		if _, err := s.Renew(limited(resilience.ConcurrencyPolicy{Max: -1})); err != nil {
			t.Fatal(err)
		}
		if after := s.Concurrency().Limit; before == 0 || after != before {
			t.Errorf("a limit of %d, and of %d after a renewal, want the same", before, after)
		}
	})
}

func TestLimitsSurviveRenew(t *testing.T) {
	p := limited(resilience.ConcurrencyPolicy{Max: 1})
	p.RateLimit = resilience.RateLimitPolicy{PerSecond: 0.001, Burst: 1}
	pl := pipeline(t, p, resilience.Options{})
	if _, _, err := pl.Do(t.Context(), answers("ok")); err != nil {
		t.Fatal(err)
	}
	same := p
	same.Timeout /= 2
	renewed, err := pl.Renew(same)
	if err != nil {
		t.Fatal(err)
	}
	if _, report, _ := renewed.Do(t.Context(), answers("ok")); report.Reason != resilience.ReasonRateLimited {
		t.Errorf("got reason %s, want the rate limit of before", report.Reason)
	}
	same.RateLimit.Burst = 2
	if renewed, err = pl.Renew(same); err != nil {
		t.Fatal(err)
	}
	if _, _, err := renewed.Do(t.Context(), answers("ok")); err != nil {
		t.Errorf("another rate limit: %v", err)
	}
}

func TestLimitMistakes(t *testing.T) {
	for want, change := range map[string]func(*resilience.Policy){
		"concurrency.max: must be from 1 to 1000000, or 0 (adaptive) or -1 (no limit), got -2": func(p *resilience.Policy) { p.Concurrency.Max = -2 },
		"concurrency.queue: must be from 0 (no queue) to 1000000, got -1":                      func(p *resilience.Policy) { p.Concurrency.Queue = -1 },
		"concurrency.queue: must be left out with max -1: there is no limit to wait for": func(p *resilience.Policy) {
			p.Concurrency = resilience.ConcurrencyPolicy{Max: -1, Queue: 1, MaxWait: 1}
		},
		"concurrency.maxWait: must be above 0 with a queue, and left out without one, got 0s": func(p *resilience.Policy) { p.Concurrency.Queue = 1 },
		"concurrency.maxWait: must be above 0 with a queue, and left out without one, got 1s": func(p *resilience.Policy) { p.Concurrency.MaxWait = time.Second },
		"rateLimit.perSecond: must be from 0 (no limit) to 1000000, got -1":                   func(p *resilience.Policy) { p.RateLimit.PerSecond = -1 },
		"rateLimit.perSecond: must be from 0 (no limit) to 1000000, got NaN":                  func(p *resilience.Policy) { p.RateLimit.PerSecond = math.NaN() },
		"rateLimit.burst: must be from 1 to 1000000 with perSecond, got 0":                    func(p *resilience.Policy) { p.RateLimit.PerSecond = 1 },
		"rateLimit.burst: must be left out without perSecond, got 3":                          func(p *resilience.Policy) { p.RateLimit.Burst = 3 },
	} {
		t.Run(want, func(t *testing.T) {
			p := resilience.DefaultPolicy()
			change(&p)
			if err := p.Validate(); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("got error %v, want %s", err, want)
			}
		})
	}
}

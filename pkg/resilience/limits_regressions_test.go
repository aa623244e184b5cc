package resilience_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rebound-dev/rebound/internal/testkit/wait"
	"github.com/rebound-dev/rebound/pkg/resilience"
)

// Calls that are refused take no place, not even for a moment. Otherwise the place that becomes
// free meanwhile goes to nobody, and the attempt that waits for it is not woken.
func TestRefusedCallsTakeNoPlaceFromTheQueue(t *testing.T) {
	p := limited(resilience.ConcurrencyPolicy{Max: 10, Queue: 1, MaxWait: 30 * time.Second})
	p.Timeout, p.AttemptTimeout = time.Minute, time.Minute // on a busy machine a wait is long
	pl := pipeline(t, p, resilience.Options{})
	var calls sync.WaitGroup
	defer calls.Wait()
	// hold takes a place until the function that it returns is called.
	hold := func() func() {
		until, held := make(chan struct{}), make(chan error, 1)
		calls.Go(func() {
			_, _, err := pl.Do(t.Context(), classed{&op{attempt: func(context.Context, *resilience.Attempt) (string, error) {
				held <- nil
				<-until
				return "ok", nil
			}}, resilience.PriorityCritical})
			held <- err
		})
		if err := <-held; err != nil {
			t.Errorf("a call that finds a free place: %v", err)
		}
		return func() { close(until) }
	}
	for range 9 {
		defer hold()()
	}
	var over atomic.Bool
	defer over.Store(true)
	for range 4 {
		calls.Go(func() {
			for !over.Load() {
				for range 100 { // it has no time to wait
					_, _, _ = pl.DoWithin(t.Context(), time.Millisecond, classed{answers("ok"), resilience.PrioritySheddable})
				}
				runtime.Gosched() // otherwise the others get the only core once in 10 ms
			}
		})
	}
	for range 2000 {
		leave := hold()
		waits := make(chan error, 1)
		calls.Go(func() {
			_, _, err := pl.Do(t.Context(), classed{answers("ok"), resilience.PriorityCritical})
			waits <- err
		})
		for pl.Concurrency().Queued == 0 && len(waits) == 0 {
			runtime.Gosched()
		}
		leave()
		if err := <-waits; err != nil {
			t.Errorf("the attempt that waits for the free place: %v", err)
		}
		if t.Failed() {
			return
		}
	}
}

// A retry may use 80 % of the limit. While it waits, first attempts of its class get the other
// places.
func TestRetryInTheQueueHoldsUpNoFirstAttempt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := limited(resilience.ConcurrencyPolicy{Max: 10, Queue: 10, MaxWait: 5 * time.Second})
		p.Retry.MaxAttempts = 2
		pl := pipeline(t, p, resilience.Options{})
		var calls sync.WaitGroup
		defer calls.Wait()
		begin := func(o *op) {
			calls.Go(func() { _, _, _ = pl.Do(t.Context(), classed{o, resilience.PriorityCritical}) })
		}
		begin(answers("busy", "ok")) // its retry comes after 100 ms
		synctest.Wait()
		for i := range 10 {
			begin(taking(time.Second + time.Duration(i)*time.Second))
		}
		time.Sleep(200 * time.Millisecond)
		var waited time.Duration
		calls.Go(func() {
			began := time.Now()
			_, _, err := pl.Do(t.Context(), classed{answers("ok"), resilience.PriorityCritical})
			if waited = time.Since(began); err != nil {
				t.Error(err)
			}
		})
		synctest.Wait()
		if got := pl.Concurrency().Queued; got != 2 {
			t.Fatalf("%d attempts wait, want the retry and the first attempt", got)
		}
		time.Sleep(time.Second) // one of ten places is free
		synctest.Wait()
		if waited != 800*time.Millisecond {
			t.Errorf("the first attempt waited %v, want 800ms, until the first free place", waited)
		}
	})
}

// Callers that are refused at the same moment take nothing from the rate limit.
func TestRefusedCallsCostNoRate(t *testing.T) {
	p := limited(resilience.ConcurrencyPolicy{})
	p.RateLimit = resilience.RateLimitPolicy{PerSecond: 1000, Burst: 100}
	// While the machine stands still, tokens beyond the burst are lost.
	wait.OneOf(t, 3, func() (missed string) {
		pl := pipeline(t, p, resilience.Options{})
		var served atomic.Int64
		var longest atomic.Int64
		var calls sync.WaitGroup
		start := time.Now()
		for range 8 {
			calls.Go(func() {
				for time.Since(start) < time.Second {
					_, _, err := pl.Do(t.Context(), answers("ok"))
					var e *resilience.Error
					if err == nil {
						served.Add(1)
					} else if errors.As(err, &e) && int64(e.RetryIn) > longest.Load() {
						longest.Store(int64(e.RetryIn))
					}
				}
			})
		}
		calls.Wait()
		if got := time.Duration(longest.Load()); got > 32*time.Millisecond+time.Microsecond { // rounding
			return fmt.Sprintf("a refused caller was told to wait %v, want at most 32ms: one of 32 turns, a token's time apart", got)
		}
		if got := served.Load(); got < 950 {
			return fmt.Sprintf("%d calls served in a second, want about 1100", got)
		}
		return ""
	})
}

// A caller that leaves the queue was not refused by the limit.
func TestCallerThatLeavesTheQueueIsNotRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pl := pipeline(t, limited(resilience.ConcurrencyPolicy{Max: 1, Queue: 1, MaxWait: 5 * time.Second}), resilience.Options{})
		var calls sync.WaitGroup
		defer calls.Wait()
		calls.Go(func() { _, _, _ = pl.Do(t.Context(), taking(time.Second)) })
		synctest.Wait()
		ctx, cancel := context.WithCancel(t.Context())
		calls.Go(func() {
			_, _, err := pl.Do(ctx, taking(time.Second))
			var e *resilience.Error
			if !errors.As(err, &e) || e.Refused || e.Reason != resilience.ReasonCallerCanceled || !errors.Is(err, context.Canceled) {
				t.Errorf("got error %#v, want caller_canceled, not a refusal", err)
			}
		})
		synctest.Wait()
		cancel()
	})
}

// The time in the queue is not the upstream's. Probes that wait there have all of their time after
// it, or decide nothing.
func TestProbesMayWaitInTheQueue(t *testing.T) {
	for name, latency := range map[string]time.Duration{"within the lease": 600 * time.Millisecond, "beyond it": 1200 * time.Millisecond} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := limited(resilience.ConcurrencyPolicy{Max: 1, Queue: 5, MaxWait: 5 * time.Second})
				p.Breaker = resilience.DefaultPolicy().Breaker
				p.Breaker.ConsecutiveFailures, p.Breaker.Probes = 1, 3
				opened := 0
				pl := pipeline(t, p, resilience.Options{Random: half, Observer: resilience.Observer{
					Transition: func(tr resilience.Transition) {
						if tr.To == resilience.Open {
							opened++
						}
					},
				}})
				_, _, _ = pl.Do(t.Context(), answers("busy"))
				time.Sleep(1500 * time.Millisecond)
				for range 3 {
					var calls sync.WaitGroup
					for range 3 {
						calls.Go(func() { _, _, _ = pl.Do(t.Context(), taking(latency)) })
					}
					calls.Wait()
				}
				if state := pl.Breaker().State; opened != 1 || state != resilience.Closed {
					t.Errorf("opened %d times, now %s, want once, and closed by good probes", opened, state)
				}
			})
		})
	}
}

// A full queue of sheddable attempts keeps no critical one out: the last of the lowest class makes
// room.
func TestFullQueueOfALowerClass(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pl := pipeline(t, limited(resilience.ConcurrencyPolicy{Max: 1, Queue: 3, MaxWait: 8 * time.Second}), resilience.Options{})
		var mu sync.Mutex
		var ended []string
		var calls sync.WaitGroup
		start := time.Now()
		begin := func(name string, p resilience.Priority) {
			calls.Go(func() {
				_, report, _ := pl.Do(t.Context(), classed{taking(time.Second), p})
				mu.Lock()
				defer mu.Unlock()
				ended = append(ended, fmt.Sprintf("%s %s after %v", name, report.Reason, time.Since(start)))
			})
			synctest.Wait()
		}
		begin("holder", resilience.PrioritySheddable)
		begin("normal", resilience.PriorityNormal)
		begin("sheddable", resilience.PrioritySheddable)
		begin("last sheddable", resilience.PrioritySheddable)
		begin("too many", resilience.PrioritySheddable)
		begin("critical", resilience.PriorityCritical)
		begin("second critical", resilience.PriorityCritical)
		begin("third critical", resilience.PriorityCritical)
		begin("fourth critical", resilience.PriorityCritical)
		calls.Wait()
		want := []string{
			"too many concurrency_limit after 0s", "last sheddable concurrency_limit after 0s",
			"sheddable concurrency_limit after 0s", "normal concurrency_limit after 0s", "fourth critical concurrency_limit after 0s",
			"holder ok after 1s", "critical ok after 2s", "second critical ok after 3s", "third critical ok after 4s",
		}
		if !slices.Equal(ended, want) {
			t.Errorf("got\n%s\nwant\n%s", strings.Join(ended, "\n"), strings.Join(want, "\n"))
		}
		if got := pl.Concurrency(); got.InFlight != 0 || got.Queued != 0 {
			t.Errorf("got %+v after the calls, want nothing in flight", got)
		}
	})
}

// An upstream is slower for all, and a part of it hangs. The limit must leave a client of few calls
// as many places as its usual traffic may need in a moment, or it refuses what would be served.
func TestSlowUpstreamOfWhichAPartHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const perSecond, hangs = 20, 0.1
		pl := pipeline(t, resilience.DefaultPolicy(), resilience.Options{})
		random := rand.New(rand.NewPCG(1, 2))
		var all sync.WaitGroup
		var good atomic.Int64
		calls := func(n int, latency time.Duration, hangs float64) {
			for range n {
				d := latency
				if random.Float64() < hangs {
					d = time.Hour
				}
				all.Go(func() {
					if _, _, err := pl.Do(t.Context(), taking(d)); err == nil {
						good.Add(1)
					}
				})
				time.Sleep(time.Duration(random.ExpFloat64() / perSecond * float64(time.Second)))
			}
			all.Wait()
		}
		calls(20*perSecond, 20*time.Millisecond, 0)
		good.Store(0)
		const n = 60 * perSecond
		calls(n, 150*time.Millisecond, hangs)
		if share := float64(good.Load()) / n; share < 0.88 {
			t.Errorf("%.1f %% of the calls succeeded, want at least 88 %% of 90 that do not hang", 100*share)
		}
	})
}

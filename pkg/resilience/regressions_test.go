package resilience_test

import (
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rebound-dev/rebound/pkg/resilience"
)

// Each test covers a bug that existed once, and its comment describes the bug.

// If a context ends during an attempt, failsafe-go does not call the retry policy. The verdict was
// made there, so the verdict on the previous attempt remained and looked like an interrupted wait.
// The attempt was missing in the report, and the observer did not get it.
func TestSecondAttemptThatTheCallerEndsIsReported(t *testing.T) {
	for name, limit := range map[string]func(context.Context) (context.Context, context.CancelFunc){
		"canceled": func(ctx context.Context) (context.Context, context.CancelFunc) {
			ctx, cancel := context.WithCancel(ctx)
			time.AfterFunc(time.Second, cancel)
			return ctx, cancel
		},
		"deadline": func(ctx context.Context) (context.Context, context.CancelFunc) {
			return context.WithTimeout(ctx, time.Second)
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := limit(t.Context())
				defer cancel()
				seen := 0
				pl := pipeline(t, steady(), resilience.Options{Observer: resilience.Observer{
					Attempt: func(context.Context, *resilience.AttemptReport) { seen++ },
				}})
				_, report, err := pl.Do(ctx, &op{attempt: func(c context.Context, a *resilience.Attempt) (string, error) {
					if a.Number() == 1 {
						return "busy", nil
					}
					<-c.Done()
					return "", c.Err()
				}})
				var e *resilience.Error
				if !errors.As(err, &e) || e.Attempts != 2 || len(report.Attempts) != 2 || seen != 2 || e.Last != report.Attempts[1].Reason {
					t.Errorf("%d attempts in the report, %d seen by the observer, error %#v; want 2 each", len(report.Attempts), seen, e)
				}
			})
		})
	}
}

// For the same reason, the result of a second attempt was lost if the caller canceled as it
// arrived. It was neither returned nor discarded.
func TestResultThatComesAsTheCallerCancelsIsReturned(t *testing.T) {
	for _, first := range []string{"ok", "busy"} {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			o := answers(first, "ok")
			answer := o.attempt
			o.attempt = func(c context.Context, a *resilience.Attempt) (string, error) {
				r, err := answer(c, a)
				if r == "ok" {
					cancel()
				}
				return r, err
			}
			if r, _, err := pipeline(t, steady(), resilience.Options{}).Do(ctx, o); r != "ok" || err != nil {
				t.Errorf("after %q: got %q, %v, want ok and no error", first, r, err)
			}
		})
	}
}

// If the timer fired as the answer began, the answer was returned with a canceled context, and the
// caller could not read its body.
func TestAnswerAtTheTimeoutIsATimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := steady()
		p.Retry.MaxAttempts = 1
		pl := pipeline(t, p, resilience.Options{})
		o := &op{}
		o.attempt = func(_ context.Context, a *resilience.Attempt) (string, error) {
			time.Sleep(a.Limit())
			synctest.Wait()
			a.Hold()
			return "ok", nil
		}
		_, report, err := pl.Do(t.Context(), o)
		if !errors.Is(err, resilience.ErrTimeout) || report.Attempts[0].Reason != resilience.ReasonAttemptTimeout {
			t.Errorf("err = %v, attempts %+v; want ErrTimeout, attempt_timeout", err, report.Attempts)
		}
		if len(o.discarded) != 1 {
			t.Errorf("discarded %q, want the late answer", o.discarded)
		}
		if b := pl.Breaker(); b.Failures != 1 || b.Successes != 0 {
			t.Errorf("breaker = %+v, want 1 failure", b)
		}
	})
}

// gobreaker drops a result when its bucket is reused, up to a tenth of the window before the window
// is over. Attempts that took that long never counted.
func TestAttemptsAsLongAsTheWindowCount(t *testing.T) {
	for _, limit := range []time.Duration{8900 * time.Millisecond, 9500 * time.Millisecond, 10 * time.Second, 25 * time.Second} {
		t.Run(limit.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := single(func(b *resilience.BreakerPolicy) { b.FailureRatio, b.MinRequests = 0.5, 10 })
				p.Timeout, p.AttemptTimeout = time.Minute, limit
				pl := pipeline(t, p, resilience.Options{})
				time.Sleep(900 * time.Millisecond)
				var wg sync.WaitGroup
				for range 100 {
					wg.Go(func() {
						_, _, _ = pl.Do(t.Context(), &op{attempt: func(c context.Context, _ *resilience.Attempt) (string, error) {
							<-c.Done()
							return "", c.Err()
						}})
					})
				}
				wg.Wait()
				if s := pl.Breaker(); s.State != resilience.Open {
					t.Errorf("after 100 failures: %+v, want open", s)
				}
			})
		})
	}
}

// After a panic the observer got no more transitions.
func TestTransitionsArriveAfterAnObserverPanicked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		seen := 0
		p := single(func(b *resilience.BreakerPolicy) { b.ConsecutiveFailures, b.Probes = 1, 1 })
		pl := pipeline(t, p, resilience.Options{Observer: resilience.Observer{Transition: func(resilience.Transition) {
			if seen++; seen == 1 {
				panic("observer")
			}
		}}})
		func() {
			defer func() { _ = recover() }()
			script(t, pl, "x")
		}()
		time.Sleep(2 * time.Second)
		script(t, pl, "o")
		if seen != 3 {
			t.Errorf("%d transitions, want 3: open, half-open and closed", seen)
		}
	})
}

// The verdict on a probe that is not retried was made before the circuit counted the probe. In this
// state only, the observer got the attempt before the transition that it caused, and an observer
// that panicked made a good probe count as a failure.
func TestProbeCountsBeforeItIsObserved(t *testing.T) {
	for name, tc := range map[string]struct {
		result string
		panics bool
		want   []string
	}{
		"success":             {"ok", false, []string{"closed", "ok"}},
		"failure":             {"broken", false, []string{"open", "status_500"}},
		"success, then panic": {"ok", true, []string{"closed", "ok"}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var seen []string
				panics := false
				pl := tripped(t, resilience.Options{Observer: resilience.Observer{
					Transition: func(tr resilience.Transition) { seen = append(seen, tr.To.String()) },
					Attempt: func(_ context.Context, a *resilience.AttemptReport) {
						seen = append(seen, string(a.Reason))
						if panics {
							panic("observer")
						}
					},
				}}, func(b *resilience.BreakerPolicy) { b.Probes = 1 })
				time.Sleep(time.Second + 1)
				synctest.Wait()
				seen, panics = nil, tc.panics
				probe := answers(tc.result)
				probe.classify = func(result string, _ error) resilience.Outcome {
					if result == "ok" {
						return resilience.Outcome{Reason: resilience.ReasonOK, Health: resilience.Healthy}
					}
					return resilience.Outcome{Reason: resilience.StatusReason(500)}
				}
				func() {
					defer func() { _ = recover() }()
					_, _, _ = pl.Do(t.Context(), probe)
				}()
				if !slices.Equal(seen, tc.want) || pl.Breaker().State.String() != tc.want[0] {
					t.Errorf("observed %q, state %v; want %q, state %s", seen, pl.Breaker().State, tc.want, tc.want[0])
				}
			})
		})
	}
}

// 1/1e-10 seconds overflowed into a negative interval, and retries had no limit.
func TestTinyFloorIsNotUnlimited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := steady()
		p.Retry.MaxAttempts = 100
		p.Retry.Backoff.Base = 0
		p.Retry.Budget = resilience.BudgetPolicy{FloorPerSecond: 1e-10}
		o := answers("busy")
		_, _, _ = pipeline(t, p, resilience.Options{}).Do(t.Context(), o)
		if len(o.times) > 2 {
			t.Errorf("%d attempts, want at most 2", len(o.times))
		}
	})
}

// The jitter on the longest Duration overflowed, so the retry came too early.
func TestLongestRetryAfterDoesNotOverflow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := steady()
		p.Retry.MaxRetryAfter = math.MaxInt64
		o := answers("busy", "ok")
		o.classify = func(r string, err error) resilience.Outcome {
			out := transient(r, err)
			out.RetryAfter = math.MaxInt64
			return out
		}
		_, report, _ := pipeline(t, p, resilience.Options{Random: half}).Do(t.Context(), o)
		if len(o.times) != 1 || report.Reason != resilience.ReasonDeadlineTooClose {
			t.Errorf("%d attempts, reason %s; want 1, deadline_too_close", len(o.times), report.Reason)
		}
	})
}

// Every policy that passes validation must work.
func TestExtremePolicies(t *testing.T) {
	for name, change := range map[string]func(*resilience.Policy){
		"shortest timeouts": func(p *resilience.Policy) { p.Timeout, p.AttemptTimeout = 1, 1 },
		"longest timeouts":  func(p *resilience.Policy) { p.Timeout, p.AttemptTimeout = math.MaxInt64, math.MaxInt64 },
		"one timeout":       func(p *resilience.Policy) { p.AttemptTimeout = p.Timeout },
		"no backoff": func(p *resilience.Policy) {
			p.Retry.MaxAttempts, p.Retry.Backoff = 100, resilience.Backoff{Factor: 1e300, Jitter: resilience.JitterFull}
		},
		"longest backoff": func(p *resilience.Policy) { p.Retry.Backoff.Base, p.Retry.Backoff.Max = math.MaxInt64, math.MaxInt64 },
		"smallest breaker": func(p *resilience.Policy) {
			p.Breaker = resilience.BreakerPolicy{Window: 10 * time.Millisecond, MinRequests: 1, FailureRatio: 1e-300, ConsecutiveFailures: 1, OpenFor: 1, MaxOpenFor: math.MaxInt64, Probes: 1}
		},
		"largest breaker": func(p *resilience.Policy) {
			p.Breaker = resilience.BreakerPolicy{Window: 24 * time.Hour, MinRequests: 1 << 30, FailureRatio: 1, ConsecutiveFailures: 1 << 30, OpenFor: math.MaxInt64, MaxOpenFor: math.MaxInt64, Probes: 1 << 30}
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := steady()
				change(&p)
				pl := pipeline(t, p, resilience.Options{})
				for range 5 {
					_, report, _ := pl.Do(t.Context(), answers("busy", "busy", "ok"))
					if !report.Reason.Valid() {
						t.Errorf("reason = %q, want a valid one", report.Reason)
					}
					time.Sleep(time.Second)
				}
			})
		})
	}
}

// After many concurrent calls with random outcomes, cancellations and late releases, the state is
// consistent and the circuit works.
func TestChaos(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := resilience.DefaultPolicy()
		p.Timeout, p.AttemptTimeout = 20*time.Millisecond, 4*time.Millisecond
		p.Retry.Backoff = resilience.Backoff{Base: time.Millisecond, Max: 2 * time.Millisecond, Factor: 2, Jitter: resilience.JitterFull}
		p.Retry.Budget = resilience.BudgetPolicy{Burst: 50}
		p.Breaker = resilience.BreakerPolicy{Window: 10 * time.Millisecond, MinRequests: 5, FailureRatio: 0.5, ConsecutiveFailures: 3, OpenFor: time.Microsecond, MaxOpenFor: time.Millisecond, Probes: 1}
		last := resilience.Closed
		var mu sync.Mutex
		var pl *resilience.Pipeline[string]
		pl = pipeline(t, p, resilience.Options{Observer: resilience.Observer{Transition: func(tr resilience.Transition) {
			mu.Lock()
			defer mu.Unlock()
			if tr.From != last {
				t.Errorf("transition from %v, want from %v", tr.From, last)
			}
			last = tr.To
			_ = pl.Breaker()
		}}})
		attempt := func(c context.Context, a *resilience.Attempt) (string, error) {
			switch rand.IntN(5) {
			case 0:
				return "busy", nil
			case 1:
				return "", errors.New("reset")
			case 2:
				<-c.Done()
				return "", c.Err()
			case 3:
				a.Hold()
				time.AfterFunc(time.Duration(rand.IntN(8))*time.Millisecond, func() { a.Release(resilience.Health(rand.IntN(3))) })
			}
			return "ok", nil
		}
		var wg sync.WaitGroup
		for range 50 {
			wg.Go(func() {
				for range 100 {
					ctx, cancel := context.WithTimeout(t.Context(), time.Duration(rand.IntN(10))*time.Millisecond)
					if _, report, _ := pl.Do(ctx, &op{attempt: attempt}); !report.Reason.Valid() {
						t.Errorf("reason = %q, want a valid one", report.Reason)
					}
					cancel()
				}
			})
		}
		wg.Wait()
		time.Sleep(30 * time.Millisecond)
		synctest.Wait()
		if _, report, err := pl.Do(t.Context(), answers("ok")); err != nil {
			t.Errorf("last call: %v, reason %s; want no error", err, report.Reason)
		}
		if s := pl.Breaker(); s.Probes != 0 || pl.BudgetTokens() > 50 {
			t.Errorf("breaker %+v, %v tokens; want no probes and at most 50 tokens", s, pl.BudgetTokens())
		}
	})
}

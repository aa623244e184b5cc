package resilience_test

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rebound-dev/rebound/pkg/resilience"
)

// op is an operation with the attempts and the classifier of a test.
type op struct {
	attempt   func(ctx context.Context, a *resilience.Attempt) (string, error)
	classify  func(result string, err error) resilience.Outcome
	discarded []string
	times     []time.Time
}

func (o *op) Attempt(ctx context.Context, a *resilience.Attempt) (string, error) {
	o.times = append(o.times, time.Now())
	return o.attempt(ctx, a)
}

func (o *op) Classify(result string, err error) resilience.Outcome {
	if o.classify != nil {
		return o.classify(result, err)
	}
	return transient(result, err)
}

func (o *op) Decided(*resilience.AttemptReport) {}

// Discard releases the attempt, as an operation does that closes the body of an answer.
func (o *op) Discard(result string, a *resilience.Attempt) {
	o.discarded = append(o.discarded, result)
	a.Release(resilience.Healthy)
}

// transient classifies "ok" as a success and anything else as a transient failure.
func transient(result string, err error) resilience.Outcome {
	switch {
	case err != nil:
		return resilience.Outcome{Reason: resilience.ReasonResetBeforeHeaders, Retry: true}
	case result == "ok":
		return resilience.Outcome{Reason: resilience.ReasonOK, Health: resilience.Healthy}
	default:
		return resilience.Outcome{Reason: resilience.StatusReason(503), Retry: true}
	}
}

// answers returns an operation with one answer per attempt. The last answer repeats.
func answers(list ...string) *op {
	o := &op{}
	o.attempt = func(context.Context, *resilience.Attempt) (string, error) {
		return list[min(len(o.times), len(list))-1], nil
	}
	return o
}

// steady returns the default policy without jitter, without a breaker and with a large budget.
func steady() resilience.Policy {
	p := resilience.DefaultPolicy()
	p.Retry.Backoff.Jitter = resilience.JitterNone
	p.Retry.Budget = resilience.BudgetPolicy{Burst: 1e6}
	p.Breaker.FailureRatio, p.Breaker.ConsecutiveFailures = 0, 0
	return p
}

func pipeline(t *testing.T, p resilience.Policy, o resilience.Options) *resilience.Pipeline[string] {
	t.Helper()
	pl, err := resilience.New[string]("upstream", p, o)
	if err != nil {
		t.Fatal(err)
	}
	return pl
}

func half() float64 { return 0.5 }

func TestRetriesUntilSuccess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := answers("busy", "busy", "ok")
		start := time.Now()
		got, report, err := pipeline(t, steady(), resilience.Options{}).Do(t.Context(), o)
		if got != "ok" || err != nil || report.Reason != resilience.ReasonOK {
			t.Fatalf("got %q, %v, reason %s; want ok, no error, ok", got, err, report.Reason)
		}
		want := []time.Duration{0, 100 * time.Millisecond, 300 * time.Millisecond}
		for i, at := range o.times {
			if at.Sub(start) != want[i] {
				t.Errorf("attempt %d after %v, want %v", i+1, at.Sub(start), want[i])
			}
		}
		if want := []string{"busy", "busy"}; !reflect.DeepEqual(o.discarded, want) {
			t.Errorf("discarded %q, want %q", o.discarded, want)
		}
		a := report.Attempts
		if len(a) != 3 || a[0].Verdict != resilience.VerdictRetry || a[1].Verdict != resilience.VerdictRetry || a[2].Verdict != resilience.VerdictReturn {
			t.Fatalf("attempts = %+v, want verdicts retry, retry, return", a)
		}
		wantWait := resilience.Wait{Source: resilience.WaitJitter, Reason: "status_503", Planned: 200 * time.Millisecond, Actual: 200 * time.Millisecond}
		if a[1].Wait != wantWait {
			t.Errorf("wait %+v, want %+v", a[1].Wait, wantWait)
		}
		if report.Duration != 300*time.Millisecond {
			t.Errorf("duration = %v, want 300ms", report.Duration)
		}
	})
}

// The layers are timeout(retry(breaker(attempt timeout(op)))). Each case shows the order of two of
// them.
func TestOrderOfComposition(t *testing.T) {
	hang := func(ctx context.Context, _ *resilience.Attempt) (string, error) {
		<-ctx.Done()
		return "", context.Cause(ctx)
	}
	for name, tc := range map[string]struct {
		change   func(*resilience.Policy)
		attempts int
		after    time.Duration
		reason   resilience.Reason
		failures int
	}{
		"the attempt timeout is inside the retry: a hanging attempt is retried": {
			func(p *resilience.Policy) { p.Timeout = time.Minute }, 3, 3*1500*time.Millisecond + 300*time.Millisecond, resilience.ReasonMaxAttempts, 3},
		"the attempt timeout is inside the breaker: it counts as a failure": {
			func(p *resilience.Policy) { p.Timeout = time.Minute; p.Retry.MaxAttempts = 1 }, 1, 1500 * time.Millisecond, resilience.ReasonMaxAttempts, 1},
		"the breaker is inside the retry: it sees each attempt, and opening ends the call": {
			func(p *resilience.Policy) { p.Timeout = time.Minute; p.Breaker.ConsecutiveFailures = 2 }, 2, 3100 * time.Millisecond, resilience.ReasonBreakerOpen, 0},
		"the total timeout is outside the retry: it limits attempts and waits together": {
			func(p *resilience.Policy) { p.Timeout = 2 * time.Second }, 2, 2 * time.Second, resilience.ReasonDeadlineExceeded, 1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := steady()
				tc.change(&p)
				pl := pipeline(t, p, resilience.Options{})
				start := time.Now()
				_, report, err := pl.Do(t.Context(), &op{attempt: hang})
				if len(report.Attempts) != tc.attempts || time.Since(start) != tc.after || report.Reason != tc.reason {
					t.Errorf("%d attempts, %v, reason %s; want %d, %v, %s", len(report.Attempts), time.Since(start), report.Reason, tc.attempts, tc.after, tc.reason)
				}
				if !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, resilience.ErrTimeout) {
					t.Errorf("err = %v, want a timeout", err)
				}
				if got := pl.Breaker().Failures; got != tc.failures {
					t.Errorf("the breaker counted %d failures, want %d", got, tc.failures)
				}
			})
		})
	}
}

func TestGatesBetweenAttempts(t *testing.T) {
	gates := func(o resilience.Outcome) func(string, error) resilience.Outcome {
		return func(string, error) resilience.Outcome { o.Reason, o.Retry = "status_503", true; return o }
	}
	for name, tc := range map[string]struct {
		policy   func(*resilience.Policy)
		classify func(string, error) resilience.Outcome
		attempts int
		reason   resilience.Reason
		verdict  resilience.Verdict
		after    time.Duration
	}{
		"max attempts": {nil, nil, 3, resilience.ReasonMaxAttempts, resilience.VerdictGiveUp, 300 * time.Millisecond},
		"never retry":  {func(p *resilience.Policy) { p.Retry.MaxAttempts = 1 }, nil, 1, resilience.ReasonMaxAttempts, resilience.VerdictGiveUp, 0},
		"operation":    {nil, gates(resilience.Outcome{Gates: slices.Values([]resilience.Gate{{Reason: resilience.ReasonMethodNotIdempotent, Shut: true}})}), 1, resilience.ReasonMethodNotIdempotent, resilience.VerdictGiveUp, 0},
		"not a failure": {nil, func(string, error) resilience.Outcome {
			return resilience.Outcome{Reason: "status_404", Final: resilience.ReasonStatusNotRetryable}
		}, 1, resilience.ReasonStatusNotRetryable, resilience.VerdictReturn, 0},
		"no budget":            {func(p *resilience.Policy) { p.Retry.Budget = resilience.BudgetPolicy{} }, nil, 1, resilience.ReasonBudgetExhausted, resilience.VerdictGiveUp, 0},
		"budget for one":       {func(p *resilience.Policy) { p.Retry.Budget = resilience.BudgetPolicy{Burst: 1} }, nil, 2, resilience.ReasonBudgetExhausted, resilience.VerdictGiveUp, 100 * time.Millisecond},
		"retry-after too long": {nil, gates(resilience.Outcome{RetryAfter: 5*time.Second + 1}), 1, resilience.ReasonRetryAfterTooLong, resilience.VerdictGiveUp, 0},
		"wait ends at the deadline": {func(p *resilience.Policy) { p.Timeout = 1600 * time.Millisecond }, gates(resilience.Outcome{RetryAfter: 1600 * time.Millisecond}), 1,
			resilience.ReasonDeadlineTooClose, resilience.VerdictGiveUp, 0},
		"wait ends just before the deadline": {func(p *resilience.Policy) { p.Timeout, p.Retry.MaxAttempts = 1601*time.Millisecond, 2 }, gates(resilience.Outcome{RetryAfter: 1600 * time.Millisecond}), 2,
			resilience.ReasonMaxAttempts, resilience.VerdictGiveUp, 1600 * time.Millisecond},
		"open breaker": {func(p *resilience.Policy) { p.Breaker.ConsecutiveFailures = 1 }, nil, 1, resilience.ReasonBreakerOpen, resilience.VerdictGiveUp, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := steady()
				if tc.policy != nil {
					tc.policy(&p)
				}
				o := answers("busy")
				o.classify = tc.classify
				start := time.Now()
				got, report, err := pipeline(t, p, resilience.Options{Random: func() float64 { return 0 }}).Do(t.Context(), o)
				if got != "busy" || err != nil {
					t.Errorf("got %q, %v, want the upstream's answer and no error", got, err)
				}
				last := report.Attempts[len(report.Attempts)-1]
				if len(report.Attempts) != tc.attempts || report.Reason != tc.reason || last.Verdict != tc.verdict || time.Since(start) != tc.after {
					t.Errorf("%d attempts, reason %s, verdict %s, %v; want %d, %s, %s, %v",
						len(report.Attempts), report.Reason, last.Verdict, time.Since(start), tc.attempts, tc.reason, tc.verdict, tc.after)
				}
			})
		})
	}
}

func TestRetryAfterIsNeverShortened(t *testing.T) {
	for _, u := range []float64{0, 0.5, 0.999} {
		synctest.Test(t, func(t *testing.T) {
			o := answers("busy", "ok")
			o.classify = func(r string, err error) resilience.Outcome {
				out := transient(r, err)
				out.RetryAfter = 2 * time.Second
				return out
			}
			_, report, _ := pipeline(t, steady(), resilience.Options{Random: func() float64 { return u }}).Do(t.Context(), o)
			w := report.Attempts[0].Wait
			if w.Source != resilience.WaitRetryAfter || w.Actual < 2*time.Second || w.Actual > 2500*time.Millisecond {
				t.Errorf("u=%v: waited %v by %s, want 2s to 2.5s by retry_after", u, w.Actual, w.Source)
			}
		})
	}
}

func TestCanceledCall(t *testing.T) {
	wantCanceled := func(t *testing.T, report resilience.Report, err error) {
		t.Helper()
		if !errors.Is(err, context.Canceled) || report.Reason != resilience.ReasonCallerCanceled {
			t.Errorf("err = %v, reason %s; want context.Canceled, caller_canceled", err, report.Reason)
		}
	}
	t.Run("before the first attempt", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		o := answers("ok")
		_, report, err := pipeline(t, steady(), resilience.Options{}).Do(ctx, o)
		wantCanceled(t, report, err)
		if len(o.times) != 0 {
			t.Errorf("%d attempts, want 0", len(o.times))
		}
	})
	t.Run("during an attempt: neutral for the breaker", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			time.AfterFunc(time.Second, cancel)
			pl := pipeline(t, steady(), resilience.Options{})
			_, report, err := pl.Do(ctx, &op{attempt: func(ctx context.Context, _ *resilience.Attempt) (string, error) {
				<-ctx.Done()
				return "", ctx.Err()
			}})
			wantCanceled(t, report, err)
			if s := pl.Breaker(); s.Failures+s.Successes+s.Consecutive != 0 {
				t.Errorf("breaker = %+v, want nothing counted", s)
			}
			if a := report.Attempts[0]; a.Reason != resilience.ReasonCallerCanceled || a.Verdict != resilience.VerdictGiveUp {
				t.Errorf("attempt = %+v, want caller_canceled, give_up", a)
			}
		})
	})
	t.Run("during a wait: the token is returned", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			time.AfterFunc(50*time.Millisecond, cancel)
			p := steady()
			p.Retry.Budget.Burst = 5
			pl := pipeline(t, p, resilience.Options{})
			_, report, err := pl.Do(ctx, answers("busy"))
			wantCanceled(t, report, err)
			if report.Duration != 50*time.Millisecond || report.Attempts[0].Wait.Actual != 50*time.Millisecond {
				t.Errorf("duration %v, waited %v; want 50ms for both", report.Duration, report.Attempts[0].Wait.Actual)
			}
			if got := pl.BudgetTokens(); got != 5 {
				t.Errorf("%v tokens left, want 5", got)
			}
		})
	})
}

func TestDeadlineOfTheCallerIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for name, do := range map[string]func(pl *resilience.Pipeline[string], o *op) (string, resilience.Report, error){
			"context": func(pl *resilience.Pipeline[string], o *op) (string, resilience.Report, error) {
				ctx, cancel := context.WithTimeout(t.Context(), 150*time.Millisecond)
				defer cancel()
				return pl.Do(ctx, o)
			},
			"limit": func(pl *resilience.Pipeline[string], o *op) (string, resilience.Report, error) {
				return pl.DoWithin(t.Context(), 150*time.Millisecond, o)
			},
		} {
			o := answers("busy")
			got, report, err := do(pipeline(t, steady(), resilience.Options{}), o)
			if got != "busy" || err != nil || report.Reason != resilience.ReasonDeadlineTooClose || len(report.Attempts) != 2 {
				t.Errorf("%s: got %q, %v, reason %s, %d attempts; want busy, no error, deadline_too_close, 2", name, got, err, report.Reason, len(report.Attempts))
			}
		}
	})
}

// The policy's timeout may shorten the last attempt. That limit is ours and not the caller's, so
// the attempt counts as a failure if it had at least half of the attempt timeout.
func TestTotalTimeoutCountsOnlyWithAFairShareOfTime(t *testing.T) {
	for name, tc := range map[string]struct {
		timeout  time.Duration
		failures int
	}{
		"most of an attempt's time": {2800 * time.Millisecond, 2},
		"next to nothing":           {1700 * time.Millisecond, 1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := steady()
				p.Timeout = tc.timeout
				pl := pipeline(t, p, resilience.Options{})
				_, report, err := pl.Do(t.Context(), takes(0))
				if !errors.Is(err, resilience.ErrTimeout) || report.Reason != resilience.ReasonDeadlineExceeded {
					t.Errorf("err = %v, reason %s; want ErrTimeout, deadline_exceeded", err, report.Reason)
				}
				if got := pl.Breaker().Failures; got != tc.failures {
					t.Errorf("%d failures, want %d", got, tc.failures)
				}
			})
		})
	}
}

func TestAttemptContextCarriesTheAttemptsDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := &op{attempt: func(ctx context.Context, a *resilience.Attempt) (string, error) {
			at, ok := ctx.Deadline()
			if !ok || time.Until(at) != a.Limit() || a.Limit() != 1500*time.Millisecond {
				t.Errorf("deadline in %v (%v), limit %v; want 1.5s for both", time.Until(at), ok, a.Limit())
			}
			return "ok", nil
		}}
		_, _, _ = pipeline(t, steady(), resilience.Options{}).Do(t.Context(), o)
	})
}

func TestHeldAttempt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pl := pipeline(t, steady(), resilience.Options{})
		var held *resilience.Attempt
		var ctx context.Context
		_, _, err := pl.Do(t.Context(), &op{attempt: func(c context.Context, a *resilience.Attempt) (string, error) {
			a.Hold()
			held, ctx = a, c
			return "ok", nil
		}})
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour) // virtual time, long after every timeout
		if ctx.Err() != nil {
			t.Errorf("context of the held attempt: %v, want it alive after the timeout", ctx.Err())
		}
		if s := pl.Breaker(); s.Successes != 0 {
			t.Errorf("%d successes before the release, want 0", s.Successes)
		}
		held.Release(resilience.Unhealthy)
		held.Release(resilience.Healthy)
		if s := pl.Breaker(); s.Failures != 1 || s.Successes != 0 {
			t.Errorf("after the release: %+v, want one failure", s)
		}
		if ctx.Err() == nil {
			t.Error("the context is alive after the release, want it canceled")
		}
	})
}

func TestPanicLeavesNothingBehind(t *testing.T) {
	p := steady()
	p.Breaker.ConsecutiveFailures = 1
	p.Breaker.OpenFor, p.Breaker.MaxOpenFor = time.Second, time.Second
	p.Breaker.Probes = 1
	synctest.Test(t, func(t *testing.T) {
		pl := pipeline(t, p, resilience.Options{Random: half})
		boom := &op{attempt: func(context.Context, *resilience.Attempt) (string, error) { panic("boom") }}
		do := func() (recovered any) {
			defer func() { recovered = recover() }()
			_, _, _ = pl.Do(t.Context(), boom)
			return nil
		}
		if got := do(); got != "boom" {
			t.Fatalf("recovered %v, want boom", got)
		}
		if s := pl.Breaker().State; s != resilience.Open {
			t.Fatalf("state %v after a panic, want open", s)
		}
		time.Sleep(1001 * time.Millisecond)
		if got := do(); got != "boom" { // the only probe
			t.Fatalf("recovered %v, want boom", got)
		}
		time.Sleep(2001 * time.Millisecond)
		if _, _, err := pl.Do(t.Context(), answers("ok")); err != nil {
			t.Errorf("call after the panic of a probe: %v, want no error", err)
		}
	})
}

func TestErrorText(t *testing.T) {
	p := steady()
	p.Retry.Backoff.Base = 0
	cause := errors.New("connection reset by peer")
	_, _, err := pipeline(t, p, resilience.Options{}).Do(t.Context(), &op{attempt: func(context.Context, *resilience.Attempt) (string, error) { return "", cause }})
	var e *resilience.Error
	if !errors.As(err, &e) || !errors.Is(err, cause) || e.Reason != resilience.ReasonMaxAttempts || e.Attempts != 3 || e.Last != resilience.ReasonResetBeforeHeaders {
		t.Fatalf("err = %#v, want max_attempts after 3 attempts, and the cause", err)
	}
	if want := "calling upstream, attempt 3 (reset_before_headers): max_attempts: connection reset by peer"; err.Error() != want {
		t.Errorf("error %q, want %q", err, want)
	}
	if errors.Is(err, resilience.ErrTimeout) || errors.Is(err, resilience.ErrBreakerOpen) || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v matches ErrTimeout, ErrBreakerOpen or DeadlineExceeded, want none of them", err)
	}
}

func TestObserverSeesEveryAttemptAndCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var seen []string
		o := resilience.Options{Observer: resilience.Observer{
			Attempt: func(_ context.Context, a *resilience.AttemptReport) {
				seen = append(seen, fmt.Sprintf("attempt %d %s %s", a.Number, a.Reason, a.Verdict))
			},
			Call: func(_ context.Context, r *resilience.Report) { seen = append(seen, "call "+string(r.Reason)) },
		}}
		_, _, _ = pipeline(t, steady(), o).Do(t.Context(), answers("busy", "ok"))
		want := "attempt 1 status_503 retry, attempt 2 ok return, call ok"
		if got := strings.Join(seen, ", "); got != want {
			t.Errorf("the observer saw %q, want %q", got, want)
		}
	})
}

// The budget limits the retries of 1,000 calls to a dead upstream.
func TestBudgetLimitsAmplification(t *testing.T) {
	for name, budget := range map[string]resilience.BudgetPolicy{
		"default":    resilience.DefaultPolicy().Retry.Budget,
		"only floor": {FloorPerSecond: 5},
		"only burst": {Burst: 7},
		"nothing":    {},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := steady()
				p.Retry.Budget = budget
				pl := pipeline(t, p, resilience.Options{})
				var attempts atomic.Int64
				start := time.Now()
				var wg sync.WaitGroup
				for range 1000 {
					wg.Go(func() {
						_, _, _ = pl.Do(t.Context(), &op{attempt: func(context.Context, *resilience.Attempt) (string, error) {
							attempts.Add(1)
							return "busy", nil
						}})
					})
					time.Sleep(10 * time.Millisecond)
				}
				wg.Wait()
				limit := 1000 + budget.Most() + budget.FloorPerSecond*(1+time.Since(start).Seconds())
				least := 1000 + budget.Most()
				if budget.Burst == resilience.AdaptiveBurst {
					least = 1001
				}
				if got := float64(attempts.Load()); got > limit || got < least {
					t.Errorf("%v attempts, want %v to %v", got, least, limit)
				}
				if budget.FloorPerSecond > 0 && float64(attempts.Load()) < 1000+budget.Most()+budget.FloorPerSecond*9 {
					t.Errorf("%d attempts, want at least %v with the floor", attempts.Load(), 1000+budget.Most()+budget.FloorPerSecond*9)
				}
			})
		})
	}
}

func TestBudgetIsEarnedBySuccessOnly(t *testing.T) {
	p := steady()
	p.Retry.Budget = resilience.BudgetPolicy{Ratio: 0.5, Burst: 2}
	p.Retry.Backoff.Base = 0
	pl := pipeline(t, p, resilience.Options{})
	_, _, _ = pl.Do(t.Context(), answers("busy"))
	if got := pl.BudgetTokens(); got != 0 {
		t.Fatalf("%v tokens after an outage, want 0", got)
	}
	neutral := answers("gone")
	neutral.classify = func(string, error) resilience.Outcome {
		return resilience.Outcome{Reason: "status_404", Health: resilience.Neutral}
	}
	for _, tc := range []struct {
		op   *op
		want float64
	}{{neutral, 0}, {answers("ok"), 0.5}, {answers("ok"), 1}, {answers("ok"), 1.5}, {answers("ok"), 2}, {answers("ok"), 2}} {
		_, _, _ = pl.Do(t.Context(), tc.op)
		if got := pl.BudgetTokens(); got != tc.want {
			t.Errorf("%v tokens, want %v", got, tc.want)
		}
	}
}

func ExamplePipeline() {
	p, err := resilience.New[string]("greeter", resilience.DefaultPolicy(), resilience.Options{})
	if err != nil {
		panic(err)
	}
	tries := 0
	greeting, report, err := p.Do(context.Background(), resilience.Func[string](func(context.Context) (string, error) {
		if tries++; tries < 3 {
			return "", errors.New("not yet")
		}
		return "hello", nil
	}))
	fmt.Println(greeting, len(report.Attempts), report.Reason, err)
	// Output: hello 3 ok <nil>
}

// An attempt that times out costs a token, also if it is not retried: timeouts are the sign of an
// overload, which retries would keep alive.
func TestTimeoutCostsAToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := steady()
		p.Retry.MaxAttempts = 1
		p.Retry.Budget = resilience.BudgetPolicy{Burst: 2}
		pl := pipeline(t, p, resilience.Options{})
		hang := &op{attempt: func(ctx context.Context, _ *resilience.Attempt) (string, error) {
			<-ctx.Done()
			return "", ctx.Err()
		}}
		for _, want := range []float64{1, 0, 0} {
			_, _, _ = pl.Do(t.Context(), hang)
			if got := pl.BudgetTokens(); got != want {
				t.Errorf("%v tokens after a timeout, want %v", got, want)
			}
		}
	})
}

// With an adaptive budget, a small client with steady traffic has one retry when its upstream
// fails, and it waits longer. With a burst of its own it keeps that.
func TestAdaptiveBurst(t *testing.T) {
	for name, tc := range map[string]struct {
		burst   float64
		every   time.Duration
		healthy int  // calls before the outage
		partly  bool // one of four fails at first
		retries int
		wait    time.Duration // before the first retry
	}{
		"a new client":         {resilience.AdaptiveBurst, 500 * time.Millisecond, 0, false, 8, 50 * time.Millisecond},
		"a seldom used client": {resilience.AdaptiveBurst, 5 * time.Second, 10, false, 7, 50 * time.Millisecond},
		"two calls a second":   {resilience.AdaptiveBurst, 500 * time.Millisecond, 30, false, 1, time.Second},
		"and some fail":        {resilience.AdaptiveBurst, 500 * time.Millisecond, 60, true, 4, time.Second * 10 / 19},
		"a hundred a second":   {resilience.AdaptiveBurst, 10 * time.Millisecond, 1500, false, 10, 50 * time.Millisecond},
		"a burst of its own":   {10, 500 * time.Millisecond, 30, false, 10, 50 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := resilience.DefaultPolicy()
				p.Retry.Budget.Burst = tc.burst
				p.Breaker.ConsecutiveFailures, p.Breaker.FailureRatio = 0, 0
				pl := pipeline(t, p, resilience.Options{Random: half})
				for i := range tc.healthy {
					first := "ok"
					if tc.partly && i%4 == 0 {
						first = "busy"
					}
					_, _, _ = pl.Do(t.Context(), answers(first, "ok"))
					time.Sleep(tc.every)
				}
				retries, wait := 0, time.Duration(0)
				for range 5 {
					_, report, _ := pl.Do(t.Context(), answers("busy"))
					if retries += len(report.Attempts) - 1; wait == 0 {
						wait = report.Attempts[0].Wait.Planned
					}
				}
				if retries != tc.retries || wait != tc.wait {
					t.Errorf("%d retries, the first after %v, want %d after %v", retries, wait, tc.retries, tc.wait)
				}
			})
		})
	}
}

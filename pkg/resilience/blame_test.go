package resilience_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rebound-dev/rebound/pkg/resilience"
)

// takes returns an operation that answers after d. If d is 0, it hangs.
func takes(d time.Duration) *op {
	return &op{attempt: func(ctx context.Context, _ *resilience.Attempt) (string, error) {
		var answer <-chan time.Time
		if d > 0 {
			answer = time.After(d)
		}
		select {
		case <-answer:
			return "ok", nil
		case <-ctx.Done():
			return "", context.Cause(ctx)
		}
	}}
}

// Twelve callers give up after 800 ms on a healthy upstream that answers after 1 s.
func TestImpatientCallersDoNotOpenTheCircuit(t *testing.T) {
	for name, call := range map[string]func(pl *resilience.Pipeline[string], o *op){
		"by a limit": func(pl *resilience.Pipeline[string], o *op) {
			_, _, _ = pl.DoWithin(context.Background(), 800*time.Millisecond, o)
		},
		"by the deadline of a context": func(pl *resilience.Pipeline[string], o *op) {
			ctx, cancel := context.WithTimeout(context.Background(), 800*time.Millisecond)
			defer cancel()
			_, _, _ = pl.Do(ctx, o)
		},
		"by canceling": func(pl *resilience.Pipeline[string], o *op) {
			ctx, cancel := context.WithCancel(context.Background())
			defer time.AfterFunc(800*time.Millisecond, cancel).Stop()
			defer cancel()
			_, _, _ = pl.Do(ctx, o)
		},
	} {
		for order, wait := range map[string]bool{"at once": false, "one after the other": true} {
			t.Run(name+", "+order, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					pl := pipeline(t, resilience.DefaultPolicy(), resilience.Options{})
					var calls sync.WaitGroup
					for range 12 {
						calls.Go(func() { call(pl, takes(time.Second)) })
						if wait {
							calls.Wait()
						}
					}
					calls.Wait()
					if s := pl.Breaker(); s.State != resilience.Closed {
						t.Errorf("state %v, want closed", s.State)
					}
				})
			})
		}
	}
}

// Impatient callers do not count while other callers get answers.
func TestImpatientCallersBesidePatientOnes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pl := pipeline(t, resilience.DefaultPolicy(), resilience.Options{})
		var calls sync.WaitGroup
		for range 100 {
			for range 4 {
				calls.Go(func() { _, _, _ = pl.DoWithin(context.Background(), 800*time.Millisecond, takes(time.Second)) })
			}
			calls.Go(func() {
				if got, _, err := pl.Do(context.Background(), takes(time.Second)); got != "ok" {
					t.Errorf("got %q, %v, want ok and no error", got, err)
				}
			})
			time.Sleep(400 * time.Millisecond)
		}
		calls.Wait()
	})
}

func TestHangingUpstreamOpensTheCircuitThoughCallersCancel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pl := pipeline(t, resilience.DefaultPolicy(), resilience.Options{})
		begin := time.Now()
		var opened atomic.Int64
		var calls sync.WaitGroup
		for range 20 {
			calls.Go(func() {
				for range 50 {
					ctx, cancel := context.WithCancel(context.Background())
					stop := time.AfterFunc(time.Second, cancel)
					_, _, err := pl.Do(ctx, takes(0))
					if errors.Is(err, resilience.ErrBreakerOpen) {
						opened.CompareAndSwap(0, int64(time.Since(begin)))
					}
					stop.Stop()
					cancel()
				}
			})
		}
		calls.Wait()
		if first := time.Duration(opened.Load()); first == 0 || first > 3*time.Second {
			t.Errorf("first refusal after %v (0 for none), want within 3s", first)
		}
	})
}

// A probe that its caller ends, or that waits for its caller, is neutral and frees its slot.
func TestProbeThatWaitsForItsCallerIsNeutral(t *testing.T) {
	for name, o := range map[string]resilience.Operation[string]{
		"cut by its caller": takes(0),
		"a slow upload":     uploading{takes(0)},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				pl := tripped(t, resilience.Options{}, func(b *resilience.BreakerPolicy) { b.Probes = 1 })
				time.Sleep(time.Second + 1)
				limit := 5 * time.Second
				if _, slow := o.(uploading); !slow {
					limit = time.Second
				}
				_, report, _ := pl.DoWithin(t.Context(), limit, o)
				if len(report.Attempts) == 0 || report.Attempts[0].Health != resilience.Neutral {
					t.Errorf("attempts = %+v, want a neutral one", report.Attempts)
				}
				if s := pl.Breaker(); s.State != resilience.HalfOpen || s.Probes != 0 {
					t.Errorf("state %v with %d probes in flight, want half-open with 0", s.State, s.Probes)
				}
				if got, _, err := pl.Do(t.Context(), answers("ok")); got != "ok" {
					t.Errorf("the next probe returned %q, %v, want ok and no error", got, err)
				}
			})
		})
	}
}

// uploading is an operation that always waits for its caller.
type uploading struct{ *op }

func (uploading) CallerBusy() bool { return true }

func TestSlowUploadsDoNotOpenTheCircuit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pl := pipeline(t, resilience.DefaultPolicy(), resilience.Options{})
		for range 20 {
			_, _, _ = pl.Do(t.Context(), uploading{takes(0)})
		}
		if s := pl.Breaker(); s.State != resilience.Closed || s.Failures != 0 {
			t.Errorf("state %v with %d failures, want closed with 0", s.State, s.Failures)
		}
	})
}

// A healthy answer may be retried. It must not earn the token for its own retry, or nothing would
// limit the retries.
func TestRetriedAnswerEarnsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := steady()
		p.Retry.Budget = resilience.BudgetPolicy{Ratio: 1, Burst: 2}
		pl := pipeline(t, p, resilience.Options{})
		attempts := 0
		for range 20 {
			o := answers("not found")
			o.classify = func(string, error) resilience.Outcome {
				return resilience.Outcome{Reason: "status_404", Health: resilience.Healthy, Retry: true}
			}
			_, report, _ := pl.Do(t.Context(), o)
			attempts += len(report.Attempts)
		}
		if attempts != 22 {
			t.Errorf("%d attempts of 20 calls with 2 tokens, want 22", attempts)
		}
	})
}

func TestPermanentErrorIsAnAnswer(t *testing.T) {
	lookup := func(err error) resilience.Func[string] {
		return func(context.Context) (string, error) { return "", err }
	}
	wrapped := resilience.Permanent(sql.ErrNoRows)
	for name, tc := range map[string]struct {
		op       resilience.Operation[string]
		attempts int
		state    resilience.State
	}{
		"permanent":      {lookup(wrapped), 1, resilience.Closed},
		"transient":      {lookup(sql.ErrConnDone), 3, resilience.Open},
		"wrapped deeper": {lookup(errors.Join(errors.New("user 7"), wrapped)), 1, resilience.Closed},
		"a classifier": {resilience.Classified[string]{Func: lookup(sql.ErrNoRows), Classifier: func(_ string, err error) resilience.Outcome {
			if errors.Is(err, sql.ErrNoRows) {
				err = resilience.Permanent(err)
			}
			return resilience.Judge(err)
		}}, 1, resilience.Closed},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				pl := pipeline(t, resilience.DefaultPolicy(), resilience.Options{Random: half})
				_, first, err := pl.Do(t.Context(), tc.op)
				if len(first.Attempts) != tc.attempts || err == nil {
					t.Errorf("%d attempts, error %v; want %d attempts and an error", len(first.Attempts), err, tc.attempts)
				}
				if tc.attempts == 1 && (!errors.Is(err, sql.ErrNoRows) || first.Attempts[0].Health != resilience.Healthy) {
					t.Errorf("error %v, attempt %+v; want sql.ErrNoRows and a healthy attempt", err, first.Attempts[0])
				}
				for range 30 {
					_, _, _ = pl.Do(t.Context(), tc.op)
				}
				if got := pl.Breaker().State; got != tc.state {
					t.Errorf("state %v, want %v", got, tc.state)
				}
			})
		})
	}
	if resilience.Permanent(nil) != nil {
		t.Error("Permanent(nil) is an error, want nil")
	}
}

// A lookup that finds nothing is an answer, not a failure of the database.
func ExamplePermanent() {
	users, err := resilience.New[string]("users-db", resilience.DefaultPolicy(), resilience.Options{})
	if err != nil {
		panic(err)
	}
	_, report, err := users.Do(context.Background(), resilience.Func[string](func(context.Context) (string, error) {
		return "", resilience.Permanent(sql.ErrNoRows)
	}))
	fmt.Println(len(report.Attempts), errors.Is(err, sql.ErrNoRows), users.Breaker().Failures)
	// Output: 1 true 0
}

// A failed probe that is retried is neutral, because it may have met the one bad pod behind the
// upstream's name. The last attempt of its call counts.
func TestRetriedProbe(t *testing.T) {
	for name, tc := range map[string]struct {
		budget  resilience.BudgetPolicy
		answers []string
		held    bool // the answer has a body, which Discard reads to its end
		want    resilience.State
		ok      bool
	}{
		"the second attempt succeeds": {resilience.BudgetPolicy{Burst: 10}, []string{"busy", "ok"}, false, resilience.Closed, true},
		"all attempts fail":           {resilience.BudgetPolicy{Burst: 10}, []string{"busy"}, false, resilience.Open, false},
		"all answers fail":            {resilience.BudgetPolicy{Burst: 10}, []string{"busy"}, true, resilience.Open, false},
		"no token for a retry":        {resilience.BudgetPolicy{}, []string{"busy", "ok"}, false, resilience.Open, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := resilience.DefaultPolicy()
				p.Retry.Budget = tc.budget
				p.Breaker.Probes, p.Breaker.ConsecutiveFailures = 1, 1
				pl := pipeline(t, p, resilience.Options{Random: half})
				once := answers("x")
				once.classify = func(string, error) resilience.Outcome { return resilience.Outcome{Reason: "status_500"} }
				_, _, _ = pl.Do(t.Context(), once)
				time.Sleep(p.Breaker.OpenFor + 1)
				if s := pl.Breaker().State; s != resilience.HalfOpen {
					t.Fatalf("state %v, want half-open", s)
				}
				o := answers(tc.answers...)
				if answer := o.attempt; tc.held {
					o.attempt = func(ctx context.Context, a *resilience.Attempt) (string, error) {
						a.Hold()
						return answer(ctx, a)
					}
				}
				got, report, _ := pl.Do(t.Context(), o)
				for _, a := range report.Attempts {
					if a.Breaker != resilience.HalfOpen {
						t.Errorf("attempt %d ran in state %v, want half-open", a.Number, a.Breaker)
					}
				}
				if s := pl.Breaker(); s.State != tc.want || (got == "ok") != tc.ok || s.Probes != 0 {
					t.Errorf("result %q, state %v with %d probes in flight, want state %v with 0; attempts %+v", got, s.State, s.Probes, tc.want, report.Attempts)
				}
			})
		})
	}
}

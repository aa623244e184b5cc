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

// takes is an operation that needs d for its answer, or hangs when d is 0.
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

// Twelve callers who give 800 ms to a healthy route of 1 s say nothing about it.
func TestA4CallersInAHurryOpenNothing(t *testing.T) {
	for name, call := range map[string]func(pl *resilience.Pipeline[string], o *op){
		"by a limit": func(pl *resilience.Pipeline[string], o *op) {
			_, _, _ = pl.DoWithin(context.Background(), 800*time.Millisecond, o)
		},
		"by the deadline of a context": func(pl *resilience.Pipeline[string], o *op) {
			ctx, cancel := context.WithTimeout(context.Background(), 800*time.Millisecond)
			defer cancel()
			_, _, _ = pl.Do(ctx, o)
		},
		"by hanging up": func(pl *resilience.Pipeline[string], o *op) {
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
						t.Errorf("the circuit is %v", s.State)
					}
				})
			})
		}
	}
}

// Callers in a hurry never matter while another caller is answered.
func TestA4CallersInAHurryBesidePatientOnes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pl := pipeline(t, resilience.DefaultPolicy(), resilience.Options{})
		var calls sync.WaitGroup
		for range 100 {
			for range 4 {
				calls.Go(func() { _, _, _ = pl.DoWithin(context.Background(), 800*time.Millisecond, takes(time.Second)) })
			}
			calls.Go(func() {
				if got, _, err := pl.Do(context.Background(), takes(time.Second)); got != "ok" {
					t.Errorf("got %q, %v", got, err)
				}
			})
			time.Sleep(400 * time.Millisecond)
		}
		calls.Wait()
	})
}

func TestA5CallersWhoHangUpOnAHangingUpstreamAreNoticed(t *testing.T) {
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
			t.Errorf("the first refusal came after %v, want within 3 s", first)
		}
	})
}

// A probe that its caller ends gives its slot back and decides nothing.
func TestA8ProbeThatWaitsForItsCallerIsNeutral(t *testing.T) {
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
					t.Errorf("attempts %+v, want a neutral one", report.Attempts)
				}
				if s := pl.Breaker(); s.State != resilience.HalfOpen || s.Probes != 0 {
					t.Errorf("%v with %d probes out, want half-open with none", s.State, s.Probes)
				}
				if got, _, err := pl.Do(t.Context(), answers("ok")); got != "ok" {
					t.Errorf("the next probe: %q, %v", got, err)
				}
			})
		})
	}
}

// uploading is an operation that waits for its caller all the time.
type uploading struct{ *op }

func (uploading) CallerBusy() bool { return true }

func TestA8SlowUploadsOpenNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pl := pipeline(t, resilience.DefaultPolicy(), resilience.Options{})
		for range 20 {
			_, _, _ = pl.Do(t.Context(), uploading{takes(0)})
		}
		if s := pl.Breaker(); s.State != resilience.Closed || s.Failures != 0 {
			t.Errorf("%v after %d failures", s.State, s.Failures)
		}
	})
}

// An answer that is repeated although the upstream is healthy must not earn the
// token for its own repetition, or nothing would bound the repetitions.
func TestRepeatedAnswerEarnsNothing(t *testing.T) {
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
			t.Errorf("%d attempts for 20 calls and 2 tokens, want 22", attempts)
		}
	})
}

func TestA14PermanentErrorIsAnAnswer(t *testing.T) {
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
					t.Errorf("%d attempts, %v; want %d and the error", len(first.Attempts), err, tc.attempts)
				}
				if tc.attempts == 1 && (!errors.Is(err, sql.ErrNoRows) || first.Attempts[0].Health != resilience.Healthy) {
					t.Errorf("%v, %+v: want the caller's own error and a healthy attempt", err, first.Attempts[0])
				}
				for range 30 {
					_, _, _ = pl.Do(t.Context(), tc.op)
				}
				if got := pl.Breaker().State; got != tc.state {
					t.Errorf("the circuit is %v, want %v", got, tc.state)
				}
			})
		})
	}
	if resilience.Permanent(nil) != nil {
		t.Error("Permanent(nil) is an error")
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

// A probe that fails and is tried again decides nothing: it may have met the one
// bad pod behind the upstream's name. Its call's last attempt counts.
func TestA1ProbeThatIsTriedAgain(t *testing.T) {
	for name, tc := range map[string]struct {
		budget  resilience.BudgetPolicy
		answers []string
		want    resilience.State
		ok      bool
	}{
		"the second try is good":      {resilience.BudgetPolicy{Burst: 10}, []string{"busy", "ok"}, resilience.Closed, true},
		"all tries fail":              {resilience.BudgetPolicy{Burst: 10}, []string{"busy"}, resilience.Open, false},
		"there is no token to try it": {resilience.BudgetPolicy{}, []string{"busy", "ok"}, resilience.Open, false},
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
					t.Fatalf("the circuit is %v, want half-open", s)
				}
				got, report, _ := pl.Do(t.Context(), answers(tc.answers...))
				if s := pl.Breaker(); s.State != tc.want || (got == "ok") != tc.ok || s.Probes != 0 {
					t.Errorf("%v with %d probes out after %q, want %v; %+v", s.State, s.Probes, got, tc.want, report.Attempts)
				}
			})
		})
	}
}

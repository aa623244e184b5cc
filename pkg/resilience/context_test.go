package resilience_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rebound-dev/rebound/pkg/resilience"
)

var (
	errLeft    = errors.New("the caller left")
	errStalled = errors.New("the body stalled")
)

type contextKey struct{}

// scene is one attempt that holds its answer, and what acts on it.
type scene struct {
	ctx   context.Context
	a     *resilience.Attempt
	leave context.CancelCauseFunc // of the caller
}

// looks returns the ways to ask whether an attempt has ended.
func looks() map[string]func(t *testing.T, ctx context.Context) string {
	return map[string]func(t *testing.T, ctx context.Context) string{
		"Done": func(_ *testing.T, ctx context.Context) string {
			select {
			case <-ctx.Done():
				return "ended"
			default:
				return "lives"
			}
		},
		"Err": func(_ *testing.T, ctx context.Context) string { return fmt.Sprint(ctx.Err()) },
		"Cause": func(_ *testing.T, ctx context.Context) string {
			return fmt.Sprint(context.Cause(context.WithValue(ctx, contextKey{}, "other")))
		},
		"Value": func(_ *testing.T, ctx context.Context) string { return fmt.Sprint(ctx.Value(contextKey{})) },
		"child": func(t *testing.T, ctx context.Context) string {
			child, cancel := context.WithCancel(ctx)
			t.Cleanup(cancel)
			return fmt.Sprint(child.Err(), ", ", context.Cause(child))
		},
		"AfterFunc": func(_ *testing.T, ctx context.Context) string {
			var runs atomic.Bool
			stop := context.AfterFunc(ctx, func() { runs.Store(true) })
			synctest.Wait()
			stop()
			return fmt.Sprint(runs.Load())
		},
	}
}

// What an attempt's context shows does not depend on when somebody asks first, and how: its context
// and its timer are made only then.
func TestContextOfAnAttempt(t *testing.T) {
	ways := looks()
	canceled := func(cause string) map[string]string {
		return map[string]string{
			"Done": "ended", "Err": "context canceled", "Cause": cause, "Value": "mine",
			"child": "context canceled, " + cause, "AfterFunc": "true",
		}
	}
	lives := map[string]string{
		"Done": "lives", "Err": "<nil>", "Cause": "<nil>", "Value": "mine", "child": "<nil>, <nil>", "AfterFunc": "false",
	}
	sleep := func(d time.Duration) func(scene) { return func(scene) { time.Sleep(d) } }
	leave := func(s scene) { s.leave(errLeft) }
	release := func(s scene) { s.a.Release(resilience.Healthy) }
	stall := func(s scene) { s.a.Cancel(errStalled) }
	const timedOut = "attempt timed out: context deadline exceeded"
	for name, tc := range map[string]struct {
		during, after []func(scene) // the attempt, until it returns its answer, and then
		want          map[string]string
	}{
		"no end":                         {nil, nil, lives},
		"no end, past the limit":         {nil, []func(scene){sleep(time.Minute)}, lives},
		"time is up":                     {[]func(scene){sleep(2 * time.Second)}, nil, canceled(timedOut)},
		"time is up, the caller leaves":  {[]func(scene){sleep(2 * time.Second), leave}, nil, canceled(timedOut)},
		"the caller leaves":              {[]func(scene){leave}, nil, canceled("the caller left")},
		"the caller leaves, time is up":  {[]func(scene){leave, sleep(2 * time.Second)}, nil, canceled("the caller left")},
		"the caller leaves later":        {nil, []func(scene){leave}, canceled("the caller left")},
		"release":                        {nil, []func(scene){release}, canceled("context canceled")},
		"release, the caller leaves":     {nil, []func(scene){release, leave}, canceled("context canceled")},
		"the caller leaves, release":     {nil, []func(scene){leave, release}, canceled("the caller left")},
		"cancel":                         {nil, []func(scene){stall}, canceled("the body stalled")},
		"cancel before the answer":       {[]func(scene){stall}, nil, canceled("the body stalled")},
		"cancel, the caller leaves":      {nil, []func(scene){stall, leave}, canceled("the body stalled")},
		"cancel, release":                {nil, []func(scene){stall, release}, canceled("the body stalled")},
		"release, cancel":                {nil, []func(scene){release, stall}, canceled("context canceled")},
		"release, cancel twice":          {nil, []func(scene){release, stall, stall}, canceled("context canceled")},
		"cancel without a cause":         {nil, []func(scene){func(s scene) { s.a.Cancel(nil) }}, canceled("context canceled")},
		"release before the answer":      {[]func(scene){release}, nil, canceled("context canceled")},
		"release before, later the rest": {[]func(scene){release, sleep(2 * time.Second)}, []func(scene){stall, leave}, canceled("context canceled")},
	} {
		t.Run(name, func(t *testing.T) {
			for _, when := range []string{"at the begin", "at half of the time", "after the answer", "never"} {
				for how := range ways {
					for _, warm := range []bool{false, true} {
						synctest.Test(t, func(t *testing.T) {
							s := newScene(t, warm, func(s scene) {
								ask := func(now string) {
									if when == now {
										ways[how](t, s.ctx)
									}
								}
								ask("at the begin")
								time.Sleep(s.a.Limit() / 2)
								ask("at half of the time")
								for _, act := range tc.during {
									act(s)
								}
							})
							if when == "after the answer" {
								ways[how](t, s.ctx)
							}
							for _, act := range tc.after {
								act(s)
							}
							synctest.Wait()
							want := tc.want
							if early := when == "at the begin" || when == "at half of the time"; name == "time is up, the caller leaves" &&
								!warm && (!early || how == "Err" || how == "Cause" || how == "Value") {
								want = canceled("the caller left") // nobody asked in between, so no timer shows which was first
							}
							context := fmt.Sprintf("first asked %s by %s, others asked before: %v", when, how, warm)
							if got := ways[how](t, s.ctx); got != want[how] {
								t.Errorf("%s: %s shows %q, want %q", context, how, got, want[how])
							}
							for how, want := range want {
								if got := ways[how](t, s.ctx); got != want {
									t.Errorf("%s: %s shows %q, want %q", context, how, got, want)
								}
							}
							if at, ok := s.ctx.Deadline(); !ok || !at.Equal(s.a.Start().Add(s.a.Limit())) {
								t.Errorf("%s: deadline %v, %v, want that of the attempt", context, at, ok)
							}
							s.a.Release(resilience.Healthy)
						})
					}
				}
			}
		})
	}
}

// newScene makes a call whose only attempt does act and holds its answer. The pipeline is warm if
// somebody has asked for the end of an attempt before.
func newScene(t *testing.T, warm bool, act func(scene)) (s scene) {
	t.Helper()
	p := steady()
	p.Retry.MaxAttempts = 1
	pl := pipeline(t, p, resilience.Options{})
	if warm {
		warmUp(t, pl)
	}
	ctx, leave := context.WithCancelCause(context.WithValue(t.Context(), contextKey{}, "mine"))
	t.Cleanup(func() { leave(nil) })
	_, _, _ = pl.Do(ctx, &op{attempt: func(ctx context.Context, a *resilience.Attempt) (string, error) {
		a.Hold()
		s = scene{ctx, a, leave}
		act(s)
		return "ok", nil
	}})
	return s
}

// warmUp makes a call that asks for the end of its attempt.
func warmUp(t *testing.T, pl *resilience.Pipeline[string]) {
	t.Helper()
	_, _, err := pl.Do(t.Context(), &op{attempt: func(ctx context.Context, _ *resilience.Attempt) (string, error) {
		_ = ctx.Done()
		return "ok", nil
	}})
	if err != nil {
		t.Fatal(err)
	}
}

// An attempt ends at its limit, however late somebody asks. Who does not ask gets to know it from
// the outcome: an answer that is held would break off, so it is useless.
func TestLimitOfAnAttempt(t *testing.T) {
	const limit = 1500 * time.Millisecond
	broken := errors.New("broken")
	ends := func(after time.Duration) func(context.Context, *resilience.Attempt) (string, error) {
		return func(ctx context.Context, _ *resilience.Attempt) (string, error) {
			time.Sleep(after)
			<-ctx.Done()
			return "", ctx.Err()
		}
	}
	answers := func(after time.Duration, held bool, err error) func(context.Context, *resilience.Attempt) (string, error) {
		return func(_ context.Context, a *resilience.Attempt) (string, error) {
			time.Sleep(after)
			if held {
				a.Hold()
			}
			return "ok", err
		}
	}
	for name, tc := range map[string]struct {
		attempt  func(context.Context, *resilience.Attempt) (string, error)
		takes    time.Duration
		reason   resilience.Reason
		health   resilience.Health
		discards bool
	}{
		"asked at once":               {ends(0), limit, resilience.ReasonAttemptTimeout, resilience.Unhealthy, false},
		"asked at half of the time":   {ends(limit / 2), limit, resilience.ReasonAttemptTimeout, resilience.Unhealthy, false},
		"asked after the first check": {ends(limit - limit/64), limit, resilience.ReasonAttemptTimeout, resilience.Unhealthy, false},
		"asked after the limit":       {ends(limit + time.Second), limit + time.Second, resilience.ReasonAttemptTimeout, resilience.Unhealthy, false},
		"asked for the error only": {func(ctx context.Context, _ *resilience.Attempt) (string, error) {
			for ctx.Err() == nil {
				time.Sleep(limit/4 + 1)
			}
			return "", ctx.Err()
		}, limit + 4, resilience.ReasonAttemptTimeout, resilience.Unhealthy, false},
		"an answer in time":            {answers(limit-1, false, nil), limit - 1, resilience.ReasonOK, resilience.Healthy, false},
		"a held answer in time":        {answers(limit-1, true, nil), limit - 1, resilience.ReasonOK, resilience.Healthy, false},
		"an error in time":             {answers(limit-1, false, broken), limit - 1, resilience.ReasonResetBeforeHeaders, resilience.Unhealthy, false},
		"an answer after the limit":    {answers(limit+1, false, nil), limit + 1, resilience.ReasonOK, resilience.Healthy, false},
		"a held answer after it":       {answers(limit+1, true, nil), limit + 1, resilience.ReasonAttemptTimeout, resilience.Unhealthy, true},
		"an error after the limit":     {answers(limit+1, false, broken), limit + 1, resilience.ReasonAttemptTimeout, resilience.Unhealthy, false},
		"a held error after the limit": {answers(limit+1, true, broken), limit + 1, resilience.ReasonAttemptTimeout, resilience.Unhealthy, false},
	} {
		t.Run(name, func(t *testing.T) {
			for _, warm := range []bool{false, true} {
				synctest.Test(t, func(t *testing.T) {
					p := steady()
					p.AttemptTimeout, p.Retry.MaxAttempts = limit, 1
					pl := pipeline(t, p, resilience.Options{})
					if warm {
						warmUp(t, pl)
					}
					o := &op{}
					o.attempt = func(ctx context.Context, a *resilience.Attempt) (string, error) {
						defer func() { // a body that ends with the test
							time.AfterFunc(time.Minute, func() { a.Release(resilience.Healthy) })
						}()
						return tc.attempt(ctx, a)
					}
					_, report, _ := pl.Do(t.Context(), o)
					got := report.Attempts[0]
					if got.Duration != tc.takes || got.Reason != tc.reason || got.Health != tc.health || (len(o.discarded) > 0) != tc.discards {
						t.Errorf("others asked before: %v: took %v, %v, %v, discarded %v, want %v, %v, %v, %v",
							warm, got.Duration, got.Reason, got.Health, o.discarded, tc.takes, tc.reason, tc.health, tc.discards)
					}
					time.Sleep(time.Minute)
				})
			}
		})
	}
}

// A driver may set a connection's deadline to that of the context. Then its error comes at the
// moment of the limit, often before the context has ended. It is a timeout all the same: if it were
// a failure of the upstream, callers with little time could open the circuit.
func TestErrorAtTheLimitIsATimeout(t *testing.T) {
	for name, tc := range map[string]struct {
		caller time.Duration // the caller's limit, if above 0
		reason resilience.Reason
		health resilience.Health
	}{
		"the attempt timeout":   {0, resilience.ReasonAttemptTimeout, resilience.Unhealthy},
		"the caller's deadline": {100 * time.Millisecond, resilience.ReasonDeadlineExceeded, resilience.Neutral},
	} {
		t.Run(name, func(t *testing.T) {
			for _, warm := range []bool{false, true} {
				for range 100 {
					synctest.Test(t, func(t *testing.T) {
						p := steady()
						p.Retry.MaxAttempts = 1
						pl := pipeline(t, p, resilience.Options{})
						if warm {
							warmUp(t, pl)
						}
						ctx := t.Context()
						if tc.caller > 0 {
							limited, cancel := context.WithTimeout(ctx, tc.caller)
							defer cancel()
							ctx = limited
						}
						_, report, _ := pl.Do(ctx, &op{attempt: func(ctx context.Context, _ *resilience.Attempt) (string, error) {
							at, _ := ctx.Deadline()
							time.Sleep(time.Until(at))
							return "", os.ErrDeadlineExceeded
						}})
						if got := report.Attempts[0]; got.Reason != tc.reason || got.Health != tc.health {
							t.Errorf("others asked before: %v: %v, %v, want %v, %v", warm, got.Reason, got.Health, tc.reason, tc.health)
						}
					})
				}
			}
		})
	}
}

// Many ask while the attempt ends. They all see the same end.
func TestManyAskForTheEnd(t *testing.T) {
	for name, end := range map[string]func(scene){
		"release":           func(s scene) { s.a.Release(resilience.Healthy) },
		"cancel":            func(s scene) { s.a.Cancel(errStalled) },
		"the caller leaves": func(s scene) { s.leave(errLeft) },
		"time is up":        func(s scene) { time.Sleep(2 * time.Second) },
		"the answer":        func(scene) {},
	} {
		t.Run(name, func(t *testing.T) {
			for range 50 {
				synctest.Test(t, func(t *testing.T) {
					const askers = 16
					var (
						asking sync.WaitGroup
						ends   [askers]<-chan struct{}
						causes [askers]error
					)
					begin := make(chan struct{})
					s := newScene(t, false, func(s scene) {
						for i := range askers {
							asking.Go(func() {
								<-begin
								switch i % 4 {
								case 0:
									_ = s.ctx.Err()
								case 1:
									_ = s.ctx.Value(contextKey{})
								case 2:
									_, cancel := context.WithCancel(s.ctx)
									cancel()
								}
								ends[i] = s.ctx.Done()
								<-ends[i]
								causes[i] = context.Cause(s.ctx)
							})
						}
						if name != "the answer" {
							close(begin)
							end(s)
						}
					})
					if name == "the answer" {
						close(begin)
						s.a.Release(resilience.Healthy)
					}
					asking.Wait()
					for i := range askers {
						if ends[i] != ends[0] || causes[i] == nil || causes[i] != causes[0] { //nolint:errorlint // the very same
							t.Errorf("asker %d saw %v, the first %v, want the same end", i, causes[i], causes[0])
						}
					}
					s.a.Release(resilience.Healthy)
				})
			}
		})
	}
}

// The context package starts a goroutine for a child of a context that it does not know. An
// attempt's context is not one of these.
func TestChildrenOfAnAttemptNeedNoGoroutine(t *testing.T) {
	s := newScene(t, false, func(scene) {})
	defer s.a.Release(resilience.Healthy)
	for range 3 {
		_, cancel := context.WithTimeout(s.ctx, time.Hour)
		defer cancel()
		defer context.AfterFunc(context.WithValue(s.ctx, contextKey{}, "other"), func() {})()
	}
	stacks := make([]byte, 1<<20)
	if all := string(stacks[:runtime.Stack(stacks, true)]); strings.Contains(all, "context.(*cancelCtx).propagateCancel") {
		t.Errorf("a child has a goroutine:\n%s", all)
	}
}

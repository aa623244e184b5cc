package resilience_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rebound-dev/rebound/pkg/resilience"
)

// ledger records all that a pipeline does to its operations and tells its observer, in order.
type ledger struct {
	mu       sync.Mutex
	lines    []string
	anyOrder bool // two calls do something at the same moment, in any order
}

func (l *ledger) add(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, time.Now().Format("05.000000000 ")+fmt.Sprintf(format, args...))
}

func (l *ledger) observer() resilience.Observer {
	return resilience.Observer{
		Attempt:    func(_ context.Context, a *resilience.AttemptReport) { l.add("observed attempt %+v", *a) },
		Call:       func(_ context.Context, r *resilience.Report) { l.add("observed call %+v", *r) },
		Transition: func(t resilience.Transition) { l.add("observed transition %+v", t) },
	}
}

// act is what one attempt does.
type act struct {
	takes    time.Duration // or until its context ends
	stubborn bool          // does not look at its context
	result   string
	err      error
	panics   bool
	held     time.Duration // 0: the attempt ends with its result
	after    time.Duration // the wait that the upstream asks for
	final    bool          // no retry may help
	busy     bool          // the caller is to blame
	sends    bool
}

// acts is an operation with a ledger. Its last act repeats.
type acts struct {
	*ledger
	list  []act
	n     int
	holds sync.WaitGroup
}

func (o *acts) now() act { return o.list[min(max(o.n, 1), len(o.list))-1] }

func (o *acts) Attempt(ctx context.Context, a *resilience.Attempt) (string, error) {
	o.n++
	deadline, _ := ctx.Deadline()
	o.add("attempt %d of %v, deadlines %v and %v, circuit %v, ends %v", a.Number(), a.Limit(),
		deadline.UnixNano(), a.CallDeadline().UnixNano(), a.Breaker(), ctx.Err())
	t := o.now()
	ends := ctx.Done()
	if t.stubborn {
		ends = nil
	}
	select {
	case <-time.After(t.takes):
	case <-ends:
		o.add("its context ends: %v, %v", ctx.Err(), context.Cause(ctx))
		return "", context.Cause(ctx)
	}
	if t.panics {
		panic("broken")
	}
	if t.held > 0 {
		a.Hold()
		o.holds.Go(func() {
			time.Sleep(t.held)
			o.add("released: %v", ctx.Err())
			a.Release(resilience.Healthy)
		})
	}
	return t.result, t.err
}

func (o *acts) Classify(result string, err error) resilience.Outcome {
	out := transient(result, err)
	out.RetryAfter = o.now().after
	if o.now().final {
		out.Retry, out.Final = false, resilience.ReasonStatusNotRetryable
	}
	o.add("classified %q, %v: %+v", result, err, out)
	return out
}

func (o *acts) Decided(r *resilience.AttemptReport) { o.add("decided %+v", *r) }

func (o *acts) Discard(result string, a *resilience.Attempt) {
	o.add("discarded %q of attempt %d", result, a.Number())
	a.Release(resilience.Healthy)
}

func (o *acts) CountsAs(h resilience.Health) resilience.Health {
	o.add("counts as %v", h)
	return h
}

// CallerBusy is not in the ledger: the timer of a probe's lease asks too, at the same time.
func (o *acts) CallerBusy() bool { return o.now().busy }

func (o *acts) CallerSends() bool {
	o.add("caller sends?")
	return o.now().sends
}

func (o *acts) Priority() resilience.Priority {
	o.add("priority?")
	return resilience.PriorityNormal
}

// one makes one call, and records how it ends.
func one(ctx context.Context, l *ledger, pl *resilience.Pipeline[string], list ...act) {
	o := &acts{ledger: l, list: list}
	func() {
		defer func() {
			if p := recover(); p != nil {
				l.add("panic %v", p)
			}
		}()
		result, report, err := pl.DoWithin(ctx, 4*time.Second, o)
		e := new(resilience.Error)
		errors.As(err, &e)
		l.add("returned %q, %+v, %+v, %v", result, report, *e, err)
	}()
	o.holds.Wait()
	l.add("left %+v, %v tokens, %+v", pl.Breaker(), pl.BudgetTokens(), pl.Concurrency())
}

// The first attempt does not pass failsafe-go's executor. Nothing must show it: all is as if the
// executor ran the whole call. That is the order of policies, what the operation is asked and told,
// and the reports, events, times, counts and errors.
func TestFirstAttemptIsThatOfTheExecutor(t *testing.T) {
	good, bad, down := act{result: "ok", takes: time.Millisecond}, act{result: "busy", takes: time.Millisecond}, act{err: errors.New("down")}
	hangs := act{takes: time.Hour}
	calls := func(lists ...[]act) func(context.Context, *ledger, *resilience.Pipeline[string]) {
		return func(ctx context.Context, l *ledger, pl *resilience.Pipeline[string]) {
			for _, list := range lists {
				one(ctx, l, pl, list...)
			}
		}
	}
	for name, tc := range map[string]struct {
		policy func(*resilience.Policy)
		calls  func(ctx context.Context, l *ledger, pl *resilience.Pipeline[string])
	}{
		"success":                    {nil, calls([]act{good})},
		"success with a body":        {nil, calls([]act{{result: "ok", held: time.Minute}})},
		"success after retries":      {nil, calls([]act{bad, down, good})},
		"body after a retry":         {nil, calls([]act{{result: "busy", held: time.Second}, {result: "ok", held: time.Second}})},
		"no success":                 {nil, calls([]act{bad})},
		"no answer":                  {nil, calls([]act{down})},
		"not retryable":              {nil, calls([]act{{result: "no", final: true}})},
		"never retry":                {func(p *resilience.Policy) { p.Retry.MaxAttempts = 1 }, calls([]act{bad})},
		"no budget":                  {func(p *resilience.Policy) { p.Retry.Budget = resilience.BudgetPolicy{} }, calls([]act{bad})},
		"budget for one":             {func(p *resilience.Policy) { p.Retry.Budget = resilience.BudgetPolicy{Burst: 1, Ratio: 0.1} }, calls([]act{bad}, []act{bad}, []act{good})},
		"asked to wait":              {nil, calls([]act{{result: "busy", after: time.Second}, good})},
		"asked to wait for too long": {nil, calls([]act{{result: "busy", after: time.Hour}, good})},
		"attempts time out":          {nil, calls([]act{hangs})},
		"the second attempt hangs":   {nil, calls([]act{bad, hangs, good})},
		"a late answer":              {nil, calls([]act{{result: "ok", takes: 2 * time.Second, stubborn: true, held: time.Second}, good})},
		"the caller is busy":         {nil, calls([]act{{takes: time.Hour, busy: true, sends: true}, good})},
		"the first attempt panics":   {nil, calls([]act{{panics: true}}, []act{good})},
		"the second attempt panics":  {nil, calls([]act{bad, {panics: true}}, []act{good})},
		"over the rate":              {func(p *resilience.Policy) { p.RateLimit = resilience.RateLimitPolicy{PerSecond: 1, Burst: 1} }, calls([]act{good}, []act{good})},
		"a long wait before a retry": {func(p *resilience.Policy) {
			p.Retry.Backoff.Base = 3 * time.Second
			p.Retry.Backoff.Max = 3 * time.Second
		}, calls([]act{hangs})},
		"the circuit opens": {func(p *resilience.Policy) { p.Breaker.ConsecutiveFailures = 2 }, calls([]act{bad}, []act{good})},
		"the circuit opens at a wait": {func(p *resilience.Policy) { p.Breaker.ConsecutiveFailures = 2 }, func(ctx context.Context, l *ledger, pl *resilience.Pipeline[string]) {
			var other sync.WaitGroup
			other.Go(func() {
				time.Sleep(50 * time.Millisecond)
				one(ctx, l, pl, down)
			})
			one(ctx, l, pl, bad, good)
			other.Wait()
		}},
		"probes": {func(p *resilience.Policy) {
			p.Breaker.ConsecutiveFailures, p.Breaker.OpenFor, p.Breaker.MaxOpenFor = 1, time.Second, time.Second
			p.Breaker.Probes = 2
		}, func(ctx context.Context, l *ledger, pl *resilience.Pipeline[string]) {
			for _, list := range [][]act{{bad}, {bad, good}, {good}, {down}, {{result: "busy", takes: time.Second}, good}, {good}, {good}, {{panics: true}}} {
				one(ctx, l, pl, list...)
				time.Sleep(2 * time.Second)
			}
		}},
		"canceled before": {nil, func(ctx context.Context, l *ledger, pl *resilience.Pipeline[string]) { ends(ctx, 0, l, pl, good) }},
		"canceled in an attempt": {nil, func(ctx context.Context, l *ledger, pl *resilience.Pipeline[string]) {
			ends(ctx, time.Second, l, pl, hangs)
		}},
		"canceled in the second": {nil, func(ctx context.Context, l *ledger, pl *resilience.Pipeline[string]) {
			ends(ctx, time.Second, l, pl, bad, hangs)
		}},
		"canceled in a wait": {nil, func(ctx context.Context, l *ledger, pl *resilience.Pipeline[string]) {
			ends(ctx, 50*time.Millisecond, l, pl, bad)
		}},
		"canceled as it fails": {nil, func(ctx context.Context, l *ledger, pl *resilience.Pipeline[string]) {
			ctx, cancel := context.WithCancel(ctx)
			o := &acts{ledger: l, list: []act{bad}}
			_, report, err := pl.Do(ctx, cancelsAtDiscard{o, cancel})
			l.add("%+v, %v", report, err)
		}},
		"the caller's deadline": {nil, func(ctx context.Context, l *ledger, pl *resilience.Pipeline[string]) {
			ctx, cancel := context.WithTimeout(ctx, time.Second)
			defer cancel()
			one(ctx, l, pl, bad, act{result: "busy", after: time.Second})
		}},
		"no place": {func(p *resilience.Policy) { p.Concurrency.Max = 1 }, func(ctx context.Context, l *ledger, pl *resilience.Pipeline[string]) {
			var other sync.WaitGroup
			other.Go(func() { one(ctx, l, pl, act{result: "ok", takes: time.Second}) })
			time.Sleep(50 * time.Millisecond)
			one(ctx, l, pl, good)
			other.Wait()
		}},
		"no place for the retry": {func(p *resilience.Policy) { p.Concurrency.Max = 1 }, func(ctx context.Context, l *ledger, pl *resilience.Pipeline[string]) {
			var other sync.WaitGroup
			other.Go(func() {
				time.Sleep(50 * time.Millisecond)
				one(ctx, l, pl, act{result: "ok", takes: time.Second})
			})
			one(ctx, l, pl, bad, good)
			other.Wait()
		}},
		"in the queue": {func(p *resilience.Policy) {
			p.Concurrency.Max, p.Concurrency.Queue, p.Concurrency.MaxWait = 1, 1, 2*time.Second
		}, func(ctx context.Context, l *ledger, pl *resilience.Pipeline[string]) {
			l.anyOrder = true // one ends, and the next gets its place
			var other sync.WaitGroup
			other.Go(func() { one(ctx, l, pl, act{result: "ok", takes: time.Second}) })
			time.Sleep(50 * time.Millisecond)
			ends(ctx, 100*time.Millisecond, l, pl, good)
			one(ctx, l, pl, act{result: "ok", takes: time.Second})
			other.Wait()
		}},
	} {
		t.Run(name, func(t *testing.T) {
			compare(t, tc.policy, tc.calls)
		})
	}
	for seed := range uint64(40) {
		t.Run(fmt.Sprint("any calls, seed ", seed), func(t *testing.T) {
			// A probe that hangs ends at the same time as its lease, and either may be first.
			hangs := seed%2 == 0
			compare(t, func(p *resilience.Policy) {
				p.Breaker.ConsecutiveFailures = 3 + int(seed%5)
				if hangs {
					p.Breaker.ConsecutiveFailures, p.Breaker.FailureRatio = 0, 0
				}
			}, func(ctx context.Context, l *ledger, pl *resilience.Pipeline[string]) {
				random := rand.New(rand.NewPCG(seed, 1))
				for range 30 {
					list := make([]act, 1+random.IntN(3))
					for i := range list {
						list[i] = anyAct(random, hangs)
					}
					ends(ctx, time.Duration(random.Int64N(int64(20*time.Second))), l, pl, list...)
					time.Sleep(time.Duration(random.Int64N(int64(time.Second))))
				}
			})
		})
	}
}

func anyAct(random *rand.Rand, hangs bool) act {
	flip := func(p float64) bool { return random.Float64() < p }
	a := act{takes: time.Duration(random.Int64N(int64(200 * time.Millisecond))), result: "ok"}
	if flip(0.6) {
		a.result = "busy"
	}
	if flip(0.1) {
		a.err = errors.New("down")
	}
	if hangs && flip(0.15) {
		a.takes = time.Hour
	}
	if flip(0.2) {
		a.after = time.Duration(random.Int64N(int64(3 * time.Second)))
	}
	if a.err == nil && flip(0.5) {
		a.held = time.Duration(1 + random.Int64N(int64(time.Second)))
	}
	a.stubborn = a.takes < time.Hour && flip(0.2)
	if a.stubborn {
		a.takes *= 5
		if hangs {
			a.takes *= 2
		}
	}
	a.panics, a.final, a.busy, a.sends = flip(0.03), flip(0.1), flip(0.1), flip(0.2)
	return a
}

// ends makes one call whose caller leaves after a time.
func ends(ctx context.Context, after time.Duration, l *ledger, pl *resilience.Pipeline[string], list ...act) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if after == 0 {
		cancel()
	} else {
		defer time.AfterFunc(after, cancel).Stop()
	}
	one(ctx, l, pl, list...)
}

// cancelsAtDiscard cancels its call between the verdict to retry and the wait.
type cancelsAtDiscard struct {
	*acts
	cancel func()
}

func (o cancelsAtDiscard) Discard(result string, a *resilience.Attempt) {
	o.acts.Discard(result, a)
	o.cancel()
}

// compare makes the same calls both ways.
func compare(t *testing.T, change func(*resilience.Policy), calls func(context.Context, *ledger, *resilience.Pipeline[string])) {
	p := resilience.DefaultPolicy()
	if change != nil {
		change(&p)
	}
	var both [2][]string
	for way := range both {
		synctest.Test(t, func(t *testing.T) {
			l := &ledger{}
			random := rand.New(rand.NewPCG(1, 2))
			pl := pipeline(t, p, resilience.Options{Observer: l.observer(), Random: random.Float64})
			if way == 1 {
				pl.Compose()
			}
			calls(t.Context(), l, pl)
			synctest.Wait()
			l.mu.Lock()
			if both[way] = l.lines; l.anyOrder {
				slices.Sort(both[way])
			}
			l.mu.Unlock()
		})
	}
	if len(both[0]) == 0 {
		t.Fatal("nothing was recorded")
	}
	if slices.Equal(both[0], both[1]) {
		return
	}
	for i := range max(len(both[0]), len(both[1])) {
		if i >= len(both[0]) || i >= len(both[1]) || both[0][i] != both[1][i] {
			t.Fatalf("line %d differs, of %d and %d:\n%s\nwith the executor from the beginning:\n%s", i+1, len(both[0]), len(both[1]),
				both[0][min(i, len(both[0])-1)], both[1][min(i, len(both[1])-1)])
		}
	}
}

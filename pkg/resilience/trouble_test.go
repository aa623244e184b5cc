package resilience_test

import (
	"cmp"
	"context"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rebound-dev/rebound/pkg/resilience"
)

// An attempt that times out costs a token, also if it is not retried: it has cost the upstream as
// much as a retry. A failure that is an answer costs none.
func TestTimeoutsCostTokens(t *testing.T) {
	for name, c := range map[string]struct {
		op   func() *op
		want float64
	}{
		"timeouts": {func() *op { return taking(time.Hour) }, 2},
		"answers":  {func() *op { return answers("busy") }, 5},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := limited(resilience.ConcurrencyPolicy{})
				p.Retry.Budget = resilience.BudgetPolicy{Burst: 5}
				pl := pipeline(t, p, resilience.Options{})
				var tokens float64
				for range 3 {
					_, report, _ := pl.Do(t.Context(), c.op())
					tokens = report.BudgetTokens
				}
				if tokens != c.want {
					t.Errorf("%v tokens left of 5 after three calls, want %v", tokens, c.want)
				}
			})
		})
	}
}

// After three attempts that timed out and no success there are no retries until a call succeeds:
// they would fill the queue of an upstream that hangs. It is different for a burst of one's own.
func TestNoRetriesWhileAllTimeOut(t *testing.T) {
	for name, c := range map[string]struct {
		burst float64
		want  []int // attempts of the calls
	}{
		"adaptive":       {resilience.AdaptiveBurst, []int{3, 1, 1, 1, 3, 1}},
		"a burst of 100": {100, []int{3, 3, 3, 1, 3, 3}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := limited(resilience.ConcurrencyPolicy{Max: -1})
				p.Retry.MaxAttempts = 3
				p.Retry.Budget = resilience.BudgetPolicy{Ratio: 1, Burst: c.burst}
				p.Breaker.ConsecutiveFailures, p.Breaker.FailureRatio = 0, 0
				pl := pipeline(t, p, resilience.Options{Random: half})
				var got []int
				for i := range c.want {
					latency := time.Hour
					if i == 3 { // it works again for a moment
						latency = time.Millisecond
					}
					_, report, _ := pl.Do(t.Context(), taking(latency))
					got = append(got, len(report.Attempts))
				}
				if !slices.Equal(got, c.want) {
					t.Errorf("got %v attempts, want %v", got, c.want)
				}
			})
		})
	}
}

// An upstream that is slow gets no retries, nor for five seconds afterwards: they would make it
// slow again.
func TestNoRetriesWhileTheUpstreamIsSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := limited(resilience.ConcurrencyPolicy{})
		p.Retry.MaxAttempts = 2
		pl := pipeline(t, p, resilience.Options{})
		start := time.Now()
		var calls sync.WaitGroup
		defer calls.Wait()
		calls.Go(func() {
			for at := time.Duration(0); at < 22*time.Second; at = time.Since(start) {
				latency := 20 * time.Millisecond
				if at > 5*time.Second && at < 10*time.Second {
					latency = 500 * time.Millisecond
				}
				calls.Go(func() { _, _, _ = pl.Do(t.Context(), taking(latency)) })
				time.Sleep(4 * time.Millisecond)
			}
		})
		for _, c := range []struct {
			at       time.Duration
			attempts int
			reason   resilience.Reason
		}{
			{4 * time.Second, 2, resilience.ReasonOK},
			{9 * time.Second, 1, resilience.ReasonConcurrencyLimit},
			{13 * time.Second, 1, resilience.ReasonConcurrencyLimit},
			{20 * time.Second, 2, resilience.ReasonOK},
		} {
			time.Sleep(time.Until(start.Add(c.at)))
			_, report, _ := pl.Do(t.Context(), classed{answers("busy", "ok"), resilience.PriorityCritical})
			if len(report.Attempts) != c.attempts || report.Reason != c.reason {
				t.Errorf("after %v: got %d attempts, reason %s, want %d, %s", c.at, len(report.Attempts), report.Reason, c.attempts, c.reason)
			}
		}
	})
}

// A client with little traffic saves one token, so that many of them make no burst of retries. If a
// part of its attempts usually fails, it saves four: it needs them. It does not if they fail in
// runs: then the upstream fails as a whole, and retries save no call.
func TestTokensThatASmallClientSaves(t *testing.T) {
	for name, c := range map[string]struct {
		fails   func(i int) *op // nil = the call succeeds
		retries int
	}{
		"all well": {func(int) *op { return nil }, 1},
		"one in six fails": {func(i int) *op {
			if i%6 == 0 {
				return answers("busy", "ok")
			}
			return nil
		}, 4},
		"down for two of five seconds": {func(i int) *op {
			if i%10 < 4 {
				return answers("busy")
			}
			return nil
		}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := steady()
				p.Retry.MaxAttempts = 10
				p.Retry.Budget = resilience.BudgetPolicy{Ratio: 1, Burst: resilience.AdaptiveBurst}
				pl := pipeline(t, p, resilience.Options{})
				for i := range 120 { // two a second
					o := cmp.Or(c.fails(i), answers("ok"))
					if _, _, err := pl.Do(t.Context(), o); err != nil {
						t.Fatal(err)
					}
					time.Sleep(500 * time.Millisecond)
				}
				_, report, _ := pl.Do(t.Context(), answers("busy"))
				if got := len(report.Attempts) - 1; got != c.retries {
					t.Errorf("%d retries when the upstream fails, want %d", got, c.retries)
				}
			})
		})
	}
}

// Few failures do not end the search for the limit of a slow upstream, in which a part of the calls
// is refused, even if several come together by chance.
func TestFewFailuresOfASlowUpstream(t *testing.T) {
	refused := func(failing float64) (n int) {
		synctest.Test(t, func(t *testing.T) {
			pl := pipeline(t, limited(resilience.ConcurrencyPolicy{}), resilience.Options{})
			var mu sync.Mutex
			var calls sync.WaitGroup
			start := time.Now()
			random := rand.New(rand.NewPCG(1, 2))
			for time.Since(start) < 15*time.Second {
				latency := 20 * time.Millisecond
				if time.Since(start) > 5*time.Second {
					latency = 500 * time.Millisecond
				}
				o := taking(latency)
				if random.Float64() < failing {
					o = &op{attempt: func(context.Context, *resilience.Attempt) (string, error) {
						time.Sleep(latency)
						return "busy", nil
					}}
				}
				calls.Go(func() {
					if _, report, _ := pl.Do(t.Context(), o); report.Reason == resilience.ReasonConcurrencyLimit {
						mu.Lock()
						n++
						mu.Unlock()
					}
				})
				time.Sleep(3 * time.Millisecond)
			}
			calls.Wait()
		})
		return n
	}
	with, without := refused(0.05), refused(0)
	t.Logf("%d calls refused with few failures, %d without", with, without)
	if 4*with > 5*without {
		t.Errorf("%d calls refused with few failures, %d without them, want at most a quarter more", with, without)
	}
}

// An upstream that was slow, and hangs while fewer calls are made, gets no more of them: the limit
// of a slow upstream is too large for one that hangs.
func TestHangBehindALargeLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pl := pipeline(t, limited(resilience.ConcurrencyPolicy{}), resilience.Options{})
		start := time.Now()
		var calls sync.WaitGroup
		var mu sync.Mutex
		late, limit := 0, 0
		for time.Since(start) < 11700*time.Millisecond {
			at := time.Since(start)
			latency, gap := 20*time.Millisecond, 3*time.Millisecond
			switch {
			case at > 10*time.Second:
				latency, gap = time.Hour, 15*time.Millisecond
			case at > 5*time.Second:
				latency = 500 * time.Millisecond
				limit = pl.Concurrency().Limit
			}
			calls.Go(func() {
				_, report, _ := pl.Do(t.Context(), taking(latency))
				if at > 10900*time.Millisecond && len(report.Attempts) > 0 {
					mu.Lock()
					late++
					mu.Unlock()
				}
			})
			time.Sleep(gap)
		}
		calls.Wait()
		t.Logf("the limit was %d before it hung, %d attempts later", limit, late)
		if limit < 100 || late > 0 {
			t.Errorf("the limit was %d while it was slow, and %d attempts were made 0.4 s after its last answer, want over 100, and none", limit, late)
		}
	})
}

// When this process has stood still, all answers come at once and look slow. They say little about
// the latency, so the limit still notices when the upstream gets slow.
func TestStandstillTeachesNoLatency(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pl := pipeline(t, limited(resilience.ConcurrencyPolicy{}), resilience.Options{})
		var calls sync.WaitGroup
		call := func(n int, takes, gap time.Duration) {
			for range n {
				calls.Go(func() { _, _, _ = pl.Do(t.Context(), taking(takes)) })
				time.Sleep(gap)
			}
		}
		// Five successes are judged together, and these are a multiple of five.
		call(200, 10*time.Millisecond, 30*time.Millisecond)
		time.Sleep(100 * time.Millisecond)
		call(40, time.Second, 0)
		time.Sleep(time.Second)
		synctest.Wait()
		if n := pl.Concurrency().Limit; n != 0 {
			t.Errorf("a limit of %d after the standstill, want none", n)
		}
		call(20, 10*time.Millisecond, 30*time.Millisecond)
		call(100, 300*time.Millisecond, 30*time.Millisecond)
		if n := pl.Concurrency().Limit; n == 0 {
			t.Error("no limit while the upstream takes 300 ms instead of 10, want one")
		}
		calls.Wait()
	})
}

// Two late answers in a row show a client of four calls a second that there is a queue. It makes no
// retries until five seconds after the last ones. A queue is not taken for usual, however long it
// lasts. Late answers among others are no queue.
func TestNoRetriesWhileAnswersComeLate(t *testing.T) {
	const late, soon = 600 * time.Millisecond, 20 * time.Millisecond
	for name, c := range map[string]struct {
		latencies []time.Duration // of the calls from 10 s on, in turn
		length    time.Duration
		again     time.Duration // if not 0, once more after so much time without calls
		after     time.Duration // the end of that
		retries   int
	}{
		"two late answers in a row":             {[]time.Duration{late, late, soon}, 3 * time.Second, 0, 0, 0},
		"for half a minute":                     {[]time.Duration{late, late, soon}, 30 * time.Second, 0, 0, 0},
		"four seconds after the last late ones": {[]time.Duration{late, late, soon}, 3 * time.Second, 0, 4 * time.Second, 0},
		"six seconds after the last late ones":  {[]time.Duration{late, late, soon}, 3 * time.Second, 0, 6 * time.Second, 1},
		"late answers, none of them in a row":   {[]time.Duration{late, soon}, 3 * time.Second, 0, 0, 1},
		"two late answers at the same time":     {[]time.Duration{late, late - 250*time.Millisecond, soon, soon}, 3 * time.Second, 0, 0, 1},
		"two late answers ten seconds apart":    {[]time.Duration{late}, 250 * time.Millisecond, 10 * time.Second, 0, 1},
		"a tenth of a second is not late":       {[]time.Duration{99 * time.Millisecond}, 3 * time.Second, 0, 0, 1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := limited(resilience.ConcurrencyPolicy{})
				p.Retry.MaxAttempts = 2
				pl := pipeline(t, p, resilience.Options{})
				var calls sync.WaitGroup
				call := func(latencies []time.Duration, length time.Duration) {
					for i := range int(length / (250 * time.Millisecond)) {
						calls.Go(func() { _, _, _ = pl.Do(t.Context(), taking(latencies[i%len(latencies)])) })
						time.Sleep(250 * time.Millisecond)
					}
				}
				call([]time.Duration{soon}, 10*time.Second)
				call(c.latencies, c.length)
				if c.again > 0 {
					time.Sleep(c.again)
					call(c.latencies, c.length)
					calls.Wait()
				}
				call([]time.Duration{soon}, c.after)
				_, report, _ := pl.Do(t.Context(), answers("busy", "ok"))
				if got := len(report.Attempts) - 1; got != c.retries {
					t.Errorf("got %d retries, reason %s, want %d", got, report.Reason, c.retries)
				}
				calls.Wait()
			})
		})
	}
}

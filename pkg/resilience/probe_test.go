package resilience_test

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rebound-dev/rebound/pkg/resilience"
)

// unlimited returns a pipeline whose circuit has just become half-open, with attempts of an hour.
func unlimited(t *testing.T, probes int) *resilience.Pipeline[string] {
	t.Helper()
	p := single(func(b *resilience.BreakerPolicy) {
		b.ConsecutiveFailures, b.Probes, b.MaxOpenFor = 1, probes, 30*time.Second
	})
	p.Timeout, p.AttemptTimeout = time.Hour, time.Hour
	pl := pipeline(t, p, resilience.Options{Random: half})
	script(t, pl, "x")
	time.Sleep(time.Second + 1)
	if got := pl.Breaker().State; got != resilience.HalfOpen {
		t.Fatalf("state %v, want half-open", got)
	}
	return pl
}

// A probe with an hour for its attempt does not hold its slot for an hour. One of three used to
// keep the circuit half-open for that time, with all other calls refused.
func TestLongProbeDoesNotKeepTheCircuitHalfOpen(t *testing.T) {
	for name, long := range map[string]*op{
		"a hang": taking(2 * time.Hour),
		"a download": {attempt: func(_ context.Context, a *resilience.Attempt) (string, error) {
			a.Hold()
			time.AfterFunc(10*time.Minute, func() { a.Release(resilience.Healthy) })
			return "ok", nil
		}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				pl := unlimited(t, 3)
				ctx, cancel := context.WithCancel(t.Context())
				var wg sync.WaitGroup
				wg.Go(func() { _, _, _ = pl.Do(ctx, long) })
				synctest.Wait()
				script(t, pl, "oo")
				time.Sleep(10*time.Second + 1)
				synctest.Wait()
				if _, _, err := pl.Do(t.Context(), answers("ok")); err != nil {
					t.Errorf("a call beside the long probe returned %v, want no error", err)
				}
				if got := pl.Breaker().State; got != resilience.Closed {
					t.Errorf("state %v after two good probes and 10 s, want closed", got)
				}
				cancel()
				wg.Wait()
				time.Sleep(time.Hour)
			})
		})
	}
}

// The result of a probe that has given its slot back still counts: good answers that take long
// close the circuit, and a probe that ends as a failure opens it.
func TestOverdueProbeCountsWhenItEnds(t *testing.T) {
	bad := taking(20 * time.Second)
	bad.classify = func(string, error) resilience.Outcome {
		return resilience.Outcome{Reason: resilience.StatusReason(500), Health: resilience.Unhealthy}
	}
	for name, tc := range map[string]struct {
		op   *op
		more string // probes between
		want resilience.State
	}{
		"good":                       {taking(20 * time.Second), "", resilience.Closed},
		"bad":                        {bad, "", resilience.Open},
		"bad, and another succeeded": {bad, "o", resilience.HalfOpen},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				probes := 1 + len(tc.more)
				pl := unlimited(t, probes)
				var wg sync.WaitGroup
				wg.Go(func() { _, _, _ = pl.Do(t.Context(), tc.op) })
				synctest.Wait()
				time.Sleep(11 * time.Second)
				if s := pl.Breaker(); s.State != resilience.HalfOpen || s.Probes != 0 {
					t.Fatalf("%v with %d probes after the lease, want half-open with 0", s.State, s.Probes)
				}
				script(t, pl, tc.more)
				wg.Wait()
				s := pl.Breaker()
				if s.State != tc.want || s.Probes != 0 {
					t.Errorf("%v with %d probes, want %v with 0", s.State, s.Probes, tc.want)
				}
				if s.State != resilience.HalfOpen {
					return
				}
				// It took no slot: one is free, and no more.
				_, _, _ = pl.Do(t.Context(), &op{attempt: func(context.Context, *resilience.Attempt) (string, error) {
					if _, _, err := pl.Do(t.Context(), answers("ok")); err == nil {
						t.Error("two probes more passed, want one")
					}
					return "ok", nil
				}})
			})
		})
	}
}

// An upstream that hangs, with attempts of an hour, gets fewer and fewer probes: after 10 s without
// an answer there is a pause of 1 s, then of 2 s, and so on up to 30 s. Each probe hangs for its
// caller.
func TestProbesOfAHangingUpstreamGetRare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pl := unlimited(t, 3)
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		var sent atomic.Int64
		for range 120 * 10 {
			wg.Go(func() {
				_, _, _ = pl.Do(ctx, &op{attempt: func(ctx context.Context, _ *resilience.Attempt) (string, error) {
					sent.Add(1)
					<-ctx.Done()
					return "", ctx.Err()
				}})
			})
			time.Sleep(100 * time.Millisecond)
		}
		// They begin at 0, 11, 23, 37, 55 and 81 s. Without a pause three begin each 10 s: 36.
		if got := sent.Load(); got != 6*3 {
			t.Errorf("got %d probes in two minutes, want 18", got)
		}
		cancel()
		wg.Wait()
	})
}

// With attempts of an hour, a caller that waits for half a minute is no doubtful probe. Each caller
// with a deadline was, and only one of them could probe.
func TestPatientCallersMayAllProbe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pl := unlimited(t, 3)
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() {
				if _, r, err := pl.DoWithin(t.Context(), 30*time.Second, taking(time.Second)); err != nil {
					t.Errorf("got %s, want it served", r.Reason)
				}
			})
		}
		wg.Wait()
		if got := pl.Breaker().State; got != resilience.Closed {
			t.Errorf("state %v, want closed", got)
		}
	})
}

// lastWord is an operation that waits for its caller, and takes its time to say so at first. It
// ends just after its time is up.
type lastWord struct {
	*op
	asked atomic.Bool
}

func (l *lastWord) CallerBusy() bool {
	if !l.asked.Swap(true) {
		time.Sleep(time.Millisecond)
	}
	return true
}

// The lease of a probe ends at the instant when its attempt times out. When the call returns, the
// slot is free whoever was first. The lease used to claim the result first and free the slot later,
// so that the next call could be refused.
func TestSlotIsFreeWhenTheProbesCallReturns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pl := tripped(t, resilience.Options{}, func(b *resilience.BreakerPolicy) { b.Probes = 1 })
		time.Sleep(time.Second + 1)
		_, _, _ = pl.Do(t.Context(), &lastWord{op: &op{attempt: func(ctx context.Context, _ *resilience.Attempt) (string, error) {
			<-ctx.Done()
			time.Sleep(time.Nanosecond) // the lease has ended
			return "", context.Cause(ctx)
		}}})
		if s := pl.Breaker(); s.State != resilience.HalfOpen || s.Probes != 0 {
			t.Errorf("state %v with %d probes in flight, want half-open with 0", s.State, s.Probes)
		}
		if got, _, err := pl.Do(t.Context(), answers("ok")); got != "ok" {
			t.Errorf("the next probe returned %q, %v, want ok and no error", got, err)
		}
		time.Sleep(time.Millisecond) // until the lease has its answer
	})
}

// impolite is an operation that panics when it is asked for its class.
type impolite struct{ *op }

func (impolite) Priority() resilience.Priority { panic("no class") }

// A probe that panics before its attempt begins gives its slot back. It used to keep it until the
// end of its lease, and all other calls were refused.
func TestProbeThatPanicsInTheQueueFreesItsSlot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := single(func(b *resilience.BreakerPolicy) { b.ConsecutiveFailures, b.Probes = 1, 1 })
		p.Concurrency = resilience.ConcurrencyPolicy{Max: 1, Queue: 1, MaxWait: time.Second}
		pl := pipeline(t, p, resilience.Options{Random: half})
		script(t, pl, "x")
		time.Sleep(p.Breaker.OpenFor + 1)
		func() {
			defer func() {
				if recover() == nil {
					t.Error("no panic")
				}
			}()
			_, _, _ = pl.Do(t.Context(), impolite{answers("ok")})
		}()
		if got := pl.Breaker(); got.State != resilience.HalfOpen || got.Probes != 0 {
			t.Errorf("%v with %d probes out, want half-open with none", got.State, got.Probes)
		}
		if _, _, err := pl.Do(t.Context(), answers("ok")); err != nil {
			t.Errorf("the next call returned %v, want no error", err)
		}
	})
}

package resilience_test

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rebound-dev/rebound/pkg/resilience"
)

// Several bursts of impatient callers prove no more than one, because no attempt was made between
// them.
func TestBurstsOfImpatientCallers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pl := pipeline(t, resilience.DefaultPolicy(), resilience.Options{})
		for range 5 {
			var calls sync.WaitGroup
			for range 12 {
				calls.Go(func() { _, _, _ = pl.DoWithin(context.Background(), 800*time.Millisecond, takes(time.Second)) })
			}
			calls.Wait()
			if s := pl.Breaker(); s.State != resilience.Closed {
				t.Fatalf("state %v, want closed", s.State)
			}
			time.Sleep(5 * time.Minute)
		}
	})
}

// An answer that has begun shows that the upstream does not hang, even if its body takes minutes.
func TestImpatientCallersBesideLongAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pl := pipeline(t, resilience.DefaultPolicy(), resilience.Options{})
		var held []*resilience.Attempt
		download := &op{attempt: func(_ context.Context, a *resilience.Attempt) (string, error) {
			a.Hold()
			held = append(held, a)
			return "ok", nil
		}}
		var calls sync.WaitGroup
		for range 20 {
			for range 4 {
				calls.Go(func() { _, _, _ = pl.DoWithin(context.Background(), 800*time.Millisecond, takes(time.Second)) })
			}
			if got, _, err := pl.Do(context.Background(), download); got != "ok" {
				t.Fatalf("got %q, %v, want ok and no error", got, err)
			}
			time.Sleep(400 * time.Millisecond)
		}
		calls.Wait()
		for _, a := range held {
			a.Release(resilience.Healthy)
		}
	})
}

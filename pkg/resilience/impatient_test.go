package resilience_test

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rebound-dev/rebound/pkg/resilience"
)

// Callers in a hurry who come in bursts, with nobody between them, say no more
// than those of one burst: the upstream was not asked in between.
func TestA4CallersInAHurryMinutesApart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pl := pipeline(t, resilience.DefaultPolicy(), resilience.Options{})
		for range 5 {
			var calls sync.WaitGroup
			for range 12 {
				calls.Go(func() { _, _, _ = pl.DoWithin(context.Background(), 800*time.Millisecond, takes(time.Second)) })
			}
			calls.Wait()
			if s := pl.Breaker(); s.State != resilience.Closed {
				t.Fatalf("the circuit is %v", s.State)
			}
			time.Sleep(5 * time.Minute)
		}
	})
}

// An answer that began is a sign of life, though its body goes on for minutes.
func TestA4CallersInAHurryBesideLongAnswers(t *testing.T) {
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
				t.Fatalf("got %q, %v", got, err)
			}
			time.Sleep(400 * time.Millisecond)
		}
		calls.Wait()
		for _, a := range held {
			a.Release(resilience.Healthy)
		}
	})
}

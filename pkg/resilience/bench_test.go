package resilience_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/failsafe-go/failsafe-go"

	"github.com/rebound-dev/rebound/pkg/resilience"
)

func BenchmarkPipeline(b *testing.B) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	ok := resilience.Func[int](func(context.Context) (int, error) { return 1, nil })

	b.Run("success", func(b *testing.B) {
		p := must(resilience.New[int]("bench", resilience.DefaultPolicy(), resilience.Options{}))
		b.ReportAllocs()
		for b.Loop() {
			if _, _, err := p.Do(ctx, ok); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("one retry", func(b *testing.B) {
		policy := resilience.DefaultPolicy()
		policy.Retry.Backoff.Base = 0
		policy.Retry.Budget.Burst = 1e6
		policy.Breaker.FailureRatio = 0
		p := must(resilience.New[int]("bench", policy, resilience.Options{}))
		fails := true
		op := resilience.Func[int](func(context.Context) (int, error) {
			if fails = !fails; !fails {
				return 0, errors.New("down")
			}
			return 1, nil
		})
		b.ReportAllocs()
		for b.Loop() {
			if _, _, err := p.Do(ctx, op); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("refused by an open breaker", func(b *testing.B) {
		policy := resilience.DefaultPolicy()
		policy.Retry.MaxAttempts = 1
		policy.Breaker.ConsecutiveFailures = 1
		policy.Breaker.OpenFor, policy.Breaker.MaxOpenFor = time.Hour, time.Hour
		p := must(resilience.New[int]("bench", policy, resilience.Options{}))
		fail := resilience.Func[int](func(context.Context) (int, error) { return 0, errors.New("down") })
		_, _, _ = p.Do(ctx, fail)
		b.ReportAllocs()
		for b.Loop() {
			if _, _, err := p.Do(ctx, ok); !errors.Is(err, resilience.ErrBreakerOpen) {
				b.Fatal(err)
			}
		}
	})
	b.Run("refused by the concurrency limit", func(b *testing.B) {
		policy := resilience.DefaultPolicy()
		policy.Concurrency = resilience.ConcurrencyPolicy{Max: 1}
		p := must(resilience.New[int]("bench", policy, resilience.Options{}))
		begun, end := make(chan struct{}), make(chan struct{})
		go func() {
			_, _, _ = p.Do(ctx, resilience.Func[int](func(context.Context) (int, error) {
				close(begun)
				<-end
				return 1, nil
			}))
		}()
		<-begun
		defer close(end)
		refused(b, p, resilience.ReasonConcurrencyLimit)
	})
	b.Run("refused by the rate limit", func(b *testing.B) {
		policy := resilience.DefaultPolicy()
		policy.RateLimit = resilience.RateLimitPolicy{PerSecond: 1e-6, Burst: 1}
		p := must(resilience.New[int]("bench", policy, resilience.Options{}))
		if _, _, err := p.Do(ctx, ok); err != nil {
			b.Fatal(err)
		}
		refused(b, p, resilience.ReasonRateLimited)
	})
	// The cost of failsafe-go alone. The first benchmark includes it.
	b.Run("failsafe-go without policies", func(b *testing.B) {
		e := failsafe.With[int]()
		f := func() (int, error) { return 1, nil }
		b.ReportAllocs()
		for b.Loop() {
			if _, err := e.WithContext(ctx).Get(f); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// refused measures calls that are refused with a reason.
func refused(b *testing.B, p *resilience.Pipeline[int], want resilience.Reason) {
	b.Helper()
	ok := resilience.Func[int](func(context.Context) (int, error) { return 1, nil })
	b.ReportAllocs()
	for b.Loop() {
		if _, r, _ := p.Do(b.Context(), ok); r.Reason != want {
			b.Fatalf("got %s, want %s", r.Reason, want)
		}
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

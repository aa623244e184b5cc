package transport_test

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rebound-dev/rebound/pkg/resilience"
	"github.com/rebound-dev/rebound/pkg/transport"
)

// workers is an upstream that serves as many requests at once as it has workers, in order. Each
// takes 50 ms on average. It works on for callers that have left.
type workers struct {
	free   chan struct{}
	answer func() int // the status

	mu                     sync.Mutex
	rng                    *rand.Rand
	retries, mostRetries   int
	inFlight, mostInFlight int
}

const workTime = 50 * time.Millisecond

func newWorkers(n int, answer func() int) *workers {
	return &workers{free: make(chan struct{}, n), answer: answer, rng: rand.New(rand.NewPCG(3, 4))}
}

func (w *workers) RoundTrip(r *http.Request) (*http.Response, error) {
	retry := 0
	if r.Header.Get(transport.HeaderAttemptCount) != "1" {
		retry = 1
	}
	w.count(1, retry)
	defer w.count(-1, -retry)
	done := make(chan struct{})
	go func() {
		defer close(done)
		w.free <- struct{}{}
		time.Sleep(w.work())
		<-w.free
	}()
	select {
	case <-done:
		return &http.Response{StatusCode: w.answer(), Header: http.Header{}, Body: http.NoBody}, nil
	case <-r.Context().Done():
		return nil, context.Cause(r.Context())
	}
}

func (w *workers) work() time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	return time.Duration(w.rng.ExpFloat64() * float64(workTime))
}

func (w *workers) count(attempts, retries int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.inFlight += attempts
	w.retries += retries
	w.mostInFlight, w.mostRetries = max(w.mostInFlight, w.inFlight), max(w.mostRetries, w.retries)
}

// offer makes calls at random times, with the classes in turn, and returns how many of each were
// made and ended well.
func offer(t *testing.T, rt http.RoundTripper, perSecond float64, length time.Duration, classes ...string) (made, well map[string]float64) {
	t.Helper()
	made, well = map[string]float64{}, map[string]float64{}
	rng := rand.New(rand.NewPCG(1, 2))
	var mu sync.Mutex
	var calls sync.WaitGroup
	for start := time.Now(); time.Since(start) < length; {
		class := classes[rng.IntN(len(classes))]
		made[class]++
		calls.Go(func() {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://upstream.test/", nil)
			if err != nil {
				t.Error(err)
				return
			}
			req.Header.Set("Priority-Class", class)
			resp, err := rt.RoundTrip(req)
			if err != nil {
				return
			}
			_ = resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				mu.Lock()
				well[class]++
				mu.Unlock()
			}
		})
		time.Sleep(time.Duration(rng.ExpFloat64() / perSecond * float64(time.Second)))
	}
	calls.Wait()
	return made, well
}

// An upstream gets more load than it can serve, a third of it in each class. Nearly all critical
// calls are served, and the sheddable ones get what the others leave. The upstream does nearly as
// much work as it can.
func TestOverloadServesTheCriticalCalls(t *testing.T) {
	queue := resilience.ConcurrencyPolicy{Max: 20, Queue: 40, MaxWait: 500 * time.Millisecond}
	for name, tc := range map[string]struct {
		limit             resilience.ConcurrencyPolicy
		load              float64 // times what the upstream can serve
		normal, sheddable [2]float64
	}{
		// A third of the capacity is left for normal calls, half of what they need.
		"twice the load": {queue, 2, [2]float64{0.4, 0.52}, [2]float64{0, 0.03}},
		"twice the load, a large limit, no queue": {resilience.ConcurrencyPolicy{Max: 200}, 2, [2]float64{0.4, 0.52}, [2]float64{0, 0.03}},
		// About a third of the sheddable calls fits beside the others.
		"a third more than it can serve": {queue, 1.3, [2]float64{0.9, 1}, [2]float64{0.15, 0.35}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := tc.limit.Max * 9 / 10 // normal calls alone can keep them busy
				p := transport.DefaultPolicy()
				p.Concurrency, p.Priority.Header = tc.limit, "Priority-Class"
				rt, err := transport.New(newWorkers(n, func() int { return http.StatusOK }), p)
				if err != nil {
					t.Fatal(err)
				}
				capacity := float64(n) / workTime.Seconds()
				const length = 10 * time.Second
				made, well := offer(t, rt, tc.load*capacity, length, "critical", "normal", "sheddable")
				time.Sleep(time.Minute) // the upstream works on
				want := map[string][2]float64{"critical": {0.99, 1}, "normal": tc.normal, "sheddable": tc.sheddable}
				total := 0.0
				for class, n := range well {
					if share := n / made[class]; share < want[class][0] || share > want[class][1] {
						t.Errorf("%.3f of the %s calls are served, want from %v to %v", share, class, want[class][0], want[class][1])
					}
					total += n
				}
				if share := total / capacity / length.Seconds(); share < 0.95 {
					t.Errorf("the upstream serves %.3f of what it can, want at least 0.95", share)
				}
			})
		})
	}
}

// An attempt gives its place back when the response headers arrive. A body, which may take hours,
// takes no place.
func TestABodyTakesNoPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := transport.DefaultPolicy()
		p.Concurrency.Max = 1
		begin := make(chan struct{})
		rt, err := transport.New(roundTripFunc(func(*http.Request) (*http.Response, error) {
			<-begin
			r, _ := io.Pipe() // it never ends
			return &http.Response{StatusCode: http.StatusOK, Header: http.Header{}, Body: r}, nil
		}), p)
		if err != nil {
			t.Fatal(err)
		}
		call := func() error {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://upstream.test/", nil)
			if err != nil {
				return err
			}
			resp, err := rt.RoundTrip(req)
			if err == nil {
				t.Cleanup(func() { _ = resp.Body.Close() })
			}
			return err
		}
		first := make(chan error, 1)
		go func() { first <- call() }()
		synctest.Wait()
		var e *resilience.Error
		if err := call(); !errors.As(err, &e) || e.Reason != resilience.ReasonConcurrencyLimit {
			t.Errorf("before the headers of the first response: got error %v, want a refusal", err)
		}
		close(begin)
		if err := <-first; err != nil {
			t.Fatal(err)
		}
		if err := call(); err != nil {
			t.Errorf("while the first response's body is read: %v", err)
		}
	})
}

// However many calls are retried, retries never take more than 80 % of the places, and first
// attempts get the others.
func TestRetriesTakeAtMostTheirShareOfThePlaces(t *testing.T) {
	for name, limit := range map[string]resilience.ConcurrencyPolicy{
		"no queue": {Max: 20},
		"a queue":  {Max: 20, Queue: 40, MaxWait: 500 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := transport.DefaultPolicy()
				p.Concurrency = limit
				p.Breaker.FailureRatio, p.Breaker.ConsecutiveFailures = 0, 0
				p.Retry.MaxAttempts = 10
				p.Retry.Budget = resilience.BudgetPolicy{Ratio: 1, Burst: 1000, FloorPerSecond: 1000}
				p.Retry.Backoff.Base, p.Retry.Backoff.Max = time.Millisecond, time.Millisecond
				upstream := newWorkers(20, func() int { return http.StatusServiceUnavailable })
				rt, err := transport.New(upstream, p)
				if err != nil {
					t.Fatal(err)
				}
				offer(t, rt, 200, 10*time.Second, "normal")
				time.Sleep(time.Minute)
				if got := upstream.mostRetries; got > 16 || got < 12 {
					t.Errorf("at most %d retries were in flight at once, want more than half and at most 80 %% of 20 places", got)
				}
				if got := upstream.mostInFlight; got <= 16 {
					t.Errorf("at most %d attempts were in flight at once, want more than the 16 that retries may take", got)
				}
			})
		})
	}
}

package resilience_test

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rebound-dev/rebound/pkg/resilience"
)

// stalling is a pipeline with an adaptive limit, and its calls.
type stalling struct {
	*resilience.Pipeline[string]
	t     *testing.T
	calls sync.WaitGroup
	mu    sync.Mutex
	// refused are the calls that the limit refused, from the last reset on.
	made, refused int
}

func newStalling(t *testing.T, attemptTimeout time.Duration) *stalling {
	t.Helper()
	p := limited(resilience.ConcurrencyPolicy{})
	p.Timeout, p.AttemptTimeout = 2*attemptTimeout, attemptTimeout
	return &stalling{Pipeline: pipeline(t, p, resilience.Options{}), t: t}
}

// call makes n calls that take a time each, with gaps between them.
func (s *stalling) call(n int, takes, gap time.Duration) {
	for range n {
		s.one(taking(takes))
		time.Sleep(gap)
	}
}

func (s *stalling) one(o *op) {
	pl := s.Pipeline
	s.calls.Go(func() {
		_, r, _ := pl.Do(s.t.Context(), o)
		s.mu.Lock()
		defer s.mu.Unlock()
		s.made++
		if r.Reason == resilience.ReasonConcurrencyLimit {
			s.refused++
		}
	})
}

func (s *stalling) reset() {
	synctest.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.made, s.refused = 0, 0
}

// refusals returns how many calls were refused since the last reset.
func (s *stalling) refusals() int {
	synctest.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.refused
}

// A few long calls hold all the places that an upstream has while it gives no answers. When the
// callers of its fast calls pause, it gives none and is well: nobody is refused afterwards.
func TestPauseOfTheCallersBesideLongCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStalling(t, 30*time.Second)
		defer s.calls.Wait()
		s.call(600, 10*time.Millisecond, 20*time.Millisecond)
		s.call(10, 20*time.Second, 0)
		s.call(50, 10*time.Millisecond, 20*time.Millisecond)
		s.reset()
		for range 5 {
			time.Sleep(300 * time.Millisecond)
			s.call(50, 10*time.Millisecond, 20*time.Millisecond)
		}
		if n := s.refusals(); n > 0 {
			t.Errorf("%d of 250 calls refused after pauses of their callers, want none", n)
		}
	})
}

// All places are held by attempts that still hang when the upstream is well again. They may hang for
// the attempt timeout of 30 s; the calls do not wait for that.
func TestRecoveryBehindAttemptsThatHang(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStalling(t, 30*time.Second)
		defer s.calls.Wait()
		s.call(600, 10*time.Millisecond, 20*time.Millisecond)
		s.call(2000, time.Hour, 20*time.Millisecond)
		if n := s.Concurrency().Limit; n != 2 {
			t.Errorf("a limit of %d while the upstream hangs, want 2", n)
		}
		inFlight := s.Concurrency().InFlight
		time.Sleep(20 * time.Millisecond)
		s.reset()
		s.call(250, 10*time.Millisecond, 20*time.Millisecond)
		n := s.refusals()
		t.Logf("%d in flight in the end, %d of 250 calls refused after the recovery", inFlight, n)
		if n > 76 {
			t.Errorf("%d of 250 calls refused after the recovery, want at most those of a second and a half", n)
		}
	})
}

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
	refused int
}

// withStalling runs a test in a bubble, and waits for the calls that it has made.
func withStalling(t *testing.T, attemptTimeout time.Duration, test func(*testing.T, *stalling)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		p := limited(resilience.ConcurrencyPolicy{})
		p.Timeout, p.AttemptTimeout = 2*attemptTimeout, attemptTimeout
		s := &stalling{Pipeline: pipeline(t, p, resilience.Options{}), t: t}
		defer s.calls.Wait()
		test(t, s)
	})
}

// call makes n calls that take a time each, with gaps between them.
func (s *stalling) call(n int, takes, gap time.Duration) {
	for range n {
		pl := s.Pipeline
		s.calls.Go(func() {
			_, r, _ := pl.Do(s.t.Context(), taking(takes))
			s.mu.Lock()
			defer s.mu.Unlock()
			if r.Reason == resilience.ReasonConcurrencyLimit {
				s.refused++
			}
		})
		time.Sleep(gap)
	}
}

func (s *stalling) reset() {
	synctest.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refused = 0
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
	withStalling(t, 30*time.Second, func(t *testing.T, s *stalling) {
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

// All places are held by attempts that still hang when the upstream is well again. They may hang
// for the attempt timeout of 30 s; the calls do not wait for that.
func TestRecoveryBehindAttemptsThatHang(t *testing.T) {
	withStalling(t, 30*time.Second, func(t *testing.T, s *stalling) {
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

// Calls that are slow by nature are no hang, however long nothing else is asked: none of them has
// failed.
func TestLongCallsAreNoHang(t *testing.T) {
	withStalling(t, 30*time.Second, func(t *testing.T, s *stalling) {
		s.call(1000, 5*time.Millisecond, 10*time.Millisecond)
		s.call(8, 25*time.Second, 0)
		time.Sleep(23 * time.Second)
		if n := s.Concurrency().Limit; n == 2 {
			t.Errorf("a limit of %d, as if the upstream hung", n)
		}
		s.reset()
		s.call(50, 5*time.Millisecond, 10*time.Millisecond)
		if n := s.refusals(); n > 0 {
			t.Errorf("%d of 50 calls refused, want none", n)
		}
	})
}

// A change to no limit ends a stall, so that it is not in force after a change back.
func TestStallEndsWithoutALimit(t *testing.T) {
	withStalling(t, 1500*time.Millisecond, func(t *testing.T, s *stalling) {
		s.call(1000, 5*time.Millisecond, 10*time.Millisecond)
		s.call(30, time.Hour, 10*time.Millisecond)
		if n := s.Concurrency().Limit; n == 0 {
			t.Error("no limit while there are no answers, want one")
		}
		for _, limit := range []int{-1, 0} {
			next, err := s.Renew(limited(resilience.ConcurrencyPolicy{Max: limit}))
			if err != nil {
				t.Fatal(err)
			}
			s.Retire(next)
			s.Pipeline = next
		}
		if n := s.Concurrency().Limit; n != 0 {
			t.Errorf("a limit of %d at once after max: -1, want none", n)
		}
	})
}

// A change of the attempt timeout counts at once for a stall that is in progress.
func TestChangedAttemptTimeoutInAStall(t *testing.T) {
	withStalling(t, 30*time.Second, func(t *testing.T, s *stalling) {
		s.call(600, 5*time.Millisecond, 10*time.Millisecond)
		s.call(50, time.Hour, 10*time.Millisecond)
		p := limited(resilience.ConcurrencyPolicy{})
		next, err := s.Renew(p)
		if err != nil {
			t.Fatal(err)
		}
		s.Retire(next)
		s.Pipeline = next
		s.call(400, time.Hour, 10*time.Millisecond) // those of the new timeout end after 1.5 s
		if n := s.Concurrency().Limit; n != 2 {
			t.Errorf("a limit of %d after attempts of the new timeout have ended, want 2", n)
		}
	})
}

// A pause is forgotten after ten minutes, also if nothing looks for a stall meanwhile.
func TestPausesThatAreNotKnown(t *testing.T) {
	withStalling(t, 1500*time.Millisecond, func(t *testing.T, s *stalling) {
		const usual, gap = 5 * time.Millisecond, 2 * time.Millisecond
		s.call(5000, usual, gap)
		for i := range 100 { // a pause: all are answered after 200 ms
			s.call(1, 200*time.Millisecond-time.Duration(i)*gap, gap)
		}
		s.call(500, usual, gap)
		for range 700 {
			s.call(1, usual, time.Second)
		}
		s.call(2500, usual, gap)
		s.call(90, time.Hour, gap)
		if n := s.Concurrency().Limit; n == 0 {
			t.Error("no limit 180 ms after the last answer, want one")
		}
	})
}

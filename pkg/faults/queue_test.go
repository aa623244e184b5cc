package faults_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rebound-dev/rebound/pkg/faults"
)

func constant(c faults.Capacity) func() faults.Capacity { return func() faults.Capacity { return c } }

func wantStats(t *testing.T, q *faults.Queue, want faults.Stats) {
	t.Helper()
	synctest.Wait()
	if got := q.Stats(); got != want {
		t.Errorf("stats %+v, want %+v", got, want)
	}
}

func TestQueueServesInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := faults.NewQueue(constant(faults.Capacity{Workers: 2, Queue: 2}))
		start := time.Now()
		var mu sync.Mutex
		took := make([]time.Duration, 5)
		errs := make([]error, 5)
		var wg sync.WaitGroup
		for n := range 5 {
			wg.Go(func() {
				err := q.Do(t.Context(), faults.Job{Service: time.Second})
				mu.Lock()
				defer mu.Unlock()
				took[n], errs[n] = time.Since(start), err
			})
			synctest.Wait() // so that jobs arrive in order
		}
		wantStats(t, q, faults.Stats{Busy: 2, Queued: 2, Refused: 1})
		wg.Wait()
		for n, want := range []time.Duration{time.Second, time.Second, 2 * time.Second, 2 * time.Second, 0} {
			if took[n] != want {
				t.Errorf("job %d ended at %v, want %v", n+1, took[n], want)
			}
			if refused := n == 4; errors.Is(errs[n], faults.ErrRefused) != refused {
				t.Errorf("job %d: got %v, want no error", n+1, errs[n])
			}
		}
		wantStats(t, q, faults.Stats{Served: 4, Refused: 1})
	})
}

func TestNoWaitingRoomByDefault(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := faults.NewQueue(constant(faults.Capacity{Workers: 1}))
		go func() { _ = q.Do(t.Context(), faults.Job{Service: time.Second}) }()
		synctest.Wait()
		if err := q.Do(t.Context(), faults.Job{Service: time.Second}); !errors.Is(err, faults.ErrRefused) {
			t.Errorf("with its only worker busy: %v, want ErrRefused", err)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if err := q.Do(t.Context(), faults.Job{Service: time.Second}); err != nil {
			t.Errorf("with its only worker free again: got %v, want no error", err)
		}
	})
}

func TestWithoutLimitNothingQueues(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := faults.NewQueue(constant(faults.Capacity{}))
		start := time.Now()
		var wg sync.WaitGroup
		for range 100 {
			wg.Go(func() {
				if err := q.Do(t.Context(), faults.Job{Service: time.Second}); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if took := time.Since(start); took != time.Second {
			t.Errorf("100 jobs at once took %v, want 1s", took)
		}
		if err := q.Do(t.Context(), faults.Job{}); err != nil {
			t.Error(err)
		}
		if took := time.Since(start); took != time.Second {
			t.Errorf("a job without work took %v, want no time", took-time.Second)
		}
		wantStats(t, q, faults.Stats{Served: 101})
	})
}

// How a retry storm begins: callers give up after 1 s, but the server, which needs 10 s, does their
// work anyway. A patient caller that comes later waits for that useless work.
func TestAbandonedWorkKeepsItsWorker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := faults.NewQueue(constant(faults.Capacity{Workers: 1, Queue: 10}))
		start := time.Now()
		done := 0
		impatient, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		var wg sync.WaitGroup
		for range 2 { // one is served, one waits
			wg.Go(func() {
				err := q.Do(impatient, faults.Job{Service: 10 * time.Second, Done: func() { done++ }})
				if !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("the impatient caller got %v, want the end of its context", err)
				}
				if waited := time.Since(start); waited != time.Second {
					t.Errorf("the impatient caller waited %v, want 1s", waited)
				}
			})
		}
		wg.Wait()
		wantStats(t, q, faults.Stats{Busy: 1, Queued: 1})
		if err := q.Do(t.Context(), faults.Job{Service: 10 * time.Second, Done: func() { done++ }}); err != nil {
			t.Error(err)
		}
		if took := time.Since(start); took != 30*time.Second {
			t.Errorf("the patient caller was served after %v, want 30s", took)
		}
		wantStats(t, q, faults.Stats{Served: 3, Wasted: 2})
		if done != 3 {
			t.Errorf("%d jobs took effect, want 3", done)
		}
	})
}

func TestDeadlineSparesTheWork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := faults.NewQueue(constant(faults.Capacity{Workers: 1, Queue: 10}))
		start := time.Now()
		var wg sync.WaitGroup
		for n, want := range []error{nil, faults.ErrDropped, nil} {
			wg.Go(func() {
				deadline := start.Add([]time.Duration{time.Second, 10 * time.Second, 11 * time.Second}[n])
				done := false
				err := q.Do(t.Context(), faults.Job{Service: 10 * time.Second, Deadline: deadline, Done: func() { done = true }})
				// The first began in time and is finished. The second's turn comes exactly at its
				// deadline.
				if !errors.Is(err, want) || done != (want == nil) {
					t.Errorf("job %d: %v, done %v; want %v", n+1, err, done, want)
				}
			})
			synctest.Wait()
		}
		wg.Wait()
		if took := time.Since(start); took != 20*time.Second {
			t.Errorf("took %v, want 20s", took)
		}
		wantStats(t, q, faults.Stats{Served: 2, Dropped: 1})
	})
}

func TestCapacityChangesWhileWorkRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		c := faults.Capacity{Workers: 3, Queue: 10}
		set := func(workers int) {
			mu.Lock()
			defer mu.Unlock()
			c.Workers = workers
		}
		q := faults.NewQueue(func() faults.Capacity {
			mu.Lock()
			defer mu.Unlock()
			return c
		})
		var wg sync.WaitGroup
		add := func(n int) {
			for range n {
				wg.Go(func() {
					if err := q.Do(t.Context(), faults.Job{Service: time.Second}); err != nil {
						t.Error(err)
					}
				})
			}
		}
		add(7)
		wantStats(t, q, faults.Stats{Busy: 3, Queued: 4})
		set(1) // running jobs continue; one worker remains when they end
		wantStats(t, q, faults.Stats{Busy: 3, Queued: 4})
		time.Sleep(time.Second)
		wantStats(t, q, faults.Stats{Busy: 1, Queued: 3, Served: 3})
		set(2)
		add(1) // a new job goes to the end of the queue
		wantStats(t, q, faults.Stats{Busy: 2, Queued: 3, Served: 3})
		set(0)
		time.Sleep(time.Second)
		wantStats(t, q, faults.Stats{Busy: 3, Served: 5})
		wg.Wait()
		wantStats(t, q, faults.Stats{Served: 8})
	})
}

func BenchmarkQueue(b *testing.B) {
	q := faults.NewQueue(constant(faults.Capacity{Workers: 4, Queue: 1 << 20}))
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if err := q.Do(b.Context(), faults.Job{Service: 1}); err != nil {
				b.Error(err)
			}
		}
	})
}

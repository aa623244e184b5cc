package faults_test

import (
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rebound-dev/rebound/pkg/faults"
)

// line is a Queue whose capacity changes. Its jobs take a second each.
type line struct {
	*faults.Queue

	mu       sync.Mutex
	capacity faults.Capacity
	jobs     sync.WaitGroup
}

func newLine(c faults.Capacity) *line {
	l := &line{capacity: c}
	l.Queue = faults.NewQueue(func() faults.Capacity {
		l.mu.Lock()
		defer l.mu.Unlock()
		return l.capacity
	})
	return l
}

func (l *line) set(c faults.Capacity) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.capacity = c
}

// add queues a job with a deadline, 0 for none, that must end with want.
func (l *line) add(t *testing.T, deadline time.Duration, want error) {
	t.Helper()
	j := faults.Job{Service: time.Second}
	if deadline > 0 {
		j.Deadline = time.Now().Add(deadline)
	}
	l.jobs.Go(func() {
		if err := l.Do(t.Context(), j); !errors.Is(err, want) {
			t.Errorf("got %v, want %v", err, want)
		}
	})
	synctest.Wait()
}

// A second worker is added while three jobs wait, and the queue length becomes 0. The worker must
// take the first of the three. It must not make room for a new job, which would then wait in a
// queue without places.
func TestNewcomerDoesNotTakeTheWorkerOfThoseWhoWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLine(faults.Capacity{Workers: 1, Queue: 3})
		for range 4 {
			l.add(t, 0, nil)
		}
		l.set(faults.Capacity{Workers: 2, Queue: 0})
		l.add(t, 0, faults.ErrRefused)
		wantStats(t, l.Queue, faults.Stats{Busy: 2, Queued: 2, Refused: 1})
		l.jobs.Wait()
	})
}

// The same change, but no job arrives. The waiting jobs must not have to wait for an arrival.
func TestWakeGivesNewWorkersWork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLine(faults.Capacity{Workers: 1, Queue: 3})
		for range 4 {
			l.add(t, 0, nil)
		}
		l.set(faults.Capacity{Workers: 3})
		wantStats(t, l.Queue, faults.Stats{Busy: 1, Queued: 3})
		l.Wake()
		wantStats(t, l.Queue, faults.Stats{Busy: 3, Queued: 1})
		l.set(faults.Capacity{}) // no limit
		l.Wake()
		wantStats(t, l.Queue, faults.Stats{Busy: 4})
		l.jobs.Wait()
	})
}

// Jobs whose deadline has passed hold no place in a full queue: a job with time left gets it.
func TestPassedDeadlinesHoldNoPlaces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLine(faults.Capacity{Workers: 1, Queue: 3})
		l.add(t, 0, nil) // served for a second
		l.add(t, 100*time.Millisecond, faults.ErrDropped)
		l.add(t, 5*time.Second, nil)
		l.add(t, 200*time.Millisecond, faults.ErrDropped)
		l.add(t, 0, faults.ErrRefused) // all have time left

		time.Sleep(100 * time.Millisecond)
		// an unneeded place stays as it is
		wantStats(t, l.Queue, faults.Stats{Busy: 1, Queued: 3, Refused: 1})
		l.add(t, 0, nil)
		wantStats(t, l.Queue, faults.Stats{Busy: 1, Queued: 3, Refused: 1, Dropped: 1})
		l.add(t, 0, faults.ErrRefused)

		time.Sleep(100 * time.Millisecond)
		l.add(t, 0, nil)
		wantStats(t, l.Queue, faults.Stats{Busy: 1, Queued: 3, Refused: 2, Dropped: 2})
		l.jobs.Wait()
		wantStats(t, l.Queue, faults.Stats{Served: 4, Refused: 2, Dropped: 2})
	})
}

// A small change in the middle of an experiment must not start it again.
func TestAmendGoesOn(t *testing.T) {
	tests := map[string]struct {
		restart faults.Restart
		after   faults.Fate // of the third attempt, 25s after the start
		later   faults.Fault
	}{
		"everything":               {faults.Restart{}, faults.Fate{Arrival: 3, Fault: faults.FaultNone}, faults.FaultHang},
		"but the schedule":         {faults.Restart{Schedule: true}, faults.Fate{Arrival: 3, Fault: faults.FaultNone}, faults.FaultNone},
		"but the memory of ids":    {faults.Restart{FailFirst: true}, faults.Fate{Arrival: 3, Fault: faults.FaultError}, faults.FaultHang},
		"but the count of arrival": {faults.Restart{Arrivals: true}, faults.Fate{Arrival: 1, Fault: faults.FaultNone}, faults.FaultHang},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				spec := faults.Spec{
					FailFirst: 2,
					Schedule:  []faults.Window{{At: 30 * time.Second, For: 20 * time.Second, HangRate: new(1.0)}},
				}
				i := injector(t, spec, 1)
				time.Sleep(25 * time.Second)
				i.Next("a")
				i.Next("a")
				spec.RetryAfter = "2s"
				if err := i.Amend(spec, tt.restart); err != nil {
					t.Fatal(err)
				}
				if f := i.Next("a"); f.Arrival != tt.after.Arrival || f.Fault != tt.after.Fault || f.RetryAfter != "2s" {
					t.Errorf("then %+v, want arrival %d with %s", f, tt.after.Arrival, tt.after.Fault)
				}

				time.Sleep(10 * time.Second) // 35s after the start
				spec.FailFirst = 0           // FailFirst overrides the schedule
				if err := i.Amend(spec, faults.Restart{}); err != nil {
					t.Fatal(err)
				}
				if f := i.Next("b"); f.Fault != tt.later {
					t.Errorf("10s later %s, want %s", f.Fault, tt.later)
				}
			})
		})
	}
}

func TestNextChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := injector(t, faults.Spec{Schedule: []faults.Window{
			{At: 10 * time.Second, For: 20 * time.Second},
			{At: 20 * time.Second, For: 20 * time.Second},
			{At: 40 * time.Second, For: 1<<63 - 1},
		}}, 1)
		var at []time.Duration
		start := time.Now()
		for len(at) < 100 {
			in, ok := i.NextChange()
			if !ok || in > time.Hour {
				break
			}
			time.Sleep(in)
			at = append(at, time.Since(start)/time.Second)
		}
		if want := []time.Duration{10, 20, 30, 40}; !slices.Equal(at, want) {
			t.Errorf("changes after %d seconds, want %d", at, want)
		}
	})
}

func TestWithoutScheduleNothingChanges(t *testing.T) {
	if in, ok := injector(t, faults.Spec{}, 1).NextChange(); ok {
		t.Errorf("got a change in %v, want none", in)
	}
}

// Text that net/http would trim, or that is too long to send with every error, is rejected.
func TestRetryAfterIsWhatAHeaderCarries(t *testing.T) {
	for value, want := range map[string]string{
		"soon":                     "",
		"in a while":               "",
		strings.Repeat("x", 1<<10): "",
		strings.Repeat("x", 1025):  "expected at most 1024 bytes, got 1025",
		" 5":                       "without blanks at either end",
		"5\t":                      "without blanks at either end",
	} {
		got := mistakes(faults.Spec{RetryAfter: value}.Validate())["retryAfter"]
		if (got == "") != (want == "") || !strings.Contains(got, want) {
			t.Errorf("%.10q: %q, want %q", value, got, want)
		}
	}
}

// A change of one rate keeps what was drawn. It changes where the faults after it in the list
// strike.
func TestWhatAChangeOfOneRateKeeps(t *testing.T) {
	spec := everything()
	spec.ErrorRate = 0.1
	before := fates(t, spec, 7, 2000)
	spec.ErrorRate = 0.2
	moved := 0
	for n, after := range fates(t, spec, 7, 2000) {
		if after.Latency != before[n].Latency {
			t.Fatalf("arrival %d: got latencies %v and %v, want equal ones", n+1, before[n].Latency, after.Latency)
		}
		if before[n].Status != 0 && after.Status != before[n].Status {
			t.Fatalf("arrival %d: got statuses %d and %d, want equal ones", n+1, before[n].Status, after.Status)
		}
		if before[n].Fault == faults.FaultReset && after.Fault != faults.FaultReset {
			moved++
		}
	}
	if moved == 0 {
		t.Error("no reset moved, want those after it to move, as the comment in Next says")
	}
}

package faults_test

import (
	"fmt"
	"math"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rebound-dev/rebound/pkg/faults"
)

func everything() faults.Spec {
	return faults.Spec{
		ErrorRate: 0.3, ResetRate: 0.1, TruncateRate: 0.1, HangRate: 0.1, SlowBodyRate: 0.1,
		Statuses: []int{500, 503},
		Latency:  faults.Latency{Distribution: faults.DistributionUniform, Max: time.Second},
	}
}

func fates(t *testing.T, spec faults.Spec, seed uint64, n int) []faults.Fate {
	t.Helper()
	return next(injector(t, spec, seed), n)
}

func injector(t *testing.T, spec faults.Spec, seed uint64) *faults.Injector {
	t.Helper()
	i, err := faults.New(spec, seed)
	if err != nil {
		t.Fatal(err)
	}
	return i
}

func next(i *faults.Injector, n int) []faults.Fate {
	all := make([]faults.Fate, n)
	for k := range all {
		all[k] = i.Next(fmt.Sprint("r-", k))
	}
	return all
}

func TestRatesHold(t *testing.T) {
	const n = 20_000
	got := map[faults.Fault]float64{}
	statuses := map[int]float64{}
	for _, f := range fates(t, everything(), 42, n) {
		got[f.Fault] += 1.0 / n
		statuses[f.Status] += 1.0 / n
	}
	want := map[faults.Fault]float64{
		faults.FaultNone: 0.3, faults.FaultError: 0.3, faults.FaultReset: 0.1, faults.FaultTruncate: 0.1, faults.FaultHang: 0.1,
		faults.FaultSlowBody: 0.1,
	}
	for fault, rate := range want {
		if math.Abs(got[fault]-rate) > 0.015 {
			t.Errorf("%s: %.3f of the arrivals, want %.3f", fault, got[fault], rate)
		}
	}
	for status, rate := range map[int]float64{0: 0.7, 500: 0.15, 503: 0.15} {
		if math.Abs(statuses[status]-rate) > 0.015 {
			t.Errorf("status %d: %.3f of the arrivals, want %.3f", status, statuses[status], rate)
		}
	}
}

func TestAllOrNothing(t *testing.T) {
	for _, f := range fates(t, faults.Spec{}, 1, 1000) {
		if f.Fault != faults.FaultNone || f.Status != 0 || f.Latency != 0 {
			t.Fatalf("the zero value: got %+v, want no fault", f)
		}
	}
	for _, f := range fates(t, faults.Spec{ErrorRate: 1}, 1, 1000) {
		if f.Fault != faults.FaultError || f.Status != 503 {
			t.Fatalf("an error rate of 1: got %+v, want an error", f)
		}
	}
}

func TestSameSeedSameSequence(t *testing.T) {
	first := fates(t, everything(), 7, 500)
	if !slices.Equal(first, fates(t, everything(), 7, 500)) {
		t.Error("the same seed gave another sequence, want the same")
	}
	if slices.Equal(first, fates(t, everything(), 8, 500)) {
		t.Error("another seed gave the same sequence, want another")
	}

	i := injector(t, everything(), 7)
	next(i, 33)
	if err := i.Replace(everything()); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(first, next(i, 500)) {
		t.Error("after Replace the sequence did not start again")
	}
}

func TestSequenceDoesNotDependOnConcurrency(t *testing.T) {
	want := fates(t, everything(), 7, 1000)
	i := injector(t, everything(), 7)
	got := make([]faults.Fate, len(want))
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() {
			for range 100 {
				f := i.Next("any")
				got[f.Arrival-1] = f // each arrival belongs to one goroutine
			}
		})
	}
	wg.Wait()
	if !slices.Equal(got, want) {
		t.Error("concurrent arrivals got another sequence")
	}
}

// A change of one rate must not change what else is drawn. Otherwise two policies could not be
// compared under the same luck. Only the choice of the fault changes, because the rates share one
// draw.
func TestRatesDoNotDisturbLatencies(t *testing.T) {
	spec := everything()
	before := fates(t, spec, 7, 500)
	spec.ErrorRate = 0
	after := fates(t, spec, 7, 500)
	for n := range before {
		if before[n].Latency != after[n].Latency {
			t.Fatalf("arrival %d: got latencies %v and %v, want equal ones", n+1, before[n].Latency, after[n].Latency)
		}
	}
}

func TestFailFirst(t *testing.T) {
	// The error rate would fail everything, but FailFirst disables the rates.
	i := injector(t, faults.Spec{FailFirst: 2, ErrorRate: 1, Statuses: []int{502}}, 1)
	want := []faults.Fault{faults.FaultError, faults.FaultError, faults.FaultNone, faults.FaultNone}
	sequence := func(id string) (got []faults.Fault) {
		for range want {
			f := i.Next(id)
			if f.Fault == faults.FaultError && f.Status != 502 {
				t.Errorf("status %d, want 502", f.Status)
			}
			got = append(got, f.Fault)
		}
		return got
	}
	for _, id := range []string{"a", "b"} {
		if got := sequence(id); !slices.Equal(got, want) {
			t.Errorf("attempts of %s: %v, want %v", id, got, want)
		}
	}
	if err := i.Replace(i.Spec()); err != nil {
		t.Fatal(err)
	}
	if got := sequence("a"); !slices.Equal(got, want) {
		t.Errorf("attempts of a after Replace: %v, want %v", got, want)
	}
}

func TestReplaceRefusesAndKeeps(t *testing.T) {
	i := injector(t, faults.Spec{ErrorRate: 1}, 1)
	if err := i.Replace(faults.Spec{ErrorRate: 2}); err == nil {
		t.Error("an error rate of 2: got no error, want one")
	}
	if f := i.Next("a"); f.Fault != faults.FaultError || f.Arrival != 1 {
		t.Errorf("after a refused Replace: got %+v, want an error as before", f)
	}
}

func TestSchedule(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		spec := faults.Spec{
			ErrorRate: 1,
			Capacity:  faults.Capacity{Workers: 4, ServiceTime: time.Second, Queue: 8},
			Schedule: []faults.Window{
				{At: 10 * time.Second, For: 20 * time.Second, ErrorRate: new(0.0), Capacity: &faults.CapacityChange{Workers: new(1)}},
				{At: 20 * time.Second, For: 20 * time.Second, HangRate: new(1.0), ErrorRate: new(0.0)},
				{
					At: 50 * time.Second, For: time.Second, Statuses: []int{429}, RetryAfter: new("2s"),
					Latency: &faults.Latency{Distribution: faults.DistributionFixed, Value: time.Minute},
				},
			},
		}
		i := injector(t, spec, 1)
		steps := []struct {
			at      time.Duration
			fault   faults.Fault
			status  int
			workers int
		}{
			{0, faults.FaultError, 503, 4},
			{10*time.Second - 1, faults.FaultError, 503, 4},
			{10 * time.Second, faults.FaultNone, 0, 1},
			{20 * time.Second, faults.FaultHang, 0, 1}, // both windows are open
			{30 * time.Second, faults.FaultHang, 0, 4}, // only the second is open
			{40*time.Second - 1, faults.FaultHang, 0, 4},
			{40 * time.Second, faults.FaultError, 503, 4},
			{50 * time.Second, faults.FaultError, 429, 4},
			{51 * time.Second, faults.FaultError, 503, 4},
		}
		run := func() {
			t.Helper()
			start := time.Now()
			for _, step := range steps {
				time.Sleep(step.at - time.Since(start))
				f := i.Next("a")
				if f.Fault != step.fault || f.Status != step.status {
					t.Errorf("at %v: %s %d, want %s %d", step.at, f.Fault, f.Status, step.fault, step.status)
				}
				if got := i.Capacity(); got.Workers != step.workers || got.Queue != 8 || got.ServiceTime != time.Second {
					t.Errorf("at %v: capacity %+v, want %d workers and the rest as it was", step.at, got, step.workers)
				}
				if step.status == 429 && (f.RetryAfter != "2s" || f.Latency != time.Minute) {
					t.Errorf("at %v: %+v, want the window's retryAfter and latency", step.at, f)
				}
			}
		}
		run()
		if err := i.Replace(spec); err != nil {
			t.Fatal(err)
		}
		run() // Replace starts the schedule again
	})
}

func TestServiceTime(t *testing.T) {
	latency := faults.Latency{Distribution: faults.DistributionFixed, Value: time.Second}
	tests := map[string]struct {
		capacity         faults.Capacity
		latency, service time.Duration
	}{
		"no capacity":            {faults.Capacity{ServiceTime: time.Minute}, time.Second, 0},
		"on top of the latency":  {faults.Capacity{Workers: 1, ServiceTime: time.Minute}, time.Second, time.Minute},
		"the latency is the job": {faults.Capacity{Workers: 1}, 0, time.Second},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			f := fates(t, faults.Spec{Latency: latency, Capacity: tt.capacity}, 1, 1)[0]
			if f.Latency != tt.latency || f.Service != tt.service {
				t.Errorf("latency %v and service %v, want %v and %v", f.Latency, f.Service, tt.latency, tt.service)
			}
		})
	}
}

func TestTakesEffect(t *testing.T) {
	for fault, lost := range map[faults.Fault]bool{
		faults.FaultNone: false, faults.FaultSlowBody: false, faults.FaultError: true, faults.FaultReset: true,
		faults.FaultTruncate: true, faults.FaultHang: true,
	} {
		if !(faults.Fate{Fault: fault, Effect: faults.EffectBefore}).TakesEffect() {
			t.Errorf("%s before: got no effect, want one", fault)
		}
		if got := (faults.Fate{Fault: fault, Effect: faults.EffectAfter}).TakesEffect(); got == lost {
			t.Errorf("%s after: effect %v, want %v", fault, got, !lost)
		}
	}
}

func BenchmarkNext(b *testing.B) {
	i, err := faults.New(everything(), 1)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		i.Next("id")
	}
}

// An arrival's number decides its fate, in whatever order the arrivals come.
func TestFateOfANumberedArrival(t *testing.T) {
	spec := everything()
	counted, err := faults.New(spec, 7)
	if err != nil {
		t.Fatal(err)
	}
	numbered, err := faults.New(spec, 7)
	if err != nil {
		t.Fatal(err)
	}
	var want []faults.Fate
	for range 100 {
		want = append(want, counted.Next(""))
	}
	for i := range slices.Backward(want) {
		if got := numbered.Fate(uint64(i) + 1); got != want[i] {
			t.Errorf("arrival %d: got fate %+v, want %+v as when arrivals are counted", i+1, got, want[i])
		}
	}
}

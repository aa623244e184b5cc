package backend_test

import (
	"context"
	"math"
	"math/rand/v2"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rebound-dev/rebound/internal/backend"
	"github.com/rebound-dev/rebound/internal/testkit/leaks"
	"github.com/rebound-dev/rebound/pkg/faults"
)

func TestMain(m *testing.M) { leaks.Main(m) }

// config is one worker that needs ten grids for a call, and a queue for two calls.
func config() backend.Config {
	return backend.Config{
		Faults:   faults.Spec{Latency: faults.Latency{Distribution: faults.DistributionFixed, Value: 10 * backend.Grid}},
		Capacity: float64(time.Second) / (10 * backend.Grid), Queue: 30 * backend.Grid,
	}
}

// work does the work of n arrivals, two nanoseconds apart, and returns when each ended.
func work(t *testing.T, in *backend.Instance, n int) (ends []time.Duration, faulty []faults.Fault) {
	t.Helper()
	start := time.Now()
	ends, faulty = make([]time.Duration, n), make([]faults.Fault, n)
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() {
			time.Sleep(time.Duration(2 * i))
			fate, err := in.Work(context.Background(), in.Fate(uint64(i)), "", time.Since(start), rand.New(rand.NewPCG(1, uint64(i))))
			if err != nil {
				t.Error(err)
			}
			ends[i], faulty[i] = time.Since(start), fate.Fault
		})
	}
	all.Wait()
	return ends, faulty
}

// With Apart, work that arrives in even nanoseconds ends in odd ones, also if it had to wait.
func TestWorkEndsApartFromArrivals(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := config()
		c.Apart = true
		in, err := backend.New(c, 1, 1)
		if err != nil {
			t.Fatal(err)
		}
		ends, faulty := work(t, in, 5)
		for i := range 3 {
			want := time.Duration(i+1)*10*backend.Grid - 1
			if ends[i] != want || faulty[i] != faults.FaultNone {
				t.Errorf("call %d ended after %d ns with fault %s, want %d and none", i, ends[i], faulty[i], want)
			}
		}
		for i := 3; i < 5; i++ {
			if faulty[i] != faults.FaultOverload || ends[i] != time.Duration(2*i) {
				t.Errorf("call %d ended after %v with fault %s, want a refusal at once", i, ends[i], faulty[i])
			}
		}
	})
}

// running returns an instance whose workers follow its phases until stop.
func running(t *testing.T, c backend.Config) (in *backend.Instance, stop func()) {
	t.Helper()
	in, err := backend.New(c, 1, 1)
	if err != nil {
		t.Fatal(err)
	}
	stopped := make(chan struct{})
	var runs sync.WaitGroup
	runs.Go(func() { in.Run(time.Now(), stopped) })
	return in, func() { close(stopped); runs.Wait() }
}

// A restart empties the queue, and ends phases that stop the workers.
func TestRestart(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := config()
		none := 0.0
		c.Phases = []backend.Phase{{Window: faults.Window{For: time.Hour}, Working: &none}}
		in, stop := running(t, c)
		time.Sleep(time.Second)
		probe := func() error {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			return in.Probe(ctx)
		}
		if err := probe(); err == nil || in.Stats().Queued != 1 {
			t.Errorf("got probe error %v and %d calls in the queue, want a timeout and 1", err, in.Stats().Queued)
		}
		in.Restart()
		if err := probe(); err != nil || in.Stats().Queued != 0 {
			t.Errorf("got probe error %v and %d calls in the queue after the restart, want none", err, in.Stats().Queued)
		}
		stop()
	})
}

// A phase that lasts for as long as a duration can say used to have no effect: its end overflowed.
func TestEndlessPhase(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := config()
		c.Phases = []backend.Phase{{
			Window: faults.Window{At: time.Second, For: math.MaxInt64}, Refuse: true, Working: new(float64),
		}}
		in, stop := running(t, c)
		for at, want := range map[time.Duration]bool{0: false, time.Second: true, 24 * time.Hour: true} {
			if got := in.Refuses(at); got != want {
				t.Errorf("refuses at %v = %v, want %v", at, got, want)
			}
		}
		time.Sleep(time.Hour)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := in.Probe(ctx); err == nil {
			t.Error("a worker answered, want none to work")
		}
		stop()
	})
}

// Answers are those of flaky-server.
func TestAnswer(t *testing.T) {
	t.Parallel()
	req := (&http.Request{}).WithContext(t.Context())
	for name, c := range map[string]struct {
		fate   faults.Fate
		status int // 0: an error
		after  string
	}{
		"ok":          {faults.Fate{Fault: faults.FaultNone, RetryAfter: "3s"}, 200, ""},
		"error":       {faults.Fate{Fault: faults.FaultError, Status: 503, RetryAfter: "2500ms"}, 503, "3"},
		"other after": {faults.Fate{Fault: faults.FaultError, Status: 500, RetryAfter: "soon"}, 500, "soon"},
		"reset":       {faults.Fate{Fault: faults.FaultReset}, 0, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			resp, err := backend.Answer(req, c.fate)
			if (err != nil) != (c.status == 0) {
				t.Fatalf("got error %v, want status %d", err, c.status)
			}
			if err == nil && (resp.StatusCode != c.status || resp.Header.Get("Retry-After") != c.after) {
				t.Errorf("got status %d and Retry-After %q, want %d and %q", resp.StatusCode, resp.Header.Get("Retry-After"), c.status, c.after)
			}
		})
	}
}

func TestAmplification(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		calls, attempts []float64
		mean, peak      float64
	}{
		"none":                        {nil, nil, 0, 0},
		"few":                         {[]float64{5, 5}, []float64{5, 15}, 2, 2},
		"many":                        {[]float64{20, 40}, []float64{60, 60}, 2, 3},
		"a second with few is pooled": {[]float64{30, 10, 10}, []float64{30, 50, 10}, 1.8, 3},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			mean, peak := backend.Amplification(len(c.calls), func(i int) (float64, float64) { return c.calls[i], c.attempts[i] })
			if mean != c.mean || peak != c.peak {
				t.Errorf("got %v and %v in the worst second, want %v and %v", mean, peak, c.mean, c.peak)
			}
		})
	}
}

package lab

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/rebound-dev/rebound/internal/backend"
	"github.com/rebound-dev/rebound/pkg/resilience"
)

// recorder counts what happens. Its memory grows with the seconds of the run, not with the calls.
// It is safe for concurrent use.
type recorder struct {
	start       time.Time
	disturbance Span
	off         atomic.Bool

	mu       sync.Mutex
	tenths   []backend.Tally // by the start time of the calls
	seconds  []Second
	current  int                // the second that latency belongs to
	latency  *backend.Histogram // of the calls that succeeded in that second
	parts    [3]part
	attempts map[resilience.Reason]uint64
	calls    map[resilience.Reason]uint64
	retries  uint64
	saved    uint64
	probes   int
}

// part has the figures before, during or after the disturbance.
type part struct {
	attempts   []uint64 // by instance
	calls, ok  uint64
	good, lost backend.Histogram // latencies of the successful and the failed calls
}

const (
	before = iota
	during
	after
)

// newRecorder returns a recorder for a run. It counts the attempts of each of the instances.
func newRecorder(d Span, length time.Duration, instances int) *recorder {
	seconds := int((length + time.Second - 1) / time.Second)
	r := &recorder{
		start: time.Now(), disturbance: d,
		tenths: make([]backend.Tally, 10*seconds), seconds: make([]Second, seconds),
		latency:  &backend.Histogram{},
		attempts: map[resilience.Reason]uint64{}, calls: map[resilience.Reason]uint64{},
	}
	if instances > 0 {
		for i := range r.parts {
			r.parts[i].attempts = make([]uint64, instances)
		}
	}
	return r
}

func (r *recorder) stop()         { r.off.Store(true) }
func (r *recorder) stopped() bool { return r.off.Load() }

// second makes the second of now the current one, and returns it. It returns nil after the end of
// the run. The caller holds mu.
func (r *recorder) second(now time.Time) *Second {
	i := int(now.Sub(r.start) / time.Second)
	if i > r.current {
		r.close()
		r.current = i
	}
	if i >= len(r.seconds) {
		return nil
	}
	return &r.seconds[i]
}

// close completes the current second. The caller holds mu.
func (r *recorder) close() {
	if r.current < len(r.seconds) && r.latency.Total() > 0 {
		s := &r.seconds[r.current]
		s.P50, s.P99 = backend.Milliseconds(r.latency.Quantile(0.5)), backend.Milliseconds(r.latency.Quantile(0.99))
		*r.latency = backend.Histogram{}
	}
}

// slot says when a call began.
type slot struct {
	tenth, second, part int
}

// part returns the part of the run that a time belongs to.
func (r *recorder) part(elapsed time.Duration) int {
	switch {
	case elapsed < r.disturbance.At:
		return before
	case elapsed < r.disturbance.End():
		return during
	}
	return after
}

func (r *recorder) begin(at time.Time) slot {
	elapsed := at.Sub(r.start)
	s := slot{tenth: int(elapsed / backend.Tenth), second: int(elapsed / time.Second), part: r.part(elapsed)}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.parts[s.part].calls++
	if s.tenth < len(r.tenths) {
		r.tenths[s.tenth].Offered++
		r.seconds[s.second].Offered++
	}
	return s
}

func (r *recorder) end(began slot, took time.Duration, report *resilience.Report) {
	ok := report.Reason == resilience.ReasonOK
	r.mu.Lock()
	defer r.mu.Unlock()
	r.calls[report.Reason]++
	p := &r.parts[began.part]
	current := r.second(time.Now())
	if !ok {
		p.lost.Add(took)
		return
	}
	p.ok++
	p.good.Add(took)
	if began.tenth < len(r.tenths) {
		r.tenths[began.tenth].OK++
	}
	if len(report.Attempts) > 1 {
		r.saved++
	}
	if current != nil {
		current.Goodput++
		r.latency.Add(took)
	}
}

// attempt counts the start of an attempt at an instance, from 0.
func (r *recorder) attempt(at time.Time, instance int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if p := &r.parts[r.part(at.Sub(r.start))]; p.attempts != nil {
		p.attempts[instance]++
	}
	if s := r.second(at); s != nil {
		s.Attempts++
	}
}

// attemptEnded counts the end of an attempt.
func (r *recorder) attemptEnded(a *resilience.AttemptReport) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.attempts[a.Reason]++
	if a.Number > 1 {
		r.retries++
	}
}

// retried counts the retries of a call whose attempts are not reported to attemptEnded.
func (r *recorder) retried(n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.retries += uint64(max(0, n))
}

// probesInFlight records how many probes of one circuit are running.
func (r *recorder) probesInFlight(n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.probes = max(r.probes, n)
}

// sample records the state of circuits, endpoints and budgets.
func (r *recorder) sample(open, ejected int, tokens float64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if s := r.second(time.Now()); s != nil {
		s.Open, s.Ejected, s.Tokens = open, ejected, tokens
	}
}

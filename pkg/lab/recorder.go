package lab

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/rebound-dev/rebound/pkg/resilience"
)

// tenth is how finely the end of a disturbance is looked at.
const tenth = 100 * time.Millisecond

// recorder counts what happens. What it keeps for a run grows by a second's
// figures with every second, and not with the calls. It is safe for concurrent
// use.
type recorder struct {
	start       time.Time
	disturbance Span
	off         atomic.Bool

	mu       sync.Mutex
	tenths   []tally // by the time that calls began
	seconds  []Second
	current  int        // the second that latency is of
	latency  *histogram // of the calls that ended well in it
	parts    [3]part
	attempts map[resilience.Reason]uint64
	calls    map[resilience.Reason]uint64
	retries  uint64
	saved    uint64
	opened   uint64
	probes   int
}

// tally is the calls of some time, and those of them that ended well.
type tally struct{ offered, ok uint32 }

// part is what is before, during or after the disturbance.
type part struct {
	calls, ok  uint64
	good, lost histogram // latencies
}

const (
	before = iota
	during
	after
)

func newRecorder(d Span, length time.Duration) *recorder {
	seconds := int((length + time.Second - 1) / time.Second)
	return &recorder{
		start: time.Now(), disturbance: d,
		tenths: make([]tally, 10*seconds), seconds: make([]Second, seconds),
		latency:  &histogram{},
		attempts: map[resilience.Reason]uint64{}, calls: map[resilience.Reason]uint64{},
	}
}

func (r *recorder) callOff()        { r.off.Store(true) }
func (r *recorder) calledOff() bool { return r.off.Load() }

// second is the one that now is in, which becomes the current one; nil after the
// end of the run. It is called under mu.
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

// close ends the current second. It is called under mu.
func (r *recorder) close() {
	if r.current < len(r.seconds) && r.latency.total > 0 {
		s := &r.seconds[r.current]
		s.P50, s.P99 = milliseconds(r.latency.quantile(0.5)), milliseconds(r.latency.quantile(0.99))
		*r.latency = histogram{}
	}
}

// slot remembers when a call began.
type slot struct {
	tenth, second, part int
}

func (r *recorder) begin(at time.Time) slot {
	elapsed := at.Sub(r.start)
	s := slot{tenth: int(elapsed / tenth), second: int(elapsed / time.Second)}
	switch {
	case elapsed < r.disturbance.At:
		s.part = before
	case elapsed < r.disturbance.End():
		s.part = during
	default:
		s.part = after
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.parts[s.part].calls++
	if s.tenth < len(r.tenths) {
		r.tenths[s.tenth].offered++
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
		p.lost.add(took)
		return
	}
	p.ok++
	p.good.add(took)
	if began.tenth < len(r.tenths) {
		r.tenths[began.tenth].ok++
	}
	if len(report.Attempts) > 1 {
		r.saved++
	}
	if current != nil {
		current.Goodput++
		r.latency.add(took)
	}
}

// attempt counts one that begins.
func (r *recorder) attempt(at time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if s := r.second(at); s != nil {
		s.Attempts++
	}
}

// attempted counts one that has ended.
func (r *recorder) attempted(a *resilience.AttemptReport) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.attempts[a.Reason]++
	if a.Number > 1 {
		r.retries++
	}
}

// retried counts the retries of a call whose attempts were seen by somebody else.
func (r *recorder) retried(n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.retries += uint64(max(0, n))
}

// turned counts a new state of a circuit.
func (r *recorder) turned(to resilience.State) {
	if to != resilience.Open {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.opened++
}

// probing notes how many probes of one circuit are under way.
func (r *recorder) probing(n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.probes = max(r.probes, n)
}

// sample notes what circuits and budgets look like now.
func (r *recorder) sample(open int, tokens float64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if s := r.second(time.Now()); s != nil {
		s.Open, s.Tokens = open, tokens
	}
}

func milliseconds(d time.Duration) float64 {
	return float64(d.Round(time.Microsecond)) / float64(time.Millisecond)
}

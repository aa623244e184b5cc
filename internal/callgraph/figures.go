package callgraph

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/rebound-dev/rebound/internal/backend"
	"github.com/rebound-dev/rebound/pkg/endpoint"
	"github.com/rebound-dev/rebound/pkg/lab"
)

// figures counts what happens to a service. Its memory grows with the seconds of the run, not with
// the calls. It is safe for concurrent use.
type figures struct {
	start       time.Time
	disturbance lab.Span

	mu       sync.Mutex
	off      bool
	tenths   []backend.Tally // by the start time of the calls
	seconds  []Second
	current  int               // the second that latency belongs to
	latency  backend.Histogram // of the calls that ended well in that second
	parts    [3]part
	wasted   uint64
	restarts int
	most     int // instances
}

// part has the figures before, during or after the disturbance.
type part struct {
	calls, ok, attempts uint64
	latency             backend.Histogram
}

const (
	before = iota
	during
	after
)

func newFigures(start time.Time, d lab.Span, length time.Duration) *figures {
	seconds := int((length + time.Second - 1) / time.Second)
	return &figures{start: start, disturbance: d, tenths: make([]backend.Tally, 10*seconds), seconds: make([]Second, seconds)}
}

// slot says when a call began.
type slot struct{ tenth, second, part int }

func (f *figures) part(elapsed time.Duration) int {
	switch {
	case elapsed < f.disturbance.At:
		return before
	case elapsed < f.disturbance.End():
		return during
	}
	return after
}

func (f *figures) stop() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.off = true
}

// second makes the second of now the current one, and returns it, or nil after the end of the run.
// The caller holds mu.
func (f *figures) second(now time.Time) *Second {
	i := int(now.Sub(f.start) / time.Second)
	if i > f.current {
		f.close()
		f.current = i
	}
	if i >= len(f.seconds) || f.off {
		return nil
	}
	return &f.seconds[i]
}

// close completes the current second. The caller holds mu.
func (f *figures) close() {
	if f.current < len(f.seconds) && f.latency.Total() > 0 {
		f.seconds[f.current].P99 = backend.Milliseconds(f.latency.Quantile(0.99))
		f.latency = backend.Histogram{}
	}
}

func (f *figures) begin(at time.Time) slot {
	elapsed := at.Sub(f.start)
	s := slot{int(elapsed / backend.Tenth), int(elapsed / time.Second), f.part(elapsed)}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.off {
		return s
	}
	f.parts[s.part].calls++
	if s.second < len(f.seconds) {
		f.tenths[s.tenth].Offered++
		f.seconds[s.second].Calls++
	}
	return s
}

func (f *figures) end(s slot, took time.Duration, ok bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !ok || f.off {
		return
	}
	f.parts[s.part].ok++
	f.parts[s.part].latency.Add(took)
	if s.second < len(f.seconds) {
		f.tenths[s.tenth].OK++
	}
	if now := f.second(time.Now()); now != nil {
		now.Goodput++
		f.latency.Add(took)
	}
}

// attempt counts an attempt where it begins, and for the call that it is an attempt of.
func (f *figures) attempt(at time.Time, c *call) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.off {
		return
	}
	f.parts[c.slot.part].attempts++
	if now := f.second(at); now != nil {
		now.Attempts++
	}
	if c.slot.second < len(f.seconds) {
		f.seconds[c.slot.second].OfCalls++
	}
	f.seconds[c.root].Caused++
}

// sample records the number of instances that serve.
func (f *figures) sample(instances int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if now := f.second(time.Now()); now != nil {
		now.Instances = instances
	}
	f.most = max(f.most, instances)
}

func (f *figures) waste() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.off {
		f.wasted++
	}
}

func (f *figures) restarted() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.restarts++
}

// pair counts the calls that began in a second, and their attempts.
type pair struct{ calls, attempts uint32 }

// edgeFigures counts what happens on an edge.
type edgeFigures struct {
	Edge
	opened atomic.Uint64
	sets   []*endpoint.Set // of the clients that know the endpoints
	others []lab.Client    // with the rules of another system

	mu      sync.Mutex
	seconds []pair
}

func (f *edgeFigures) begin(s slot) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if s.second < len(f.seconds) {
		f.seconds[s.second].calls++
	}
}

func (f *edgeFigures) attempt(s slot) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if s.second < len(f.seconds) {
		f.seconds[s.second].attempts++
	}
}

package live

import (
	"sync"

	"github.com/rebound-dev/rebound/pkg/observe"
	"github.com/rebound-dev/rebound/pkg/resilience"
)

// shard holds a part of the calls that were recorded since the last gathering.
type shard struct {
	mu sync.Mutex
	pending
	_ [64]byte // keeps two shards out of one cache line
}

// pending holds calls and figures until the next gathering. Its memory is reused.
type pending struct {
	quiet, loud ring // separate, so that good calls do not push out the others
	series      map[seriesKey]*sums
}

func newPending(calls int) pending {
	return pending{ring{slots: make([]slot, calls/2)}, ring{slots: make([]slot, calls/2)}, map[seriesKey]*sums{}}
}

// clear empties p and keeps its memory.
func (p *pending) clear() {
	p.quiet.clear()
	p.loud.clear()
	for key, figures := range p.series {
		if figures.offered == 0 {
			delete(p.series, key) // unused since the last clear
		} else {
			*figures = sums{}
		}
	}
}

// ring holds the newest calls.
type ring struct {
	slots []slot
	n     int // calls put since the last clear
}

// slot is one call. It copies the texts of the caller into text, because such a string may be a
// small part of a large one.
type slot struct {
	call   observe.Call
	report resilience.Report
	text   []byte
	ends   [4]int // offsets in text where method, host, path and request ID end
}

// put copies c with its report. Keeping the report itself would hold the call's request and
// response in memory, because its attempts are part of a larger object.
func (r *ring) put(c *observe.Call) {
	s := &r.slots[r.n%len(r.slots)]
	r.n++
	attempts := s.report.Attempts[:0]
	s.call, s.report = *c, *c.Report
	s.call.Caller = "" // not shown
	s.report.Attempts = append(attempts, c.Report.Attempts...)
	s.text = s.text[:0]
	for i, field := range [...]struct {
		of    *string
		limit int
	}{{&s.call.Method, maxMethod}, {&s.call.Host, maxHost}, {&s.call.Path, maxPath}, {&s.call.RequestID, maxID}} {
		// One byte more than the limit marks a longer text.
		s.text = append(s.text, (*field.of)[:min(len(*field.of), field.limit+1)]...)
		s.ends[i] = len(s.text)
		*field.of = ""
	}
	s.call.Report = nil
}

func (s *slot) texts() (method, host, path, id string) {
	all, e := string(s.text), &s.ends
	return all[:e[0]], all[e[0]:e[1]], all[e[1]:e[2]], all[e[2]:e[3]]
}

func (r *ring) each(use func(*slot)) {
	for i := range r.slots[:min(r.n, len(r.slots))] {
		use(&r.slots[i])
	}
}

func (r *ring) clear() {
	r.each(func(s *slot) {
		attempts := s.report.Attempts
		clear(attempts)
		if cap(attempts) > maxKeptAttempts {
			attempts = nil
		}
		*s = slot{report: resilience.Report{Attempts: attempts[:0]}, text: s.text}
	})
	r.n = 0
}

// maxKeptAttempts limits the attempts shown of a call, and the memory that a slot keeps for them.
const maxKeptAttempts = 32

func (s *shard) record(c *observe.Call, reason int) {
	key := seriesKey{c.Policy, c.Upstream}
	calls := &s.loud
	if goodCall(c) && len(c.Report.Attempts) == 1 {
		calls = &s.quiet
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	figures, ok := s.series[key]
	if !ok {
		if len(s.series) >= maxSeries {
			key = otherSeries()
		}
		if figures, ok = s.series[key]; !ok {
			figures = new(sums)
			s.series[key] = figures
		}
	}
	figures.add(c, reason)
	calls.put(c)
}

// take returns what was recorded since the last take, and continues with empty. Calls wait only for
// this exchange.
func (s *shard) take(empty pending) (taken pending) {
	s.mu.Lock()
	defer s.mu.Unlock()
	taken, s.pending = s.pending, empty
	return taken
}

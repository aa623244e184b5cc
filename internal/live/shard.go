package live

import (
	"sync"

	"github.com/rebound-dev/rebound/pkg/resilience"
)

// shard takes a part of the calls between two gatherings.
type shard struct {
	mu sync.Mutex
	pending
	_ [64]byte // keeps two shards out of one cache line
}

// pending is what has come since the last gathering. Its memory is used again
// and again.
type pending struct {
	quiet, loud ring // apart, so that calls which went well do not push out the others
	series      map[seriesKey]*sums
}

func newPending(calls int) pending {
	return pending{ring{slots: make([]slot, calls/2)}, ring{slots: make([]slot, calls/2)}, map[seriesKey]*sums{}}
}

// clear forgets everything but the memory.
func (p *pending) clear() {
	p.quiet.clear()
	p.loud.clear()
	for key, figures := range p.series {
		if figures.offered == 0 {
			delete(p.series, key) // nothing for a while: it may not come back
		} else {
			*figures = sums{}
		}
	}
}

// ring is the newest calls.
type ring struct {
	slots []slot
	n     int // how many were put
}

// slot is one call. What callers choose the length of is a copy in text, for the
// string may be a small part of something large.
type slot struct {
	call   Call
	report resilience.Report
	text   []byte
	ends   [4]int // in text: of method, host, path and request id
}

// put copies c. A report must not be kept: its attempts are a part of the call
// that made it, and would hold request and response in memory.
func (r *ring) put(c *Call) {
	s := &r.slots[r.n%len(r.slots)]
	r.n++
	attempts := s.report.Attempts[:0]
	s.call, s.report = *c, *c.Report
	s.report.Attempts = append(attempts, c.Report.Attempts...)
	s.text = s.text[:0]
	for i, field := range [...]struct {
		of    *string
		limit int
	}{{&s.call.Method, maxMethod}, {&s.call.Host, maxHost}, {&s.call.Path, maxPath}, {&s.call.RequestID, maxID}} {
		// One more, which tells that it was longer.
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

// maxKeptAttempts is how many attempts of one call are shown, and what a slot
// keeps room for.
const maxKeptAttempts = 32

func (s *shard) record(c *Call, reason int) {
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

// take hands over what has come since the last time, in exchange for something
// empty: calls wait for no more than that.
func (s *shard) take(empty pending) (taken pending) {
	s.mu.Lock()
	defer s.mu.Unlock()
	taken, s.pending = s.pending, empty
	return taken
}

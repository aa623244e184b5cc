package live

import (
	"sync"

	"github.com/rebound-dev/rebound/pkg/resilience"
)

// shard takes a part of the calls between two gatherings. What is behind mu is
// touched for a fraction of a microsecond at a time.
type shard struct {
	mu     sync.Mutex
	recent ring
	series map[seriesKey]*sums
	_      [64]byte // keeps two shards out of one cache line
}

// ring is the newest calls of a shard; their slots and the slots' attempts are
// used again and again.
type ring struct {
	slots []slot
	n     int // how many were put since the last gathering
}

type slot struct {
	call   Call
	report resilience.Report
}

// put copies c. A report must not be kept: its attempts are a part of the call
// that made it, and would hold request and response in memory.
func (r *ring) put(c *Call) {
	s := &r.slots[r.n%len(r.slots)]
	r.n++
	attempts := s.report.Attempts[:0]
	s.call, s.report = *c, *c.Report
	s.report.Attempts = append(attempts, c.Report.Attempts...)
	s.call.Report = nil
}

// clear forgets the calls and keeps the memory for the next ones.
func (r *ring) clear() {
	for i := range r.slots[:min(r.n, len(r.slots))] {
		s := &r.slots[i]
		attempts := s.report.Attempts
		clear(attempts)
		if cap(attempts) > maxKeptAttempts {
			attempts = nil
		}
		*s = slot{report: resilience.Report{Attempts: attempts[:0]}}
	}
	r.n = 0
}

// maxKeptAttempts is how many attempts of one call are shown, and what a slot
// keeps room for.
const maxKeptAttempts = 32

func (s *shard) record(c *Call, reason int) {
	key := seriesKey{c.Policy, c.Upstream}
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
	s.recent.put(c)
}

// take hands over what has come since the last time: the figures by way of add,
// and the recent calls in exchange for an empty ring.
func (s *shard) take(empty ring, add func(seriesKey, *sums)) (taken ring) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.recent.n == 0 {
		return empty
	}
	for key, figures := range s.series {
		if figures.offered == 0 {
			delete(s.series, key) // nothing for a while: it may not come back
			continue
		}
		add(key, figures)
		*figures = sums{}
	}
	taken, s.recent = s.recent, empty
	return taken
}

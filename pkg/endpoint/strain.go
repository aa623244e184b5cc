package endpoint

import (
	"sync/atomic"
	"time"
)

const (
	// lateTimes is how many times the usual latency makes an answer late. It is too late if it also
	// takes a part of 1/tooLate of its attempt's time.
	lateTimes = 2
	tooLate   = 2
	// lateTime is how long all answers must have come late, at least two.
	lateTime = 250 * time.Millisecond
)

// strain finds out whether an endpoint has more work than it can do. Only the fields late and
// overloaded, with holds, are safe for concurrent use.
type strain struct {
	late, overloaded lasting // all answers come late, or too late

	last  int64   // when the last one came, ns since the set's epoch
	usual float64 // the mean latency in seconds while no endpoint fails; 0 = unknown
}

// see takes the latency of an attempt that could take limit. calm reports whether no endpoint
// fails: the usual latency is that of such a time, not of a queue that grows because others fail.
func (s *strain) see(d, limit time.Duration, now int64, calm bool) {
	age := max(0, now-s.last)
	s.last = now
	late := s.usual > 0 && d.Seconds() >= lateTimes*s.usual
	anew := age > int64(forget)
	s.late.see(late, now, anew)
	s.overloaded.see(late && d >= limit/tooLate, now, anew)
	switch {
	case s.usual == 0:
		s.usual = d.Seconds()
	case calm:
		s.usual += (d.Seconds() - s.usual) * min(1, float64(age)/float64(decay))
	}
}

// lasting is something that holds when it has been true for lateTime.
type lasting struct {
	holds atomic.Bool
	since int64 // ns since the set's epoch; 0 = it is not true
}

// see takes whether it is true at now. anew begins anew, as too long ago is not known.
func (l *lasting) see(is bool, now int64, anew bool) {
	switch {
	case !is:
		if l.since != 0 {
			l.since = 0
			l.holds.Store(false)
		}
	case l.since == 0 || anew:
		l.since = now
	case now-l.since >= int64(lateTime):
		l.holds.Store(true)
	}
}

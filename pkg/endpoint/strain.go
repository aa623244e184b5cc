package endpoint

import (
	"math"
	"sync/atomic"
	"time"
)

const (
	// lateTimes is how many times the usual latency makes an answer late. It is too late if it also
	// takes a part of 1/tooLate of its attempt's time.
	lateTimes = 2
	tooLate   = 2
	// All answers of lateTime, at least lateAnswers, must have come late: a few calls may take long
	// by nature.
	lateTime    = 250 * time.Millisecond
	lateAnswers = 6
)

// strain finds out whether an endpoint has more work than it can do. Only the fields late and
// overloaded, with holds, are safe for concurrent use.
type strain struct {
	late, overloaded lasting // all answers come late, or too late

	last  int64   // when the last one came, ns since the set's epoch
	usual float64 // the mean latency in seconds while no endpoint fails; 0 = unknown
}

// see takes the latency of an attempt that could take limit. calm reports whether it succeeded
// while no endpoint failed: the usual latency is that of such a time. So a queue that grows because
// others fail is not usual.
func (s *strain) see(d, limit time.Duration, now int64, calm bool) {
	age := max(0, now-s.last)
	s.last = now
	late := s.usual > 0 && d.Seconds() >= lateTimes*s.usual
	anew := age > int64(forget)
	s.late.see(late, now, anew)
	s.overloaded.see(late && d >= limit/tooLate, now, anew)
	switch {
	case !calm:
	case s.usual == 0:
		s.usual = d.Seconds()
	default:
		s.usual += (d.Seconds() - s.usual) * -math.Expm1(-float64(age)/float64(decay))
	}
}

// lasting is something that holds when it has been true for lateTime.
type lasting struct {
	until   atomic.Int64 // until when it holds, ns since the set's epoch
	since   int64        // since when it is true, ns since the set's epoch
	answers int          // for which it is true, in a row
}

// holds is safe for concurrent use. What nobody confirms ends: a pause also ends an overload.
func (l *lasting) holds(now int64) bool { return now < l.until.Load() }

// see takes whether it is true at now. anew begins anew, as too long ago is not known.
func (l *lasting) see(is bool, now int64, anew bool) {
	if !is {
		if l.answers > 0 {
			l.answers = 0
			l.until.Store(0)
		}
		return
	}
	if l.answers == 0 || anew {
		l.since, l.answers = now, 0
	}
	if l.answers++; l.answers >= lateAnswers && now-l.since >= int64(lateTime) {
		l.until.Store(now + int64(forget))
	}
}

package rival

import (
	"math"
	"time"

	"github.com/rebound-dev/rebound/internal/foreign"
)

type state int

const (
	closed state = iota
	open
	halfOpen
)

// breaker guards the upstream or one endpoint, by one rule. Its caller holds the client's lock.
type breaker struct {
	rule foreign.Breaker

	state      state
	until      time.Time // the end of the open time
	openings   int       // in a row, for the growth of the open time
	generation int       // changes with the state, so that late results count for nothing
	run        int       // failures in a row
	counts     counts

	probes, ended, failed, slow int // of the half-open breaker
}

func newBreaker(rule foreign.Breaker, now time.Time) *breaker {
	b := &breaker{rule: rule}
	b.counts = counts{window: rule.Window, fixed: rule.FixedWindow, last: rule.CountWindow, since: now}
	return b
}

// ticket is the permission for an attempt.
type ticket struct {
	breaker    *breaker
	generation int
	probe      bool
}

// allows reports whether an attempt may begin.
func (b *breaker) allows() bool {
	return b.state == closed || b.state == halfOpen && b.probes < b.rule.HalfOpenCalls
}

// begin lets an attempt through. In a panic that is possible even if the breaker does not allow it.
func (b *breaker) begin() ticket {
	t := ticket{b, b.generation, b.state == halfOpen && b.allows()}
	if t.probe {
		b.probes++
	}
	return t
}

// cancel ends an attempt that was not made.
func (t ticket) cancel() {
	if t.probe && t.generation == t.breaker.generation {
		t.breaker.probes--
	}
}

// count counts the end of an attempt, and reports whether the breaker should open.
func (t ticket) count(now time.Time, r result) bool {
	b := t.breaker
	if t.generation != b.generation {
		return false
	}
	switch {
	case b.state == closed:
		return b.add(now, r)
	case t.probe:
		return b.probed(now, r)
	}
	return false
}

func (b *breaker) add(now time.Time, r result) bool {
	if b.rule.CheckEvery == 0 && b.counts.expired(now) && !(b.rule.FromLastFailure && r.failed) {
		b.forget(now)
	}
	b.counts.add(now, r)
	if b.rule.FromLastFailure && r.failed {
		b.counts.since = now
	}
	if b.run++; !r.failed {
		b.run = 0
	}
	if b.rule.ConsecutiveFailures > 0 && b.run >= b.rule.ConsecutiveFailures {
		return true
	}
	return b.rule.CheckEvery == 0 && b.exceeded(now)
}

// exceeded reports whether a rule that looks at a window is broken.
func (b *breaker) exceeded(now time.Time) bool {
	b.counts.prune(now)
	r := b.rule
	least := r.MinCalls
	if r.CountWindow > 0 {
		least = min(least, r.CountWindow) // as in resilience4j
	}
	return r.Failures > 0 && b.counts.failed >= r.Failures ||
		r.FailureRatio > 0 && b.counts.share(b.counts.failed, least) >= r.FailureRatio ||
		r.SlowRatio > 0 && b.counts.share(b.counts.slow, least) >= r.SlowRatio
}

// probed counts the end of a probe. The breaker stays half-open until all have ended.
func (b *breaker) probed(now time.Time, r result) bool {
	b.ended++
	if r.failed {
		b.failed++
	}
	if r.slow {
		b.slow++
	}
	if b.rule.FailureRatio == 0 && r.failed {
		return true
	}
	n := b.rule.HalfOpenCalls
	if b.ended < n {
		return false
	}
	all := float64(n)
	if b.rule.FailureRatio > 0 && float64(b.failed)/all >= b.rule.FailureRatio || b.rule.SlowRatio > 0 && float64(b.slow)/all >= b.rule.SlowRatio {
		return true
	}
	b.openings = 0
	b.enter(closed, now)
	return false
}

// open opens the breaker. u is a random number from 0 to below 1.
func (b *breaker) open(now time.Time, u float64) {
	b.openings++
	d, n := float64(b.rule.OpenFor), float64(b.openings)
	switch b.rule.Growth {
	case foreign.GrowthNone:
	case foreign.GrowthLinear:
		d *= n
	case foreign.GrowthExponential:
		d *= math.Pow(2, n-1)
	}
	if b.rule.MaxOpenFor > 0 {
		d = math.Min(d, float64(b.rule.MaxOpenFor))
	}
	if b.rule.WhileCounted {
		b.state = open
		b.generation++
		b.until = b.counts.fewer(b.rule.Failures)
		return
	}
	b.enter(open, now)
	b.until = now.Add(duration(d * (1 + b.rule.OpenJitter*u)))
}

// recover ends the open time if it is over.
func (b *breaker) recover(now time.Time) {
	if b.state != open || now.Before(b.until) {
		return
	}
	switch {
	case b.rule.WhileCounted:
		b.state = closed
		return
	case b.rule.HalfOpenCalls > 0:
		b.enter(halfOpen, now)
		return
	}
	if b.rule.Growth != foreign.GrowthLinear {
		b.openings = 0
	} // else it falls by one at each check
	b.enter(closed, now)
}

func (b *breaker) enter(s state, now time.Time) {
	b.state = s
	b.generation++
	b.probes, b.ended, b.failed, b.slow = 0, 0, 0, 0
	b.forget(now)
}

func (b *breaker) forget(now time.Time) {
	b.run = 0
	b.counts.clear(now)
}

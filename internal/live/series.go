package live

import (
	"time"

	"github.com/rebound-dev/rebound/pkg/observe"
	"github.com/rebound-dev/rebound/pkg/resilience"
)

// series holds the figures of one upstream under one policy.
type series struct {
	key     seriesKey
	total   totals
	latest  int64 // the latest second that was written
	seconds [KeptSeconds]secondSums
}

// totals count since the start.
type totals struct {
	offered, good, attempts, attemptsGood, attemptsNeutral uint64

	reasons [maxReasons]uint64
}

func (t *totals) add(s *sums) {
	t.offered += uint64(s.offered)
	t.good += uint64(s.good)
	t.attempts += uint64(s.attempts)
	t.attemptsGood += uint64(s.attemptsGood)
	t.attemptsNeutral += uint64(s.attemptsNeutral)
	for i, n := range s.reasons {
		t.reasons[i] += uint64(n)
	}
}

func (t *totals) merge(o *totals) {
	t.offered += o.offered
	t.good += o.good
	t.attempts += o.attempts
	t.attemptsGood += o.attemptsGood
	t.attemptsNeutral += o.attemptsNeutral
	for i, n := range o.reasons {
		t.reasons[i] += n
	}
}

// secondSums is one second of a series.
type secondSums struct {
	number int64  // counted from the start; a slot with another number is outdated
	tick   uint64 // of the last change
	sums
	state   resilience.State
	tokens  float64
	circuit bool         // state and tokens are set
	shown   *secondShown // cached, once the second is over
}

// at returns the slot of a second for writing, and resets an outdated one.
func (s *series) at(number int64, tick uint64) *secondSums {
	e := &s.seconds[number%KeptSeconds]
	if e.number != number {
		*e = secondSums{number: number}
	}
	e.tick, e.shown, s.latest = tick, nil, number
	return e
}

func (s *series) add(number int64, tick uint64, figures *sums) {
	s.at(number, tick).merge(figures)
	s.total.add(figures)
}

// observe sets circuit and budget of a second. It changes nothing if they are the same, so that an
// idle gateway causes no updates.
func (s *series) observe(number int64, tick uint64, u *observe.Upstream) {
	state, tokens := u.Breaker.State, u.BudgetTokens
	if e := &s.seconds[number%KeptSeconds]; e.number == number && e.circuit && e.state == state && e.tokens == tokens {
		return
	}
	e := s.at(number, tick)
	e.state, e.tokens, e.circuit = state, tokens, true
}

// each calls use for the kept seconds that changed after a tick, from the oldest.
func (s *series) each(now int64, after uint64, use func(*secondSums)) {
	for number := max(0, now-KeptSeconds+1); number <= now; number++ {
		if e := &s.seconds[number%KeptSeconds]; e.number == number && e.tick > after {
			use(e)
		}
	}
}

// window returns the sums of the last n seconds, including the current one.
func (s *series) window(now, n int64) (w sums) {
	for number := max(0, now-n+1); number <= now; number++ {
		if e := &s.seconds[number%KeptSeconds]; e.number == number {
			w.merge(&e.sums)
		}
	}
	return w
}

func (l *Live) second(now time.Time) int64 {
	return int64((now.Sub(l.start) - gatherEvery/2) / time.Second)
}

package resilience

import (
	"math"
	"sync/atomic"
)

// The largest share of a client's attempts that may be retries, with an adaptive budget. With a
// share s a call takes up to 1/(1-s) attempts on average. docs/defaults.md says how the shares were
// chosen.
const (
	// sharePaced allows 1.25 attempts a call. While an upstream fails, the load of more retries
	// costs more calls than these save.
	sharePaced = 0.2
	// sharePartly allows 1.5 attempts a call. It is for a client whose attempts usually fail in
	// part, but not many of them: 97 % success at 30 % errors takes 1.39.
	sharePartly = 1.0 / 3
	// From mildUntil on, the share falls from sharePartly to sharePaced, at manyFail.
	mildUntil = 0.37
	manyFail  = 0.44
)

// The retries that a client may save. In an outage all clients spend them at once.
const (
	pacedTime   = 0.5 // s. A client saves the retries for the attempts of this time, but at least:
	pacedLeast  = 2   // usually
	pacedPartly = 12  // while a part of the attempts usually fails, but not many
	pacedNew    = 10  // in its first window, or if it makes less than one attempt a second
)

// pace limits how many of a client's attempts are retries. It is the virtual scheduling of the
// generic cell rate algorithm (ITU-T I.371), with attempts in place of time: a retry is due after
// so many attempts, and those without a retry are saved. A new client begins with what it may save.
// It is safe for concurrent use. A nil pace has a place for every retry.
type pace struct {
	attempts atomic.Int64 // that have ended, without those that got no place
	next     atomic.Int64 // the number of attempts at which the next retry is due, in 1/paceUnits
}

// paceUnits is the number of units in an attempt. With a million of them, as in a token, int64
// would overflow in a busy client after some years.
const paceUnits = 1000

func newPace() *pace {
	p := &pace{}
	p.next.Store(math.MinInt64 / 2)
	return p
}

// place is what a retry took from a pace. The zero value is nothing.
type place struct {
	pace *pace
	took int64
}

// take takes the place of one retry, and reports whether there was one.
func (p *pace) take(seen traffic) (place, bool) {
	if p == nil {
		return place{}, true
	}
	now, every := p.attempts.Load()*paceUnits, int64(paceUnits/seen.share())
	least := int64(pacedLeast)
	switch {
	case seen.partly() && seen.fails < manyFail:
		least = pacedPartly
	case seen.rate == 0, !seen.whole:
		least = pacedNew
	}
	saved := max(int64(seen.rate*pacedTime*paceUnits), least*every)
	for {
		due := p.next.Load()
		next := max(due, now-saved) + every
		if next > now {
			return place{}, false
		}
		if p.next.CompareAndSwap(due, next) {
			return place{p, every}, true
		}
	}
}

// giveBack gives p back for a retry that does not happen.
func (p place) giveBack() {
	if p.pace != nil {
		p.pace.next.Add(-p.took)
	}
}

// share returns the largest share of the attempts that may be retries.
func (t traffic) share() float64 {
	if !t.partly() {
		return sharePaced
	}
	many := min(max((t.fails-mildUntil)/(manyFail-mildUntil), 0), 1)
	return sharePartly + many*(sharePaced-sharePartly)
}

package resilience

import (
	"sync/atomic"
	"time"
)

// The largest share of a client's attempts that may be retries, with an adaptive budget. A share s
// is 1/(1-s) attempts a call.
const (
	// sharePaced is 1.28 attempts a call. While an upstream fails, more load does it more harm than
	// the calls are worth that one more retry saves.
	sharePaced = 0.22
	// sharePartly is for a client of which a part of the attempts usually fails, but not many:
	// 97 % success at 30 % errors takes 1.39 attempts a call. With 1.56, the calls that need a
	// retry seldom wait for each other.
	sharePartly = 0.36
	// From mildUntil on, the share falls from sharePartly to sharePaced, at manyFail.
	mildUntil = 0.33
	manyFail  = 0.4
)

// The retries that a client may save. In an outage all clients spend them at once.
const (
	pacedTime   = 500 * time.Millisecond // saves the retries of so long,
	pacedLeast  = 2                      // and at least so many
	pacedPartly = 20                     // the least while a part of the attempts usually fails
)

// pace limits how many of a client's attempts are retries. It is the virtual scheduling of the
// generic cell rate algorithm (ITU-T I.371): retries have equal distances, which a pause saves. A
// client with little traffic, or a new one, has no pace. The zero value saves nothing at first.
type pace struct {
	next atomic.Int64 // when the next retry is due at the earliest, in ns
}

// take takes the place of one retry, at now since some epoch. It returns what it took, for
// giveBack, and whether the retry is within the pace.
func (p *pace) take(now time.Duration, seen traffic) (time.Duration, bool) {
	if seen.rate == 0 {
		return 0, true
	}
	every := time.Duration(float64(time.Second) / (seen.rate * seen.share()))
	least := pacedLeast
	if seen.partly() && seen.fails < manyFail {
		least = pacedPartly
	}
	saved := max(pacedTime, time.Duration(least)*every)
	for {
		due := p.next.Load()
		next := max(due, int64(now-saved)) + int64(every)
		if next > int64(now) {
			return 0, false
		}
		if p.next.CompareAndSwap(due, next) {
			return every, true
		}
	}
}

// giveBack returns what take took for a retry that does not happen.
func (p *pace) giveBack(paced time.Duration) { p.next.Add(-int64(paced)) }

// share returns the largest share of the attempts that may be retries.
func (t traffic) share() float64 {
	if !t.partly() {
		return sharePaced
	}
	many := min(max((t.fails-mildUntil)/(manyFail-mildUntil), 0), 1)
	return sharePartly + many*(sharePaced-sharePartly)
}

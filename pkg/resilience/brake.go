package resilience

import "time"

// How the brake searches. Latencies are compared with the floor, the latency without a queue.
const (
	leastBrake    = 2
	brakeBlock    = 64          // successes that are judged together,
	brakeTime     = time.Second // or all of so much time, if they are
	brakeFew      = 12          // at least
	lowered       = 0.7         // of the limit before, at most,
	leastLowered  = 0.4         // and at least
	queueAfter    = 2           // times the floor: the latency that a larger step down aims at
	queueFrom     = 1.45        // times the floor: above it the limit is lowered
	queueUpTo     = 1.2         // times the floor: up to it the limit is raised,
	queueAt       = 1.25        // times the floor: to this at most,
	raised        = 1.5         // times the limit before, at most,
	muchFaster    = 0.8         // times the floor: and up to this
	muchRaised    = 2           // times the limit before
	loses         = 0.75        // of the usual rate: with fewer successes capacity is lost
	floorWeight   = 0.3         // of a latency below the floor
	searchesAfter = 20 * time.Second
	heldAtLeast   = 3 // judgements, before a search

	// A few long calls among many short ones have a larger spread, which would take every queue for
	// short. And few calls show it only roughly.
	mostSpread = 1
)

// brake finds the limit for an upstream that is slow. The upstream may have lost a part of its
// capacity, so that a queue grows in it, or each of its answers may take longer. With a lower limit
// a queue gets shorter, and the answers come sooner. If they do not, there was no queue: the limit
// goes up again, and that latency is the floor from now on.
//
// So the latency stays between 1.2 and 1.45 times the floor, and more if it varies by nature, while
// more is asked for than the upstream can serve. For two workers whole places are too coarse: three
// leave them idle for 4 % of the time, and with four some calls take twice as long as the work.
type brake struct {
	usual float64 // s, the latency before the upstream was slow
	rate  float64 // successes a second at that time
	floor float64 // s, the latency without a queue, as far as is known

	queueFrom, queueUpTo float64 // times the floor

	changed int64   // when the limit was changed, ns since epoch
	since   int64   // when that began to show in the latency
	n       int     // successes since then
	sum     float64 // s, of their latencies

	held      int // judgements since the limit was changed
	lowering  bool
	loses     bool                             // fewer successes come than before it was slow
	searching bool                             // for the floor, below the one that is known
	sought    struct{ latency, limit float64 } // when the search began
	before    float64                          // s, the latency before the limit was lowered
	higher    float64                          // the limit before it was lowered
}

// newBrake returns a brake for an upstream that had a latency, in seconds, and a rate of successes
// per second before it was slow. spread is the variance of the latency, divided by the square of
// its mean: the queue for a few workers varies with their work.
func newBrake(at int64, usual, spread, rate float64) brake {
	return brake{
		usual: usual, rate: rate, floor: usual, changed: at,
		queueFrom: queueFrom + 2*spread, queueUpTo: queueUpTo + 1.5*spread,
	}
}

// next returns the limit after a block of successes. full reports whether it has refused attempts.
func (r *brake) next(at int64, b *sample, limit float64, full bool) float64 {
	if r.n == 0 {
		// Attempts that began before the change must have ended.
		if time.Duration(at-r.changed).Seconds() < 2*b.latency/float64(b.n) {
			return limit
		}
		r.since = b.from
	}
	r.n += b.n
	r.sum += b.latency
	if r.n < brakeBlock && (r.n < brakeFew || at-r.since < int64(brakeTime)) {
		return limit
	}
	r.held++
	search := full && r.held > heldAtLeast && at-r.changed > int64(searchesAfter)
	r.loses = float64(r.n)/time.Duration(at-r.since).Seconds() < loses*r.rate
	next := r.judge(r.sum/float64(r.n), limit, full, search)
	r.n, r.sum = 0, 0
	if next != limit {
		r.changed, r.held = at, 0
	}
	return next
}

// judge returns the limit for an upstream that has a latency at a limit. search is true if the
// floor was not looked for in a while.
func (r *brake) judge(latency, limit float64, full, search bool) float64 {
	if latency < r.floor {
		defer func() { r.floor += floorWeight * (latency - r.floor) }()
	}
	if r.lowering {
		enough := r.floor
		if r.searching {
			enough = r.usual
		}
		switch {
		case latency > r.before*(1+limit/r.higher)/2:
			r.floor, limit = latency, r.higher
		case latency >= r.queueFrom*enough:
			return r.lower(latency, limit)
		}
		r.lowering = false
		if r.searching && r.sought.latency < r.queueFrom*latency { // the floor was right
			return r.sought.limit
		}
		return limit
	}
	if search && limit == leastBrake { // no lower limit can show whether there is a queue
		r.floor = latency
		search = false
	}
	switch {
	case latency > r.queueFrom*r.floor || search:
		r.searching = latency <= r.queueFrom*r.floor
		r.sought.latency, r.sought.limit = latency, limit
		return r.lower(latency, limit)
	case !full:
		return limit
	case latency < muchFaster*r.floor:
		return muchRaised * limit
	case latency < r.queueUpTo*r.floor:
		// The latency then stays below queueAt even if all that is more waits in a queue.
		return limit * min(raised, (r.queueUpTo+queueAt-queueUpTo)*r.floor/latency)
	}
	return limit
}

// lower returns a lower limit. At the least limit there is nothing to learn: its latency is the
// floor.
func (r *brake) lower(latency, limit float64) float64 {
	share := lowered
	if r.loses { // then there is a queue, and by Little's law the limit is in proportion to it
		share = min(share, max(leastLowered, queueAfter*r.floor/latency))
	}
	next := max(leastBrake, share*limit)
	r.lowering, r.before, r.higher = next < limit, latency, limit
	if !r.lowering {
		r.floor = latency
	}
	return next
}

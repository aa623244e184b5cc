package resilience

import "time"

// Health is what an attempt's outcome says about the upstream. The circuit
// breaker counts it, and the retry budget earns by it.
type Health uint8

// The healths. The zero value is a failure, so that an outcome that nobody
// judged is never taken for a good one.
const (
	Unhealthy Health = iota // counts against the upstream
	Healthy                 // counts for it
	Neutral                 // says nothing about it: the caller's doing, or ours

	// cut is an attempt that its caller ended after a fair share of its time. One
	// says nothing; see breaker.hangs for when many do.
	cut
)

// ending is how an attempt ended, as far as the pipeline can tell by itself.
type ending uint8

const (
	endedByItself       ending = iota // the operation returned: [Operation.Classify] judges it
	endedByCaller                     // the caller went away
	endedByCallersLimit               // the caller's own deadline, shorter than ours
	endedByTotalLimit                 // what the policy's timeout had left for this attempt
	endedByAttemptLimit               // the policy's attempt timeout
	endedByStall                      // time ran out while this process stood still

	endings // how many there are
)

// blame is the one place that decides whose fault an ending is. The rule is that
// no caller can close a healthy upstream to others. lasted is the attempt's
// length, full the policy's attempt timeout.
//
// Adding an ending without a case here fails TestEveryEndingIsJudged.
func (e ending) blame(lasted, full time.Duration) (h Health, judged bool) {
	fair := lasted >= full/2 // enough time for the upstream to be expected to answer
	//exhaustive:enforce
	switch e {
	case endedByAttemptLimit:
		return Unhealthy, true
	case endedByTotalLimit:
		if fair {
			return Unhealthy, true
		}
		return Neutral, true
	case endedByCaller, endedByCallersLimit:
		if fair {
			return cut, true
		}
		return Neutral, true
	case endedByStall:
		return Neutral, true
	case endedByItself:
		return Unhealthy, true // until the operation says otherwise
	case endings:
	}
	return Unhealthy, false
}

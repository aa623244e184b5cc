package resilience

import "time"

// Health is what an attempt shows about the upstream. The circuit breaker counts it, and a healthy
// attempt earns tokens for the retry budget.
type Health uint8

// The healths. The zero value is a failure, so that an outcome without a health never counts as a
// success.
const (
	Unhealthy Health = iota // counts as a failure
	Healthy                 // counts as a success
	Neutral                 // does not count: the cause is the caller or this process

	// cut is an attempt that its caller ended after a fair share of its time. breaker.judgeCut
	// decides what it counts as.
	cut
	// unsent is an attempt that got no place. It is neutral, and not counted among the attempts.
	unsent
)

// ending is what ended an attempt, as far as the pipeline knows.
type ending uint8

const (
	endedByItself       ending = iota // the operation returned; [Operation.Classify] judges it
	endedByCaller                     // the caller canceled the call
	endedByCallersLimit               // the caller's deadline, which was shorter than the policy's
	endedByTotalLimit                 // the policy's total timeout
	endedByAttemptLimit               // the policy's attempt timeout
	endedByStall                      // a timeout while this process was stopped

	endings // the number of endings
)

// blame returns the health of an attempt that ended with e. lasted is the attempt's duration, full
// the policy's attempt timeout. The rule is that no caller can open the circuit of a healthy
// upstream. No other function decides this.
//
// judged reports whether blame has a case for e. TestEveryEndingIsJudged fails for a new ending
// without one.
func (e ending) blame(lasted, full time.Duration) (h Health, judged bool) {
	fair := lasted >= full/2 // the upstream had enough time to answer
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
		return Unhealthy, true // the operation decides
	case endings:
	}
	return Unhealthy, false
}

package resilience

import (
	"fmt"
	"math"
	"time"
)

// Situation is what the decision after an attempt depends on, besides the policy
// and the attempt's outcome.
type Situation struct {
	// Attempt is the number of attempts so far, at least 1.
	Attempt int
	// Ended is why the call is over already, empty while it is not.
	Ended Reason
	// Remaining is the time until the call's deadline.
	Remaining time.Duration
	// Previous is the backoff before the retry before, 0 for none.
	Previous time.Duration
	// Random is uniform in [0, 1).
	Random func() float64
	// CircuitOpen tells whether the circuit is open.
	CircuitOpen func() bool
	// TakeToken takes a token from the retry budget and tells whether there was one.
	TakeToken func() bool
	// Gate, unless nil, is shown every gate in order, also those behind one that is
	// shut. It is for explanations: a token is then asked for whatever the rest says.
	Gate func(Gate)
}

// Gate is one of the questions between a failed attempt and the next one.
type Gate struct {
	Name   string
	Found  string // what the decision rests on
	Reason Reason // why the call ends if the gate is shut
	Shut   bool
}

// The names of the gates, in their order.
const (
	GateTimeLeft   = "time left"   // the call is not over
	GateOperation  = "operation"   // the operation allows a repetition: [Outcome.Veto]
	GateAttempts   = "attempts"    // fewer than maxAttempts
	GateRetryAfter = "Retry-After" // what the upstream asks for is at most maxRetryAfter
	GateCircuit    = "circuit"     // it is not open
	GateDeadline   = "deadline"    // the wait ends before it
	GateBudget     = "budget"      // a token is left
)

// Decision is what follows from an attempt.
type Decision struct {
	Verdict Verdict
	Reason  Reason // why the call ends, empty when it goes on
	// Wait is before the next attempt, or would have been.
	Wait   time.Duration
	Source WaitSource
}

// Decide gives the verdict on an attempt. It is what a [Pipeline] decides by; it
// depends on nothing but its arguments and is safe for concurrent use.
func (p Policy) Decide(o Outcome, s Situation) Decision {
	if !o.Retry {
		d := Decision{Verdict: VerdictReturn, Reason: o.Final}
		if d.Reason == "" {
			d.Reason = o.Reason
		}
		return d
	}
	d := Decision{Verdict: VerdictRetry}
	d.Wait, d.Source = p.Retry.plan(o.RetryAfter, s)
	if d.Reason = p.forbids(o, s, d.Wait); d.Reason != "" {
		d.Verdict = VerdictGiveUp
	}
	return d
}

// plan is the wait before the next attempt: the backoff, or what the upstream
// asked for if that is longer.
func (r *Retry) plan(after time.Duration, s Situation) (time.Duration, WaitSource) {
	backoff := r.Backoff.Delay(s.Attempt, s.Previous, s.Random())
	if after <= 0 || after > r.MaxRetryAfter {
		return backoff, WaitJitter
	}
	// Upward only: nobody comes back earlier than told, and not all at once.
	after += min(time.Duration(float64(after)*0.25*s.Random()), math.MaxInt64-after)
	if after < backoff {
		return backoff, WaitJitter
	}
	return after, WaitRetryAfter
}

// forbids asks every gate between a failed attempt and the next, in order, and
// gives the reason of the first that is shut, "" when all are open. The budget is
// last, so that a token is only taken for a retry that nothing else forbids.
func (p *Policy) forbids(o Outcome, s Situation, wait time.Duration) (why Reason) {
	shut := func(name string, reason Reason, shut bool, found func() string) bool {
		if s.Gate != nil {
			s.Gate(Gate{Name: name, Found: found(), Reason: reason, Shut: shut})
		}
		if shut && why == "" {
			why = reason
		}
		return why != "" && s.Gate == nil
	}
	ended := s.Ended
	if ended == "" {
		ended = ReasonDeadlineExceeded
	}
	if shut(GateTimeLeft, ended, s.Ended != "" || s.Remaining <= 0, func() string {
		return fmt.Sprintf("%v of %v", max(0, s.Remaining), p.Timeout)
	}) {
		return why
	}
	if shut(GateOperation, o.Veto, o.Veto != "", func() string { return string(o.Veto) }) {
		return why
	}
	if shut(GateAttempts, ReasonMaxAttempts, s.Attempt >= p.Retry.MaxAttempts, func() string {
		return fmt.Sprintf("%d of %d", s.Attempt, p.Retry.MaxAttempts)
	}) {
		return why
	}
	if shut(GateRetryAfter, ReasonRetryAfterTooLong, o.RetryAfter > p.Retry.MaxRetryAfter, func() string {
		if o.RetryAfter <= 0 {
			return "not asked for"
		}
		return fmt.Sprintf("%v, at most %v", o.RetryAfter, p.Retry.MaxRetryAfter)
	}) {
		return why
	}
	open := s.CircuitOpen()
	if shut(GateCircuit, ReasonBreakerOpen, open, func() string {
		if open {
			return "open"
		}
		return "not open"
	}) {
		return why
	}
	if shut(GateDeadline, ReasonDeadlineTooClose, wait >= s.Remaining, func() string {
		return fmt.Sprintf("wait of %v, %v left", wait.Round(time.Microsecond), max(0, s.Remaining))
	}) {
		return why
	}
	left := s.TakeToken()
	shut(GateBudget, ReasonBudgetExhausted, !left, func() string {
		if left {
			return "a token is left"
		}
		return "no token is left"
	})
	return why
}

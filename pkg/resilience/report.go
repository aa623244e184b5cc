package resilience

import (
	"context"
	"time"
)

// Report is what happened to one call. It is complete when [Pipeline.Do]
// returns and is not changed afterwards.
type Report struct {
	Upstream string
	Start    time.Time
	// Duration is the time until [Pipeline.Do] returned, waits included.
	Duration time.Duration
	Deadline time.Time
	// Reason is why the call ended.
	Reason Reason
	// Attempts that were begun, in order; a refused attempt is not among them.
	Attempts []AttemptReport
	// BudgetTokens is the balance of the retry budget when the call ended.
	BudgetTokens float64
}

// Ended is how attempt i, from 0, ended with its body: an answer that broke off
// after its headers is no good one, though the attempt's own reason is that of
// its headers.
func (r *Report) Ended(i int) Reason {
	if r.Reason == ReasonBodyFailed && i == len(r.Attempts)-1 {
		return r.Reason
	}
	return r.Attempts[i].Reason
}

// AttemptReport is what happened to one attempt.
type AttemptReport struct {
	Number int // from 1
	Start  time.Time
	// Duration is the time until the operation returned (for HTTP: until the
	// response headers).
	Duration time.Duration
	// Limit is the time the attempt was given: the attempt timeout, or what was
	// left until the deadline.
	Limit   time.Duration
	Reason  Reason
	Verdict Verdict
	// Health is what the attempt says about the upstream. The body that follows
	// may still change what the circuit counts.
	Health Health
	// Breaker is the state of the circuit that let the attempt through.
	Breaker State
	Err     error // the operation's error, nil when it gave a result
	Status  int   // of the answer, 0 for none
	// Wait follows the attempt when its verdict is retry.
	Wait Wait
}

// WaitSource says who chose the length of a wait.
type WaitSource string

// The sources.
const (
	WaitJitter     WaitSource = "jitter"      // the policy's backoff
	WaitRetryAfter WaitSource = "retry_after" // the upstream asked for it
)

// Wait is the pause between two attempts.
type Wait struct {
	Source          WaitSource
	Reason          Reason // why it waits: the reason of the attempt before
	Planned, Actual time.Duration
}

// Observer is told what a pipeline does. Every function may be nil, is called
// without a lock of the pipeline held, on the goroutine of the call (transitions
// also on a timer's), and may look at the pipeline. It must not block: the call
// waits for it. A panic goes through to the caller, and out of a timer's
// goroutine it ends the process. What it is handed must not be changed, and an *AttemptReport or
// a *Report is valid after the return only as a copy.
type Observer struct {
	// Attempt is called when the verdict on an attempt is known.
	Attempt func(ctx context.Context, a *AttemptReport)
	// Call is called when a call has ended.
	Call func(ctx context.Context, r *Report)
	// Transition is called when the circuit has changed its state, in order.
	Transition func(t Transition)
}

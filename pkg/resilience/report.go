package resilience

import (
	"context"
	"strings"
	"time"
)

// Report describes one call. It is complete when [Pipeline.Do] returns and does not change
// afterwards.
type Report struct {
	Upstream string
	Start    time.Time
	// Duration is the time until [Pipeline.Do] returned, including waits.
	Duration time.Duration
	Deadline time.Time
	// Reason is why the call ended.
	Reason Reason
	// Attempts lists the attempts in order, without those that the circuit refused.
	Attempts []AttemptReport
	// BudgetTokens is the balance of the retry budget at the end of the call. With [AdaptiveBurst]
	// a retry may be refused although some are left.
	BudgetTokens float64
}

// Ended returns the reason of attempt i (from 0), including its body. The attempt's own reason is
// that of the headers, even if the body broke off later or ended with a gRPC status.
func (r *Report) Ended(i int) Reason {
	if i == len(r.Attempts)-1 && (r.Reason == ReasonBodyFailed || strings.HasPrefix(string(r.Reason), grpcPrefix)) {
		return r.Reason
	}
	return r.Attempts[i].Reason
}

// AttemptReport describes one attempt.
type AttemptReport struct {
	Number int // from 1
	Start  time.Time
	// Duration is the time until the operation returned. For HTTP this is the time until the
	// response headers.
	Duration time.Duration
	// Limit is the time that the attempt had: the attempt timeout, or less if the deadline was
	// closer.
	Limit   time.Duration
	Reason  Reason
	Verdict Verdict
	// Health is what the attempt shows about the upstream. A body that breaks off later may still
	// change what the circuit counts.
	Health Health
	// Breaker is the state of the circuit when it let the attempt through.
	Breaker State
	Err     error // the operation's error, nil if it returned a result
	Status  int   // of the answer, 0 for none
	// Message is that of the answer's gRPC status, cut after 512 bytes, or empty if there is none.
	Message string
	// Endpoint is the address that the attempt was sent to, or empty if that is unknown.
	Endpoint string
	// Wait is the wait after the attempt if its verdict is retry.
	Wait Wait
}

// WaitSource names the origin of a wait's length.
type WaitSource string

// The sources.
const (
	WaitJitter     WaitSource = "jitter"      // the policy's backoff
	WaitRetryAfter WaitSource = "retry_after" // the upstream's Retry-After
	// none: the next attempt goes to another endpoint at once
	WaitNextEndpoint WaitSource = "next_endpoint"
)

// Wait is the pause between two attempts.
type Wait struct {
	Source          WaitSource
	Reason          Reason // of the attempt before the wait
	Planned, Actual time.Duration
}

// Observer receives events of a pipeline. Every function may be nil. The pipeline calls the
// functions on the goroutine of the call, transitions also on a timer's goroutine, and holds no
// lock: a function may read the pipeline. It must not block, because the call waits for it. A panic
// reaches the caller; on a timer's goroutine it ends the process. A function must not change its
// arguments, and must copy an *AttemptReport or a *Report to keep it.
type Observer struct {
	// Attempt is called after the verdict on an attempt.
	Attempt func(ctx context.Context, a *AttemptReport)
	// Call is called at the end of a call.
	Call func(ctx context.Context, r *Report)
	// Transition is called after each change of the circuit's state, in order.
	Transition func(t Transition)
}

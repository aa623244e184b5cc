package resilience

import (
	"context"
	"errors"
	"sync/atomic"
	"time"
)

// callState is the state of one call in the pipeline. The layers share it. It is the context of the
// failsafe-go execution, so that every layer can reach it there.
type callState[T any] struct {
	context.Context
	pipeline *Pipeline[T]
	op       Operation[T]
	// now is the last time read from the clock. Steps that only compute do not read it again.
	now time.Time

	attempt *Attempt // the last one started
	first   Attempt  // storage for the first attempt; most calls need no other
	result  T
	err     error
	outcome Outcome

	verdict Verdict // on the last attempt, or give_up when the call ended without another one
	refused error   // the circuit's refusal
	retryIn time.Duration

	counts  Health // what the circuit counts: outcome.Health, unless the upstream is spared
	token   token
	waits   bool        // the wait before the next attempt is not over
	resumes bool        // the first attempt has ended, and the executor has yet to hear of it
	queued  atomic.Bool // the attempt waits for a place under the concurrency limit
	// callersDeadline reports whether the deadline is the caller's, not the policy's.
	callersDeadline bool

	report  Report // has the call's start and deadline from the beginning; later, why it ends
	storage [1]AttemptReport
}

// run makes one attempt. It is the innermost function of the composition.
func (c *callState[T]) run() {
	a := c.attempt
	c.result, c.err = c.op.Attempt((*attemptContext)(a), a)
}

// composed is run for failsafe-go.
func (c *callState[T]) composed() (*callState[T], error) { //nolint:unparam // the executor needs this signature
	c.run()
	return c, nil
}

// startAttempt reports whether an attempt may start: the call has time left and is not canceled.
func (c *callState[T]) startAttempt() bool {
	if c.attempt != nil {
		c.now = time.Now() // a wait is over
	}
	if ended := c.ended(); ended != "" {
		c.stop(ended)
		return false
	}
	return true
}

// stop ends the call before an attempt starts.
func (c *callState[T]) stop(r Reason) {
	c.verdict, c.report.Reason = VerdictGiveUp, r
	c.returnToken()
}

func (c *callState[T]) returnToken() {
	c.pipeline.budget.refund(c.token)
	c.token = token{}
}

// contextReason distinguishes a canceled call from one whose deadline passed.
func (c *callState[T]) contextReason() Reason {
	if errors.Is(c.Err(), context.Canceled) {
		return ReasonCallerCanceled
	}
	return ReasonDeadlineExceeded
}

// newAttempt prepares the next attempt and ends the wait before it.
func (c *callState[T]) newAttempt() *Attempt {
	c.endWait()
	a := &c.first
	if c.attempt != nil {
		a = new(Attempt)
	}
	a.number = c.attempts() + 1
	a.pipeline = &c.pipeline.shared
	a.callDeadline = &c.report.Deadline
	return a
}

// attempts returns how many attempts have started.
func (c *callState[T]) attempts() int {
	if c.attempt == nil {
		return 0
	}
	return c.attempt.number
}

func (c *callState[T]) endWait() {
	if c.waits {
		c.report.Attempts[len(c.report.Attempts)-1].Wait.Actual = c.now.Sub(c.waitStart())
		c.waits = false
	}
}

// wait returns the planned wait after the last attempt that ended, or 0.
func (c *callState[T]) wait() time.Duration {
	if n := len(c.report.Attempts); n > 0 {
		return c.report.Attempts[n-1].Wait.Planned
	}
	return 0
}

// waitStart returns when the wait after the last attempt began: when that attempt ended.
func (c *callState[T]) waitStart() time.Time {
	last := &c.report.Attempts[len(c.report.Attempts)-1]
	return last.Start.Add(last.Duration)
}

// classify sets the outcome of the attempt, and what it counts for the circuit.
func (c *callState[T]) classify() {
	c.judge()
	c.counts = c.outcome.Health
	if op, ok := c.op.(interface{ CountsAs(h Health) Health }); ok {
		if h := op.CountsAs(min(c.counts, Neutral)); c.counts != cut {
			c.counts = h
		}
	}
}

// judge sets the outcome of the attempt. The operation classifies an attempt that returned by
// itself. If the attempt's context ended, the cause is known here, and no error text is needed.
func (c *callState[T]) judge() {
	e := c.ending()
	if e == endedByItself {
		c.outcome = c.op.Classify(c.result, c.err)
		return
	}
	health, _ := e.blame(c.now.Sub(c.attempt.start), c.pipeline.policy.AttemptTimeout)
	if c.callerBusy() {
		health = Neutral
		if op, ok := c.op.(interface{ CallerWaits() bool }); ok && op.CallerWaits() {
			health = cut
		}
	}
	c.outcome = Outcome{Health: health, Retry: true}
	switch e {
	case endedByCaller:
		c.outcome.Reason = ReasonCallerCanceled // the gate "time left" ends the call
	case endedByAttemptLimit, endedByStall:
		c.outcome = c.op.Classify(c.result, errAttemptTimeout) // it decides whether a retry may help
		c.outcome.Reason = ReasonAttemptTimeout
		c.outcome.Health = health
		if c.attempt.limit < c.pipeline.policy.AttemptTimeout {
			c.outcome.Reason = ReasonDeadlineExceeded
		}
	default:
		c.outcome.Reason = ReasonDeadlineExceeded
	}
}

// ending returns what ended the attempt.
func (c *callState[T]) ending() ending {
	a := c.attempt
	switch {
	case c.err == nil:
		return endedByItself
	case errors.Is(c.Err(), context.Canceled):
		return endedByCaller
	case c.Err() == nil && !a.timedOut():
		return endedByItself
	case a.clock.stalled.Load():
		return endedByStall
	case c.Err() == nil && a.limit >= c.pipeline.policy.AttemptTimeout:
		return endedByAttemptLimit
	case c.callersDeadline:
		return endedByCallersLimit
	}
	return endedByTotalLimit
}

// callerBusy reports whether the attempt waits, or waited, for the caller, or waits in the queue of
// the concurrency limit. The upstream is to blame for neither.
func (c *callState[T]) callerBusy() bool {
	if c.queued.Load() {
		return true
	}
	op, ok := c.op.(interface{ CallerBusy() bool })
	return ok && op.CallerBusy()
}

// doubtful reports whether the attempt, as a probe, may end because of its caller before its lease.
func (c *callState[T]) doubtful() bool {
	return sends(c.op) || c.callersDeadline && c.report.Deadline.Sub(c.now) < min(c.pipeline.policy.AttemptTimeout, longestLease)
}

// decide sets and records the verdict on the attempt that just ended.
func (c *callState[T]) decide() {
	// A timeout has cost the upstream as much as a retry, and many of them show an overload. It is
	// different if the call moves on at once: one endpoint accepts no connection, and another is
	// left. Without another, it may be an overload in which connections are dropped.
	if c.counts == Unhealthy && c.outcome.Reason == ReasonAttemptTimeout && !c.outcome.AtOnce {
		c.pipeline.budget.spend()
	}
	var s *Situation
	if c.outcome.Retry { // otherwise the decision does not need it, and a success does not pay for it
		s = c.situation()
	}
	d := c.pipeline.policy.decide(&c.outcome, s)
	c.verdict, c.report.Reason = d.Verdict, d.Reason
	if c.attempt.ticket.state == HalfOpen && c.verdict == VerdictRetry && c.outcome.Health == Unhealthy {
		// A failed probe that is retried counts as neutral: one bad pod behind the upstream's name
		// may have caused the failure. The call's last attempt counts. In an outage the budget has
		// no token for the retry, so the first failure opens the circuit again.
		c.counts = Neutral
	}
	c.record(d.Wait, d.Source)
}

// priority returns the class of an operation under the concurrency limit.
func priority(op any) Priority {
	if op, ok := op.(interface{ Priority() Priority }); ok {
		return op.Priority()
	}
	return PriorityNormal
}

// sends reports whether the caller of an operation may still send a part of the request. Then an
// attempt that takes long says nothing about the upstream.
func sends(op any) bool {
	caller, ok := op.(interface{ CallerSends() bool })
	return ok && caller.CallerSends()
}

func (c *callState[T]) situation() *Situation {
	p := c.pipeline
	seen := p.breaker.seen()
	if c.outcome.AtOnce {
		seen.pace = nil // the upstream has not seen the attempt, so the retry is no more load
	}
	return &Situation{
		Traffic: seen.steady(), Partly: seen.partly(),
		Attempt: c.attempts(), Ended: c.ended(), Remaining: c.report.Deadline.Sub(c.now), Previous: c.wait(),
		Random: p.random,
		CircuitOpen: func() bool {
			_, err := p.breaker.refusal(c.now)
			return err != nil
		},
		Crowded: func() bool { return p.limiter.crowded(c.now, priority(c.op)) },
		TakeToken: func() bool {
			c.token = p.budget.reserve(seen)
			return c.token.kind != noToken
		},
	}
}

// ended returns the reason if the call is already over, otherwise "".
func (c *callState[T]) ended() Reason {
	if c.Err() != nil || !c.now.Before(c.report.Deadline) {
		return c.contextReason()
	}
	return ""
}

func (c *callState[T]) record(wait time.Duration, source WaitSource) {
	a := c.attempt
	r := AttemptReport{
		Number: a.number, Start: a.start, Duration: c.now.Sub(a.start), Limit: a.limit,
		Reason: c.outcome.Reason, Verdict: c.verdict, Health: min(c.outcome.Health, Neutral), Breaker: a.ticket.state, Err: c.err, Status: c.outcome.Status,
	}
	if c.verdict == VerdictRetry {
		c.waits = true
		r.Wait = Wait{Source: source, Reason: r.Reason, Planned: wait}
	}
	if c.report.Attempts == nil {
		c.report.Attempts = c.storage[:0]
	}
	c.report.Attempts = append(c.report.Attempts, r)
	recorded := &c.report.Attempts[len(c.report.Attempts)-1]
	c.op.Decided(recorded)
	if observe := c.pipeline.observer.Attempt; observe != nil {
		observe(c.Context, recorded)
	}
}

// discard frees the result of an attempt that is retried. It does so before the wait, so that the
// next attempt can use the connection. The time this takes is part of the wait. The circuit must
// have the attempt's health already: the end of a discarded body would count as a success.
func (c *callState[T]) discard() {
	a := c.attempt
	if c.err == nil {
		c.op.Discard(c.result, a)
	}
	a.Release(c.counts)
	var zero T
	c.result = zero
}

// remainingWait returns the rest of the planned wait.
func (c *callState[T]) remainingWait() time.Duration {
	return max(0, c.wait()-time.Since(c.waitStart()))
}

// end completes the report and returns the result of the call.
func (c *callState[T]) end() (result T, err error) {
	if c.verdict == VerdictRetry { // the wait was interrupted
		c.now = time.Now()
		c.endWait()
		c.stop(c.contextReason())
	}
	p := c.pipeline
	r := &c.report
	r.Duration = c.now.Sub(r.Start)
	r.BudgetTokens = p.budget.balance()
	if p.observer.Call != nil {
		p.observer.Call(c.Context, r)
	}
	if c.hasResult() {
		return c.result, nil
	}
	return result, c.failure()
}

// hasResult reports whether the last attempt returned a result that was not discarded.
func (c *callState[T]) hasResult() bool {
	n := len(c.report.Attempts)
	return n > 0 && c.report.Attempts[n-1].Verdict != VerdictRetry && c.err == nil
}

func (c *callState[T]) failure() error {
	e := &Error{
		Upstream: c.pipeline.upstream, Reason: c.report.Reason, Attempts: c.attempts(),
		Refused: c.refused != nil, RetryIn: c.retryIn, Err: c.err,
	}
	if n := len(c.report.Attempts); n > 0 {
		e.Last = c.report.Attempts[n-1].Reason
	}
	switch {
	case c.refused != nil:
		e.Err = c.refused
	case c.report.Reason == ReasonCallerCanceled, c.report.Reason == ReasonDeadlineExceeded:
		if cause := context.Cause(c.Context); cause != nil {
			e.Err = cause
		}
	}
	return e
}

// abandon returns the token and the circuit's slot after the operation panicked.
func (c *callState[T]) abandon() {
	c.returnToken()
	a := c.attempt
	if a == nil {
		return
	}
	now := time.Now()
	if a.early.ctx == nil { // it has not begun
		a.settle(unsent, now)
		return
	}
	a.stopClock(now)
	a.settle(Unhealthy, now)
	a.finish(nil)
}

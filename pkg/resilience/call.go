package resilience

import (
	"context"
	"errors"
	"time"
)

// call is one call on its way through the pipeline: the state that the policies
// share, and the execution's context, which is how they find it.
type call[T any] struct {
	context.Context
	pipeline *Pipeline[T]
	op       Operation[T]
	limit    time.Duration
	start    time.Time
	deadline time.Time
	// callersDeadline is set when the deadline is the caller's, not the policy's.
	callersDeadline bool
	// now is the last look at the clock: between two steps that do nothing but
	// compute, it is not looked at again.
	now time.Time

	attempt *Attempt // the last one begun
	first   Attempt  // storage of the first, which is mostly the only one
	number  int
	result  T
	err     error
	outcome Outcome

	decided   bool
	judged    int // the number of the last attempt with a verdict
	verdict   Verdict
	reason    Reason // why the call ends
	refused   error  // the circuit's refusal
	retryIn   time.Duration
	token     token
	wait      time.Duration
	waitStart time.Time
	previous  time.Duration // backoff before the retry before

	report  Report
	storage [1]AttemptReport
}

// run is one attempt of the operation, innermost in the composition.
func (c *call[T]) run() (*call[T], error) { //nolint:unparam // the signature that the executor asks for
	a := c.attempt
	c.result, c.err = c.op.Attempt(&a.ctx, a)
	return c, nil
}

// startAttempt is asked before each attempt: whether there is still time, and
// somebody to answer.
func (c *call[T]) startAttempt() bool {
	if c.number > 0 {
		c.now = time.Now() // a wait is over
	}
	if ended := c.ended(); ended != "" {
		c.stop(ended)
		return false
	}
	return true
}

// stop ends the call before an attempt is begun.
func (c *call[T]) stop(r Reason) {
	c.decided, c.verdict, c.reason = true, VerdictGiveUp, r
	c.returnToken()
}

func (c *call[T]) returnToken() {
	c.pipeline.budget.refund(c.token)
	c.token = noToken
}

// contextReason tells a caller who went away from a deadline that passed.
func (c *call[T]) contextReason() Reason {
	if errors.Is(c.Err(), context.Canceled) {
		return ReasonCallerCanceled
	}
	return ReasonDeadlineExceeded
}

// newAttempt prepares the next attempt and closes the wait before it.
func (c *call[T]) newAttempt() *Attempt {
	c.endWait()
	c.number++
	a := &c.first
	if c.number > 1 {
		a = new(Attempt)
	}
	a.number = c.number
	a.budget = c.pipeline.budget
	a.callDeadline = c.deadline
	c.attempt = a
	c.verdict = "" // that on the attempt before is carried out
	return a
}

func (c *call[T]) endWait() {
	if n := len(c.report.Attempts); n > 0 && !c.waitStart.IsZero() {
		c.report.Attempts[n-1].Wait.Actual = c.now.Sub(c.waitStart)
		c.waitStart = time.Time{}
	}
}

// classify gives the attempt's outcome its meaning. What ended the attempt's
// context is known here better than from any error text.
func (c *call[T]) classify() {
	e := c.ending()
	if e == endedByItself {
		c.outcome = c.op.Classify(c.result, c.err)
		return
	}
	health, _ := e.blame(c.now.Sub(c.attempt.start), c.pipeline.policy.AttemptTimeout)
	if c.callerBusy() {
		health = Neutral
	}
	c.outcome = Outcome{Health: health, Retry: true}
	switch e {
	case endedByCaller:
		c.outcome.Reason = ReasonCallerCanceled // the first gate ends the call
	case endedByAttemptLimit, endedByStall:
		c.outcome = c.op.Classify(c.result, errAttemptTimeout) // it knows whether a repetition may help
		c.outcome.Reason = ReasonAttemptTimeout
		c.outcome.Health = health
		if c.attempt.limit < c.pipeline.policy.AttemptTimeout {
			c.outcome.Reason = ReasonDeadlineExceeded
		}
	default:
		c.outcome.Reason = ReasonDeadlineExceeded
	}
}

// ending says what ended the attempt.
func (c *call[T]) ending() ending {
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

// callerBusy reports whether the attempt's time went to waiting for the caller.
func (c *call[T]) callerBusy() bool {
	op, ok := c.op.(CallerBusy)
	return ok && op.CallerBusy()
}

// decide gives the verdict on the attempt that just ended and records it, once.
func (c *call[T]) decide() Verdict {
	if c.decided || c.judged == c.number {
		return c.verdict
	}
	c.judged = c.number
	var s Situation
	if c.outcome.Retry { // otherwise nothing of it matters, and success pays for nothing
		s = c.situation()
	}
	d := c.pipeline.policy.Decide(c.outcome, s)
	c.verdict, c.reason = d.Verdict, d.Reason
	c.decided = c.verdict != VerdictRetry
	if c.attempt.ticket.state == HalfOpen && c.verdict == VerdictRetry {
		c.outcome.Health = c.spare(c.outcome.Health)
	}
	c.record(d.Wait, d.Source)
	return c.verdict
}

// spare is the health of a probe that is tried again. Its failure may be that of
// one pod behind the upstream's name. It decides nothing, and the call's last
// attempt counts. In an outage the budget has no token for a second try, so the
// first failure opens the circuit again.
func (c *call[T]) spare(h Health) Health {
	if h == Unhealthy {
		return Neutral
	}
	return h
}

func (c *call[T]) situation() Situation {
	p := c.pipeline
	return Situation{
		Attempt: c.number, Ended: c.ended(), Remaining: c.deadline.Sub(c.now), Previous: c.previous,
		Random: p.random,
		CircuitOpen: func() bool {
			_, err := p.breaker.refusal(c.now)
			return err != nil
		},
		TakeToken: func() bool {
			c.token = p.budget.reserve()
			return c.token != noToken
		},
	}
}

// ended is why the call is over already, "" while it is not.
func (c *call[T]) ended() Reason {
	if c.Err() != nil || !c.now.Before(c.deadline) {
		return c.contextReason()
	}
	return ""
}

func (c *call[T]) record(wait time.Duration, source WaitSource) {
	a := c.attempt
	r := AttemptReport{
		Number: a.number, Start: a.start, Duration: c.now.Sub(a.start), Limit: a.limit,
		Reason: c.outcome.Reason, Verdict: c.verdict, Health: min(c.outcome.Health, Neutral), Breaker: a.ticket.state, Err: c.err, Status: c.outcome.Status,
	}
	if c.verdict == VerdictRetry {
		c.wait, c.previous, c.waitStart = wait, wait, c.now
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
	if c.verdict == VerdictRetry {
		c.discard()
	}
}

// discard frees the losing result at once, so that its connection serves the
// next attempt. The time this takes is part of the wait.
func (c *call[T]) discard() {
	a := c.attempt
	if c.err == nil {
		c.op.Discard(c.result, a)
	}
	a.Release(c.outcome.Health)
	var zero T
	c.result = zero
}

// remainingWait is what is left of the planned wait.
func (c *call[T]) remainingWait() time.Duration {
	return max(0, c.wait-time.Since(c.waitStart))
}

// end closes the books.
func (c *call[T]) end() (result T, err error) {
	if !c.decided {
		if c.verdict == VerdictRetry {
			// The wait was interrupted.
			c.now = time.Now()
			c.endWait()
			c.stop(c.contextReason())
		} else {
			// failsafe-go drops the result of an attempt whose context ended meanwhile,
			// without asking the retry policy.
			c.decide()
		}
	}
	p := c.pipeline
	r := &c.report
	r.Upstream, r.Start, r.Deadline, r.Reason = p.upstream, c.start, c.deadline, c.reason
	r.Duration = c.now.Sub(c.start)
	r.BudgetTokens = p.budget.balance()
	if p.observer.Call != nil {
		p.observer.Call(c.Context, r)
	}
	if c.hasResult() {
		return c.result, nil
	}
	return result, c.failure()
}

// hasResult tells whether the last attempt gave a result that is still there.
func (c *call[T]) hasResult() bool {
	return c.err == nil && c.refused == nil && c.number > 0 && !c.interrupted()
}

// interrupted tells whether the call ended during a wait, when the result of
// the attempt before was discarded already.
func (c *call[T]) interrupted() bool {
	n := len(c.report.Attempts)
	return n > 0 && c.report.Attempts[n-1].Verdict == VerdictRetry
}

func (c *call[T]) failure() error {
	e := &Error{
		Upstream: c.pipeline.upstream, Reason: c.reason, Attempts: c.number,
		Refused: c.refused != nil, RetryIn: c.retryIn, Err: c.err,
	}
	if n := len(c.report.Attempts); n > 0 {
		e.Last = c.report.Attempts[n-1].Reason
	}
	switch {
	case c.refused != nil:
		e.Err = c.refused
	case c.reason == ReasonCallerCanceled, c.reason == ReasonDeadlineExceeded:
		if cause := context.Cause(c.Context); cause != nil {
			e.Err = cause
		}
	}
	return e
}

// abandon frees what a panicking operation held.
func (c *call[T]) abandon() {
	c.returnToken()
	if a := c.attempt; a != nil && a.cancel != nil {
		a.clock.stop()
		a.settle(Unhealthy, time.Now())
		a.cancel(nil)
	}
}

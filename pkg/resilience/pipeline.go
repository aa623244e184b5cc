package resilience

import (
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"time"

	"github.com/failsafe-go/failsafe-go"
)

// Operation is what a pipeline runs: one attempt at a time, never two at once.
type Operation[T any] interface {
	// Attempt tries once. It must end soon after ctx is done; nothing waits for
	// it in another goroutine. ctx ends with the attempt unless [Attempt.Hold]
	// was called.
	Attempt(ctx context.Context, a *Attempt) (T, error)
	// Classify says what an attempt's outcome means. It is not asked about an
	// attempt that the caller ended. Of one that ran out of time (err matches
	// context.DeadlineExceeded) the pipeline knows the reason itself; it asks
	// whether a repetition may help, and whether the health is Neutral because
	// the upstream was not what took the time.
	Classify(result T, err error) Outcome
	// Discard frees a result that the caller will not get because another
	// attempt follows.
	Discard(result T, a *Attempt)
}

// Outcome is what the result of an attempt means.
type Outcome struct {
	// Reason is what happened: [ReasonOK], or what failed.
	Reason Reason
	// Health is what the circuit breaker counts.
	Health Health
	// Retry tells that a repetition may help.
	Retry bool
	// Veto, when Retry is set, forbids the repetition all the same, and says why.
	Veto Reason
	// Final is the call's reason when Retry is not set; empty means Reason.
	Final Reason
	// RetryAfter is a wait that the upstream asked for, 0 when it did not.
	RetryAfter time.Duration
}

// Func makes an operation of a plain function: an error is a transient failure
// that may be repeated, so the function must be safe to repeat.
type Func[T any] func(ctx context.Context) (T, error)

// Attempt calls the function.
func (f Func[T]) Attempt(ctx context.Context, _ *Attempt) (T, error) { return f(ctx) }

// Classify takes every error for a transient failure before an answer.
func (f Func[T]) Classify(_ T, err error) Outcome {
	if err != nil {
		return Outcome{Reason: ReasonResetBeforeHeaders, Retry: true}
	}
	return Outcome{Reason: ReasonOK, Health: Healthy}
}

// Discard does nothing.
func (f Func[T]) Discard(T, *Attempt) {}

// Options are the parts of a pipeline that are not policy. The zero value is
// ready to use.
type Options struct {
	Observer Observer
	// Random gives uniform numbers in [0, 1) for jitter. It must be safe for
	// concurrent use. nil means math/rand/v2.
	Random func() float64
}

// Pipeline runs operations against one upstream under one policy. It holds the
// upstream's circuit breaker and retry budget and is safe for concurrent use.
type Pipeline[T any] struct {
	upstream string
	policy   Policy
	observer Observer
	random   func() float64
	breaker  *breaker
	budget   *budget
	executor failsafe.Executor[*call[T]]
}

// New makes the pipeline of an upstream, whose name is used in errors and
// reports. It fails with [Mistakes] if the policy is not valid.
func New[T any](upstream string, p Policy, o Options) (*Pipeline[T], error) {
	if err := p.Validate(); err != nil {
		return nil, err
	}
	random := o.Random
	if random == nil {
		random = rand.Float64
	}
	pl := &Pipeline[T]{
		upstream: upstream,
		policy:   p,
		observer: o.Observer,
		random:   random,
		breaker:  newBreaker(upstream, p.Breaker, p.AttemptTimeout, random, o.Observer.Transition),
		budget:   newBudget(p.Retry.Budget),
	}
	pl.executor = failsafe.With(
		totalTimeout[T](p.Timeout),
		retryPolicy[T](),
		circuit[T](pl.breaker),
		attemptTimeout[T](p.AttemptTimeout),
	)
	return pl, nil
}

// Upstream is the name given to [New].
func (p *Pipeline[T]) Upstream() string { return p.upstream }

// Policy is the policy given to [New].
func (p *Pipeline[T]) Policy() Policy { return p.policy }

// Breaker is what the circuit looks like now. Looking never changes it.
func (p *Pipeline[T]) Breaker() BreakerSnapshot { return p.breaker.snapshot() }

// BudgetTokens is the balance of the retry budget.
func (p *Pipeline[T]) BudgetTokens() float64 { return p.budget.balance() }

// Do runs op until it succeeds or the policy ends it. It returns the result of
// the last attempt even when that result is a failure (the upstream's own
// answer is worth more than ours); the report's reason tells. Without a result
// the error is an [*Error].
func (p *Pipeline[T]) Do(ctx context.Context, op Operation[T]) (T, Report, error) {
	return p.DoWithin(ctx, p.policy.Timeout, op)
}

// DoWithin is Do with less time than the policy gives: limit is the caller's own.
func (p *Pipeline[T]) DoWithin(ctx context.Context, limit time.Duration, op Operation[T]) (T, Report, error) {
	start := time.Now()
	if retryIn, err := p.breaker.refusal(start); err != nil {
		var none T
		report, err := p.refuse(ctx, start, min(limit, p.policy.Timeout), err, retryIn)
		return none, report, err
	}
	c := &call[T]{Context: ctx, pipeline: p, op: op, limit: limit, start: start, now: start}
	finished := false
	defer func() {
		if !finished { // op panicked: its probe slot and its token must not go with it
			c.abandon()
		}
	}()
	// The verdict is in c; the executor's own error is only another sign of a
	// canceled context, which c sees for itself.
	_, _ = p.executor.WithContext(c).Get(c.run)
	result, err := c.end()
	finished = true
	return result, c.report, err
}

// refuse answers a call at once that begins while the circuit is open. It is
// what the composition would do with it, without composing anything.
func (p *Pipeline[T]) refuse(ctx context.Context, start time.Time, limit time.Duration, cause error, retryIn time.Duration) (Report, error) {
	deadline := start.Add(limit)
	if own, ok := ctx.Deadline(); ok && own.Before(deadline) {
		deadline = own
	}
	r := Report{
		Upstream: p.upstream, Start: start, Deadline: deadline, Reason: ReasonBreakerOpen,
		BudgetTokens: p.budget.balance(),
	}
	if p.observer.Call != nil {
		p.observer.Call(ctx, &r)
	}
	return r, &Error{Upstream: p.upstream, Reason: ReasonBreakerOpen, Refused: true, RetryIn: retryIn, Err: cause}
}

// call is one call on its way through the pipeline: the state that the policies
// share, and the execution's context, which is how they find it.
type call[T any] struct {
	context.Context
	pipeline *Pipeline[T]
	op       Operation[T]
	limit    time.Duration
	start    time.Time
	deadline time.Time
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
	if c.Err() != nil || !c.now.Before(c.deadline) {
		c.stop(c.contextReason())
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
// context is known here better than by any error text; the first gate of
// forbids then ends a call whose caller or time is gone.
func (c *call[T]) classify() {
	a := c.attempt
	if c.err == nil {
		c.outcome = c.op.Classify(c.result, nil)
		return
	}
	switch {
	case c.Err() != nil && errors.Is(c.Err(), context.Canceled):
		c.outcome = Outcome{Reason: ReasonCallerCanceled, Health: Neutral, Retry: true}
	case c.Err() != nil || a.timedOut() && a.limit < c.pipeline.policy.AttemptTimeout:
		health := c.cutHealth()
		if c.op.Classify(c.result, errAttemptTimeout).Health == Neutral {
			health = Neutral
		}
		c.outcome = Outcome{Reason: ReasonDeadlineExceeded, Health: health, Retry: true}
	case a.timedOut():
		c.outcome = c.op.Classify(c.result, errAttemptTimeout)
		c.outcome.Reason = ReasonAttemptTimeout
		if c.outcome.Health == Healthy {
			c.outcome.Health = Unhealthy
		}
	default:
		c.outcome = c.op.Classify(c.result, c.err)
	}
}

// cutHealth is the health of an attempt that the call's deadline cut. A caller
// with little time left proves nothing about the upstream; one that gave it at
// least half of an attempt's time does, or a chain of short deadlines in front
// of a hanging upstream would never open the circuit.
func (c *call[T]) cutHealth() Health {
	if c.now.Sub(c.attempt.start) >= c.pipeline.policy.AttemptTimeout/2 {
		return Unhealthy
	}
	return Neutral
}

// decide gives the verdict on the attempt that just ended, records it, and
// plans the wait if another one follows.
func (c *call[T]) decide() Verdict {
	if c.decided {
		return c.verdict
	}
	var wait time.Duration
	var source WaitSource
	if !c.outcome.Retry {
		c.verdict, c.reason = VerdictReturn, c.outcome.Final
		if c.reason == "" {
			c.reason = c.outcome.Reason
		}
	} else {
		wait, source = c.plan()
		if c.reason = c.forbids(wait); c.reason == "" {
			c.verdict = VerdictRetry
		} else {
			c.verdict = VerdictGiveUp
		}
	}
	c.decided = c.verdict != VerdictRetry
	c.record(wait, source)
	return c.verdict
}

// plan is the wait before the next attempt: the backoff, or what the upstream
// asked for if that is longer.
func (c *call[T]) plan() (time.Duration, WaitSource) {
	p := &c.pipeline.policy.Retry
	backoff := p.Backoff.Delay(c.number, c.previous, c.pipeline.random())
	after := c.outcome.RetryAfter
	if after <= 0 || after > p.MaxRetryAfter {
		return backoff, WaitJitter
	}
	// Upward only: nobody comes back earlier than told, and not all at once.
	after += min(time.Duration(float64(after)*0.25*c.pipeline.random()), math.MaxInt64-after)
	if after < backoff {
		return backoff, WaitJitter
	}
	return after, WaitRetryAfter
}

// forbids asks every gate between a failed attempt and the next, in order, and
// gives the reason of the first that stays shut, "" when all are open. The
// budget is last, so that a token is only taken for a retry that nothing else
// forbids.
func (c *call[T]) forbids(wait time.Duration) Reason {
	p := c.pipeline
	switch {
	case c.Err() != nil || !c.now.Before(c.deadline):
		return c.contextReason()
	case c.outcome.Veto != "":
		return c.outcome.Veto
	case c.number >= p.policy.Retry.MaxAttempts:
		return ReasonMaxAttempts
	case c.outcome.RetryAfter > p.policy.Retry.MaxRetryAfter:
		return ReasonRetryAfterTooLong
	case c.circuitOpen():
		return ReasonBreakerOpen
	case !c.now.Add(wait).Before(c.deadline):
		return ReasonDeadlineTooClose
	}
	if c.token = p.budget.reserve(); c.token == noToken {
		return ReasonBudgetExhausted
	}
	return ""
}

func (c *call[T]) circuitOpen() bool {
	_, err := c.pipeline.breaker.refusal(c.now)
	return err != nil
}

func (c *call[T]) record(wait time.Duration, source WaitSource) {
	a := c.attempt
	r := AttemptReport{
		Number: a.number, Start: a.start, Duration: c.now.Sub(a.start), Limit: a.limit,
		Reason: c.outcome.Reason, Verdict: c.verdict, Breaker: a.ticket.state, Err: c.err,
	}
	if c.verdict == VerdictRetry {
		c.wait, c.previous, c.waitStart = wait, wait, c.now
		r.Wait = Wait{Source: source, Reason: r.Reason, Planned: wait}
	}
	if c.report.Attempts == nil {
		c.report.Attempts = c.storage[:0]
	}
	c.report.Attempts = append(c.report.Attempts, r)
	if observe := c.pipeline.observer.Attempt; observe != nil {
		observe(c.Context, &c.report.Attempts[len(c.report.Attempts)-1])
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
		a.timer.Stop()
		a.settle(Unhealthy, time.Now())
		a.cancel(nil)
	}
}

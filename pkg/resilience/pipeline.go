package resilience

import (
	"context"
	"iter"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"time"

	"github.com/failsafe-go/failsafe-go"
)

// Operation makes the attempts of a call, one at a time.
//
// An Operation may also have a method CallerBusy() bool. It reports whether the current or last
// attempt waits for the caller and not for the upstream, such as for the rest of an upload. A
// timeout is then neutral for the circuit breaker. CallerBusy must be safe for concurrent use.
//
// If the upstream has several endpoints, the Operation may have a method CountsAs(h Health) Health.
// It is called once after each attempt, before the verdict, with what the attempt shows about its
// endpoint. It returns what the upstream's circuit counts: Neutral if only the endpoint is to
// blame.
//
// It may also have a method Priority() Priority, the call's class under a concurrency limit.
//
// With a method CallerSends() bool it reports whether the caller may still send a part of the
// request. An adaptive limit leaves out such calls.
type Operation[T any] interface {
	// Attempt makes one attempt. It must return soon after ctx is done: the pipeline waits for it.
	// ctx ends with the attempt unless [Attempt.Hold] was called.
	Attempt(ctx context.Context, a *Attempt) (T, error)
	// Classify returns the outcome of an attempt. It is not called if the caller ended the attempt.
	// If the attempt timed out, err matches context.DeadlineExceeded, and the pipeline sets Reason
	// and Health itself.
	Classify(result T, err error) Outcome
	// Decided is called after the verdict on an attempt, before the result is discarded or
	// returned. It may set r.Endpoint. It must not block or keep r.
	Decided(r *AttemptReport)
	// Discard frees the result of an attempt that is retried.
	Discard(result T, a *Attempt)
}

// Outcome describes the result of an attempt.
type Outcome struct {
	// Reason is [ReasonOK] or the kind of failure.
	Reason Reason
	// Health is what the circuit breaker counts.
	Health Health
	// Retry reports whether a retry may help.
	Retry bool
	// AtOnce means that a retry needs no wait: it goes to another endpoint, and the upstream has
	// not received this attempt. So the retry is no more load for it. With an adaptive budget it
	// costs a token, but is no part of the share of the attempts.
	AtOnce bool
	// Gates are the operation's own conditions for a retry, or nil. The pipeline reads them, up to
	// the first shut one, if Retry is set and the call has time left. [slices.Values] makes them
	// from a list.
	Gates iter.Seq[Gate]
	// Final is the call's reason if Retry is not set. Empty means Reason.
	Final Reason
	// Status is the status of the answer, such as HTTP's, or 0.
	Status int
	// RetryAfter is the wait that the upstream asked for, or 0.
	RetryAfter time.Duration
}

// Options are the settings of a pipeline besides its policy. The zero value is ready to use.
type Options struct {
	Observer Observer
	// Random returns uniform numbers in [0, 1) for jitter. It must be safe for concurrent use. nil
	// means math/rand/v2.
	Random func() float64
}

// Pipeline runs operations against one upstream under one policy. It has a circuit and a retry
// budget. It is safe for concurrent use.
type Pipeline[T any] struct {
	shared
	upstream string
	policy   Policy
	observer Observer
	random   func() float64
	breaker  *breaker
	limiter  *limiter
	rate     *rateLimit          // nil for no limit
	first    func(*callState[T]) // makes the first attempt
	executor failsafe.Executor[*callState[T]]
}

// shared is what a pipeline shares with its attempts.
type shared struct {
	budget *budget
	asked  atomic.Bool // somebody has asked for the end of an attempt
}

// New returns a pipeline for an upstream. Errors and reports contain the upstream's name. The error
// lists every mistake if the policy is not valid.
func New[T any](upstream string, p Policy, o Options) (*Pipeline[T], error) {
	if err := p.Validate(); err != nil {
		return nil, err
	}
	random := o.Random
	if random == nil {
		random = rand.Float64
	}
	pl := &Pipeline[T]{
		shared:   shared{budget: newBudget(p.Retry.Budget)},
		upstream: upstream,
		policy:   p,
		observer: o.Observer,
		random:   random,
		breaker:  newBreaker(upstream, p.Breaker, random, o.Observer.Transition),
		limiter:  newLimiter(p.Concurrency, p.AttemptTimeout),
		rate:     newRateLimit(p.RateLimit),
	}
	pl.compose()
	return pl, nil
}

// compose puts the policies together. failsafe-go's executor runs a call that needs a retry. It
// makes a dozen objects and copies for each call, so the first attempt passes the same policies
// without it. Only the retry has nothing to do before that attempt has ended.
func (p *Pipeline[T]) compose() {
	total := totalTimeout[T](p.policy.Timeout)
	attempt := []layer[T]{
		circuit[T](p.breaker, p.policy.AttemptTimeout),
		concurrency[T](p.limiter),
		attemptTimeout[T](p.policy.AttemptTimeout),
	}
	policies := []failsafe.Policy[*callState[T]]{total, retryPolicy[T]()}
	p.first = (*callState[T]).run
	for _, l := range attempt {
		policies = append(policies, l)
	}
	for _, l := range slices.Backward(attempt) {
		p.first = l.around(p.first)
	}
	p.first = total.around(p.first)
	p.executor = failsafe.With(policies...)
}

// Renew returns a pipeline for the same upstream with another policy. Use it to change a policy
// while calls are in progress, and then call [Pipeline.Retire]. Calls of p end under p's policy.
// The new pipeline shares p's circuit if the breaker's settings are the same, and likewise p's
// budget and rate limit. The limit of retries to a share of the attempts goes on, whatever settings
// change. The attempts in flight count under the new concurrency limit too. The error is that of
// [New].
func (p *Pipeline[T]) Renew(policy Policy) (*Pipeline[T], error) {
	if err := policy.Validate(); err != nil {
		return nil, err
	}
	next := &Pipeline[T]{
		shared:   shared{budget: p.budget},
		upstream: p.upstream, policy: policy, observer: p.observer, random: p.random,
		breaker: p.breaker, limiter: p.limiter, rate: p.rate,
	}
	if policy.Breaker != p.policy.Breaker {
		next.breaker = p.breaker.renew(policy.Breaker)
	}
	if policy.Concurrency != p.policy.Concurrency || policy.AttemptTimeout != p.policy.AttemptTimeout {
		next.limiter = p.limiter.renew(policy.Concurrency)
	}
	if policy.RateLimit != p.policy.RateLimit {
		next.rate = newRateLimit(policy.RateLimit)
	}
	if policy.Retry.Budget != p.policy.Retry.Budget {
		next.budget = newBudget(policy.Retry.Budget)
	}
	next.compose()
	return next, nil
}

// Retire tells p that it gets no new calls. successor is the pipeline from [Pipeline.Renew] that
// replaces p, or nil. If successor does not share p's circuit, the observer gets no more
// transitions of it. Calls in progress go on, but those that wait for a place wait for one under
// successor's concurrency limit.
func (p *Pipeline[T]) Retire(successor *Pipeline[T]) {
	if successor != nil {
		successor.limiter.takeOver(successor.policy.AttemptTimeout)
	}
	if successor == nil || successor.breaker != p.breaker {
		p.breaker.retire()
	}
}

// Breaker returns the state of the circuit. Reading it never changes the state.
func (p *Pipeline[T]) Breaker() BreakerSnapshot { return p.breaker.snapshot() }

// Concurrency returns the state of the concurrency limit.
func (p *Pipeline[T]) Concurrency() ConcurrencySnapshot { return p.limiter.snapshot() }

// BudgetTokens returns the balance of the retry budget. With [AdaptiveBurst] a retry may be refused
// although some tokens are left.
func (p *Pipeline[T]) BudgetTokens() float64 { return p.budget.balance() }

// Do runs op until it succeeds or the policy ends the call. It returns the result of the last
// attempt even if that is a failure, because the upstream's answer says more than an error. The
// report's Reason shows whether the call succeeded. Without a result the error is an [*Error].
func (p *Pipeline[T]) Do(ctx context.Context, op Operation[T]) (T, Report, error) {
	return p.DoWithin(ctx, p.policy.Timeout, op)
}

// DoWithin is [Pipeline.Do] with a limit of the caller on the call's time. The policy's timeout
// still applies.
func (p *Pipeline[T]) DoWithin(ctx context.Context, limit time.Duration, op Operation[T]) (T, Report, error) {
	start := time.Now()
	if reason, retryIn, err := p.refusal(start, op); err != nil {
		var zero T
		report, err := p.refuse(ctx, start, min(limit, p.policy.Timeout), reason, err, retryIn)
		return zero, report, err
	}
	c := &callState[T]{Context: ctx, pipeline: p, op: op, now: start}
	c.report.Upstream, c.report.Start, c.report.Deadline = p.upstream, start, start.Add(min(limit, p.policy.Timeout))
	finished := false
	defer func() {
		if !finished { // op panicked: its probe's slot and its token must not be lost
			c.abandon()
		}
	}()
	p.first(c)
	if c.verdict == VerdictRetry {
		c.resumes = c.attempt != nil
		// c has the result. The executor's own error only reports a canceled context, which c
		// checks itself.
		_, _ = p.executor.WithContext(c).Get(c.composed)
	}
	result, err := c.end()
	finished = true
	return result, c.report, err
}

// refusal returns why a call that begins at now is refused at once and how long its caller should
// wait, or a nil error.
func (p *Pipeline[T]) refusal(now time.Time, op Operation[T]) (Reason, time.Duration, error) {
	if wait := p.rate.take(now); wait > 0 {
		return ReasonRateLimited, wait, errRateLimited
	}
	if retryIn, err := p.breaker.refusal(now); err != nil {
		return ReasonBreakerOpen, retryIn, err
	}
	if p.limiter.refuses(now, op) {
		return ReasonConcurrencyLimit, p.limiter.advice(now), errNoPlace
	}
	return "", 0, nil
}

// refuse ends a call that begins while the circuit is open or over a limit. It does what the
// composition would do, but faster.
func (p *Pipeline[T]) refuse(ctx context.Context, start time.Time, limit time.Duration, reason Reason, cause error, retryIn time.Duration) (Report, error) {
	deadline := start.Add(limit)
	if own, ok := ctx.Deadline(); ok && own.Before(deadline) {
		deadline = own
	}
	r := Report{
		Upstream: p.upstream, Start: start, Deadline: deadline, Reason: reason,
		BudgetTokens: p.budget.balance(),
	}
	if p.observer.Call != nil {
		seen := r // without an observer, r needs no allocation
		p.observer.Call(ctx, &seen)
	}
	return r, &Error{Upstream: p.upstream, Reason: reason, Refused: true, RetryIn: retryIn, Err: cause}
}

package resilience

import (
	"context"
	"iter"
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
	// context.DeadlineExceeded) the pipeline knows the reason and the health itself;
	// it asks whether a repetition may help.
	Classify(result T, err error) Outcome
	// Decided is told the verdict on an attempt, before its result is discarded or
	// returned. It must not block or keep r.
	Decided(r *AttemptReport)
	// Discard frees a result that the caller will not get because another
	// attempt follows.
	Discard(result T, a *Attempt)
}

// CallerBusy is an [Operation] that can tell when an attempt waits for the caller
// instead of the upstream, such as for the rest of an upload. Time that runs out
// then counts against nobody.
type CallerBusy interface {
	// CallerBusy reports whether the attempt under way, or just ended, waits for the
	// caller. It must be safe for concurrent use.
	CallerBusy() bool
}

// Outcome is what the result of an attempt means.
type Outcome struct {
	// Reason is what happened: [ReasonOK], or what failed.
	Reason Reason
	// Health is what the circuit breaker counts.
	Health Health
	// Retry reports whether a retry may help.
	Retry bool
	// Gates are the operation's own conditions for a retry, nil for none. They are read, up to the
	// first shut one, when Retry is set and the call has time left. [slices.Values] makes them of a list.
	Gates iter.Seq[Gate]
	// Final is the call's reason when Retry is not set; empty means Reason.
	Final Reason
	// Status is that of an answer which has one, as HTTP's have; 0 for none.
	Status int
	// RetryAfter is a wait that the upstream asked for, 0 when it did not.
	RetryAfter time.Duration
}

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
	executor failsafe.Executor[*callState[T]]
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
		breaker:  newBreaker(upstream, p.Breaker, random, o.Observer.Transition),
		budget:   newBudget(p.Retry.Budget),
	}
	pl.compose()
	return pl, nil
}

func (p *Pipeline[T]) compose() {
	p.executor = failsafe.With(
		totalTimeout[T](p.policy.Timeout),
		retryPolicy[T](),
		circuit[T](p.breaker, p.policy.AttemptTimeout),
		attemptTimeout[T](p.policy.AttemptTimeout),
	)
}

// Renew is the pipeline of the same upstream under another policy, for a policy
// that changes while calls go on. It shares with p the circuit breaker and the
// budget whose settings are the same; what has other settings begins anew.
// Calls that p has begun end under p's policy. The error is that of [New].
func (p *Pipeline[T]) Renew(policy Policy) (*Pipeline[T], error) {
	if err := policy.Validate(); err != nil {
		return nil, err
	}
	next := &Pipeline[T]{
		upstream: p.upstream, policy: policy, observer: p.observer, random: p.random,
		breaker: p.breaker, budget: p.budget,
	}
	if policy.Breaker != p.policy.Breaker {
		next.breaker = newBreaker(p.upstream, policy.Breaker, p.random, p.observer.Transition)
	}
	if policy.Retry.Budget != p.policy.Retry.Budget {
		next.budget = newBudget(policy.Retry.Budget)
	}
	next.compose()
	return next, nil
}

// Retire says that p makes no new calls because successor, which [Pipeline.Renew]
// gave, makes them, or nobody, if that is nil: a circuit that is not taken over
// tells of no more transitions. Calls that go on end as they would have.
func (p *Pipeline[T]) Retire(successor *Pipeline[T]) {
	if successor == nil || successor.breaker != p.breaker {
		p.breaker.retire()
	}
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
	c := &callState[T]{Context: ctx, pipeline: p, op: op, limit: limit, start: start, now: start}
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

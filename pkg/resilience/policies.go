package resilience

import (
	"errors"
	"time"

	"github.com/failsafe-go/failsafe-go"
	"github.com/failsafe-go/failsafe-go/common"
	"github.com/failsafe-go/failsafe-go/retrypolicy"
)

// failsafe-go composes the policies. The retry is failsafe-go's own. The two timeouts are ours,
// because failsafe-go's timeout
//
//   - cancels the context when the inner function returns, so a response body breaks off while
//     the caller reads it;
//   - drops a result that arrives as the timeout fires;
//   - costs a context and a timer. Our total timeout costs neither, because no wait and no
//     attempt starts that could outlast it.

type (
	execution[T any] = failsafe.Execution[*callState[T]]
	result[T any]    = *common.PolicyResult[*callState[T]]
	next[T any]      = func(execution[T]) result[T]
)

// layer is a policy around what is inside it. All that it knows of a call is in c, so a composition
// is made once and serves all calls. A layer that refuses an attempt does not call inner.
type layer[T any] func(c *callState[T], inner func(c *callState[T]))

// around returns l around inner.
func (l layer[T]) around(inner func(c *callState[T])) func(c *callState[T]) {
	return func(c *callState[T]) { l(c, inner) }
}

// ToExecutor returns l, which is its own executor of failsafe-go.
func (l layer[T]) ToExecutor(*callState[T]) any { return l }

// Apply returns l around inner, for failsafe-go.
func (l layer[T]) Apply(inner next[T]) next[T] {
	return func(exec execution[T]) result[T] {
		c := exec.Context().(*callState[T])
		r := &common.PolicyResult[*callState[T]]{Result: c, Done: true} // unless inner runs
		l(c, func(*callState[T]) { r = inner(exec) })
		return r
	}
}

// totalTimeout sets the call's deadline: the policy's timeout d, the caller's limit or the
// context's deadline, whichever comes first.
func totalTimeout[T any](d time.Duration) layer[T] {
	return func(c *callState[T], inner func(*callState[T])) {
		deadline := &c.report.Deadline // the caller's limit, or the policy's
		c.callersDeadline = deadline.Before(c.report.Start.Add(d))
		if own, ok := c.Context.Deadline(); ok && own.Before(*deadline) {
			*deadline, c.callersDeadline = own, true
		}
		inner(c)
	}
}

// retryPolicy returns failsafe-go's retry. The circuit layer has decided whether to retry and when.
func retryPolicy[T any]() failsafe.Policy[*callState[T]] {
	return retrypolicy.NewBuilder[*callState[T]]().
		WithMaxRetries(-1). // maxAttempts is one of the gates
		HandleIf(func(c *callState[T], _ error) bool { return c.verdict == VerdictRetry }).
		WithDelayFunc(func(exec failsafe.ExecutionAttempt[*callState[T]]) time.Duration {
			return exec.LastResult().remainingWait()
		}).
		ReturnLastFailure().
		Build()
}

// circuit lets attempts through b and decides what follows. lease limits a probe's time.
func circuit[T any](b *breaker, lease time.Duration) layer[T] {
	return func(c *callState[T], inner func(*callState[T])) {
		if c.resumes { // its verdict is to retry, which is all that the retry outside has to know
			c.resumes = false
			return
		}
		if !c.startAttempt() {
			return
		}
		a := c.newAttempt()
		retryIn, err := b.allow(&a.ticket, c.now, lease, c, &a.clock)
		if err != nil {
			c.refused, c.retryIn = err, retryIn
			c.stop(refusalReason(err))
			return
		}
		before := c.attempt
		c.attempt = a
		inner(c)
		if c.refused != nil { // by the concurrency limit: nothing was sent
			a.ticket.settle(unsent, c.now)
			c.attempt = before
			if !errors.Is(c.refused, errNoPlace) {
				c.refused = nil // the caller left the queue
			}
			return
		}
		if c.outcome.Retry {
			a.retryable.Store(true)
		}
		if c.outcome.Retry && a.ticket.state == HalfOpen {
			c.decide() // first: a probe that is retried counts as neutral
			a.report(c.counts, c.now)
		} else {
			a.report(c.counts, c.now) // first: it may open the circuit, which is one of the gates
			c.decide()
		}
		if c.verdict == VerdictRetry {
			c.discard()
		}
	}
}

// concurrency lets attempts through that get a place in l.
func concurrency[T any](l *limiter) layer[T] {
	return func(c *callState[T], inner func(*callState[T])) {
		if l.policy.Max == 0 && sends(c.op) {
			l.leftOut.Add(1)
			defer l.leftOut.Add(-1)
			inner(c)
			return
		}
		if !l.takeFree(c.now) && !c.takePlace(l) {
			return
		}
		began, left := c.now, false
		defer func() {
			if !left { // the operation panicked
				l.leave(time.Now(), Unhealthy, 0)
			}
		}()
		inner(c)
		left = true
		l.leave(c.now, c.outcome.Health, c.now.Sub(began))
	}
}

// takePlace takes a place in l for the attempt, or waits for one. Without one it stops the call and
// returns false.
func (c *callState[T]) takePlace(l *limiter) bool {
	c.queued.Store(true)
	err := l.enter(c.Context, c.now, priority(c.op), c.attempts() > 1, c.report.Deadline)
	if l.policy.Queue > 0 {
		c.now = time.Now() // it may have waited
		c.attempt.ticket.restart(c.now)
	}
	c.queued.Store(false)
	switch {
	case err == nil:
		return true
	case errors.Is(err, errNoPlace):
		c.refused, c.retryIn = err, l.advice(c.now)
		c.stop(ReasonConcurrencyLimit)
	default:
		c.refused = err
		c.stop(c.contextReason())
	}
	return false
}

func refusalReason(err error) Reason {
	if errors.Is(err, errRefusedHalfOpen) {
		return ReasonBreakerHalfOpen
	}
	return ReasonBreakerOpen
}

// attemptTimeout limits one attempt to d, or to the time until the call's deadline.
func attemptTimeout[T any](d time.Duration) layer[T] {
	return func(c *callState[T], inner func(*callState[T])) {
		a := c.attempt
		c.token = token{} // spent on this attempt
		a.begin(c.Context, c.now, max(1, min(d, c.report.Deadline.Sub(c.now))))
		inner(c)
		c.now = a.now()
		if !a.stopClock(c.now) && c.err == nil && a.held.Load() {
			// The attempt timed out as the answer began. The canceled context breaks the body, so
			// the answer is useless.
			late := c.result
			var zero T
			c.result, c.err, c.now = zero, errAttemptTimeout, a.now()
			c.classify()
			a.settle(c.counts, c.now)
			c.op.Discard(late, a)
			return
		}
		c.classify()
	}
}

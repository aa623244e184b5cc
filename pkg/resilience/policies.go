package resilience

import (
	"errors"
	"time"

	"github.com/failsafe-go/failsafe-go"
	"github.com/failsafe-go/failsafe-go/common"
	"github.com/failsafe-go/failsafe-go/retrypolicy"
)

// The policies as failsafe-go composes them. The retry is its own; the two
// timeouts are ours, because its timeout cancels the context when the inner
// function returns (a response body is cut while the caller reads it), drops a
// result that arrives as it fires, and costs a context and a timer each; here
// the total timeout costs nothing, since no wait and no attempt is begun that
// could outlast it.

type (
	execution[T any] = failsafe.Execution[*call[T]]
	result[T any]    = *common.PolicyResult[*call[T]]
	next[T any]      = func(execution[T]) result[T]
)

// layer is a policy that needs no state of its own for an execution.
type layer[T any] func(c *call[T], exec execution[T], inner next[T]) result[T]

// ToExecutor is how failsafe-go asks a policy for its part in one execution.
func (l layer[T]) ToExecutor(*call[T]) any { return l }

// Apply puts the layer around inner.
func (l layer[T]) Apply(inner next[T]) next[T] {
	return func(exec execution[T]) result[T] {
		return l(exec.Context().(*call[T]), exec, inner)
	}
}

// totalTimeout fixes the call's deadline: the policy's timeout, the caller's
// own limit or the context's deadline, whichever comes first.
func totalTimeout[T any](d time.Duration) failsafe.Policy[*call[T]] {
	return layer[T](func(c *call[T], exec execution[T], inner next[T]) result[T] {
		c.deadline = c.start.Add(min(d, c.limit))
		c.callersDeadline = c.limit < d
		if own, ok := c.Context.Deadline(); ok && own.Before(c.deadline) {
			c.deadline, c.callersDeadline = own, true
		}
		return inner(exec)
	})
}

// retryPolicy is failsafe-go's retry, told by the call whether and when.
func retryPolicy[T any]() failsafe.Policy[*call[T]] {
	return retrypolicy.NewBuilder[*call[T]]().
		WithMaxRetries(-1). // the policy's own limit is one of the gates
		HandleIf(func(c *call[T], _ error) bool { return c.decide() == VerdictRetry }).
		WithDelayFunc(func(exec failsafe.ExecutionAttempt[*call[T]]) time.Duration {
			return exec.LastResult().remainingWait()
		}).
		ReturnLastFailure().
		Build()
}

// circuit is gobreaker as a failsafe-go policy. lease bounds a probe.
func circuit[T any](b *breaker, lease time.Duration) failsafe.Policy[*call[T]] {
	return layer[T](func(c *call[T], exec execution[T], inner next[T]) result[T] {
		if !c.startAttempt() {
			return refusedResult(c)
		}
		a := c.newAttempt()
		retryIn, err := b.allow(&a.ticket, c.now, lease, c, &a.clock)
		if err != nil {
			c.number-- // it was not begun
			c.refused, c.retryIn = err, retryIn
			c.stop(refusalReason(err))
			return refusedResult(c)
		}
		r := inner(exec)
		if c.outcome.Retry {
			a.repeated.Store(true)
			if a.ticket.state == HalfOpen {
				c.decide() // before the circuit hears of it, which depends on the verdict
			}
		}
		a.report(c.outcome.Health, c.now)
		return r
	})
}

func refusalReason(err error) Reason {
	if errors.Is(err, errRefusedHalfOpen) {
		return ReasonBreakerHalfOpen
	}
	return ReasonBreakerOpen
}

func refusedResult[T any](c *call[T]) result[T] {
	return &common.PolicyResult[*call[T]]{Result: c, Done: true}
}

// attemptTimeout bounds one attempt by d or by what is left until the deadline.
func attemptTimeout[T any](d time.Duration) failsafe.Policy[*call[T]] {
	return layer[T](func(c *call[T], exec execution[T], inner next[T]) result[T] {
		a := c.attempt
		c.token = noToken // it is spent: the attempt is being made
		a.begin(c, c.now, max(1, min(d, c.deadline.Sub(c.now))))
		r := inner(exec)
		if !a.clock.stop() && c.err == nil && a.held.Load() {
			// The time was up as the answer began: its context is dead, and its body
			// with it. It is worth no more than no answer.
			late := c.result
			var none T
			c.result, c.err, c.now = none, errAttemptTimeout, time.Now()
			c.classify()
			a.settle(c.outcome.Health, c.now)
			c.op.Discard(late, a)
			return r
		}
		c.now = time.Now()
		c.classify()
		return r
	})
}

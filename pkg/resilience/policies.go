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
	execution[T any] = failsafe.Execution[*callState[T]]
	result[T any]    = *common.PolicyResult[*callState[T]]
	next[T any]      = func(execution[T]) result[T]
)

// layer is a policy that needs no state of its own for an execution.
type layer[T any] func(c *callState[T], exec execution[T], inner next[T]) result[T]

// ToExecutor is how failsafe-go asks a policy for its part in one execution.
func (l layer[T]) ToExecutor(*callState[T]) any { return l }

// Apply puts the layer around inner.
func (l layer[T]) Apply(inner next[T]) next[T] {
	return func(exec execution[T]) result[T] {
		return l(exec.Context().(*callState[T]), exec, inner)
	}
}

// totalTimeout fixes the call's deadline: the policy's timeout, the caller's
// own limit or the context's deadline, whichever comes first.
func totalTimeout[T any](d time.Duration) failsafe.Policy[*callState[T]] {
	return layer[T](func(c *callState[T], exec execution[T], inner next[T]) result[T] {
		c.deadline = c.start.Add(min(d, c.limit))
		c.callersDeadline = c.limit < d
		if own, ok := c.Context.Deadline(); ok && own.Before(c.deadline) {
			c.deadline, c.callersDeadline = own, true
		}
		return inner(exec)
	})
}

// retryPolicy returns failsafe-go's retry. The circuit layer has decided whether to retry and when.
func retryPolicy[T any]() failsafe.Policy[*callState[T]] {
	return retrypolicy.NewBuilder[*callState[T]]().
		WithMaxRetries(-1). // the policy's own limit is one of the gates
		HandleIf(func(c *callState[T], _ error) bool { return c.verdict == VerdictRetry }).
		WithDelayFunc(func(exec failsafe.ExecutionAttempt[*callState[T]]) time.Duration {
			return exec.LastResult().remainingWait()
		}).
		ReturnLastFailure().
		Build()
}

// circuit is gobreaker as a failsafe-go policy. lease bounds a probe.
func circuit[T any](b *breaker, lease time.Duration) failsafe.Policy[*callState[T]] {
	return layer[T](func(c *callState[T], exec execution[T], inner next[T]) result[T] {
		if !c.startAttempt() {
			return refusedResult(c)
		}
		a := c.newAttempt()
		retryIn, err := b.allow(&a.ticket, c.now, lease, c, &a.clock)
		if err != nil {
			c.refused, c.retryIn = err, retryIn
			c.stop(refusalReason(err))
			return refusedResult(c)
		}
		c.attempt, c.number = a, a.number
		r := inner(exec)
		if c.outcome.Retry {
			a.repeated.Store(true)
		}
		if a.ticket.state == HalfOpen {
			c.decide() // first: the verdict may change what a probe counts as
			a.report(c.outcome.Health, c.now)
		} else {
			a.report(c.outcome.Health, c.now) // first: it may open the circuit, which is one of the gates
			c.decide()
		}
		return r
	})
}

func refusalReason(err error) Reason {
	if errors.Is(err, errRefusedHalfOpen) {
		return ReasonBreakerHalfOpen
	}
	return ReasonBreakerOpen
}

func refusedResult[T any](c *callState[T]) result[T] {
	return &common.PolicyResult[*callState[T]]{Result: c, Done: true}
}

// attemptTimeout bounds one attempt by d or by what is left until the deadline.
func attemptTimeout[T any](d time.Duration) failsafe.Policy[*callState[T]] {
	return layer[T](func(c *callState[T], exec execution[T], inner next[T]) result[T] {
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

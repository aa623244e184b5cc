package resilience

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Targets for errors.Is. [Error] has the details.
var (
	// ErrBreakerOpen matches a call that ended because the circuit was open, or was half-open with
	// all its probes in flight.
	ErrBreakerOpen = errors.New("circuit breaker is open")
	// ErrTimeout matches a call whose deadline passed or whose last attempt timed out. Such a call
	// also matches context.DeadlineExceeded.
	ErrTimeout = errors.New("call timed out")
)

// Error is the error of a call without a result. It wraps the last attempt's error.
type Error struct {
	Upstream string
	// Reason is why the call ended. Last is the reason of its last attempt, empty without an
	// attempt. They are equal if the last attempt ended the call.
	Reason, Last Reason
	Attempts     int
	// Refused reports whether the circuit, the concurrency limit or the rate limit refused the next
	// attempt. RetryIn is then how long the caller should wait: until the circuit lets a probe
	// through, until the rate limit has a token for this caller, or until the attempts in flight
	// should have ended. It is 0 if that is unknown.
	Refused bool
	RetryIn time.Duration
	Err     error
}

// Error returns the upstream, the number of attempts, the reasons and the last error.
func (e *Error) Error() string {
	attempts := "no attempt made"
	if e.Attempts > 0 {
		attempts = fmt.Sprintf("attempt %d", e.Attempts)
		if e.Last != e.Reason {
			attempts += " (" + string(e.Last) + ")"
		}
	}
	s := fmt.Sprintf("calling %s, %s: %s", e.Upstream, attempts, e.Reason)
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

// Unwrap returns the last attempt's error.
func (e *Error) Unwrap() error { return e.Err }

// Is matches [ErrBreakerOpen], [ErrTimeout] and context.DeadlineExceeded.
func (e *Error) Is(target error) bool {
	switch target {
	case ErrBreakerOpen:
		return e.Reason == ReasonBreakerOpen || e.Reason == ReasonBreakerHalfOpen
	case ErrTimeout, context.DeadlineExceeded:
		return e.outOfTime()
	}
	return false
}

// Timeout reports whether a time limit passed: one of the policy, the caller or the operation, such
// as a dialer's. net.Error has this method.
func (e *Error) Timeout() bool {
	if e.Refused {
		return false
	}
	var inner interface{ Timeout() bool }
	return e.outOfTime() || errors.As(e.Err, &inner) && inner.Timeout()
}

// outOfTime reports whether a time limit of the policy or the caller passed.
func (e *Error) outOfTime() bool {
	if e.Refused {
		return false
	}
	return e.Last == ReasonAttemptTimeout || e.Last == ReasonDeadlineExceeded || e.Reason == ReasonDeadlineExceeded
}

// errAttemptTimeout is the cancellation cause of an attempt that timed out.
var errAttemptTimeout = fmt.Errorf("attempt timed out: %w", context.DeadlineExceeded)

package resilience

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Errors to ask for with errors.Is; the details are in [Error].
var (
	// ErrBreakerOpen matches a call that the circuit ended, open or half-open:
	// it refused an attempt, or there was no use in waiting for a retry.
	ErrBreakerOpen = errors.New("circuit breaker is open")
	// ErrTimeout matches a call that ended by its deadline or whose last attempt
	// timed out. Such a call matches context.DeadlineExceeded too.
	ErrTimeout = errors.New("call timed out")
)

// Error is how a call without a result ends. It wraps the last attempt's error.
type Error struct {
	Upstream string
	// Reason is why the call ended, Last what happened to its last attempt. They
	// are the same when the call ended with the attempt, and Last is empty when
	// no attempt was made.
	Reason, Last Reason
	Attempts     int
	// Refused tells that the circuit refused the attempt that was next, and
	// RetryIn how long it stays open, 0 when that is not known.
	Refused bool
	RetryIn time.Duration
	Err     error
}

// Error tells upstream, attempts, reason and the last error.
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

// Unwrap gives the last attempt's error.
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

// Timeout reports whether time ran out: by a limit of the policy or the caller, or by
// one of what made the attempt, such as a dialer's. It makes Error a net.Error.
func (e *Error) Timeout() bool {
	if e.Refused {
		return false
	}
	var inner interface{ Timeout() bool }
	return e.outOfTime() || errors.As(e.Err, &inner) && inner.Timeout()
}

// outOfTime reports whether a limit of the policy or the caller has passed.
func (e *Error) outOfTime() bool {
	if e.Refused {
		return false
	}
	return e.Last == ReasonAttemptTimeout || e.Last == ReasonDeadlineExceeded || e.Reason == ReasonDeadlineExceeded
}

// errAttemptTimeout is the cause with which an attempt's context ends when its
// time is up.
var errAttemptTimeout = fmt.Errorf("attempt timed out: %w", context.DeadlineExceeded)

package resilience

import (
	"strconv"
	"strings"
)

// Reason is the result of an attempt, or the reason why a call ended. The list is closed. Spans,
// metrics, logs and problem documents all use these words.
type Reason string

// The reasons. [StatusReason] returns the others, status_<code>.
const (
	ReasonOK                   Reason = "ok"                     // the attempt or the call succeeded
	ReasonDialError            Reason = "dial_error"             // no connection; nothing was sent
	ReasonTLSError             Reason = "tls_error"              // the TLS handshake failed; nothing was sent
	ReasonResetBeforeHeaders   Reason = "reset_before_headers"   // the connection broke before an answer began
	ReasonNotHTTP              Reason = "not_http"               // the upstream's answer is not HTTP
	ReasonInvalidRequest       Reason = "invalid_request"        // the request is malformed, or too large for the upstream
	ReasonBodyFailed           Reason = "body_failed"            // the answer's body broke off or stalled
	ReasonAttemptTimeout       Reason = "attempt_timeout"        // the policy's attemptTimeout passed
	ReasonDeadlineExceeded     Reason = "deadline_exceeded"      // the call's deadline passed
	ReasonDeadlineTooClose     Reason = "deadline_too_close"     // the wait before the next attempt would pass the deadline
	ReasonCallerCanceled       Reason = "caller_canceled"        // the caller canceled the call
	ReasonMethodNotIdempotent  Reason = "method_not_idempotent"  // a retry could take effect twice
	ReasonBodyNotReplayable    Reason = "body_not_replayable"    // the request body was not kept for a retry
	ReasonMaxAttempts          Reason = "max_attempts"           // the policy's maxAttempts is reached
	ReasonBudgetExhausted      Reason = "budget_exhausted"       // the retry budget has no token
	ReasonBreakerOpen          Reason = "breaker_open"           // the circuit is open
	ReasonBreakerHalfOpen      Reason = "breaker_half_open"      // the circuit is half-open and all its probes are in flight
	ReasonRetryAfterTooLong    Reason = "retry_after_too_long"   // the upstream asked for a wait longer than maxRetryAfter
	ReasonRetriedUpstreamLayer Reason = "retried_upstream_layer" // a layer above already retries this call
	ReasonStatusNotRetryable   Reason = "status_not_retryable"   // a retry would not change the answer
	ReasonUpgrade              Reason = "upgrade"                // an upgrade or an event stream is never retried
	ReasonNoRoute              Reason = "no_route"               // the gateway has no route for the request
	ReasonMethodNotAllowed     Reason = "method_not_allowed"     // the gateway's route does not accept the method
	ReasonLoopDetected         Reason = "loop_detected"          // the request has passed through this gateway before
)

const statusPrefix = "status_"

// StatusReason is the reason of an attempt whose answer has an HTTP status that is not a success,
// such as status_503.
func StatusReason(code int) Reason { return Reason(statusPrefix + strconv.Itoa(code)) }

// Reasons returns all reasons except status_<code>.
func Reasons() []Reason {
	return []Reason{
		ReasonOK, ReasonDialError, ReasonTLSError, ReasonResetBeforeHeaders, ReasonNotHTTP, ReasonInvalidRequest, ReasonBodyFailed,
		ReasonAttemptTimeout, ReasonDeadlineExceeded, ReasonDeadlineTooClose, ReasonCallerCanceled,
		ReasonMethodNotIdempotent, ReasonBodyNotReplayable, ReasonMaxAttempts, ReasonBudgetExhausted,
		ReasonBreakerOpen, ReasonBreakerHalfOpen, ReasonRetryAfterTooLong, ReasonRetriedUpstreamLayer,
		ReasonStatusNotRetryable, ReasonUpgrade, ReasonNoRoute, ReasonMethodNotAllowed, ReasonLoopDetected,
	}
}

// Valid reports whether r is one of [Reasons] or status_<code> with a code from 100 to 999.
func (r Reason) Valid() bool {
	if code, ok := strings.CutPrefix(string(r), statusPrefix); ok && len(code) == 3 {
		n, err := strconv.Atoi(code)
		return err == nil && n >= 100
	}
	for _, known := range Reasons() {
		if r == known {
			return true
		}
	}
	return false
}

// Verdict is the pipeline's decision after an attempt.
type Verdict string

// The verdicts.
const (
	VerdictReturn Verdict = "return"  // the result goes to the caller: no retry would help
	VerdictRetry  Verdict = "retry"   // another attempt follows
	VerdictGiveUp Verdict = "give_up" // a retry might help, but is not possible; the call's reason says why
)

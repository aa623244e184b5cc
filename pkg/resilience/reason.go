package resilience

import (
	"strconv"
	"strings"
)

// Reason says why an attempt or a call ended as it did. The enumeration is
// closed: the same word is the span attribute, the metric label, the log field
// and the problem document's member. An attempt's reason is what happened to
// it; a call's reason is why it ended.
type Reason string

// The reasons. [StatusReason] makes the family status_<code>.
const (
	ReasonOK                   Reason = "ok"                     // the result is good
	ReasonDialError            Reason = "dial_error"             // no connection: nothing was sent
	ReasonTLSError             Reason = "tls_error"              // the TLS handshake failed: nothing was sent
	ReasonResetBeforeHeaders   Reason = "reset_before_headers"   // the connection died before an answer began
	ReasonNotHTTP              Reason = "not_http"               // the upstream answered with something that is not HTTP
	ReasonInvalidRequest       Reason = "invalid_request"        // the request cannot be sent: it is malformed, or too large for the upstream
	ReasonBodyFailed           Reason = "body_failed"            // the answer's body broke off or stalled
	ReasonAttemptTimeout       Reason = "attempt_timeout"        // the attempt's own limit passed
	ReasonDeadlineExceeded     Reason = "deadline_exceeded"      // the call's deadline passed
	ReasonDeadlineTooClose     Reason = "deadline_too_close"     // the wait before another attempt would not end in time
	ReasonCallerCanceled       Reason = "caller_canceled"        // the caller went away
	ReasonMethodNotIdempotent  Reason = "method_not_idempotent"  // a repetition could take effect twice
	ReasonBodyNotReplayable    Reason = "body_not_replayable"    // the request body is gone
	ReasonMaxAttempts          Reason = "max_attempts"           // the policy's attempts are used up
	ReasonBudgetExhausted      Reason = "budget_exhausted"       // no token left for a retry
	ReasonBreakerOpen          Reason = "breaker_open"           // the circuit is open
	ReasonBreakerHalfOpen      Reason = "breaker_half_open"      // the circuit is half-open and its probes are out
	ReasonRetryAfterTooLong    Reason = "retry_after_too_long"   // the upstream asks for more patience than the policy has
	ReasonRetriedUpstreamLayer Reason = "retried_upstream_layer" // the layer before this one is retrying already
	ReasonStatusNotRetryable   Reason = "status_not_retryable"   // an answer that a repetition would not change
	ReasonUpgrade              Reason = "upgrade"                // an upgrade or an event stream: one attempt by rule
	ReasonNoRoute              Reason = "no_route"               // the gateway has no route for the request
	ReasonMethodNotAllowed     Reason = "method_not_allowed"     // the gateway's route takes other methods
	ReasonLoopDetected         Reason = "loop_detected"          // the gateway has passed the same request on before
)

const statusPrefix = "status_"

// StatusReason is the reason of an attempt that was answered with an HTTP
// status that is not a success, such as status_503.
func StatusReason(code int) Reason { return Reason(statusPrefix + strconv.Itoa(code)) }

// Reasons lists the enumeration without the family status_<code>.
func Reasons() []Reason {
	return []Reason{
		ReasonOK, ReasonDialError, ReasonTLSError, ReasonResetBeforeHeaders, ReasonNotHTTP, ReasonInvalidRequest, ReasonBodyFailed,
		ReasonAttemptTimeout, ReasonDeadlineExceeded, ReasonDeadlineTooClose, ReasonCallerCanceled,
		ReasonMethodNotIdempotent, ReasonBodyNotReplayable, ReasonMaxAttempts, ReasonBudgetExhausted,
		ReasonBreakerOpen, ReasonBreakerHalfOpen, ReasonRetryAfterTooLong, ReasonRetriedUpstreamLayer,
		ReasonStatusNotRetryable, ReasonUpgrade, ReasonNoRoute, ReasonMethodNotAllowed, ReasonLoopDetected,
	}
}

// Valid tells whether r belongs to the enumeration: one of [Reasons] or
// status_ and a code from 100 to 999.
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

// Verdict says what the pipeline did with the result of one attempt.
type Verdict string

// The verdicts.
const (
	VerdictReturn Verdict = "return"  // it goes to the caller: nothing about it asks for a repetition
	VerdictRetry  Verdict = "retry"   // another attempt follows
	VerdictGiveUp Verdict = "give_up" // a repetition was wanted or the call had to end, and the reason says what stood against it
)

package resilience

import (
	"slices"
	"strconv"
	"strings"
)

// Reason is why an attempt or a call ended as it did. An attempt's reason says what happened to it;
// a call's reason says why the call ended. The enumeration is closed. The same word is the span
// attribute, the metric label, the log field and the member of the problem document.
type Reason string

// The reasons. [StatusReason] and [GRPCReason] return the others, status_<code> and grpc_<code>.
const (
	// success
	ReasonOK Reason = "ok"
	// no connection: nothing was sent
	ReasonDialError Reason = "dial_error"
	// the TLS handshake failed: nothing was sent
	ReasonTLSError Reason = "tls_error"
	// the connection died before the response began; outside HTTP: the operation failed
	ReasonResetBeforeHeaders Reason = "reset_before_headers"
	// the response is not HTTP
	ReasonNotHTTP Reason = "not_http"
	// the request is malformed, or its header is larger than the upstream allows; one attempt
	ReasonInvalidRequest Reason = "invalid_request"
	// a body broke off or stalled
	ReasonBodyFailed Reason = "body_failed"
	// the attempt took longer than its limit
	ReasonAttemptTimeout Reason = "attempt_timeout"
	// the call's deadline passed
	ReasonDeadlineExceeded Reason = "deadline_exceeded"
	// the wait before the next attempt would not end before the deadline
	ReasonDeadlineTooClose Reason = "deadline_too_close"
	// the caller left
	ReasonCallerCanceled Reason = "caller_canceled"
	// a retry could take effect twice
	ReasonMethodNotIdempotent Reason = "method_not_idempotent"
	// the request body cannot be sent again
	ReasonBodyNotReplayable Reason = "body_not_replayable"
	// all attempts of the policy are used
	ReasonMaxAttempts Reason = "max_attempts"
	// the budget has no token for a retry, or the retries have had their share of the attempts
	ReasonBudgetExhausted Reason = "budget_exhausted"
	// the circuit is open
	ReasonBreakerOpen Reason = "breaker_open"
	// the circuit is half-open and all its probes are in flight
	ReasonBreakerHalfOpen Reason = "breaker_half_open"
	// the upstream asks for a longer wait than maxRetryAfter
	ReasonRetryAfterTooLong Reason = "retry_after_too_long"
	// the call is already a retry of the layer before
	ReasonRetriedUpstreamLayer Reason = "retried_upstream_layer"
	// a status that the policy does not retry
	ReasonStatusNotRetryable Reason = "status_not_retryable"
	// an upgrade or an event stream always gets one attempt
	ReasonUpgrade Reason = "upgrade"
	// the gateway has no route for the request
	ReasonNoRoute Reason = "no_route"
	// the gateway has routes for the path, but not for the method
	ReasonMethodNotAllowed Reason = "method_not_allowed"
	// the request has passed the gateway before: an upstream leads back to it
	ReasonLoopDetected Reason = "loop_detected"
	// the upstream's name has no address
	ReasonNoEndpoint Reason = "no_endpoint"
	// all endpoints of the upstream are ejected; only possible with maxEjected 1
	ReasonEndpointEjected Reason = "endpoint_ejected"
	// too many attempts are in flight, or a retry would meet an upstream whose answers come late
	ReasonConcurrencyLimit Reason = "concurrency_limit"
	// too many calls have begun
	ReasonRateLimited Reason = "rate_limited"
)

const (
	statusPrefix = "status_"
	grpcPrefix   = "grpc_"
)

// StatusReason is the reason of an attempt whose HTTP status is not a success, such as status_503.
func StatusReason(code int) Reason { return Reason(statusPrefix + strconv.Itoa(code)) }

// grpcCodes are the names of gRPC's status codes above 0, in order.
func grpcCodes() []string {
	return []string{
		"canceled", "unknown", "invalid_argument", "deadline_exceeded", "not_found", "already_exists", "permission_denied",
		"resource_exhausted", "failed_precondition", "aborted", "out_of_range", "unimplemented", "internal", "unavailable",
		"data_loss", "unauthenticated",
	}
}

// GRPCReason is the reason of an attempt whose gRPC status is not a success, such as
// grpc_unavailable for 14. A code that gRPC does not define is grpc_unknown.
func GRPCReason(code int) Reason {
	codes := grpcCodes()
	if code < 1 || code > len(codes) {
		code = 2
	}
	return Reason(grpcPrefix + codes[code-1])
}

// GRPC returns the gRPC status code of an attempt or a call that ended for r. sent reports whether
// the upstream sent it. Otherwise it is the one that stands for r.
func (r Reason) GRPC() (code int, sent bool) {
	const (
		canceled, unknown, invalidArgument, deadlineExceeded, permissionDenied, resourceExhausted = 1, 2, 3, 4, 7, 8
		failedPrecondition, unimplemented, internal, unavailable, unauthenticated                 = 9, 12, 13, 14, 16
	)
	if name, ok := strings.CutPrefix(string(r), grpcPrefix); ok {
		if i := slices.Index(grpcCodes(), name); i >= 0 {
			return i + 1, true
		}
		return unknown, true
	}
	if status, ok := strings.CutPrefix(string(r), statusPrefix); ok { // as gRPC's http-grpc-status-mapping.md says
		switch status {
		case "400":
			return internal, false
		case "401":
			return unauthenticated, false
		case "403":
			return permissionDenied, false
		case "404":
			return unimplemented, false
		case "429", "502", "503", "504":
			return unavailable, false
		}
		return unknown, false
	}
	switch r {
	case ReasonOK:
		return 0, true
	case ReasonCallerCanceled:
		return canceled, false
	case ReasonAttemptTimeout, ReasonDeadlineExceeded:
		return deadlineExceeded, false
	case ReasonConcurrencyLimit, ReasonRateLimited:
		return resourceExhausted, false
	case ReasonNoRoute, ReasonMethodNotAllowed:
		return unimplemented, false
	case ReasonInvalidRequest, ReasonBodyNotReplayable:
		return invalidArgument, false
	case ReasonLoopDetected:
		return failedPrecondition, false
	}
	return unavailable, false
}

// Reasons returns all reasons except status_<code> and grpc_<code>.
func Reasons() []Reason {
	return []Reason{
		ReasonOK, ReasonDialError, ReasonTLSError, ReasonResetBeforeHeaders, ReasonNotHTTP, ReasonInvalidRequest, ReasonBodyFailed,
		ReasonAttemptTimeout, ReasonDeadlineExceeded, ReasonDeadlineTooClose, ReasonCallerCanceled,
		ReasonMethodNotIdempotent, ReasonBodyNotReplayable, ReasonMaxAttempts, ReasonBudgetExhausted,
		ReasonBreakerOpen, ReasonBreakerHalfOpen, ReasonRetryAfterTooLong, ReasonRetriedUpstreamLayer,
		ReasonStatusNotRetryable, ReasonUpgrade, ReasonNoRoute, ReasonMethodNotAllowed, ReasonLoopDetected,
		ReasonNoEndpoint, ReasonEndpointEjected, ReasonConcurrencyLimit, ReasonRateLimited,
	}
}

// Valid reports whether r belongs to the enumeration: one of [Reasons], status_ and a code from 100
// to 999, or grpc_ and the name of a code.
func (r Reason) Valid() bool {
	if code, ok := strings.CutPrefix(string(r), statusPrefix); ok && len(code) == 3 {
		n, err := strconv.Atoi(code)
		return err == nil && n >= 100
	}
	if code, ok := strings.CutPrefix(string(r), grpcPrefix); ok {
		return slices.Contains(grpcCodes(), code)
	}
	for _, known := range Reasons() {
		if r == known {
			return true
		}
	}
	return false
}

// Verdict is what the pipeline did with the result of one attempt.
type Verdict string

// The verdicts.
const (
	// the result goes to the caller
	VerdictReturn Verdict = "return"
	// another attempt follows
	VerdictRetry Verdict = "retry"
	// the result would be retried, but a gate was shut or the call had to end; the call's reason
	// says why
	VerdictGiveUp Verdict = "give_up"
)

package rival

import (
	"errors"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/rebound-dev/rebound/internal/foreign"
	"github.com/rebound-dev/rebound/pkg/resilience"
)

// kind is how an attempt ended.
type kind int

const (
	answered    kind = iota // with a status
	noConnect               // no connection
	reset                   // the connection died before the answer
	timedOut                // the try timeout cut it
	tooLate                 // the call's timeout cut it
	bodyFailed              // the answer began, and its body failed
	breakerOpen             // a breaker refused it
	ejected                 // no endpoint may be used
	waiting                 // the call's timeout cut the wait for a limit
	limited                 // a concurrency limit refused it
	rateLimited             // a rate limit refused it
	replaced                // another attempt of a hedged call was faster
)

// outcome is the end of an attempt.
type outcome struct {
	kind   kind
	status int
	after  time.Duration // what the answer asked to wait; 0 = nothing
	grpc   bool          // the call is a call of gRPC
}

func failure(err error) *outcome {
	var op *net.OpError
	if errors.As(err, &op) && op.Op == "dial" {
		return &outcome{kind: noConnect}
	}
	return &outcome{kind: reset}
}

// ok reports whether a call that ends like this has ended well.
func (o *outcome) ok() bool { return o.kind == answered && o.status < 400 }

// sent reports whether the upstream may have seen the attempt.
func (o *outcome) sent() bool { return o.kind != noConnect && !o.refused() }

// refused reports whether the client itself refused the attempt.
func (o *outcome) refused() bool {
	switch o.kind {
	case breakerOpen, ejected, limited, rateLimited:
		return true
	}
	return false
}

// throttled reports whether the answer asks to slow down.
func (o *outcome) throttled() bool {
	return o.kind == answered && (o.status == http.StatusTooManyRequests || o.status == http.StatusServiceUnavailable)
}

// in reports whether the conditions describe the outcome.
func (o *outcome) in(c foreign.Conditions) bool {
	if o.grpc && slices.Contains(c.GRPC, o.code()) {
		return true
	}
	switch o.kind {
	case answered:
		return !o.grpc && c.Status(o.status)
	case noConnect:
		return c.Connect
	case reset:
		return c.Reset
	case timedOut, tooLate:
		return c.Timeout
	case breakerOpen, ejected:
		return c.BreakerOpen
	case limited, rateLimited:
		return c.Limited
	}
	return false
}

// code returns what a client of gRPC makes of the outcome (grpc/doc/http-grpc-status-mapping.md).
func (o *outcome) code() string {
	switch o.kind {
	case noConnect, reset:
		return "UNAVAILABLE"
	case timedOut, tooLate:
		return "DEADLINE_EXCEEDED"
	case answered:
	default:
		return ""
	}
	switch o.status {
	case http.StatusBadRequest:
		return "INTERNAL"
	case http.StatusUnauthorized:
		return "UNAUTHENTICATED"
	case http.StatusForbidden:
		return "PERMISSION_DENIED"
	case http.StatusNotFound:
		return "UNIMPLEMENTED"
	case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return "UNAVAILABLE"
	}
	if o.ok() {
		return "OK"
	}
	return "UNKNOWN"
}

// reason returns what happened to the attempt, in Rebound's words.
func (o *outcome) reason() resilience.Reason {
	switch o.kind {
	case answered:
		if o.ok() {
			return resilience.ReasonOK
		}
		return resilience.StatusReason(o.status)
	case noConnect:
		return resilience.ReasonDialError
	case reset:
		return resilience.ReasonResetBeforeHeaders
	case timedOut:
		return resilience.ReasonAttemptTimeout
	case tooLate, waiting:
		return resilience.ReasonDeadlineExceeded
	case bodyFailed:
		return resilience.ReasonBodyFailed
	case breakerOpen:
		return resilience.ReasonBreakerOpen
	case ejected:
		return resilience.ReasonEndpointEjected
	case limited:
		return resilience.ReasonConcurrencyLimit
	case rateLimited:
		return resilience.ReasonRateLimited
	case replaced:
	}
	return resilience.ReasonCallerCanceled
}

// final returns why a call ends that is not retried after this outcome.
func (o *outcome) final() resilience.Reason {
	if o.kind == answered && !o.ok() {
		return resilience.ReasonStatusNotRetryable
	}
	return o.reason()
}

// retryAfter returns the time that an answer asks to wait, or 0.
func retryAfter(h http.Header, now time.Time) time.Duration {
	v := strings.TrimSpace(h.Get("Retry-After"))
	if n, err := strconv.ParseUint(v, 10, 31); err == nil {
		return time.Duration(n) * time.Second
	}
	if at, err := http.ParseTime(v); err == nil {
		return max(0, at.Sub(now))
	}
	return 0
}

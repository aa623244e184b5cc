package reboundgrpc

import (
	"errors"
	"fmt"
	"net/http"
	"time"

	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc/status"

	"github.com/rebound-dev/rebound/internal/problem"
	"github.com/rebound-dev/rebound/pkg/resilience"
)

// noAnswer is the error of an attempt that got no answer. With it, Classify tells the errors of
// attempts from that of the pipeline when an attempt's time was up.
type noAnswer struct{ error }

func (e *noAnswer) Unwrap() error { return e.error }

// callError is an error of Rebound's own as a gRPC status.
type callError struct {
	cause  error // a *resilience.Error
	status *status.Status
}

func (e *callError) Error() string { return e.status.Err().Error() }

// GRPCStatus returns the status for package status of grpc-go.
func (e *callError) GRPCStatus() *status.Status { return e.status }

func (e *callError) Unwrap() error { return e.cause }

// failure returns the error of a call without an answer, for its caller.
func (c *call) failure(err error, r *resilience.Report) error {
	var e *resilience.Error
	if !errors.As(err, &e) {
		return err
	}
	p := problem.Problem{Status: http.StatusBadGateway, Reason: string(e.Reason), Upstream: e.Upstream, Attempts: e.Attempts}
	if span := trace.SpanContextFromContext(c.ctx); span.HasTraceID() {
		p.TraceID = span.TraceID().String()
	}
	var retryIn time.Duration
	switch {
	case e.Refused:
		retryIn = e.RetryIn
		p.Status, p.Detail = refused(e)
	case e.Reason == resilience.ReasonCallerCanceled:
		p.Status, p.Detail = problem.StatusCallerGone, "the caller canceled the call"
	case errors.Is(e, resilience.ErrTimeout) && e.Attempts == 0:
		p.Status, p.Detail = http.StatusGatewayTimeout, "the time was up before "+e.Upstream+" was called"
	case errors.Is(e, resilience.ErrTimeout):
		p.Status, p.Detail = http.StatusGatewayTimeout, detail("did not answer in time", e, r)
	case e.Last == resilience.ReasonDialError:
		p.Detail = detail("could not be reached", e, r)
	default:
		p.Detail = detail("closed the connection before it answered", e, r)
	}
	var missing *noAnswer
	if p.Status == http.StatusBadGateway && errors.As(e.Err, &missing) {
		p.Detail += ": " + status.Convert(missing.error).Message()
	}
	return &callError{e, status.FromProto(problem.GRPCStatus(p, retryIn))}
}

// refused describes a call to which the policy gave no further attempt.
func refused(e *resilience.Error) (code int, text string) {
	code, text = http.StatusServiceUnavailable, e.Upstream+" is failing and is left alone for now"
	switch e.Reason {
	case resilience.ReasonRateLimited:
		code, text = http.StatusTooManyRequests, "there are more calls to "+e.Upstream+" than the policy allows"
	case resilience.ReasonConcurrencyLimit:
		text = "too many calls to " + e.Upstream + " are in progress"
	}
	if e.RetryIn > 0 {
		text += fmt.Sprintf("; try again in %v", e.RetryIn.Round(time.Millisecond))
	}
	return code, text
}

// detail describes a failed call: what happened, the number of attempts, the time and the last
// reason.
func detail(what string, e *resilience.Error, r *resilience.Report) string {
	attempts := "1 attempt"
	if e.Attempts != 1 {
		attempts = fmt.Sprintf("%d attempts", e.Attempts)
	}
	return fmt.Sprintf("%s %s (%s in %v; the last ended with %s)", e.Upstream, what, attempts, r.Duration.Round(time.Millisecond), e.Last)
}

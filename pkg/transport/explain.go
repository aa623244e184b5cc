package transport

import (
	"context"
	"errors"
	"net"
	"net/http"

	"github.com/rebound-dev/rebound/internal/grpcwire"
	"github.com/rebound-dev/rebound/pkg/resilience"
)

// Explain returns what the transport would do after an attempt of req that ended with resp or err,
// and every gate that this depends on, in order. It uses the functions that decide about calls, but
// makes no call. s is the situation to decide in. An err that matches context.DeadlineExceeded is
// the attempt's timeout. Explain assumes that the request's body was read up to its ContentLength,
// unless err is that of a dial. A gRPC response with a status in its trailer has come to its end.
func (t *Transport) Explain(req *http.Request, resp *http.Response, err error, s resilience.Situation) (resilience.Outcome, resilience.Decision, []resilience.Gate) {
	c := t.newExchange(req, "")
	c.explains = true
	var op *net.OpError
	read := !errors.As(err, &op) || op.Op != "dial"
	if read && c.source != nil && req.ContentLength > int64(t.policy.Retry.ReplayBuffer) && req.GetBody == nil {
		c.source.lost = true
	}
	o := c.Classify(resp, err)
	if err == nil && c.grpc {
		o = c.explainEnd(resp, o)
	}
	if errors.Is(err, context.DeadlineExceeded) {
		o.Reason = resilience.ReasonAttemptTimeout
	}
	var first []resilience.Gate
	if err == nil && statusEnding(resp.StatusCode).blame().repeat == byStatus {
		first = append(first, c.statusGate(resp.StatusCode))
	}
	if err == nil && c.grpc {
		if code, only := grpcAnswer(resp); only && code != grpcwire.OK {
			first = append(first, c.grpcGate(resp, code, grpcEnding(code, false).blame().repeat))
		} else if code, late := lateStatus(resp); late && code != grpcwire.OK {
			first = append(first, resilience.Gate{
				Name: "gRPC status", Shut: true, Reason: o.Reason,
				Found: func() string { return code.String() + ", after the response's headers" },
			})
		}
	}
	d, gates := t.policy.core().Explain(o, s)
	return o, d, append(first, gates...)
}

// lateStatus returns the gRPC status in the trailers of a response that is complete.
func lateStatus(resp *http.Response) (code grpcwire.Code, ok bool) {
	if _, only := grpcAnswer(resp); only || !grpcwire.IsAnswer(resp) {
		return grpcwire.OK, false
	}
	return grpcwire.Status(resp.Trailer)
}

// explainEnd returns the outcome of a gRPC attempt with the end of its messages, if there is one.
// The headers have ended the retries.
func (c *exchange) explainEnd(resp *http.Response, o resilience.Outcome) resilience.Outcome {
	code, ok := lateStatus(resp)
	if !ok || code == grpcwire.OK {
		return o
	}
	o.Reason, o.Final, o.Health = grpcReason(code), grpcReason(code), grpcEnding(code, false).blame().health
	return o
}

// ExplainFirst returns the gates before the first attempt of req, in order, and the error of the
// call if one of them refuses it, otherwise nil. [resilience.Policy.ExplainFirst] says more.
func (t *Transport) ExplainFirst(req *http.Request, s resilience.Situation) (*resilience.Error, []resilience.Gate) {
	if t.policy.Concurrency.Max < 0 || t.policy.Concurrency.Max == 0 && t.newExchange(req, "").CallerSends() {
		s.Crowded = nil // it is not limited
	}
	return t.policy.core().ExplainFirst(s)
}

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
// unless err is that of a dial.
func (t *Transport) Explain(req *http.Request, resp *http.Response, err error, s resilience.Situation) (resilience.Outcome, resilience.Decision, []resilience.Gate) {
	c := t.newExchange(req, "")
	c.explains = true
	var op *net.OpError
	read := !errors.As(err, &op) || op.Op != "dial"
	if read && c.source != nil && req.ContentLength > int64(t.policy.Retry.ReplayBuffer) && req.GetBody == nil {
		c.source.lost = true
	}
	o := c.Classify(resp, err)
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
		}
	}
	d, gates := t.policy.core().Explain(o, s)
	return o, d, append(first, gates...)
}

// ExplainFirst returns the gates before the first attempt of req, in order, and the error of the
// call if one of them refuses it, otherwise nil. [resilience.Policy.ExplainFirst] says more.
func (t *Transport) ExplainFirst(req *http.Request, s resilience.Situation) (*resilience.Error, []resilience.Gate) {
	if t.policy.Concurrency.Max < 0 || t.policy.Concurrency.Max == 0 && t.newExchange(req, "").CallerSends() {
		s.Crowded = nil // it is not limited
	}
	return t.policy.core().ExplainFirst(s)
}

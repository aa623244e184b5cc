package transport

import (
	"context"
	"errors"
	"net"
	"net/http"

	"github.com/rebound-dev/rebound/pkg/resilience"
)

// Explain tells what the transport would do after an attempt of req that ended
// with resp or err: with the functions that decide about calls, but without one.
// [resilience.Situation.Gate] is shown every gate, HTTP's own among them; the
// rest of s is the situation to decide in. An err that matches
// context.DeadlineExceeded is the attempt's timeout. The request's body is taken
// for read up to its ContentLength, unless err is that of a dial.
func (t *Transport) Explain(req *http.Request, resp *http.Response, err error, s resilience.Situation) (resilience.Outcome, resilience.Decision) {
	c := t.newExchange(req, "")
	var op *net.OpError
	read := !errors.As(err, &op) || op.Op != "dial"
	if read && c.source != nil && req.ContentLength > int64(t.policy.Retry.ReplayBuffer) && req.GetBody == nil {
		c.source.lost = true
	}
	show := s.Gate
	if show == nil {
		show = func(resilience.Gate) {}
	}
	var rules []resilience.Gate
	c.gate = func(g resilience.Gate) {
		if g.Name == gateStatus {
			show(g) // it is the first of all
			return
		}
		rules = append(rules, g)
	}
	var o resilience.Outcome
	if err == nil {
		o = c.Classify(resp, nil)
	} else {
		if o = c.Classify(nil, err); errors.Is(err, context.DeadlineExceeded) {
			o.Reason = resilience.ReasonAttemptTimeout
		}
	}
	if !o.Retry {
		return o, t.policy.core().Decide(o, s)
	}
	s.Gate = func(g resilience.Gate) {
		if g.Name != resilience.GateOperation {
			show(g)
			return
		}
		for _, g := range rules { // what that gate is made of
			show(g)
		}
	}
	return o, t.policy.core().Decide(o, s)
}

package live

import (
	"net/http"

	"github.com/rebound-dev/rebound/internal/grpcwire"
	"github.com/rebound-dev/rebound/pkg/observe"
	"github.com/rebound-dev/rebound/pkg/resilience"
)

// seriesKey identifies a series. A circuit and a budget belong to each. Both parts are empty for
// calls without a route.
type seriesKey struct{ policy, upstream string }

// maxReasons is greater than the number of reasons. Unknown reasons count as the last one.
const maxReasons = 32

// sums holds the figures of some calls.
type sums struct {
	offered, good uint32 // all calls, and those that goodCall accepts
	// All attempts, those that goodAttempt accepts, and those that say nothing about the upstream.
	attempts, attemptsGood, attemptsNeutral uint32

	reasons [maxReasons]uint32 // of calls, by reasonIndex
	latency histogram          // of calls
}

func (s *sums) add(c *observe.Call, reason int) {
	s.offered++
	if goodCall(c) {
		s.good++
	}
	for i := range c.Report.Attempts {
		s.attempts++
		switch {
		case goodAttempt(c, i):
			s.attemptsGood++
		case c.Report.Attempts[i].Health == resilience.Neutral && c.Report.Attempts[i].Status == 0:
			s.attemptsNeutral++ // a 429 is neutral for the circuit, but the upstream gave it
		}
	}
	s.reasons[reason]++
	s.latency.add(c.Duration)
}

func (s *sums) merge(o *sums) {
	s.offered += o.offered
	s.good += o.good
	s.attempts += o.attempts
	s.attemptsGood += o.attemptsGood
	s.attemptsNeutral += o.attemptsNeutral
	for i, n := range o.reasons {
		s.reasons[i] += n
	}
	s.latency.merge(&o.latency)
}

// goodCall reports whether the caller got a proper answer. An upstream's 404, which the caller
// caused, is one.
func goodCall(c *observe.Call) bool {
	if c.GRPCStatus != "" {
		return goodRPC(c.GRPCStatus, c.Report.Reason)
	}
	switch c.Report.Reason {
	case resilience.ReasonOK:
		return true
	case resilience.ReasonStatusNotRetryable, resilience.ReasonUpgrade:
		return c.Status >= 100 && c.Status < http.StatusInternalServerError
	}
	return false
}

// goodAttempt reports whether the upstream answered attempt i properly.
func goodAttempt(c *observe.Call, i int) bool {
	r := c.Report
	switch a := &r.Attempts[i]; {
	case r.Ended(i) == resilience.ReasonBodyFailed:
		return false
	case c.GRPCStatus != "":
		g, _ := grpcOf(c, a)
		return goodRPC(g.Status, r.Ended(i))
	default:
		return a.Reason == resilience.ReasonOK ||
			a.Status >= 100 && a.Status < http.StatusInternalServerError && a.Status != http.StatusTooManyRequests && a.Err == nil
	}
}

// goodRPC reports whether a gRPC status is a proper answer: not one that stands for a failure of
// the server, or of what is between, or for the end of the time. Only the upstream can give one.
func goodRPC(status string, reason resilience.Reason) bool {
	if code, known := grpcwire.ParseCode(status); known && (code.Fails() || code == grpcwire.DeadlineExceeded || code == grpcwire.ResourceExhausted) {
		return false
	}
	_, sent := reason.GRPC()
	return sent || reason == resilience.ReasonStatusNotRetryable
}

// reasonIndex numbers the reasons. It is read-only after newReasonIndex.
type reasonIndex struct {
	names []resilience.Reason
	index map[resilience.Reason]int
}

const reasonOther resilience.Reason = "other"

func newReasonIndex() reasonIndex {
	r := reasonIndex{names: resilience.Reasons(), index: map[resilience.Reason]int{}}
	r.names = append(r.names[:min(len(r.names), maxReasons-1)], reasonOther)
	for i, name := range r.names {
		r.index[name] = i
	}
	return r
}

func (r *reasonIndex) of(name resilience.Reason) int {
	if i, ok := r.index[name]; ok {
		return i
	}
	return len(r.names) - 1
}

// named returns the counts by reason, without zeros.
func (r *reasonIndex) named(counts func(i int) uint64) map[resilience.Reason]uint64 {
	var all map[resilience.Reason]uint64
	for i, name := range r.names {
		if n := counts(i); n > 0 {
			if all == nil {
				all = map[resilience.Reason]uint64{}
			}
			all[name] = n
		}
	}
	return all
}

// isRefusal reports whether a call with this reason was denied an attempt in order to protect the
// upstream.
func isRefusal(r resilience.Reason) bool {
	switch r {
	case resilience.ReasonBreakerOpen, resilience.ReasonBreakerHalfOpen, resilience.ReasonBudgetExhausted,
		resilience.ReasonConcurrencyLimit, resilience.ReasonRateLimited:
		return true
	}
	return false
}

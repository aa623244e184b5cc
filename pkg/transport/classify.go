package transport

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptrace"
	"slices"
	"sync"

	"github.com/rebound-dev/rebound/pkg/resilience"
)

// classifyStatus says what a response means.
func (c *exchange) classifyStatus(resp *http.Response) resilience.Outcome {
	code := resp.StatusCode
	o := resilience.Outcome{Reason: resilience.ReasonOK, Health: resilience.Healthy, Status: code}
	switch {
	case code == http.StatusSwitchingProtocols:
		o.Reason = resilience.ReasonUpgrade
		return o
	case code < 400:
		return o
	case code < 500 || code == http.StatusNotImplemented:
		o.Health = resilience.Neutral // the upstream is alive and said no
	default:
		o.Health = resilience.Unhealthy
	}
	o.Reason = resilience.StatusReason(code)
	retryable := slices.Contains(c.transport.policy.Retry.Statuses, code)
	if c.gate != nil {
		c.gate(resilience.Gate{
			Name: gateStatus, Found: fmt.Sprintf("%d, of %v", code, c.transport.policy.Retry.Statuses),
			Reason: resilience.ReasonStatusNotRetryable, Shut: !retryable,
		})
	}
	if !retryable {
		o.Final = resilience.ReasonStatusNotRetryable
		return o
	}
	o.Retry = true
	o.Veto = c.veto(true)
	return o
}

// classifyError says what an attempt without a response means. Only what is
// proven not to have been sent may be repeated whatever the method.
func (c *exchange) classifyError(err error) resilience.Outcome {
	o := resilience.Outcome{Reason: resilience.ReasonResetBeforeHeaders, Retry: true}
	sent := true
	var op *net.OpError
	var refused streamError
	switch {
	case c.tls.failed(err):
		o.Reason, sent = resilience.ReasonTLSError, false
		if certificate := new(tls.CertificateVerificationError); errors.As(err, &certificate) {
			o.Retry = false // it will not be better in a moment
			return o
		}
	case errors.As(err, &op) && op.Op == "dial":
		o.Reason, sent = resilience.ReasonDialError, false
	case errors.As(err, &refused) && refused.Code == refusedStream:
		sent = false
	case errors.Is(err, errBodyGone):
		o.Reason = resilience.ReasonBodyNotReplayable
	case c.source.failed():
		// The caller's own body broke: nothing is wrong with the upstream, and a
		// repetition would break in the same place.
		return resilience.Outcome{Reason: resilience.ReasonBodyFailed, Health: resilience.Neutral}
	}
	if c.source.waiting() {
		o.Health = resilience.Neutral // a slow upload is not the upstream's fault
	}
	o.Veto = c.veto(sent)
	return o
}

// gateStatus is before all others: an answer that is not to be repeated is
// returned, whatever they would say.
const gateStatus = "status"

// veto is the rule of HTTP that forbids a repetition, "" for none.
func (c *exchange) veto(sent bool) (why resilience.Reason) {
	for _, r := range c.rules(sent) {
		if r.Shut && why == "" {
			why = r.Reason
		}
		if c.gate != nil {
			c.gate(r)
		}
	}
	return why
}

// rules are the gates that HTTP puts before a repetition, in their order.
func (c *exchange) rules(sent bool) [4]resilience.Gate {
	method := methodOf(c.req)
	switch {
	case !sent:
		method = "not sent, " + method
	case !c.repeatable:
		method += " without an " + HeaderIdempotencyKey
	case !c.transport.methods[method]:
		method += " with an " + HeaderIdempotencyKey
	}
	above, through, body := "none repeats this call", "an ordinary request", "can be sent again"
	if c.retriedAbove {
		above = "repeats this call already: " + HeaderAttemptCount + " " + c.req.Header.Get(HeaderAttemptCount)
	}
	if c.passThrough {
		through = "an upgrade or an event stream"
	}
	replayable := c.source.replayable()
	if !replayable {
		body = "was not kept, it is larger than replayBuffer"
	}
	return [4]resilience.Gate{
		{Name: "layer above", Found: above, Reason: resilience.ReasonRetriedUpstreamLayer, Shut: c.retriedAbove},
		{Name: "kind", Found: through, Reason: resilience.ReasonUpgrade, Shut: c.passThrough},
		{Name: "method", Found: method, Reason: resilience.ReasonMethodNotIdempotent, Shut: sent && !c.repeatable},
		{Name: "body", Found: body, Reason: resilience.ReasonBodyNotReplayable, Shut: !replayable},
	}
}

// streamError has the shape of the HTTP/2 stream error inside net/http, whose
// As method fills any such struct.
type streamError struct {
	StreamID uint32
	Code     uint32
	Cause    error
}

func (streamError) Error() string { return "stream error" }

// refusedStream is REFUSED_STREAM (RFC 9113, 8.7): not processed in any way.
const refusedStream = 0x7

// handshakes remembers the failed TLS handshakes of one attempt, and whether the
// attempt got a connection after all: from then on no error proves any more
// that nothing was sent, even one that looks the same (io.EOF). It is only used
// for https: over plain TCP a failed dial is all there is before a request is
// sent, and its error says so.
type handshakes struct {
	mu        sync.Mutex
	errs      []error
	connected bool
}

func (h *handshakes) trace(ctx context.Context) context.Context {
	return httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		TLSHandshakeDone: func(_ tls.ConnectionState, err error) {
			if err != nil {
				h.mu.Lock()
				h.errs = append(h.errs, err)
				h.mu.Unlock()
			}
		},
		GotConn: func(httptrace.GotConnInfo) {
			h.mu.Lock()
			h.connected = true
			h.mu.Unlock()
		},
	})
}

// failed tells whether err is that of a handshake.
func (h *handshakes) failed(err error) bool {
	if h == nil {
		return false
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	return !h.connected && slices.ContainsFunc(h.errs, func(e error) bool { return errors.Is(err, e) })
}

package transport

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"iter"
	"net"
	"net/http"
	"net/http/httptrace"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/rebound-dev/rebound/internal/grpcwire"
	"github.com/rebound-dev/rebound/internal/nethttp"
	"github.com/rebound-dev/rebound/pkg/endpoint"
	"github.com/rebound-dev/rebound/pkg/resilience"
)

// classify returns the outcome of an attempt that ended with resp or err.
func (c *exchange) classify(resp *http.Response, err error) resilience.Outcome {
	if err != nil {
		return c.outcome(c.errorEnding(err), 0)
	}
	if c.grpc {
		if code, only := grpcAnswer(resp); only {
			c.trace.rpcStatus(code)
			if code != grpcwire.OK {
				c.message = grpcwire.Message(resp.Header)
			}
			return c.grpcOutcome(resp, code)
		}
	}
	e := statusEnding(resp.StatusCode)
	if resp.StatusCode == http.StatusGatewayTimeout && c.limit > 0 && c.limit < c.transport.policy.AttemptTimeout && time.Since(c.start) >= c.limit {
		e = deadlinePassed // the upstream's timer may fire just before the attempt's
	}
	return c.outcome(e, resp.StatusCode)
}

// outcome returns the outcome for an ending. status is the status of the response, or 0 if there is
// none.
func (c *exchange) outcome(e ending, status int) resilience.Outcome {
	j := e.blame()
	o := resilience.Outcome{Reason: j.reason, Health: j.health, Status: status}
	if o.Reason == "" {
		o.Reason = resilience.StatusReason(status)
	}
	// The upstream has not seen the attempt, so another endpoint gets the next one at once. It may
	// also have another certificate.
	if e == dialFailed || e == tlsFailed || e == badCertificate {
		if o.AtOnce = c.lease.OthersLeft(&c.tried); o.AtOnce {
			j.repeat = everything
		}
	}
	switch j.repeat {
	case never, byPushback:
	case everything, byMethod:
		o.Retry = true
		o.Gates = c.gates(j.repeat)
	case byStatus:
		if g := c.statusGate(status); g.Shut {
			o.Final = g.Reason
			break
		}
		o.Retry = true
		o.Gates = c.gates(byStatus)
	}
	return o
}

// statusGate comes before all other gates: an answer with a status that is not listed is returned,
// whatever the other gates found.
func (c *exchange) statusGate(code int) resilience.Gate {
	statuses := c.transport.policy.Retry.Statuses
	return resilience.Gate{
		Name: "status", Shut: !slices.Contains(statuses, code), Reason: resilience.ReasonStatusNotRetryable,
		Found: func() string { return fmt.Sprintf("%d, of %v", code, statuses) },
	}
}

// errorEnding returns the ending of an attempt that got no response.
func (c *exchange) errorEnding(err error) ending {
	switch {
	case errors.Is(err, errBroken):
		return bodyBroken
	case errors.Is(err, errBodyNotKept):
		return uploadNotReplayable
	case errors.Is(err, ErrHeaderTooLarge):
		return headerTooLarge
	case errors.Is(err, ErrInvalidRequest), errors.Is(err, endpoint.ErrOtherHost):
		return invalidRequest
	case errors.Is(err, endpoint.ErrNoEndpoint):
		return noEndpoint
	case errors.Is(err, endpoint.ErrEjected):
		return allEjected
	}
	// This must come before every check of err. err wraps the error of a failed request body, which
	// can be of any kind, even of one that proves that nothing was sent.
	if c.source.failure() != nil {
		return uploadFailed
	}
	switch {
	case c.tls.failed(err):
		if certificate := new(tls.CertificateVerificationError); errors.As(err, &certificate) {
			return badCertificate
		}
		return tlsFailed
	case c.unsent, isDialError(err): // the first also if err says only that the attempt's time was up
		return dialFailed
	case nethttp.RefusedStream(err):
		return streamRefused
	case errors.Is(err, errNotHTTP):
		return notHTTP
	}
	return resetBeforeHeaders
}

func isDialError(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial"
}

// explainError wraps an error of the RoundTripper below in a type that says what it means, where
// net/http has no such type.
func (c *exchange) explainError(err error) error {
	if c.badTrailer != nil {
		return c.badTrailer
	}
	if invalid := checkRequest(c.req); invalid != nil {
		// net/http does not send such a request, whatever the text of err.
		return invalid
	}
	// net/http closes the connection when the body has another length than announced, and may
	// return the error of the connection.
	if wrong := c.source.failure(); errors.Is(wrong, ErrInvalidRequest) {
		return fmt.Errorf("%w: %w", wrong, err)
	}
	if refused := refusedBySender(err); refused != nil {
		return fmt.Errorf("%w: %w", refused, err)
	}
	if tooLargeForPeer(err, c.req.Header) {
		return fmt.Errorf("%w: %w", ErrHeaderTooLarge, err)
	}
	if malformedForPeer(err) {
		return fmt.Errorf("%w: the upstream reports that it is malformed: %w", ErrInvalidRequest, err)
	}
	if began, ok := notHTTPBeginning(err); ok {
		return fmt.Errorf("%w: %s", errNotHTTP, began)
	}
	return err
}

// errNotHTTP is the error of a response that is not HTTP.
var errNotHTTP = errors.New("the response is not HTTP")

// maxBeginning is how many bytes of such a response an error quotes at most.
const maxBeginning = 200

// notHTTPBeginning returns the part of net/http's error that says why it could not read the
// response: "malformed HTTP response" and a quotation of the faulty part.
func notHTTPBeginning(err error) (string, bool) {
	text := err.Error()
	i := strings.LastIndex(text, "malformed ")
	if i < 0 {
		return "", false
	}
	began := text[i:]
	if len(began) > maxBeginning {
		began = strings.ToValidUTF8(began[:maxBeginning], "") + "…"
	}
	return began, true
}

// gates yields the conditions that HTTP adds for a retry, in order.
func (c *exchange) gates(r repeat) iter.Seq[resilience.Gate] {
	return func(yield func(resilience.Gate) bool) {
		_ = yield(resilience.Gate{
			Name: "layer above", Shut: c.retriedAbove, Reason: resilience.ReasonRetriedUpstreamLayer,
			Found: func() string {
				if c.grpc && retriedByGRPC(c.req.Header) {
					return "retries this call already: " + grpcwire.HeaderAttempts + " " + c.req.Header.Get(grpcwire.HeaderAttempts)
				}
				if c.retriedAbove {
					return "retries this call already: " + HeaderAttemptCount + " " + c.req.Header.Get(HeaderAttemptCount)
				}
				return "does not retry this call"
			},
		}) && yield(resilience.Gate{
			Name: "kind", Shut: c.passThrough, Reason: resilience.ReasonUpgrade,
			Found: func() string {
				if c.passThrough {
					return "an upgrade or an event stream"
				}
				return "an ordinary request"
			},
		}) && yield(resilience.Gate{
			Name: "method", Shut: r.anyMethod() == "" && !c.repeatable, Reason: resilience.ReasonMethodNotIdempotent,
			Found: func() string { return c.methodFound(r) },
		}) && yield(c.bodyGate())
	}
}

func (c *exchange) methodFound(r repeat) string {
	method := methodOf(c.req)
	switch {
	case r.anyMethod() != "":
		return r.anyMethod() + ", " + method
	case isIdempotent(c.req.Context()):
		return method + ", marked as idempotent"
	case !c.repeatable && c.grpc:
		return "gRPC, not marked as idempotent"
	case !c.repeatable:
		return method + " without an " + HeaderIdempotencyKey
	case !c.transport.repeats(method):
		return method + " with an " + HeaderIdempotencyKey
	}
	return method
}

// bodyGate gets the body for the next attempt, except in an explanation.
func (c *exchange) bodyGate() resilience.Gate {
	replayable := c.source.prepare
	if c.explains {
		replayable = c.source.replayable
	}
	g := resilience.Gate{
		Name: "body", Reason: resilience.ReasonBodyNotReplayable,
		Found: func() string { return "can be sent again" },
	}
	if !replayable() {
		g.Shut, g.Found = true, func() string { return "cannot be sent again: it is larger than replayBuffer" }
	}
	return g
}

// handshakes records the failed TLS handshakes of one attempt, and whether the attempt got a
// connection in the end. Once it has one, no error proves that nothing was sent, even one that
// looks the same (io.EOF). handshakes is used for https only: over plain TCP, a dial error alone
// proves that nothing was sent.
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

// failed reports whether err comes from a failed handshake.
func (h *handshakes) failed(err error) bool {
	if h == nil {
		return false
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	return !h.connected && slices.ContainsFunc(h.errs, func(e error) bool { return errors.Is(err, e) })
}
